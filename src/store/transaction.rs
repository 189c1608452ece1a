//! A transaction: what it has seen, what it would change, and whether that still fits the tree.
//!
//! A transaction sees a node as it was at its own first access, with its own changes on top; a node that it has not looked
//! at yet it sees as everybody does. It may be committed while every node that it has seen (or has seen to be missing) is
//! still the same in the tree. So nothing but the nodes it has seen is held for it, which the quota `transaction-nodes`
//! bounds, and it conflicts only over what it used.

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
use specials::SeenSpecials;

pub use conflicts::Conflict;
pub(crate) use parts::{Seen, TransactionState};
pub(crate) use removal::walk_seen;
pub(crate) use specials::SeenSpecial;

/// A change of one node, as a request makes it.
#[derive(Clone, Debug)]
pub enum NodeChange {
    /// An existing node gets another value.
    Write {
        /// Which node.
        path: PathBuf,
        /// Its value.
        value: Value,
    },
    /// A node is made, with the missing nodes above it. The latter get no value, and no event of their own.
    Create {
        /// Which node.
        path: PathBuf,
        /// Number of nodes that are made, this one included. The parent of the topmost one exists.
        levels: usize,
        /// Its value.
        value: Value,
        /// The permissions of all of them.
        permissions: Permissions,
    },
    /// An existing node gets other permissions.
    SetPermissions {
        /// Which node.
        path: PathBuf,
        /// Its permissions.
        permissions: Permissions,
    },
    /// A special node gets other permissions.
    SetSpecial {
        /// Which special node.
        special: Special,
        /// Its permissions.
        permissions: Permissions,
    },
    /// A node is removed, with all below. In a transaction that is what the transaction has seen of it.
    Remove {
        /// Which node.
        path: PathBuf,
    },
}

impl NodeChange {
    /// Number of generations that the change takes; its nodes get the last one. Each new node takes one: a restore numbers each
    /// node on its own, and must not reach a higher number than the saved one.
    #[must_use]
    pub const fn generations(&self) -> usize {
        match self {
            Self::Create { levels, .. } => *levels,
            Self::Write { .. } | Self::SetPermissions { .. } | Self::SetSpecial { .. } | Self::Remove { .. } => 1,
        }
    }
}

/// What a transaction made of a node.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    /// It has only looked at it.
    Untouched,
    /// It changed or made it.
    Present(Rc<Node>),
    /// It removed it, or made and removed it.
    Absent,
}

/// A change to the list of children.
#[derive(Clone, Debug)]
pub(crate) enum ChildChange {
    Add(Box<str>),
    Remove(Box<str>),
}

/// A node that a transaction has seen.
#[derive(Clone, Debug)]
pub(crate) struct Accessed {
    /// Grows with each access; events come in this order.
    order: usize,
    /// The node at the first access; `None` when there was none.
    pub(crate) base: Option<Rc<Node>>,
    pub(crate) local: Local,
    /// What happened to the list of children since the node was made or first seen, in order.
    pub(crate) children: Vec<ChildChange>,
    /// The event that the commit is to send.
    pub(crate) event: Option<Scope>,
}

/// An event that a commit sends: the path, which watches, and the node as it was first seen.
#[derive(Debug)]
pub struct CommitEvent {
    /// What changed.
    pub path: PathBuf,
    /// Which watches it concerns.
    pub scope: Scope,
    /// Who could read the node before, if it was there.
    pub before: Option<Before>,
    /// The rights to read the parent before, if they count although the node is gone.
    pub above: Option<Before>,
}

impl CommitEvent {
    /// Bytes that it takes, its path included.
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
    /// The special nodes that it has seen. Boxed, since few transactions look at special nodes.
    specials: Option<Box<SeenSpecials>>,
    /// By how much each domain's count of nodes will change.
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
    /// A transaction that is started now.
    #[must_use]
    pub fn started(now_ms: u64) -> Self {
        Self { started_ms: now_ms, ..Self::default() }
    }

