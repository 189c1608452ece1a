//! Which events are pending in one queue, so that an identical one is queued once.
//!
//! A short queue is searched ([`limits::SCANNED_MESSAGES`]); a longer one gets an index by a keyed 128-bit hash, which
//! takes the same time for each event, whatever guests choose as paths and tokens. They don't know the key, so that they
//! can't make two events collide; by chance, two of 2^17 events do with a probability of 2^-94.

use alloc::collections::BTreeMap;
use core::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

#[cfg(doc)]
use crate::limits;
use crate::store::domain::DomId;

/// The key of the hashes. The host chooses it; runs with the same key are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey(pub u64, pub u64);

/// The pending events of a queue.
#[derive(Debug, Default)]
pub(super) struct PendingEvents {
    /// How many there are.
    events: usize,
    index: Option<Index>,
}

/// How many pending events have a hash; an event that may be queued twice is counted twice.
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

    /// Makes the index, of all pending events.
    pub(super) fn index<'a>(&mut self, key: HashKey, events: impl Iterator<Item = (&'a [u8], Option<DomId>)>) {
        let mut index = Index { key, counts: BTreeMap::new() };
        for (payload, subject) in events {
            index.add(payload, subject);
        }
        self.index = Some(index);
    }

    /// Drops the index; it is made again when it is needed.
    pub(super) fn forget_index(&mut self) {
        self.index = None;
    }

    /// Whether an event is pending. Only the index is asked.
    pub(super) fn contains(&self, payload: &[u8], subject: Option<DomId>) -> bool {
        self.index.as_ref().is_some_and(|index| index.counts.contains_key(&index.hash(payload, subject)))
    }

    pub(super) fn add(&mut self, payload: &[u8], subject: Option<DomId>) {
        self.events = self.events.saturating_add(1);
        if let Some(index) = &mut self.index {
            index.add(payload, subject);
        }
    }

    /// Forgets an event that left the queue. The last one takes the index with it.
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
