//! Sleeping and ending the domain, and its processor time.

use super::entry;
use super::event_channel::two_level::offset;
use super::hypercall;
use super::shared_info;

/// The reason why the domain ends; the tool stack acts on it (`xen/include/public/sched.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The domain has nothing left to do.
    PowerOff,
    /// The domain failed: a processor fault or a panic.
    Crash,
}

/// Ends the domain.
pub(crate) fn shutdown(reason: Reason) -> ! {
    let reason = match reason {
        Reason::PowerOff => xen_sys::SHUTDOWN_poweroff,
        Reason::Crash => xen_sys::SHUTDOWN_crash,
    };
    let mut argument = xen_sys::sched_shutdown { reason };
    loop {
        // SAFETY: the structure is the one of SCHEDOP_shutdown. The call does not return; if it did, it would be made
        // again.
        let _ =
            unsafe { hypercall::operation(xen_sys::__HYPERVISOR_sched_op, xen_sys::SCHEDOP_shutdown, &mut argument) };
    }
}

/// Sleeps until an event is pending. Returns at once if one became pending since the events were last taken.
pub(crate) fn block() {
    let page = shared_info::page().expect("the shared-info page is mapped before the main loop");
    // SAFETY: the byte is vCPU 0's upcall mask, and the handlers are registered at boot, before the main loop.
    unsafe { entry::block(page.address8(offset::UPCALL_MASK)) }
}

/// `struct sched_poll` (`xen/include/public/sched.h`).
#[repr(C)]
struct Poll {
    ports: usize,
    port_count: u32,
    timeout_ns: u64,
}

/// Sleeps until system time `until_ns` (nanoseconds since the host's start), or shorter. Events stay pending and
/// upcalls stay masked.
pub(crate) fn sleep(until_ns: u64) {
    let mut argument = Poll { ports: 0, port_count: 0, timeout_ns: until_ns };
    // SAFETY: the structure is the one of SCHEDOP_poll. Without ports the pointer is not used.
    let _ = unsafe { hypercall::operation(xen_sys::__HYPERVISOR_sched_op, xen_sys::SCHEDOP_poll, &mut argument) };
}

/// `VCPUOP_get_runstate_info` (`xen/include/public/vcpu.h`).
const GET_RUNSTATE: usize = 4;

/// `struct vcpu_runstate_info`; the first of the times is the running time.
#[derive(Default)]
#[repr(C)]
struct RunState {
    state: u32,
    entered_ns: u64,
    times_ns: [u64; 4],
}

/// Returns the time that this domain has had a processor, in nanoseconds; 0 if Xen does not report it.
pub(crate) fn running_ns() -> u64 {
    let mut state = RunState::default();
    let argument = core::ptr::from_mut(&mut state).expose_provenance();
    // SAFETY: the structure is the operation's, for vCPU 0.
    let outcome = unsafe { hypercall::checked(xen_sys::__HYPERVISOR_vcpu_op, [GET_RUNSTATE, 0, argument, 0, 0]) };
    if outcome.is_ok() { state.times_ns[0] } else { 0 }
}
