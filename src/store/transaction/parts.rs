//! A transaction that is saved and restored: its parts, and the check whether the parts fit together.

use alloc::collections::{BTreeMap, BTreeSet, TryReserveError};
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::node::Node;
use crate::store::path::{Path, PathBuf, PathCursor};
use crate::store::record::Record;
use crate::store::transaction::{Accessed, ChildChange, Local, Transaction, content_bytes};
use crate::store::tree::Tree;
use crate::store::watch::Scope;

/// A node that a restored transaction has seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) base: Option<Rc<Node>>,
    pub(crate) local: Local,
    pub(crate) children: Vec<ChildChange>,
    pub(crate) event: Option<Scope>,
}

/// The state of a transaction, apart from its seen nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransactionState {
    pub(crate) created: bool,
    pub(crate) failed: bool,
    pub(crate) outdated: bool,
    pub(crate) looks: usize,
    /// As [`Transaction::bytes`], without the record for a replay.
    pub(crate) bytes: usize,
    pub(crate) started_ms: u64,
}

/// The changes of one name in a node's list of children.
#[derive(Clone, Copy, Default)]
struct Listing {
    /// Whether the name is in the list at the end; `None` if it was not changed.
    is_listed: Option<bool>,
    /// Whether the name was removed at any time.
    was_taken_out: bool,
}

impl Transaction {
    /// Returns all seen nodes, in the order of access.
    ///
    /// # Errors
    /// Fails if there is no memory for the list: a transaction of the control domain may see any number of nodes.
    pub(crate) fn accesses(&self) -> Result<Vec<(Path<'_>, &Accessed)>, TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(self.accessed.len())?;
        all.extend(self.accessed.iter().map(|(path, accessed)| (path.as_path(), accessed)));
        all.sort_unstable_by_key(|(_, accessed)| accessed.order);
        Ok(all)
    }

    /// Adds the next seen node of a restored transaction, and counts it.
    pub(crate) fn restore(&mut self, path: PathBuf, seen: Seen) {
        let Seen { base, local, children, event } = seen;
        self.bytes = self.bytes.saturating_add(Self::bytes_of_look(path.as_path(), base.as_ref()));
        if let Local::Present(node) = &local {
            self.bytes = self.bytes.saturating_add(content_bytes(node));
            self.created |= base.is_none();
        }
        self.bytes = children.iter().fold(self.bytes, |sum, change| sum.saturating_add(change.bytes()));
        if !matches!(local, Local::Untouched) {
            self.charge(base.as_ref().map(|node| node.permissions().owner()), -1);
        }
        if let Local::Present(node) = &local {
            self.charge(Some(node.permissions().owner()), 1);
        }
        let order = self.accessed.len();
        self.accessed.insert(path, Accessed { order, base, local, children, event });
    }

    /// Sets the state of a restored transaction, apart from its seen nodes.
    pub(crate) fn restore_state(&mut self, state: TransactionState, record: Record) {
        let TransactionState { created, failed, outdated, looks, bytes, started_ms } = state;
        (self.created, self.failed, self.outdated) = (created, failed, outdated);
        (self.looks, self.bytes) = (looks, bytes);
        self.started_ms = started_ms;
        self.record = record;
    }

    /// Returns whether the seen nodes and changes fit together. If nothing conflicts, the commit then makes a connected
    /// tree with right counts. Only a restored transaction can be unsound.
    pub(crate) fn is_sound(&self) -> bool {
        let listings = self.listings();
        let mut cut = BTreeSet::new();
        // Parents come before the nodes below them.
        self.conflicts_with_any_tree()
            || self.accessed.iter().all(|(path, accessed)| {
                let path = path.as_path();
                let parent = path.parent().map(Path::as_str);
                let listing =
                    parent.and_then(|parent| listings.get(&(parent, path.name()))).copied().unwrap_or_default();
                let is_cut = listing.was_taken_out || parent.is_some_and(|parent| cut.contains(parent));
                if is_cut {
                    cut.insert(path.as_str());
                }
                self.is_sound_at(path, accessed, listing, is_cut)
            })
    }

    /// Returns whether the transaction saw a node that was missing in the parent that it saw at another time: the parent was
    /// missing itself, or did not list the node. No tree has both, so that the transaction can only be replayed.
    fn conflicts_with_any_tree(&self) -> bool {
        let is_missing_above = |path: Path<'_>| {
            let above = path.parent().and_then(|parent| self.accessed.get(parent.as_str()));
            above.is_some_and(|above| above.base.as_ref().is_none_or(|base| base.children().get(path.name()).is_none()))
        };
        self.accessed.iter().any(|(path, accessed)| accessed.base.is_some() && is_missing_above(path.as_path()))
    }

    /// Returns the changes of each name in the lists of children, by the parent's path.
    fn listings(&self) -> BTreeMap<(&str, &str), Listing> {
        let mut listings = BTreeMap::new();
        for (path, accessed) in &self.accessed {
            for change in &accessed.children {
                let listing: &mut Listing = listings.entry((path.as_path().as_str(), change.name())).or_default();
                listing.is_listed = Some(matches!(change, ChildChange::Add(_)));
                listing.was_taken_out |= matches!(change, ChildChange::Remove(_));
            }
        }
        listings
    }

    /// Returns whether an entry fits its neighbours. `is_cut` if the node or a node above it was removed from its list
    /// at any time.
    fn is_sound_at(&self, path: Path<'_>, accessed: &Accessed, listing: Listing, is_cut: bool) -> bool {
        let is_listed = listing.is_listed;
        let is_made = || {
            let parent = path.parent().and_then(|parent| self.accessed.get(parent.as_str()));
            is_listed == Some(true) && parent.is_some_and(|parent| matches!(parent.local, Local::Present(_)))
        };
        let fits = match (&accessed.base, &accessed.local) {
            (Some(_), Local::Untouched) => !is_cut && is_listed.is_none(),
            (None, Local::Untouched | Local::Absent) => is_listed != Some(true),
            (Some(_), Local::Present(_)) if !is_cut => is_listed.is_none(),
            (_, Local::Present(_)) => is_made(),
            (Some(_), Local::Absent) => is_cut && is_listed != Some(true),
        };
        let mut below = PathCursor::at(path);
        let mut has_entry = |name: &str| {
            below.push(name);
            let found = self.accessed.contains_key(below.as_path().as_str());
            below.pop();
            found
        };
        let base = accessed.base.as_ref().filter(|_| is_cut);
        let all_cut = base.is_none_or(|base| base.children().names().all(&mut has_entry));
        let all_made = accessed.children.iter().all(|change| has_entry(change.name()));
        fits && all_cut && all_made
    }

    /// Returns whether each seen node is either the tree's own or of another generation. Only a restored transaction
    /// can have seen a different node of the same generation, and would not notice the conflict.
    pub(crate) fn fits(&self, tree: &Tree) -> bool {
        let mut descent = tree.descent(self.accessed.len());
        self.accessed.iter().all(|(path, accessed)| {
            let (Some(base), Some(node)) = (&accessed.base, descent.get(path.as_path())) else { return true };
            Rc::ptr_eq(base, node) || base.generation() != node.generation()
        })
    }

    /// Returns the state of the transaction, apart from its seen nodes.
    pub(crate) const fn state(&self) -> TransactionState {
        let Self { created, failed, outdated, looks, bytes, started_ms, .. } = *self;
        TransactionState { created, failed, outdated, looks, bytes, started_ms }
    }
}
