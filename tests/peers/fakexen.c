/*
 * fakexen: stand-ins for the Xen library calls that Debian's xenstored and oxenstored make, so that the real
 * server binaries run on a plain Linux host. Preload it (LD_PRELOAD) and point FAKEXEN at a folder:
 *
 *   FAKEXEN/server        datagram socket of the server's event channels; a client sends a uint32 port
 *   FAKEXEN/dom.N         datagram socket of domain N's channel, made by the client that plays N
 *   FAKEXEN/ring.N        domain N's ring page (4096 bytes), grant reference 1 of N
 *   FAKEXEN/state.N       exists while domain N does; first byte 'r' running, 's' shut down, 'd' dying
 *
 * dom0 also has a ring (ring.0), which the server finds through the kernel's xsd_kva and xsd_port files;
 * opening those is redirected here. Socket clients of the server count as dom0, as on a real host.
 *
 * Server-side port of domain N is 1000 + N; VIRQ_DOM_EXC is port 1.
 *
 * FAKEXEN_CLOCK=F makes time run F times as fast for the server: its rate limits then don't slow a comparison.
 * Build: fetch.sh (headers: Debian's libxen-dev), with XEN_RELEASE=417 for Xen 4.17 and so on.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define VIRQ_PORT 1
#define PORT_BASE 1000

static int channel = -1;
static int handle;

static const char *folder(void)
{
    const char *f = getenv("FAKEXEN");
    if (!f) {
        fprintf(stderr, "fakexen: FAKEXEN is not set\n");
        exit(1);
    }
    return f;
}

static void address(struct sockaddr_un *a, const char *name, int n)
{
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    if (n < 0)
        snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s", folder(), name);
    else
        snprintf(a->sun_path, sizeof(a->sun_path), "%s/%s.%d", folder(), name, n);
}

/* dom0's ring and port, which Linux publishes as files. */
int open(const char *path, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    char redirected[108];
    va_list ap;
    int mode;

    if (!real)
        real = dlsym(RTLD_NEXT, "open");
    va_start(ap, flags);
    mode = va_arg(ap, int);
    va_end(ap);
    if (!strcmp(path, "/proc/xen/xsd_kva")) {
        snprintf(redirected, sizeof(redirected), "%s/ring.0", folder());
        path = redirected;
    } else if (!strcmp(path, "/proc/xen/xsd_port")) {
        snprintf(redirected, sizeof(redirected), "%s/port", folder());
        path = redirected;
    }
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

/* Event channels. */
xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *l, unsigned int flags)
{
    struct sockaddr_un a;
    int big = 1 << 20;

    (void)l; (void)flags;
    channel = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    address(&a, "server", -1);
    unlink(a.sun_path);
    setsockopt(channel, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
    if (channel < 0 || bind(channel, (struct sockaddr *)&a, sizeof(a)))
        return NULL;
    return (xenevtchn_handle *)&handle;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *l, int fd, unsigned int flags)
{
    (void)l; (void)flags;
    channel = fd;
    return (xenevtchn_handle *)&handle;
}

int xenevtchn_fd(xenevtchn_handle *h) { (void)h; return channel; }

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domid, evtchn_port_t port)
{
    (void)h; (void)port;
    return PORT_BASE + domid;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *h, unsigned int virq)
{
    (void)h; (void)virq;
    return VIRQ_PORT;
}

int xenevtchn_unbind(xenevtchn_handle *h, evtchn_port_t port) { (void)h; (void)port; return 0; }
int xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port) { (void)h; (void)port; return 0; }

int xenevtchn_notify(xenevtchn_handle *h, evtchn_port_t port)
{
    struct sockaddr_un a;
    uint32_t p = port;

    (void)h;
    address(&a, "dom", (int)port - PORT_BASE);
    /* An event is a level, not a queue: a full or missing receiver loses nothing that it needs. */
    sendto(channel, &p, sizeof(p), MSG_DONTWAIT, (struct sockaddr *)&a, sizeof(a));
    errno = EINVAL; /* as after poll: not what sendto left */
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *h)
{
    uint32_t port;

    (void)h;
    if (recv(channel, &port, sizeof(port), 0) != sizeof(port))
        return -1;
    return port;
}

/* Grants: reference 1 of each domain is its ring. */
xengnttab_handle *xengnttab_open(struct xentoollog_logger *l, unsigned int flags)
{
    (void)l; (void)flags;
    return (xengnttab_handle *)&handle;
}

int xengnttab_close(xengnttab_handle *h) { (void)h; return 0; }
int xengnttab_set_max_grants(xengnttab_handle *h, uint32_t n) { (void)h; (void)n; return 0; }

