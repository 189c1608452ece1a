//! The bytes of one queue that each guest caused.

use alloc::vec::Vec;

use crate::store::watch::ConnectionId;

/// The shares, by connection; an empty share has no entry. They are a sorted list, as most queues have one or two: it
/// keeps its capacity, so that an event usually allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_originator: Vec<(ConnectionId, usize)>,
    total: usize,
}

impl Shares {
    /// Returns the bytes of all shares.
    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Returns the bytes of one share.
    pub(super) fn of(&self, originator: ConnectionId) -> usize {
        let found = self.find(originator).ok().and_then(|at| self.by_originator.get(at));
        found.map_or(0, |(_, bytes)| *bytes)
    }

    fn find(&self, originator: ConnectionId) -> Result<usize, usize> {
        self.by_originator.binary_search_by_key(&originator, |(connection, _)| *connection)
    }

    pub(super) fn add(&mut self, originator: ConnectionId, bytes: usize) {
        self.total = self.total.saturating_add(bytes);
        match self.find(originator) {
            Ok(at) => {
                if let Some((_, share)) = self.by_originator.get_mut(at) {
                    *share = share.saturating_add(bytes);
                }
            }
            Err(at) => self.by_originator.insert(at, (originator, bytes)),
        }
    }

    pub(super) fn take(&mut self, originator: ConnectionId, bytes: usize) {
        self.total = self.total.saturating_sub(bytes);
        let Ok(at) = self.find(originator) else { return };
        let Some((_, share)) = self.by_originator.get_mut(at) else { return };
        *share = share.saturating_sub(bytes);
        if *share == 0 {
            self.by_originator.remove(at);
        }
    }
}
