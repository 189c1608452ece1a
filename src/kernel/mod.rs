//! From the entry to the main loop: the steps of the boot, in order (`docs/boot.md`).

mod assembly;
pub(crate) mod boot_info;
#[cfg(feature = "boot-test")]
mod boot_test;
pub(crate) mod heap;
#[cfg(feature = "hostile-guest")]
#[path = "../../tests/xen/hostile-guest/mod.rs"]
mod hostile;
mod in_flight;
pub(crate) mod intrinsics;
pub(crate) mod line_buffer;
pub(crate) mod log;
pub(crate) mod main_loop;
pub(crate) mod panic;
pub(crate) mod platform;
mod random;
pub(crate) mod slots;
pub(crate) mod update;
#[cfg(feature = "boot-test")]
mod update_test;
pub(crate) mod work;

use alloc::string::String;
use core::ptr::{self, NonNull};

use ::log::{debug, error, info, warn};
use xen_sys::start_info;
use xenstore::options::Options;
use xenstore::server::Server;
use xenstore::server::reattach::{Reattached, Reattachment};
use xenstore::server::stream::load;

use crate::xen::console::Console;
use crate::xen::domctl::{self, Unusable};
use crate::xen::event_channel::{self, two_level};
use crate::xen::memory::Memory;
use crate::xen::sched::{self, Reason};
use crate::xen::shared_page::{PAGE_BYTES, SharedPage};
use crate::xen::{entry, hypercall, shared_info, time};
use boot_info::{BootInfo, Channel};
use main_loop::OwnPorts;
use platform::XenPlatform;
use update::{Home, program, successor};

/// The smallest heap with which the kernel starts, in bytes. An empty store with the tools' nodes takes some 100 KiB. A
/// guest with its nodes, watches and queues takes some tens of KiB.
const HEAP_BYTES_MIN: usize = 1024 * 1024;

/// Starts the kernel. `boot/pv.s` calls it on the kernel's own stack, with the values that Xen left in `rsi` and `rsp`.
pub(crate) extern "C" fn start(info: *const start_info, stack_end: usize) -> ! {
    program::keep_own_data();
    // SAFETY: the values are the builder's; the assembly passes them on unchanged.
    let boot = unsafe { BootInfo::from_start_info(info, stack_end) };
    #[cfg(feature = "boot-test")]
    update_test::fail(&boot, update_test::Place::Start);
    // SAFETY: the table is the builder's, and still the current one.
    let has_predecessor = unsafe { successor::find_predecessor(boot.page_table) };
    if has_predecessor {
        // The predecessor's callback stays registered: it ends a successor that hangs.
        entry::register_own_fault_handlers();
    } else {
        entry::register_handlers();
    }
    log::init();
    let memory = open_memory(&boot);
    work::begin();
    connect_console(&boot, &memory);
    let (major, minor) = hypercall::xen_version();
    let kib = boot.pages * (PAGE_BYTES / 1024);
    info!("xenstore-stubdom {} on Xen {major}.{minor}, {kib} KiB of memory", env!("CARGO_PKG_VERSION"));
    let memory = make_heap(&boot, memory);
    #[cfg(feature = "boot-test")]
    boot_test::run(&boot);
    #[cfg(feature = "hostile-guest")]
    hostile::run(&boot, &memory);
    #[cfg(not(feature = "hostile-guest"))]
    serve_in_role(&boot, has_predecessor, memory)
}

/// Serves as the successor of another kernel, or as the first kernel.
#[cfg_attr(feature = "hostile-guest", allow(dead_code, reason = "that image is no server"))]
fn serve_in_role(boot: &BootInfo, has_predecessor: bool, memory: Memory) -> ! {
    let options = read_options(boot);
    if has_predecessor {
        successor::serve(boot, &options, memory)
    }
    let ports = open_events();
    serve_first(boot, &options, memory, ports)
}

/// Opens the page tables, and maps the shared-info page.
fn open_memory(boot: &BootInfo) -> Memory {
    // SAFETY: the addresses are the builder's, and this is the only `Memory`.
    let memory = unsafe { Memory::new(boot.page_table, boot.frame_list, boot.pages) };
    // SAFETY: the page was reserved for this in `boot/pv.s`.
    let mapped = unsafe { memory.replace_page(entry::shared_info(), boot.shared_info_frame) };
    mapped.expect("Xen lets a domain map its shared-info page");
    // SAFETY: the page was just mapped, and the mapping never changes again.
    unsafe { shared_info::init() };
    memory
}

/// Connects the console, if there is one. Log lines are visible from here on.
fn connect_console(boot: &BootInfo, memory: &Memory) {
    let Some(channel) = boot.console else { return };
    match memory.address_of_frame(channel.frame) {
        Ok(address) => {
            let page = NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("page 0 is not at address 0");
            // SAFETY: the builder made the page for the console; it is mapped for good and nothing else uses it.
            log::connect(Console::new(unsafe { SharedPage::new(page) }, channel.port));
        }
        Err(error) => warn!("no console: {error}"),
    }
}

/// Maps all memory and makes a heap of the free part.
fn make_heap(boot: &BootInfo, mut memory: Memory) -> Memory {
    // SAFETY: the builder used nothing from `first_free` on, except for a last module, which stays out of the heap.
    let mut free = unsafe { memory.map_all(boot.first_free) }.expect("Xen lets a domain map its own pages");
    if let Some(module) = boot.last_module {
        free.end = module;
    }
    if free.len() < HEAP_BYTES_MIN && successor::handover().is_none() {
        let total = boot.pages * PAGE_BYTES;
        let needed = total - free.len() + HEAP_BYTES_MIN;
        let mib = needed.div_ceil(1024 * 1024);
        stop(format_args!("{} KiB of memory are not enough: at least {mib} MiB are needed", total / 1024));
    }
    // SAFETY: the whole range was just mapped, and is free.
    unsafe { heap::init(free) };
    memory
}

