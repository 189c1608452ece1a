//! The slots of the ring window.

use alloc::vec::Vec;

/// An allocator of slots. It reuses a freed slot before a fresh one, so that the window needs only as many page tables
/// as were in use at once.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Vec<usize>,
    /// The first of the slots that were never used.
    fresh: usize,
    /// Number of all slots.
    count: usize,
}

impl Slots {
    /// Creates `count` slots, all free.
    pub(crate) const fn new(count: usize) -> Self {
        Self { free: Vec::new(), fresh: 0, count }
    }

    /// Takes a free slot, until [`Slots::give_back`] frees it; `None` if all are in use.
    pub(crate) fn take(&mut self) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.fresh;
        if slot >= self.count {
            return None;
        }
        self.fresh += 1;
        Some(slot)
    }

    /// Frees a slot that [`Slots::take`] returned.
    pub(crate) fn give_back(&mut self, slot: usize) {
        self.free.push(slot);
    }
}
