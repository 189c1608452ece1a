//! Conversion of the processor's counter to system time: the arithmetic of `struct vcpu_time_info`
//! (`xen/include/public/xen.h`). The module is pure: `time` reads the counter.

/// A pair of counter value and system time, and the scale of later counter values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calibration {
    /// The counter's value.
    pub(crate) timestamp: u64,
    /// Nanoseconds since the host's start at that value.
    pub(crate) system_time_ns: u64,
    /// Nanoseconds of a tick, times 2^32, after `shift`.
    pub(crate) factor: u32,
    /// Bits by which ticks are shifted before that: to the left if positive.
    pub(crate) shift: i8,
}

impl Calibration {
    /// Returns the nanoseconds since the host's start when the counter is at `counter`.
    ///
    /// The counter counts modulo 2^64: a domain's own counter has an offset, and the timestamp may lie before its zero.
    /// A counter below the timestamp, as after a move to another processor, counts as equal.
    pub(crate) fn time_ns(&self, counter: u64) -> u64 {
        let ticks = u64::try_from(counter.wrapping_sub(self.timestamp).cast_signed()).unwrap_or(0);
        self.system_time_ns.saturating_add(self.scale(ticks))
    }

    fn scale(&self, ticks: u64) -> u64 {
        let distance = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            u128::from(ticks).checked_shr(distance)
        } else {
            u128::from(ticks).checked_shl(distance)
        };
        let product = shifted.unwrap_or(0).saturating_mul(u128::from(self.factor)) >> 32;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}
