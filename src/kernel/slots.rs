//! Which slots of the ring window are free.

use alloc::vec::Vec;

/// A freed slot is used again before a fresh one, so that the window needs no more page tables than were used at once.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Vec<usize>,
    /// Those from here on were never used.
    fresh: usize,
    /// How many there are.
    count: usize,
}

impl Slots {
    /// `count` slots, all free.
    pub(crate) const fn new(count: usize) -> Self {
        Self { free: Vec::new(), fresh: 0, count }
    }

    /// A free slot, until it is given back.
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

    /// Makes a slot free that [`Slots::take`] returned.
    pub(crate) fn give_back(&mut self, slot: usize) {
        self.free.push(slot);
    }
}
