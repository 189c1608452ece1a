//! What the engine is told at its start.

use crate::engine::trace::Trace;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::quota::Quotas;

/// The engine's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The control domain, which may do everything and is never limited.
    pub privileged: DomId,
    /// The quotas of all other domains, until they are set otherwise.
    pub quotas: Quotas,
    /// Milliseconds until an event that an unprivileged domain does not read is dropped; 0 for never.
    pub event_timeout_ms: u64,
    /// Whether the nodes of a dead domain go to the control domain instead of being removed.
    pub keep_orphans: bool,
    /// Whether a transaction that conflicts is replayed before its commit is refused.
    pub replay: bool,
    /// What is told in the log from the start.
    pub trace: Trace,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            privileged: DomId::DOM0,
            quotas: Quotas::default(),
            event_timeout_ms: limits::EVENT_TIMEOUT_MS,
            keep_orphans: false,
            replay: true,
            trace: Trace::default(),
        }
    }
}
