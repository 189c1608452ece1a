//! A turn of work: what the engine may use while it handles an input.

use crate::engine::connection::output::EventCause;
use crate::engine::hypervisor::Hypervisor;
use crate::engine::work::Work;
use crate::store::watch::ConnectionId;

/// The cause of events: the request in flight, or the server's own work.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::engine) struct Cause {
    /// The connection that sent the request; `None` for the server's own work.
    pub(in crate::engine) connection: Option<ConnectionId>,
    pub(in crate::engine) event: EventCause,
}

/// The hypervisor, the clock and the work budget of one turn.
///
/// The host makes one for each call. The work meter outlives it: the host keeps the meter, and begins a turn on it
/// ([`Work::begin_turn`]) for each connection that it serves.
pub struct Turn<'a> {
    pub(in crate::engine) hypervisor: &'a mut dyn Hypervisor,
    /// The present time in milliseconds of the host's clock.
    pub(in crate::engine) now_ms: u64,
    pub(in crate::engine) work: &'a mut Work,
    /// The cause of events that are queued now.
    pub(in crate::engine) cause: Cause,
    /// Bytes of free memory, less the events that this turn has queued.
    pub(in crate::engine) free_bytes: usize,
}

impl<'a> Turn<'a> {
    /// Creates a turn at the time `now_ms`, in milliseconds of the host's clock.
    pub fn new(hypervisor: &'a mut dyn Hypervisor, now_ms: u64, work: &'a mut Work) -> Self {
        let free_bytes = hypervisor.free_memory();
        Self { hypervisor, now_ms, work, cause: Cause::default(), free_bytes }
    }

    /// Reads the free memory again, before the next piece of work.
    pub(in crate::engine) fn note_free_memory(&mut self) {
        self.free_bytes = self.hypervisor.free_memory();
    }
}

impl core::fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Turn").field("now_ms", &self.now_ms).field("work", &self.work).finish_non_exhaustive()
    }
}