    /// When it was started, in milliseconds.
    #[must_use]
    pub const fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// How many paths it has seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accessed.len()
    }

    /// Whether it has seen neither a node nor a special node.
    #[must_use]
    pub fn has_seen_nothing(&self) -> bool {
        self.accessed.is_empty() && self.specials.is_none()
    }

    /// Whether it has seen nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accessed.is_empty()
    }

    /// The paths that it has seen, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.accessed.keys()
    }

    /// Returns the sorted paths of the nodes that its commit writes or removes, each with whether the node is removed.
    pub fn written(&self) -> impl Iterator<Item = (&PathBuf, bool)> {
        let written = self.accessed.iter().filter(|(_, accessed)| !matches!(accessed.local, Local::Untouched));
        written.map(|(path, accessed)| (path, matches!(accessed.local, Local::Absent)))
    }

    /// Counts a look at a node, by the steps that it took.
    pub const fn count_look(&mut self, steps: usize) {
        self.looks = self.looks.saturating_add(steps);
    }

    /// Number of steps that its looks at nodes took.
    #[must_use]
    pub const fn looks(&self) -> usize {
        self.looks
    }

    /// Marks it as one that can't be committed.
    pub const fn fail(&mut self) {
        self.failed = true;
    }

    /// Marks the transaction as outdated: its client has to try again. Either it gave a node to a dead domain, or it was
    /// restored without a record for a replay and saw nodes that changed later.
    pub const fn outdate(&mut self) {
        self.outdated = true;
    }

    /// Whether it is to be tried again.
    #[must_use]
    pub const fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// Whether it can't be committed.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether it has made a node.
    #[must_use]
    pub const fn has_created(&self) -> bool {
        self.created
    }

    /// By how much the count of nodes of each domain will change.
    pub fn counts(&self) -> impl Iterator<Item = (DomId, i64)> {
        self.counts.iter().map(|(domid, count)| (*domid, *count))
    }

    /// By how much the count of nodes of `domid` will change.
    #[must_use]
    pub fn count(&self, domid: DomId) -> i64 {
        self.counts.get(&domid).copied().unwrap_or(0)
    }

    /// Reports, in parts, how a commit changes the counts of the nodes' owners. The transaction does not conflict with `tree`.
    /// The node in the tree counts, not the one that was seen: a dead domain's rights leave both at different times.
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

    /// Bytes that it takes, for its client's account: paths, copies of nodes, and what is kept to replay it.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.record.bytes())
    }

    /// Bytes that a look at a path that it has not seen takes.
    #[must_use]
    pub fn bytes_of_look(path: Path<'_>, base: Option<&Rc<Node>>) -> usize {
        let copy = base.map_or(0, |node| content_bytes(node));
        path.as_str().len().saturating_add(limits::TRANSACTION_ENTRY_BYTES).saturating_add(copy)
    }

    /// Bytes that its first change of a node that it has seen takes: a copy of the node.
    #[must_use]
    pub fn bytes_of_copy(&self, path: Path<'_>) -> usize {
        let accessed = self.accessed.get(path.as_str());
        let untouched = accessed.filter(|accessed| matches!(accessed.local, Local::Untouched));
        untouched.and_then(|accessed| accessed.base.as_ref()).map_or(0, |base| content_bytes(base))
    }

    /// Bytes that it takes to add a node to the list above, or to take it out: the name, and a copy of the node above if
    /// that was not changed before.
    #[must_use]
    pub fn bytes_of_child_change(&self, path: Path<'_>) -> usize {
        let copy = path.parent().map_or(0, |parent| self.bytes_of_copy(parent));
        copy.saturating_add(path.name().len()).saturating_add(size_of::<ChildChange>())
    }

    /// The node at `path` as the transaction sees it, if it has looked at that path.
    #[must_use]
    pub fn seen(&self, path: Path<'_>) -> Option<Option<&Rc<Node>>> {
        self.accessed.get(path.as_str()).map(Accessed::current)
    }

    /// Notes that it has looked at `path`, for the first time, and found `base`.
    pub fn note(&mut self, path: PathBuf, base: Option<Rc<Node>>) {
        self.bytes = self.bytes.saturating_add(Self::bytes_of_look(path.as_path(), base.as_ref()));
        let order = self.accessed.len();
        let accessed = Accessed { order, base, local: Local::Untouched, children: Vec::new(), event: None };
        self.accessed.insert(path, accessed);
    }

    /// Makes a change of a path that it has seen.
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

    /// Removes a dead domain's rights from all nodes in the transaction. Otherwise a commit would restore them, perhaps when
    /// another domain has the same number. If the transaction gave a node to the dead domain, its client has to try again. If
    /// it gave a right to the domain, it cannot be replayed: a replay would execute those requests again.
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
                // A node that belonged to the domain before is gone from the tree, which is a conflict already.
                self.outdated = self.outdated || node.permissions().owner() == domid && !was_owner;
                forget_rights(node, domid);
            }
        }
    }

    /// What it was asked, and what was answered.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// What it was asked, to be added to.
    pub const fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Makes all its changes in a tree with which it does not conflict, and returns the events, in the order of access.
    /// Permissions of what it wrote pass through `adjust`, with the generation at which it wrote them. `next_generation`
    /// gives each written node a generation of its own.
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
            // A node that it made and removed has no event.
            let was_there = accessed.base.is_some() || matches!(accessed.local, Local::Present(_));
            let event = accessed.event.filter(|_| was_there);
            all.push((path, Accessed { base: None, event, ..accessed }, before));
        }
        let mut edit = tree.edit(all.len());
        // Parents sort before what is below them, so that each node's parent is complete before the node.
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

    /// The owner of the node at `path` as the transaction sees it.
    fn owner(&self, path: Path<'_>) -> Option<DomId> {
        self.seen(path).flatten().map(|node| node.permissions().owner())
    }

    fn charge(&mut self, domid: Option<DomId>, by: i64) {
        if let Some(domid) = domid {
            let count = self.counts.entry(domid).or_default();
            *count = count.saturating_add(by);
        }
    }

    /// Changes a node that it has seen and that exists for it.
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
            // What stands for the child in the list is never looked at: the child has an entry of its own.
            let placeholder = Rc::new(Node::new(Value::default(), parent.permissions().clone(), generation));
            // The list may still name a child that others removed after the parent was seen; the commit will conflict.
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

