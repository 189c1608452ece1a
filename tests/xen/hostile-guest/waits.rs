//! A histogram of the durations of requests in microseconds, and the longest one.

use alloc::format;
use alloc::string::String;

/// Bars of the histogram: eight for each doubling of a time in microseconds.
const BARS: usize = 256;

pub(super) struct Waits {
    bars: [u64; BARS],
    requests: u64,
    longest: u64,
}

impl Default for Waits {
    fn default() -> Self {
        Self { bars: [0; BARS], requests: 0, longest: 0 }
    }
}

impl Waits {
    pub(super) fn note(&mut self, us: u64) {
        self.bars[bar(us)] += 1;
        self.longest = us.max(self.longest);
        self.requests += 1;
    }

    pub(super) const fn requests(&self) -> u64 {
        self.requests
    }

    /// Returns the median, the 99th and the 99.9th percentile, and the longest time, in microseconds.
    pub(super) fn figures(&self) -> String {
        let at = |share: u64| {
            let mut left = self.requests * share / 1000;
            let found = self.bars.iter().position(|count| {
                let is_here = left < *count;
                left = left.saturating_sub(*count);
                is_here
            });
            bar_begin_us(found.unwrap_or(0))
        };
        format!("median={} p99={} p99.9={} longest={}", at(500), at(990), at(999), self.longest)
    }
}

/// Returns the bar of a time. There are eight equal bars between two powers of two.
fn bar(us: u64) -> usize {
    if us < 8 {
        return us as usize;
    }
    let power = us.ilog2();
    ((power as usize - 2) * 8 + ((us >> (power - 3)) & 7) as usize).min(BARS - 1)
}

/// Returns the shortest time of a bar, in microseconds.
fn bar_begin_us(bar: usize) -> u64 {
    if bar < 8 { bar as u64 } else { (8 + bar as u64 % 8) << (bar / 8 - 1) }
}
