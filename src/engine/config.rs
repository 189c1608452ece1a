//! The engine's configuration at its start.

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
    /// The kinds of trace lines that are logged from the start.
    pub trace: Trace,
    /// The newest version of the stream that a live update may write, unless a [`StreamLimit`] is set. `None` for the
    /// version that the state requires.
    pub stream_version: Option<u32>,
    /// The key of the hashes that find duplicate events. Guests must not know it.
    pub hash_key: HashKey,
}

/// The newest stream version that CONTROL's `stream-version` set. It outlives an update, and takes precedence over the
/// boot option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamLimit {
    /// Not set: the boot option counts.
    #[default]
    Unsaid,
    /// No limit.
    Auto,
    /// No newer version than this.
    Version(u32),
}

impl StreamLimit {
    /// Returns the limit in force. `option` is the boot option.
    #[must_use]
    pub const fn or(self, option: Option<u32>) -> Option<u32> {
        match self {
            Self::Unsaid => option,
            Self::Auto => None,
            Self::Version(version) => Some(version),
        }
    }

    /// Returns the number that stands for the limit in a stream.
    #[must_use]
    pub(super) fn to_number(self) -> u64 {
        match self {
            Self::Unsaid => 0,
            Self::Auto => 1,
            Self::Version(version) => u64::from(version).saturating_add(1),
        }
    }

    /// Returns the limit of a number from [`StreamLimit::to_number`]; `None` for any other number.
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
