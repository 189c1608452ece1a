//! Time since the host's start, and the alarm.
//!
//! Xen publishes a pair of counter value and system time, and how to get from the counter to nanoseconds
//! (`xen/include/public/xen.h`, `struct vcpu_time_info`).

use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::hypercall;
use super::shared_info::{self, offset};

/// Nanoseconds in a millisecond.
const NS_PER_MS: u64 = 1_000_000;
/// The longest alarm, a day. Xen distrusts times that are far away (`do_set_timer_op`), and nothing here waits so long.
const LONGEST_ALARM_NS: u64 = 24 * 3600 * 1_000_000_000;

/// Nanoseconds for `ticks` of the processor's counter.
fn scale(ticks: u64, factor: u32, shift: i8) -> u64 {
    let distance = u32::from(shift.unsigned_abs());
    let ticks = if shift < 0 { ticks.checked_shr(distance) } else { ticks.checked_shl(distance) };
    let product = (u128::from(ticks.unwrap_or(0)) * u128::from(factor)) >> 32;
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// Ticks from `timestamp` to `counter`. Both count modulo 2^64 (a domain's counter has an offset, and the timestamp may
/// lie before its zero); a counter that is behind, as after a move to another processor, is taken for equal.
fn elapsed(counter: u64, timestamp: u64) -> u64 {
    u64::try_from(counter.wrapping_sub(timestamp).cast_signed()).unwrap_or(0)
}

/// The latest time that was told: time never runs backwards, whatever the processors' counters do.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds since the host's start; 0 before the shared-info page is mapped.
pub(crate) fn now_ns() -> u64 {
    let Some(page) = shared_info::page() else { return 0 };
    loop {
        let version = page.load32(offset::TIME_VERSION);
        let timestamp = page.load64(offset::TSC_TIMESTAMP);
        let system_time = page.load64(offset::SYSTEM_TIME);
        let factor = page.load32(offset::TSC_TO_SYSTEM_MUL);
        let shift = page.load8(offset::TSC_SHIFT).cast_signed();
        // SAFETY: reading the counter has no side effect; every processor that Xen runs on has it.
        let counter = unsafe { _rdtsc() };
        fence(Ordering::Acquire);
        if version & 1 == 0 && page.load32(offset::TIME_VERSION) == version {
            let now = system_time.saturating_add(scale(elapsed(counter, timestamp), factor, shift));
            return LATEST.fetch_max(now, Ordering::Relaxed).max(now);
        }
    }
}

/// Milliseconds since the host's start.
pub(crate) fn now_ms() -> u64 {
    now_ns() / NS_PER_MS
}

/// Lets `VIRQ_TIMER` fire at `deadline_ms` (milliseconds since the host's start), or never. A new alarm replaces the
/// old one. A time that is past fires at once.
pub(crate) fn set_alarm(deadline_ms: Option<u64>) {
    let now = now_ns();
    // One more nanosecond than nothing: zero means "never".
    let at = deadline_ms.map_or(0, |ms| ms.saturating_mul(NS_PER_MS).clamp(now.max(1), now + LONGEST_ALARM_NS));
    // SAFETY: the argument is a number. The call does not fail on x86-64.
    let _ = unsafe { hypercall::raw(xen_sys::__HYPERVISOR_set_timer_op, [at as usize, 0, 0, 0, 0]) };
}

/// Stops the periodic timer, which some versions start with the domain: it would wake us for nothing.
pub(crate) fn stop_periodic_timer() {
    /// `VCPUOP_stop_periodic_timer` (`xen/include/public/vcpu.h`).
    const STOP_PERIODIC_TIMER: usize = 7;
    // SAFETY: the operation takes a vCPU number (0) and no structure.
    let _ = unsafe { hypercall::raw(xen_sys::__HYPERVISOR_vcpu_op, [STOP_PERIODIC_TIMER, 0, 0, 0, 0]) };
}
