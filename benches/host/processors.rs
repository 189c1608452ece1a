//! The processors on which client and servers run.
//!
//! Usually both share one. With two processors, a single request costs mostly the wake-up of a sleeping processor. The
//! number of requests in flight for each wake-up is left to chance. Servers inherit the processors of the client that
//! starts them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process could use at its start.
pub struct Processors {
    all: CpuSet,
    last: CpuSet,
}

impl Processors {
    /// Reads them from the kernel.
    pub fn allowed() -> io::Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut last = CpuSet::new();
        if let Some(processor) = (0..CpuSet::MAX_CPU).rev().find(|processor| all.is_set(*processor)) {
            last.set(processor);
        }
        Ok(Self { all, last })
    }

    /// Returns whether there are two or more.
    pub fn are_several(&self) -> bool {
        self.all.count() > 1
    }

    /// Restricts this thread, and servers that it starts, to the last processor. The first often has more interrupts.
    pub fn share_one(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.last)?)
    }

    /// Allows all processors to this thread, and to servers that it starts.
    pub fn use_all(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }
}
