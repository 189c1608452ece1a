//! A transaction: the nodes that it has seen, its changes, and the check whether they still fit the tree.
//!
//! A transaction sees a node as it was at its own first access, with its own changes on top. A node that it has not
//! accessed yet appears as in the committed tree. A commit is possible while every node that the transaction has seen
//! (or found missing) is unchanged in the tree. Only the seen nodes are held for a transaction, and the quota
//! `transaction-nodes` bounds them. It conflicts only over nodes that it has used.

mod accessed;
mod conflicts;
mod parts;
mod removal;
mod specials;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::limits;
use crate::store::domain::DomId;
use crate::store::domain_table::NodeCount;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf};
use crate::store::permission::Permissions;
use crate::store::record::Record;
use crate::store::special::Special;
use crate::store::tree::Tree;
use crate::store::value::Value;
use crate::store::watch::Scope;
use accessed::content_bytes;
use specials::SeenSpecials;

pub(crate) use accessed::{Accessed, ChildChange, Local};
pub use conflicts::Conflict;
pub(crate) use parts::{Seen, TransactionState};
pub(crate) use removal::walk_seen;
pub(crate) use specials::SeenSpecial;

/// A change of one node, as a request makes it.
#[derive(Clone, Debug)]
pub enum NodeChange {
    /// An existing node gets a new value.
    Write {
        /// The node's path.
        path: PathBuf,
        /// The new value.
        value: Value,
    },
    /// A node is made, with the missing nodes above it. These get no value, and no event of their own.
    Create {
        /// The node's path.
        path: PathBuf,
        /// Number of nodes that are made, this one included. The parent of the topmost one exists.
        levels: usize,
        /// The node's value.
        value: Value,
        /// The permissions of all made nodes.
        permissions: Permissions,
    },
    /// An existing node gets new permissions.
    SetPermissions {
        /// The node's path.
        path: PathBuf,
        /// The new permissions.
        permissions: Permissions,
    },
    /// A special node gets new permissions.
    SetSpecial {
        /// The special node.
        special: Special,
        /// The new permissions.
        permissions: Permissions,
    },
    /// A node is removed, with all nodes below it; in a transaction, with those that the transaction has seen.
    Remove {
        /// The node's path.
        path: PathBuf,
    },
}

impl NodeChange {
    /// Returns the number of generations that the change takes; its nodes get the last one. Each new node takes one: a
    /// restore numbers each node on its own, and must not reach a higher number than the saved one.
    #[must_use]
    pub const fn generations(&self) -> usize {
        match self {
            Self::Create { levels, .. } => *levels,
            Self::Write { .. } | Self::SetPermissions { .. } | Self::SetSpecial { .. } | Self::Remove { .. } => 1,
        }
    }
}

/// An event that a commit sends: the path, the scope, and the rights as they were at the first access.
#[derive(Debug)]
pub struct CommitEvent {
    /// The path that changed.
    pub path: PathBuf,
    /// The scope: which watches the event concerns.
    pub scope: Scope,
    /// The node's permissions before; `None` if the node was missing.
    pub before: Option<Before>,
    /// The parent's permissions before, if they count although the node is gone.
    pub above: Option<Before>,
}

impl CommitEvent {
    /// Returns the bytes of the event, its path included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.path.as_path().as_str().len().saturating_add(size_of::<Self>())
    }
}

/// A node's permissions as they were before a change, or when a transaction first saw them.
#[derive(Clone, Debug)]
pub struct Before {
    /// The permissions.
    pub permissions: Permissions,
    /// The generation of the node's last write.
    pub generation: u64,
}

/// An open transaction.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    accessed: BTreeMap<PathBuf, Accessed>,
    /// The seen special nodes. Boxed, since few transactions access special nodes.
    specials: Option<Box<SeenSpecials>>,
    /// The change of each domain's count of nodes.
    counts: BTreeMap<DomId, i64>,
    created: bool,
    failed: bool,
    outdated: bool,
    looks: usize,
    started_ms: u64,
    /// See [`Transaction::bytes`].
    bytes: usize,
    record: Record,
}

impl Transaction {
    /// Creates a transaction that starts now.
    #[must_use]
    pub fn started(now_ms: u64) -> Self {
        Self { started_ms: now_ms, ..Self::default() }
    }