/// Reads the command line. An option that is not understood is a warning only: the store must start.
fn read_options(boot: &BootInfo) -> Options {
    let text = String::from_utf8_lossy(boot.command_line);
    let (options, warnings) = Options::parse(text.split_ascii_whitespace());
    log::set_level(options.log_level);
    for warning in warnings {
        warn!("{warning}");
    }
    debug!("command line: {text}");
    let port = |channel: Option<Channel>| channel.map_or(0, |channel| channel.port);
    let (console, store) = (port(boot.console), port(boot.store));
    debug!("{} pages, first free {:#x}, console port {console}, store port {store}", boot.pages, boot.first_free);
    let heap::Usage { used, free, .. } = heap::usage();
    debug!("heap: {used} bytes used, {free} free");
    options
}

/// Prepares the event channels, and binds the kernel's own.
fn open_events() -> OwnPorts {
    two_level::unmask_all(shared_info::page().expect("mapped before"));
    time::stop_periodic_timer();
    let bind = |virq| event_channel::bind_virq(virq).expect("a domain's first ports can be bound");
    OwnPorts {
        domain_exception: bind(xen_sys::VIRQ_DOM_EXC),
        timer: bind(xen_sys::VIRQ_TIMER),
        console: log::console_port(),
    }
}

/// Serves as the first kernel: starts the server, or ends the domain with a message that names what is missing.
fn serve_first(boot: &BootInfo, options: &Options, memory: Memory, ports: OwnPorts) -> ! {
    let domains = find_domains(boot, options);
    let OwnPorts { domain_exception, timer, .. } = ports;
    debug!("reads domains by {domains}; own ports {domain_exception} and {timer} of {}", two_level::PORTS);
    let mut platform = XenPlatform::new(memory, domains);
    let server = match restored(boot, options, &mut platform) {
        Some(server) => server,
        None => {
            let mut server = Server::new(options.config(random::hash_key()));
            connect_first(options, &mut server, &mut platform);
            server
        }
    };
    serve_with(server, platform, ports, boot, options)
}

/// Serves forever.
fn serve_with(server: Server, platform: XenPlatform, ports: OwnPorts, boot: &BootInfo, options: &Options) -> ! {
    main_loop::run(
        server,
        platform,
        &Home { boot, ports, config: options.config(random::hash_key()), crash_node: &options.crash_node },
    )
}

/// Returns a server with the state of the boot module, a stream that was saved before. Without a module, or if it
/// cannot be restored, the store starts empty: the host needs one.
fn restored(boot: &BootInfo, options: &Options, platform: &mut XenPlatform) -> Option<Server> {
    let stream = module(boot)?;
    let engine = match load(stream, &options.config(random::hash_key()), time::now_ms()) {
        Ok(engine) => engine,
        Err(error) => {
            error!("the boot module of {} bytes cannot be restored: {error}; the store starts empty", stream.len());
            return None;
        }
    };
    let mut server = Server::restored(engine);
    let reattached = server.reattach(platform, time::now_ms(), Reattachment::Cold { control_port: options.event });
    let Reattached { connections, lost, .. } = reattached;
    info!("{} bytes of state restored; {connections} connections reattached, {lost} not", stream.len());
    if !reattached.has_control {
        connect_first(options, &mut server, platform);
    }
    Some(server)
}

/// Returns the boot module.
fn module(boot: &BootInfo) -> Option<&'static [u8]> {
    let module = boot.module.clone()?;
    // SAFETY: the builder put the module there, and it is not written before it has been read.
    Some(unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(module.start), module.len()) })
}

/// Finds out how this Xen reports domains, or ends the domain with a message about what is missing.
fn find_domains(boot: &BootInfo, options: &Options) -> domctl::Interface {
    match domctl::Interface::probe() {
        Ok(domains) => domains,
        Err(Unusable::NotPrivileged) => {
            let event = if options.event.is_none() { "no --event on its command line and " } else { "" };
            let guest = if boot.store.is_some() { " (it is an ordinary guest)" } else { "" };
            stop(format_args!(
                "this domain has {event}no Xenstore privilege{guest}: start it by init-xenstore-domain --kernel"
            ));
        }
        Err(error) => stop(format_args!("this Xen can't be asked about domains: {error}")),
    }
}

/// Connects the control domain by the port on the command line. Without one, connects all domains whose ring pages name
/// a port.
fn connect_first(options: &Options, server: &mut Server, platform: &mut XenPlatform) {
    let first = options.boot_domain();
    let Some(remote_port) = options.event else {
        let count = server.auto_introduce_domains(platform);
        if count == 0 {
            stop(format_args!(
                "no --event on the command line and no port in any domain's ring: start by init-xenstore-domain"
            ));
        }
        let heap::Usage { used, free, .. } = heap::usage();
        return info!("serving {count} auto-introduced domains; memory: used={used} free={free}");
    };
    if let Err(errno) = server.handle_boot_domain(first, remote_port, platform) {
        panic!("the ring or port {remote_port} of domain {first} is unavailable: {}", errno.name());
    }
    let heap::Usage { used, free, .. } = heap::usage();
    info!("serving domain {first}; memory: used={used} free={free}");
}

/// Ends the domain in an orderly way, because it cannot serve.
fn stop(why: core::fmt::Arguments<'_>) -> ! {
    successor::give_up(&alloc::format!("{why}"));
    error!("{why}; shutting down");
    log::last_words();
    sched::shutdown(Reason::PowerOff)
}