/// Bytes of a node's copy. Its list of children is shared as far as it can be, and changes of it are counted one by one.
fn content_bytes(node: &Node) -> usize {
    Node::record_bytes(node.permissions().entries().len(), node.value().len(), 0)
}

/// Takes a domain's entries out of a node's permissions, the owner's excepted.
fn forget_rights(node: &mut Rc<Node>, domid: DomId) {
    if node.permissions().entries().iter().skip(1).any(|entry| entry.domid == domid) {
        let permissions = node.permissions().without(domid);
        Rc::make_mut(node).set_permissions(permissions);
    }
}

impl Accessed {
    /// Who could read the node at the first access, if the commit has to tell of it.
    fn before(&self) -> Option<Before> {
        let base = self.event.and(self.base.as_ref())?;
        Some(Before { permissions: base.permissions().clone(), generation: base.generation() })
    }

    /// Bytes of the transaction's own version.
    fn local_bytes(&self) -> usize {
        match &self.local {
            Local::Present(node) => content_bytes(node),
            Local::Untouched | Local::Absent => 0,
        }
    }

    pub(crate) const fn current(&self) -> Option<&Rc<Node>> {
        match &self.local {
            Local::Untouched => self.base.as_ref(),
            Local::Present(node) => Some(node),
            Local::Absent => None,
        }
    }

    /// The node, to be changed; from here on it is the transaction's own.
    fn current_mut(&mut self) -> Option<&mut Node> {
        if let (Local::Untouched, Some(base)) = (&self.local, &self.base) {
            self.local = Local::Present(base.clone());
        }
        match &mut self.local {
            Local::Present(node) => Some(Rc::make_mut(node)),
            Local::Untouched | Local::Absent => None,
        }
    }

    /// Notes an event. A wider scope replaces a narrower one, and not the other way round.
    fn announce(&mut self, scope: Scope) {
        if self.event != Some(Scope::Subtree) {
            self.event = Some(scope);
        }
    }
}

impl ChildChange {
    /// The child's name.
    pub(crate) const fn name(&self) -> &str {
        let (Self::Add(name) | Self::Remove(name)) = self;
        name
    }

    /// Bytes that it takes.
    const fn bytes(&self) -> usize {
        let (Self::Add(name) | Self::Remove(name)) = self;
        name.len().saturating_add(size_of::<Self>())
    }

    /// Applies the change to a node's list of children, for a commit. A new child is empty, with its parent's permissions,
    /// until its own entry fills it. The removal of a child removes all nodes below it.
    fn make(&self, node: &mut Node) {
        match self {
            Self::Add(name) => {
                let child = Node::new(Value::default(), node.permissions().clone(), node.generation());
                node.insert_child(name, Rc::new(child));
            }
            Self::Remove(name) => drop(node.remove_child(name)),
        }
    }
}
