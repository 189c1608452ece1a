//! Time since the host's start, and the alarm.

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::hypercall;
use super::shared_info;

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;
/// The longest alarm: a day, in nanoseconds. Xen distrusts times that are far away (`do_set_timer_op`), and no alarm
/// here is so long.
const LONGEST_ALARM_NS: u64 = 24 * 3600 * 1_000_000_000;
/// `VCPUOP_stop_periodic_timer` (`xen/include/public/vcpu.h`).
const VCPUOP_STOP_PERIODIC_TIMER: usize = 7;

/// The latest time that was returned. Time never runs backwards, even if the processors' counters do.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Returns the nanoseconds since the host's start; 0 before the shared-info page is mapped.
pub(crate) fn now_ns() -> u64 {
    let Some(page) = shared_info::page() else { return 0 };
    loop {
        let Some(calibration) = shared_info::calibration(page) else { continue };
        // SAFETY: reading the counter has no side effect; every processor that Xen runs on has it.
        let counter = unsafe { _rdtsc() };
        // Xen may have moved this vCPU to another processor since the calibration was read.
        if shared_info::calibration(page) == Some(calibration) {
            let now = calibration.time_ns(counter);
            return LATEST.fetch_max(now, Ordering::Relaxed).max(now);
        }
    }
}

/// Returns the milliseconds since the host's start.
pub(crate) fn now_ms() -> u64 {
    now_ns() / NS_PER_MS
}

/// Makes `VIRQ_TIMER` fire at `deadline_ms` (milliseconds since the host's start), or never. A new alarm replaces the
/// old one. A time in the past fires at once.
pub(crate) fn set_alarm(deadline_ms: Option<u64>) {
    let now = now_ns().max(1); // zero means "never"
    let latest = now.saturating_add(LONGEST_ALARM_NS);
    let at = deadline_ms.map_or(0, |ms| ms.saturating_mul(NS_PER_MS).clamp(now, latest));
    // SAFETY: the argument is a number. The call does not fail on x86-64.
    let _ = unsafe { hypercall::raw(xen_sys::__HYPERVISOR_set_timer_op, [at as usize, 0, 0, 0, 0]) };
}

/// Stops the periodic timer, in case Xen started one with the domain: it would wake the kernel for nothing.
pub(crate) fn stop_periodic_timer() {
    let arguments = [VCPUOP_STOP_PERIODIC_TIMER, 0, 0, 0, 0];
    // SAFETY: the operation takes a vCPU number (0) and no structure.
    let _ = unsafe { hypercall::raw(xen_sys::__HYPERVISOR_vcpu_op, arguments) };
}
