//! The processors on which client and servers run.
//!
//! Usually both share one. With two, most of the cost of a request that goes alone is that of waking a processor that sleeps,
//! whatever the server does; and how many of those in flight come with each waking is left to chance. Servers inherit the
//! processors of the client that starts them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process was allowed when it started.
pub struct Processors {
    all: CpuSet,
    last: CpuSet,
}

impl Processors {
    /// Asks for them.
    pub fn allowed() -> io::Result<Self> {
        let all = sched_getaffinity(None)?;
        let mut last = CpuSet::new();
        if let Some(processor) = (0..CpuSet::MAX_CPU).rev().find(|processor| all.is_set(*processor)) {
            last.set(processor);
        }
        Ok(Self { all, last })
    }

    /// Whether there are two or more.
    pub fn are_several(&self) -> bool {
        self.all.count() > 1
    }

    /// From now on this thread, and servers that it starts, share the last of them: the first often has the more interrupts.
    pub fn share_one(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.last)?)
    }

    /// From now on the scheduler chooses among all of them for this thread and for servers that it starts.
    pub fn use_all(&self) -> io::Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }
}
