//! From the entry to the main loop.

pub(crate) mod boot_info;
pub(crate) mod heap;
pub(crate) mod intrinsics;
pub(crate) mod line_buffer;
pub(crate) mod log;
pub(crate) mod panic;

use core::ptr::{self, NonNull};

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
    ::log::info!("xenstore-stubdom on Xen {major}.{minor}, {} pages", boot.pages);
    // SAFETY: the builder used nothing behind `first_free`.
    let free = unsafe { memory.map_all(boot.first_free) }.expect("mapping the domain's pages");
    ::log::info!("heap {free:#x?}");
    // SAFETY: all of it was just mapped, and is free.
    unsafe { heap::init(free) };
    ::log::info!("{:?}", heap::usage());
    ::log::info!("{boot:?}");
    ::log::info!("{:?}", domctl::Interface::probe());
    time::stop_periodic_timer();
    let page = shared_info::page().unwrap();
    two_level::unmask_all(page);
    let timer = event_channel::bind_virq(xen_sys::VIRQ_TIMER);
    ::log::info!("timer {timer:?}");
    for i in 0..5 {
        time::set_alarm(Some(time::now_ms() + 300));
        sched::block();
        two_level::take_fired(page, |port| ::log::info!("{i}: port {port}"));
    }
    log::last_words();
    sched::shutdown(Reason::PowerOff)
}
