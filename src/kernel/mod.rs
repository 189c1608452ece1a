//! From the entry to the main loop.

pub(crate) mod boot_info;
pub(crate) mod heap;
pub(crate) mod intrinsics;
pub(crate) mod line_buffer;
pub(crate) mod log;
pub(crate) mod main_loop;
pub(crate) mod platform;
pub(crate) mod panic;

use core::ptr::{self, NonNull};

use ::log::{debug, error, info};
use xen_sys::start_info;

use crate::xen::console::Console;
use crate::xen::domctl;
use crate::xen::event_channel::{self, two_level};
use crate::xen::memory::Memory;
use crate::xen::sched::{self, Reason};
use crate::xen::shared_page::SharedPage;
use crate::xen::{entry, hypercall, shared_info, time};
use boot_info::BootInfo;

/// Entered by `boot/pv.s`, on the kernel's own stack.
pub(crate) extern "C" fn start(info: *const start_info, stack_end: usize) -> ! {
    entry::register_handlers();
    // SAFETY: the values are the builder's, passed on untouched by the assembly.
    let boot = unsafe { BootInfo::from_start_info(info, stack_end) };
    log::init();
    // SAFETY: the addresses are the builder's; this is the only `Memory`.
    let mut memory = unsafe { Memory::new(boot.page_table, boot.frame_list, boot.pages) };
    // SAFETY: the page was reserved for this in `boot/pv.s`.
    unsafe { memory.replace_page(entry::shared_info(), boot.shared_info_frame) }.expect("the shared-info page");
    // SAFETY: just mapped.
    unsafe { shared_info::init() };
    if let Some(channel) = boot.console {
        let page = memory.address_of_frame(channel.frame).ok().and_then(|at| NonNull::new(ptr::with_exposed_provenance_mut(at)));
        if let Some(page) = page {
            // SAFETY: the builder made the page for the console; it is mapped for good and nothing else uses it.
            log::connect(Console::new(unsafe { SharedPage::new(page) }, channel.port));
        }
    }
    let (major, minor) = hypercall::xen_version();
    info!("xenstore-stubdom {} on Xen {major}.{minor}, {} KiB", env!("CARGO_PKG_VERSION"), boot.pages * 4);
    // SAFETY: the builder used nothing behind `first_free`.
    let free = unsafe { memory.map_all(boot.first_free) }.expect("mapping the domain's pages");
    // SAFETY: all of it was just mapped, and is free.
    unsafe { heap::init(free) };
    debug!("{boot:x?}");
    let usage = heap::usage();
    let page = shared_info::page().unwrap();
    two_level::unmask_all(page);
    time::stop_periodic_timer();
    let domains = match domctl::Interface::probe() {
        Ok(i) => i,
        Err(e) => {
            error!("{e:?}");
            log::last_words();
            sched::shutdown(Reason::PowerOff)
        }
    };
    let ports = main_loop::OwnPorts {
        domain_exception: event_channel::bind_virq(xen_sys::VIRQ_DOM_EXC).unwrap(),
        timer: event_channel::bind_virq(xen_sys::VIRQ_TIMER).unwrap(),
        console: log::console_port(),
    };
    info!("{usage:?} {domains:?} {ports:?}");
    let mut platform = platform::XenPlatform::new(memory, domains);
    use xenstore::engine::hypervisor::Hypervisor;
    let d0 = xenstore::engine::hypervisor::DomId(0);
    info!("map {:?}", platform.map_ring(d0));
    let line = core::str::from_utf8(boot.command_line).unwrap();
    info!("{line}");
    let port: u32 = line.split_once("--event ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    info!("bind {:?}", platform.bind_port(d0, port));
    platform.unmap_ring(d0);
    info!("map {:?}", platform.map_ring(d0));
    for d in 0..5 { info!("{d} {:?}", platform.domain_state(xenstore::engine::hypervisor::DomId(d))); }
    main_loop::run(main_loop::Server, platform, ports)
}
