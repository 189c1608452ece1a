//! Prints the progress, with `PROGRESS` in the environment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Histories after which a line is printed.
const HISTORIES: u64 = 500;

pub struct Progress {
    is_told: bool,
    all: u64,
    done: AtomicU64,
    begun: Instant,
}

impl Progress {
    /// Starts the progress of so many histories.
    pub fn new(all: u64) -> Self {
        let is_told = std::env::var_os("PROGRESS").is_some();
        Self { is_told, all, done: AtomicU64::new(0), begun: Instant::now() }
    }

    /// Counts one more history.
    pub fn add(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.is_told && done.is_multiple_of(HISTORIES) {
            eprintln!("--> {done} of {} histories after {} s", self.all, self.begun.elapsed().as_secs());
        }
    }
}
