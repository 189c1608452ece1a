//! What the engine is told at its start.

use crate::engine::connection::output::HashKey;
use crate::engine::report::trace::Trace;
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
    /// The newest version of the stream that a live update may write, until it is said otherwise; `None` for what is needed.
    pub stream_version: Option<u32>,
    /// The key of the hashes that find duplicate events. Guests must not know it.
    pub hash_key: HashKey,
}

/// What was said while the server ran of the newest version of the stream. It is carried to a successor, and goes before
/// its boot option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamLimit {
    /// Nothing: the boot option counts.
    #[default]
    Unsaid,
    /// No limit.
    Auto,
    /// No newer than this.
    Version(u32),
}

impl StreamLimit {
    /// The limit, if the boot option says `option`.
    #[must_use]
    pub const fn or(self, option: Option<u32>) -> Option<u32> {
        match self {
            Self::Unsaid => option,
            Self::Auto => None,
            Self::Version(version) => Some(version),
        }
    }

    /// As a number, for a stream.
    #[must_use]
    pub(super) fn to_number(self) -> u64 {
        match self {
            Self::Unsaid => 0,
            Self::Auto => 1,
            Self::Version(version) => u64::from(version).saturating_add(1),
        }
    }

    /// Of the number that [`StreamLimit::to_number`] gives.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Unsaid,
            1 => Self::Auto,
            more => Self::Version(u32::try_from(more.checked_sub(1)?).ok()?),
        })
    }
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
            stream_version: None,
            hash_key: HashKey::default(),
        }
    }
}
