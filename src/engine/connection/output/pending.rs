//! The pending events of one queue, to find duplicates.
//!
//! A short queue is searched ([`limits::SCANNED_MESSAGES`]). A longer one gets an index by a keyed 128-bit hash, whose
//! cost per event does not depend on the paths and tokens that guests choose. Guests do not know the key, so they
//! cannot make two events collide. By chance, two of 2^17 events collide with a probability of 2^-94.

use alloc::collections::BTreeMap;
use core::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

#[cfg(doc)]
use crate::limits;
use crate::store::domain::DomId;

/// The key of the hashes. The host chooses it; runs with the same key are identical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

/// The pending events of a queue.
#[derive(Debug, Default)]
pub(super) struct PendingEvents {
    /// The number of pending events.
    events: usize,
    index: Option<Index>,
}

/// The number of pending events with each hash. An event that is queued twice counts twice.
#[derive(Debug)]
struct Index {
    key: HashKey,
    counts: BTreeMap<u128, u32>,
}

impl PendingEvents {
    pub(super) const fn is_empty(&self) -> bool {
        self.events == 0
    }

    pub(super) const fn is_indexed(&self) -> bool {
        self.index.is_some()
    }

    /// Builds the index from all pending events.
    pub(super) fn index<'a>(&mut self, key: HashKey, events: impl Iterator<Item = (&'a [u8], Option<DomId>)>) {
        let mut index = Index { key, counts: BTreeMap::new() };
        for (payload, subject) in events {
            index.add(payload, subject);
        }
        self.index = Some(index);
    }

    /// Drops the index. It is built again when it is needed.
    pub(super) fn forget_index(&mut self) {
        self.index = None;
    }

    /// Returns whether an event is in the index; false without an index.
    pub(super) fn contains(&self, payload: &[u8], subject: Option<DomId>) -> bool {
        self.index.as_ref().is_some_and(|index| index.counts.contains_key(&index.hash(payload, subject)))
    }

    pub(super) fn add(&mut self, payload: &[u8], subject: Option<DomId>) {
        self.events = self.events.saturating_add(1);
        if let Some(index) = &mut self.index {
            index.add(payload, subject);
        }
    }

    /// Forgets an event that left the queue. Drops the index with the last one.
    pub(super) fn remove(&mut self, payload: &[u8], subject: Option<DomId>) {
        self.events = self.events.saturating_sub(1);
        if self.events == 0 {
            self.index = None;
        } else if let Some(index) = &mut self.index {
            index.remove(payload, subject);
        }
    }
}

impl Index {
    fn hash(&self, payload: &[u8], subject: Option<DomId>) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(payload);
        hasher.write_u32(subject.map_or(0, |domid| u32::from(domid.0).saturating_add(1)));
        hasher.finish128().as_u128()
    }

    fn add(&mut self, payload: &[u8], subject: Option<DomId>) {
        let count = self.counts.entry(self.hash(payload, subject)).or_default();
        *count = count.saturating_add(1);
    }

    fn remove(&mut self, payload: &[u8], subject: Option<DomId>) {
        let hash = self.hash(payload, subject);
        if let Some(count) = self.counts.get_mut(&hash) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&hash);
            }
        }
    }
}