    /// Returns the start time in milliseconds.
    #[must_use]
    pub const fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Returns the number of seen paths.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accessed.len()
    }

    /// Returns whether the transaction has seen neither a node nor a special node.
    #[must_use]
    pub fn has_seen_nothing(&self) -> bool {
        self.accessed.is_empty() && self.specials.is_none()
    }

    /// Returns whether the transaction has seen no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accessed.is_empty()
    }

    /// Returns the seen paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.accessed.keys()
    }

    /// Returns the sorted paths of the nodes that its commit writes or removes, each with whether the node is removed.
    pub fn written(&self) -> impl Iterator<Item = (&PathBuf, bool)> {
        let written = self.accessed.iter().filter(|(_, accessed)| !matches!(accessed.local, Local::Untouched));
        written.map(|(path, accessed)| (path, matches!(accessed.local, Local::Absent)))
    }

    /// Counts the steps of a node look-up.
    pub const fn count_look(&mut self, steps: usize) {
        self.looks = self.looks.saturating_add(steps);
    }

    /// Returns the number of steps of its node look-ups.
    #[must_use]
    pub const fn looks(&self) -> usize {
        self.looks
    }

    /// Marks the transaction as failed: it cannot be committed.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// Marks the transaction as outdated: its client has to try again. Either it gave a node to a dead domain, or it
    /// was restored without a record for a replay and saw nodes that changed later.
    pub const fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Returns whether the client has to try again.
    #[must_use]
    pub const fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// Returns whether the transaction cannot be committed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Returns whether the transaction has made a node.
    #[must_use]
    pub const fn has_created(&self) -> bool {
        self.created
    }

    /// Returns the change of each domain's count of nodes.
    pub fn counts(&self) -> impl Iterator<Item = (DomId, i64)> {
        self.counts.iter().map(|(domid, count)| (*domid, *count))
    }

    /// Returns the change of the count of nodes of `domid`.
    #[must_use]
    pub fn count(&self, domid: DomId) -> i64 {
        self.counts.get(&domid).copied().unwrap_or(0)
    }

    /// Reports, in parts, how a commit changes the counts of the nodes' owners. The transaction does not conflict with
    /// `tree`. The node in the tree counts, not the one that was seen: a dead domain's rights leave both at different
    /// times.
    pub fn charge_owners(&self, tree: &Tree, mut charge: impl FnMut(DomId, NodeCount)) {
        let mut descent = tree.descent(self.accessed.len());
        for (path, accessed) in &self.accessed {
            if matches!(accessed.local, Local::Untouched) {
                continue;
            }
            let count = |node: &Rc<Node>| (node.permissions().owner(), NodeCount::one(node.memory(path.as_path())));
            let before = descent.get(path.as_path()).map(count);
            let after = if let Local::Present(node) = &accessed.local { Some(count(node)) } else { None };
            match (before, after) {
                // As one change: only growth updates the maxima.
                (Some((owner, before)), Some((same, after))) if owner == same => {
                    charge(owner, after.plus(before.negated()))
                }
                (before, after) => {
                    before.into_iter().for_each(|(owner, before)| charge(owner, before.negated()));
                    after.into_iter().for_each(|(owner, after)| charge(owner, after));
                }
            }
        }
    }

    /// Returns the bytes for the client's account: paths, copies of nodes, and the record for a replay.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.record.bytes())
    }

    /// Returns the bytes of a first access to a path.
    #[must_use]
    pub fn bytes_of_look(path: Path<'_>, base: Option<&Rc<Node>>) -> usize {
        let copy = base.map_or(0, |node| content_bytes(node));
        path.as_str().len().saturating_add(limits::TRANSACTION_ENTRY_BYTES).saturating_add(copy)
    }

    /// Returns the bytes of the first change of a seen node: a copy of the node.
    #[must_use]
    pub fn bytes_of_copy(&self, path: Path<'_>) -> usize {
        let accessed = self.accessed.get(path.as_str());
        let untouched = accessed.filter(|accessed| matches!(accessed.local, Local::Untouched));
        untouched.and_then(|accessed| accessed.base.as_ref()).map_or(0, |base| content_bytes(base))
    }

    /// Returns the bytes of adding a node to its parent's list, or of removing it. These are the name, and a copy of
    /// the parent if that was not changed before.
    #[must_use]
    pub fn bytes_of_child_change(&self, path: Path<'_>) -> usize {
        let copy = path.parent().map_or(0, |parent| self.bytes_of_copy(parent));
        copy.saturating_add(path.name().len()).saturating_add(size_of::<ChildChange>())
    }

    /// Returns the node at `path` as the transaction sees it; the outer `None` if it has not accessed that path.
    #[must_use]
    pub fn seen(&self, path: Path<'_>) -> Option<Option<&Rc<Node>>> {
        self.accessed.get(path.as_str()).map(Accessed::current)
    }

    /// Notes the first access to `path`, which found `base`.
    pub fn note(&mut self, path: PathBuf, base: Option<Rc<Node>>) {
        self.bytes = self.bytes.saturating_add(Self::bytes_of_look(path.as_path(), base.as_ref()));
        let order = self.accessed.len();
        let accessed = Accessed { order, base, local: Local::Untouched, children: Vec::new(), event: None };
        self.accessed.insert(path, accessed);
    }

    /// Applies a change to a seen path.
    pub fn apply(&mut self, change: NodeChange, generation: u64) {
        match change {
            NodeChange::Write { path, value } => self.update(&path, Some(Scope::Subtree), |node| {
                node.set_value(value);
                node.set_generation(generation);
            }),
            NodeChange::SetPermissions { path, permissions } => {
                self.charge(self.owner(path.as_path()), -1);
                self.charge(Some(permissions.owner()), 1);
                self.update(&path, Some(Scope::Subtree), |node| {
                    node.set_permissions(permissions);
                    node.set_generation(generation);
                });
            }
            NodeChange::Create { path, levels, value, permissions } => {
                let path = path.as_path();
                let mut value = Some(value);
                for made in path.lowest(levels) {
                    let is_last = made == path;
                    let value = value.take_if(|_| is_last).unwrap_or_default();
                    self.create(made, Node::new(value, permissions.clone(), generation));
                }
                if let Some(accessed) = self.accessed.get_mut(path.as_str()) {
                    accessed.event = Some(Scope::Subtree);
                }
            }
            NodeChange::SetSpecial { special, permissions } => self.set_special(special, permissions, generation),
            NodeChange::Remove { path } => self.remove(path.as_path(), generation),
        }
    }

    /// Removes a dead domain's rights from all nodes in the transaction. Otherwise a commit would restore them, perhaps
    /// when another domain has the same number. If the transaction gave a node to the dead domain, its client has to
    /// try again. If it gave a right to the domain, it cannot be replayed: a replay would execute those requests again.
    pub fn forget_domain(&mut self, domid: DomId) {
        if self.record.gives_rights_to(domid) {
            self.record = Record::dropped();
        }
        self.forget_domain_in_specials(domid);
        for accessed in self.accessed.values_mut() {
            let was_owner = accessed.base.as_ref().is_some_and(|base| base.permissions().owner() == domid);
            if let Some(base) = &mut accessed.base {
                forget_rights(base, domid);
            }
            if let Local::Present(node) = &mut accessed.local {
                // If the node belonged to the domain before, it is gone from the tree, which is a conflict already.
                self.outdated = self.outdated || node.permissions().owner() == domid && !was_owner;
                forget_rights(node, domid);
            }
        }
    }

    /// Returns the record of requests and replies.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Returns the record of requests and replies, to be extended.
    pub const fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Applies all changes to a tree with which the transaction does not conflict. Returns the events in the order of
    /// access. Permissions of written nodes pass through `adjust`, with the generation at which the transaction wrote
    /// them. `next_generation` gives each written node a generation of its own.
    pub fn commit(
        self,
        tree: &mut Tree,
        mut adjust: impl FnMut(&Permissions, u64) -> Permissions,
        mut next_generation: impl FnMut() -> u64,
    ) -> Vec<CommitEvent> {
        // Releases its references to the tree first: a node without other references is changed in place, not copied.
        let mut all = Vec::with_capacity(self.accessed.len());
        for (path, accessed) in self.accessed {
            let before = accessed.before();
            // A node that the transaction made and removed has no event.
            let was_there = accessed.base.is_some() || matches!(accessed.local, Local::Present(_));
            let event = accessed.event.filter(|_| was_there);
            all.push((path, Accessed { base: None, event, ..accessed }, before));
        }
        let mut edit = tree.edit(all.len());
        // Parents sort before the nodes below them, so that each node's parent is complete first.
        for (path, accessed, _) in &mut all {
            let Local::Present(local) = core::mem::replace(&mut accessed.local, Local::Untouched) else { continue };
            let permissions = adjust(local.permissions(), local.generation());
            let generation = next_generation();
            if let Some(node) = edit.at(path.as_path(), permissions) {
                node.set_value(local.value().into());
                node.set_generation(generation);
                accessed.children.iter().for_each(|change| change.make(node));
            }
        }
        drop(edit);
        let mut events = Vec::new();
        for (path, accessed, before) in all {
            if let Some(scope) = accessed.event {
                events.push((accessed.order, CommitEvent { path, scope, before, above: None }));
            }
        }
        events.sort_unstable_by_key(|(order, _)| *order);
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// Returns the owner of the node at `path` as the transaction sees it.
    fn owner(&self, path: Path<'_>) -> Option<DomId> {
        self.seen(path).flatten().map(|node| node.permissions().owner())
    }

    fn charge(&mut self, domid: Option<DomId>, by: i64) {
        if let Some(domid) = domid {
            let count = self.counts.entry(domid).or_default();
            *count = count.saturating_add(by);
        }
    }

    /// Changes a seen node that exists in the transaction.
    fn update(&mut self, path: &PathBuf, event: Option<Scope>, change: impl FnOnce(&mut Node)) {
        let Some(accessed) = self.accessed.get_mut(path.as_path().as_str()) else { return };
        let before = accessed.local_bytes();
        if let Some(node) = accessed.current_mut() {
            change(node);
        }
        self.bytes = self.bytes.saturating_sub(before).saturating_add(accessed.local_bytes());
        if let Some(scope) = event {
            accessed.announce(scope);
        }
    }

    /// Makes a node at a path that the transaction has seen. In the transaction, the parent exists.
    fn create(&mut self, path: Path<'_>, node: Node) {
        self.created = true;
        self.charge(Some(node.permissions().owner()), 1);
        self.add_child(path, node.generation());
        if let Some(accessed) = self.accessed.get_mut(path.as_str()) {
            self.bytes = self.bytes.saturating_sub(accessed.local_bytes()).saturating_add(content_bytes(&node));
            accessed.local = Local::Present(Rc::new(node));
            accessed.children.clear();
        }
    }

    fn add_child(&mut self, path: Path<'_>, generation: u64) {
        self.change_parent(path, ChildChange::Add(path.name().into()), |parent| {
            // The placeholder in the list is never read: the child has an entry of its own.
            let placeholder = Rc::new(Node::new(Value::default(), parent.permissions().clone(), generation));
            // The list may still name a child that another client removed after the parent was seen. The commit will
            // conflict.
            if parent.children().get(path.name()).is_none() {
                parent.insert_child(path.name(), placeholder);
            }
            parent.set_generation(generation);
        });
    }

    fn remove_child(&mut self, path: Path<'_>, generation: u64) {
        self.change_parent(path, ChildChange::Remove(path.name().into()), |parent| {
            parent.remove_child(path.name());
            parent.set_generation(generation);
        });
    }

    fn change_parent(&mut self, path: Path<'_>, what: ChildChange, change: impl FnOnce(&mut Node)) {
        let Some(accessed) = path.parent().and_then(|parent| self.accessed.get_mut(parent.as_str())) else { return };
        let before = accessed.local_bytes();
        if let Some(node) = accessed.current_mut() {
            change(node);
            self.bytes = self.bytes.saturating_add(what.bytes());
            accessed.children.push(what);
        }
        self.bytes = self.bytes.saturating_sub(before).saturating_add(accessed.local_bytes());
    }
}

/// Removes a domain's entries from a node's permissions, the owner's excepted.
fn forget_rights(node: &mut Rc<Node>, domid: DomId) {
    if node.permissions().entries().iter().skip(1).any(|entry| entry.domid == domid) {
        let permissions = node.permissions().without(domid);
        Rc::make_mut(node).set_permissions(permissions);
    }
}
