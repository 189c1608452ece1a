//! The main loop: events in, work, sleep.
//!
//! A turn looks at what fired, lets the server do a bounded piece of work, and blocks if nothing is left. Upcalls stay
//! masked but for the blocking hypercall itself, which returns at once if anything fired since the look.

use xenstore::engine::hypervisor::{DomId, Hypervisor, Port};

use super::log;
use super::platform::XenPlatform;
use crate::xen::event_channel::two_level;
use crate::xen::{sched, shared_info, time};

/// Placeholder for the server of the library.
pub(crate) struct Server;
impl Server {
    pub(crate) fn handle_event(&mut self, port: Port) {
        ::log::info!("event at {port:?}");
    }
    pub(crate) fn handle_domain_exception(&mut self) {
        ::log::info!("domain exception");
    }
    pub(crate) fn poll(&mut self, platform: &mut XenPlatform, _now_ms: u64) -> Poll {
        use xenstore::server::Platform;
        use xenstore::wire::ring::Ring;
        let mut buffer = [0; 1024];
        if let Some(page) = platform.page(DomId(0)) {
            let n = Ring::adopt(page).read(page, &mut buffer).unwrap_or(0);
            if n > 0 {
                ::log::info!("{n} bytes: {:x?}", &buffer[..n]);
            }
        }
        Poll { busy: false, deadline_ms: None }
    }
}
pub(crate) struct Poll {
    pub(crate) busy: bool,
    pub(crate) deadline_ms: Option<u64>,
}
pub(crate) fn event_option(line: &[u8]) -> Option<u32> {
    core::str::from_utf8(line).unwrap().split_once("--event ")?.1.split(' ').next()?.parse().ok()
}

/// The ports that are the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnPorts {
    /// `VIRQ_DOM_EXC`: a domain has been shut down or is gone.
    pub(crate) domain_exception: u32,
    /// `VIRQ_TIMER`: the alarm. Waking up is all that it is for.
    pub(crate) timer: u32,
    /// The console's daemon has fetched something.
    pub(crate) console: Option<u32>,
}

/// Runs the server, for ever.
pub(crate) fn run(mut platform: XenPlatform, ports: OwnPorts, remote_port: u32) -> ! {
    let mut server = Server;
    ::log::info!("{:?} {:?}", platform.map_ring(DomId(0)), platform.bind_port(DomId(0), remote_port));
    platform.unmap_ring(DomId(0));
    ::log::info!("{:?}", platform.map_ring(DomId(0)));
    for i in 0..3 {
        ::log::info!("{:?}", platform.domain_state(DomId(i)));
    }
    let shared_info = shared_info::page().expect("mapped at boot");
    loop {
        two_level::take_fired(shared_info, |port| {
            if port == ports.domain_exception {
                server.handle_domain_exception();
            } else if Some(port) == ports.console {
                log::console_event();
            } else if port != ports.timer {
                server.handle_event(Port(port));
            }
        });
        let poll = server.poll(&mut platform, time::now_ms());
        if !poll.busy {
            time::set_alarm(poll.deadline_ms);
            sched::block();
        }
    }
}
