//! Counts of the kernel's work since its start: for figures, never for decisions.
//!
//! A live update starts again at zero. Counting costs one addition each, without a lock: there is one processor.

use core::sync::atomic::{AtomicU64, Ordering};

use ::log::info;
use xenstore::server::Server;

use crate::xen::{hypercall, sched, time};

/// A number that only grows.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    pub(crate) fn count(&self) {
        self.0.store(self.get().wrapping_add(1), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Number of times that the processor slept and was woken. Each is a hypercall that [`hypercall::count`] does not
/// include.
pub(crate) static WAKEUPS: Counter = Counter::new();
/// Number of ports that were found to have fired.
pub(crate) static EVENTS: Counter = Counter::new();
/// Number of signals to the other ends of ports.
pub(crate) static NOTIFICATIONS: Counter = Counter::new();

/// Time at which the clock could first be read, in nanoseconds since the host's start.
static BEGIN_NS: AtomicU64 = AtomicU64::new(0);

/// Records that the clock can be read.
pub(crate) fn begin() {
    BEGIN_NS.store(time::now_ns(), Ordering::Relaxed);
}

/// Logs the time from the start to the first reply.
pub(crate) fn report_first_reply() {
    let us = time::now_ns().saturating_sub(BEGIN_NS.load(Ordering::Relaxed)) / 1000;
    info!("first reply {us} us after the start");
}

/// Logs the counts in one line.
pub(crate) fn report(server: &Server) {
    let wakeups = WAKEUPS.get();
    info!(
        "work: requests={} wakeups={wakeups} events={} notifications={} hypercalls={} running_us={}",
        server.requests_handled(),
        EVENTS.get(),
        NOTIFICATIONS.get(),
        hypercall::count().wrapping_add(wakeups),
        sched::running_ns() / 1000,
    );
}
