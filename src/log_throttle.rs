//! A limit on log lines about events that a domain can cause without limit.

/// The time of the last log line about such an event, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogThrottle(Option<u64>);

impl LogThrottle {
    /// Returns whether `interval_ms` has passed since the last log line. If so, a new log line is noted.
    pub const fn is_due(&mut self, interval_ms: u64, now_ms: u64) -> bool {
        if let Self(Some(logged_ms)) = *self
            && now_ms.saturating_sub(logged_ms) < interval_ms
        {
            return false;
        }
        *self = Self(Some(now_ms));
        true
    }
}
