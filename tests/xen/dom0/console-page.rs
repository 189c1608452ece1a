//! Prints what a domain has written to its console page: `console-page DOMID`, in dom0.
//!
//! The ordinary console daemon learns from the Xenstore where consoles are. This program needs no Xenstore: it can
//! print the last lines of a kernel that should have become the Xenstore. It changes nothing in the page.
//! `initramfs.sh` compiles it with `rustc` alone, statically: dom0's C library may be older than the machine's.

use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

// Linux, include/uapi/xen/gntdev.h: _IOC(_IOC_NONE, 'G', 0, 24).
const IOCTL_GNTDEV_MAP_GRANT_REF: c_ulong = 24 << 16 | (b'G' as c_ulong) << 8;
/// Grant reference of every domain's console page (xen/include/public/grant_table.h: GNTTAB_RESERVED_CONSOLE).
const GRANT_CONSOLE: u32 = 0;
const PAGE: usize = 4096;
// struct xencons_interface (xen/include/public/io/console.h): in[1024], out[2048], in_cons, in_prod, out_cons, out_prod.
const OUT: usize = 1024;
const OUT_SIZE: usize = 2048;
const OUT_PROD: usize = OUT + OUT_SIZE + 12;

/// struct ioctl_gntdev_map_grant_ref with one reference.
#[repr(C)]
struct MapGrant {
    count: u32,
    pad: u32,
    index: u64,
    domid: u32,
    reference: u32,
}

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: c_long)
    -> *mut c_void;
}

fn read_page(domid: u32) -> std::io::Result<[u8; PAGE]> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/xen/gntdev")?;
    let mut map = MapGrant { count: 1, pad: 0, index: 0, domid, reference: GRANT_CONSOLE };
    // SAFETY: the request takes a pointer to this structure, with as many references as `count` says, and fills `index`.
    if unsafe { ioctl(device.as_raw_fd(), IOCTL_GNTDEV_MAP_GRANT_REF, &raw mut map) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let (read_write, shared) = (3, 1);
    // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
    let page = unsafe {
        mmap(std::ptr::null_mut(), PAGE, read_write, shared, device.as_raw_fd(), map.index as c_long)
    };
    if page as isize == -1 {
        return Err(std::io::Error::last_os_error());
    }
    let mut copy = [0; PAGE];
    for (offset, byte) in copy.iter_mut().enumerate() {
        // SAFETY: `offset` is below PAGE, the size of the mapping, which lives until the process ends. The access is
        // volatile, as the other domain may be writing.
        *byte = unsafe { page.cast::<u8>().add(offset).read_volatile() };
    }
    Ok(copy)
}

fn main() -> ExitCode {
    let Some(domid) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: console-page DOMID");
        return ExitCode::from(2);
    };
    let page = match read_page(domid) {
        Ok(page) => page,
        Err(error) => {
            eprintln!("console-page: cannot map the console of domain {domid}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let produced = u32::from_ne_bytes([page[OUT_PROD], page[OUT_PROD + 1], page[OUT_PROD + 2], page[OUT_PROD + 3]]);
    let kept = produced.min(OUT_SIZE as u32);
    let text: Vec<u8> = (produced - kept..produced).map(|i| page[OUT + i as usize % OUT_SIZE]).collect();
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