void *xengnttab_map_grant_ref(xengnttab_handle *h, uint32_t domid, uint32_t ref, int prot)
{
    struct sockaddr_un a;
    void *page;
    int fd;

    (void)h; (void)ref;
    address(&a, "ring", (int)domid);
    fd = open(a.sun_path, O_RDWR);
    if (fd < 0)
        return NULL;
    page = mmap(NULL, 4096, prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *h, void *page, uint32_t n) { (void)h; return munmap(page, n * 4096); }

/* Domain control: which domains exist, and whether they are shut down or dying. */
xc_interface *xc_interface_open(xentoollog_logger *l, xentoollog_logger *d, unsigned flags)
{
    (void)l; (void)d; (void)flags;
    return (xc_interface *)&handle;
}

int xc_interface_close(xc_interface *x) { (void)x; return 0; }

static int state_of(uint32_t domid)
{
    struct sockaddr_un a;
    char c = 0;
    int fd;

    if (domid == 0)
        return 'r';
    address(&a, "state", (int)domid);
    fd = open(a.sun_path, O_RDONLY);
    if (fd < 0)
        return 0;
    if (read(fd, &c, 1) != 1)
        c = 'r';
    close(fd);
    return c;
}

#if XEN_RELEASE < 418
int xc_domain_getinfo(xc_interface *x, uint32_t first, unsigned int max, xc_dominfo_t *info)
{
    uint32_t domid;
    unsigned int n = 0;

    (void)x;
    for (domid = first; n < max && domid < 0x7ff0; domid++) {
        int s = state_of(domid);

        if (!s)
            continue;
        memset(&info[n], 0, sizeof(info[n]));
        info[n].domid = domid;
        info[n].running = s == 'r';
        info[n].shutdown = s == 's';
        info[n].dying = s == 'd';
        n++;
        if (max == 1)
            break;
    }
    if (!n)
        errno = ESRCH;
    return n ? (int)n : -1;
}
#endif

static void describe(xc_domaininfo_t *info, uint32_t domid, int s)
{
    memset(info, 0, sizeof(*info));
    info->domain = domid;
    info->flags = s == 'r' ? XEN_DOMINF_running : s == 's' ? XEN_DOMINF_shutdown : XEN_DOMINF_dying;
}

#if XEN_RELEASE >= 418
/* Xen 4.18 and later have this function instead of the previous one. */
int xc_domain_getinfo_single(xc_interface *x, uint32_t domid, xc_domaininfo_t *info)
{
    int s = state_of(domid);

    (void)x;
    if (!s) {
        errno = ESRCH;
        return -1;
    }
    if (info)
        describe(info, domid, s);
    return 0;
}
#endif

/* The OCaml server lists domains and maps rings by frame number. */
int xc_domain_getinfolist(xc_interface *x, uint32_t first, unsigned int max, xc_domaininfo_t *info)
{
    uint32_t domid;
    unsigned int n = 0;

    (void)x;
    for (domid = first; n < max && domid < 0x7ff0; domid++) {
        int s = state_of(domid);

        if (s) {
            describe(&info[n], domid, s);
            n++;
        }
        if (max == 1)
            break;
    }
    return n;
}

void *xc_map_foreign_range(xc_interface *x, uint32_t domid, int size, int prot, unsigned long mfn)
{
    (void)x; (void)size; (void)mfn;
    return xengnttab_map_grant_ref(NULL, domid, 1, prot);
}

/* oxenstored raises its file limit, which a container may forbid and which nothing here needs. */
int setrlimit(__rlimit_resource_t what, const struct rlimit *limit)
{
    (void)what; (void)limit;
    return 0;
}
int setrlimit64(__rlimit_resource_t what, const struct rlimit64 *limit) __attribute__((alias("setrlimit")));

/* Time, which may run faster than outside: what a server reads, and how long it waits. */
static long clock_factor(void)
{
    static long factor;
    const char *f;

    if (!factor) {
        f = getenv("FAKEXEN_CLOCK");
        factor = f ? atol(f) : 1;
        if (factor < 1) {
            fprintf(stderr, "fakexen: FAKEXEN_CLOCK must be a number from 1 on\n");
            exit(1);
        }
    }
    return factor;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    static struct timespec start;
    long long ns;
    int rc;

    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    rc = real(clock, now);
    if (rc || clock != CLOCK_MONOTONIC || clock_factor() == 1)
        return rc;
    if (!start.tv_sec)
        start = *now;
    ns = (now->tv_sec - start.tv_sec) * 1000000000LL + now->tv_nsec - start.tv_nsec;
    ns = ns * clock_factor() + start.tv_nsec;
    now->tv_sec = start.tv_sec + ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
    return 0;
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    struct timespec wait;
    long long ns = timeout * 1000000LL / clock_factor();

    wait.tv_sec = ns / 1000000000LL;
    wait.tv_nsec = ns % 1000000000LL;
    n = ppoll(fds, n, timeout < 0 ? NULL : &wait, NULL);
    /* Nothing says what errno is after a success. One value makes runs alike. */
    if ((int)n >= 0)
        errno = EINVAL;
    return n;
}
