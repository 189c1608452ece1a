//! The main loop: it takes events, works, and sleeps.
//!
//! A turn takes the ports that fired, lets the server do a bounded piece of work, and blocks if nothing is left.
//! Upcalls stay masked except during the blocking hypercall. That call returns at once if a port has fired since the
//! turn took them.

use ::log::info;
use xenstore::engine::hypervisor::Port;
use xenstore::server::{Action, Server};

use super::platform::XenPlatform;
use super::update::{Home, restart};
use super::{heap, log, update, work};
use crate::xen::event_channel::two_level;
use crate::xen::{entry, sched, shared_info, time};

/// The kernel's own ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnPorts {
    /// `VIRQ_DOM_EXC`: a domain was shut down or has disappeared.
    pub(crate) domain_exception: u32,
    /// `VIRQ_TIMER`: the alarm. It only wakes the kernel up.
    pub(crate) timer: u32,
    /// The console's port: the console's daemon has fetched something.
    pub(crate) console: Option<u32>,
}

/// Runs the server forever.
#[inline(never)]
pub(crate) fn run(mut server: Server, mut platform: XenPlatform, home: &Home<'_>) -> ! {
    // SAFETY: this function never returns.
    unsafe { restart::register(&raw mut server, &raw mut platform, home, entry::stack_pointer()) };
    serve(&mut server, &mut platform, home)
}

/// Serves forever: from the start, and again after a crash that cost only a request.
pub(super) fn serve(server: &mut Server, platform: &mut XenPlatform, home: &Home<'_>) -> ! {
    let ports = home.ports;
    let shared_info = shared_info::page().expect("mapped at boot");
    // The alarm that was set last: an alarm costs a hypercall only when it changes.
    let mut alarm_ms = None;
    let mut has_replied = false;
    loop {
        two_level::take_fired(shared_info, |port| {
            work::EVENTS.count();
            if port == ports.domain_exception {
                server.handle_domain_exception();
            } else if port == ports.timer {
                alarm_ms = None;
            } else if Some(port) == ports.console {
                log::console_event();
            } else {
                server.handle_event(Port(port));
            }
        });
        let poll = server.poll(platform, time::now_ms());
        if !has_replied && server.requests_handled() > 0 {
            has_replied = true;
            work::report_first_reply();
        }
        while let Some(action) = server.poll_action() {
            perform(action, server, platform, home);
            // An update sets its own alarm.
            alarm_ms = None;
        }
        let gains_memory = platform.gain_memory();
        // The actions may have produced something to send.
        if !poll.busy && !server.is_busy() && !gains_memory {
            if poll.deadline_ms != alarm_ms {
                time::set_alarm(poll.deadline_ms);
                alarm_ms = poll.deadline_ms;
            }
            work::WAKEUPS.count();
            sched::block();
        }
    }
}

/// Performs an action that the server requests from its host.
fn perform(action: Action, server: &mut Server, platform: &mut XenPlatform, home: &Home<'_>) {
    match action {
        Action::ReportMemory => {
            let heap::Usage { used, free, peak } = heap::usage();
            let (rings, ports) = (platform.ring_count(), platform.port_count());
            info!("memory: used={used} free={free} peak={peak} rings={rings} ports={ports}");
            work::report(server);
        }
        Action::StartUpdate => update::start(server, platform, home),
    }
}
