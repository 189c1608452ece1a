//! The nodes of the model: a map from path to node, copied freely. Transactions keep the nodes that they have accessed
//! and changed.

use std::collections::BTreeMap;
use std::rc::Rc;

use xenstore::limits;
use xenstore::store::record::Record;
use xenstore::wire::errno::Errno;
use xenstore::wire::header::MessageType as T;

/// A right that is given to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub letter: char,
    pub domid: u16,
    /// Whether the named domain existed. An entry that counts never outlives its domain: it is removed at the death.
    pub counts: bool,
}

/// The domid for all domains.
pub const ANY: u16 = 0x7ff5;

pub type Permissions = Vec<Entry>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub value: Vec<u8>,
    /// The owner's entry first.
    pub permissions: Permissions,
    /// In the order of creation.
    pub children: Vec<String>,
    /// A number that differs after each change.
    pub version: u64,
}

impl Node {
    pub fn owner(&self) -> u16 {
        self.permissions[0].domid
    }

    /// Returns the bytes that the quota `node-size` limits.
    pub fn record_bytes(&self) -> usize {
        16 + 8 * self.permissions.len()
            + self.value.len()
            + self.children.iter().map(|name| name.len() + 1).sum::<usize>()
    }

    /// Returns the bytes that the node's owner is charged for, by its path.
    pub fn memory_bytes(&self, path: &str) -> usize {
        16 + 8 * self.permissions.len() + self.value.len() + path.len() + name(path).len() + 1
    }
}

/// A change that may cause events for clients that may read by any of these permissions.
#[derive(Clone, Debug)]
pub struct Told {
    pub path: String,
    /// Whether watches above the path fire too.
    pub above: bool,
    pub readable: Vec<Permissions>,
}

/// The reason for the refusal of an access.
pub type Refused = &'static str;

/// A client's view: all nodes, or those of a transaction.
pub trait View {
    fn look(&mut self, path: &str) -> Result<Option<Rc<Node>>, Refused>;
    fn set(&mut self, path: &str, node: Option<Node>);
    /// Notes a change of the node, apart from its list of children.
    fn tell(&mut self, path: &str, before: Option<&Node>);
    /// Notes that the node is about to be removed: the topmost removed one, or one below.
    fn tell_removal(&mut self, path: &str, is_top: bool);
    /// Notes a new node, which counts for its owner.
    fn note_created(&mut self) {}
}

/// All nodes, including the special ones. The names of those begin with `@`, and no node is above or below them.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub nodes: BTreeMap<String, Rc<Node>>,
    versions: u64,
    /// Changes whose events are not queued yet.
    pub told: Vec<Told>,
}

impl Store {
    pub fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    pub fn get(&self, path: &str) -> Option<&Rc<Node>> {
        self.nodes.get(path)
    }

    /// Changes permissions without an event: no domain gains a right.
    pub fn set_quietly(&mut self, path: &str, permissions: Permissions) {
        let node = Rc::make_mut(self.nodes.get_mut(path).expect("the node exists"));
        node.permissions = permissions;
    }

    /// Returns how many nodes each domain owns, and their bytes.
    pub fn counts(&self) -> BTreeMap<u16, (u64, usize)> {
        let mut counts = BTreeMap::<u16, (u64, usize)>::new();
        for (path, node) in self.ordinary() {
            let count = counts.entry(node.owner()).or_default();
            count.0 += 1;
            count.1 += node.memory_bytes(path);
        }
        counts
    }

    pub fn count(&self, domid: u16) -> u64 {
        self.ordinary().filter(|(_, node)| node.owner() == domid).count() as u64
    }

    /// Returns the bytes of all nodes.
    pub fn bytes(&self) -> usize {
        self.ordinary().map(|(path, node)| node.memory_bytes(path)).sum()
    }

    /// Returns all nodes but the special ones.
    pub fn ordinary(&self) -> impl Iterator<Item = (&String, &Rc<Node>)> {
        self.nodes.iter().filter(|(path, _)| path.starts_with('/'))
    }

    /// Returns the permissions of a special node.
    pub fn special(&self, name: &str) -> &Permissions {
        &self.nodes[name].permissions
    }

    /// Returns the node and all below it, children before their parents.
    pub fn below(&self, top: &str) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(node) = self.get(top) {
            for name in &node.children {
                found.extend(self.below(&child(top, name)));
            }
            found.push(top.to_owned());
        }
        found
    }
}

impl View for Store {
    fn look(&mut self, path: &str) -> Result<Option<Rc<Node>>, Refused> {
        Ok(self.nodes.get(path).cloned())
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        let version = self.next_version();
        match node {
            Some(node) => drop(self.nodes.insert(path.into(), Rc::new(Node { version, ..node }))),
            None => drop(self.nodes.remove(path)),
        }
    }

    fn tell(&mut self, path: &str, before: Option<&Node>) {
        let mut readable: Vec<Permissions> = before.map(|node| node.permissions.clone()).into_iter().collect();
        if let Some(node) = self.nodes.get(path) {
            readable.push(node.permissions.clone());
            let above = self.nodes.get(parent(path)).filter(|_| path.starts_with('/'));
            readable.extend(above.map(|above| above.permissions.clone()));
        }
        self.told.push(Told { path: path.into(), above: true, readable });
    }

    fn tell_removal(&mut self, path: &str, is_top: bool) {
        self.tell(path, None);
        self.told.last_mut().expect("the event was just noted").above = is_top;
    }
}

/// A node that a transaction has accessed.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The position of the first access among all first accesses.
    order: usize,
    /// The node at the first access.
    pub base: Option<Rc<Node>>,
    /// The transaction's version of the node.
    pub now: Option<Option<Rc<Node>>>,
    /// Whether there is an event, and whether watches above fire too.
    above: Option<bool>,
}

/// A request of a transaction, and its reply.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub kind: T,
    pub payload: Vec<u8>,
    pub reply: Result<Vec<u8>, String>,
}

#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub seen: BTreeMap<String, Seen>,
    /// Whether the transaction cannot be committed any more.
    pub has_failed: bool,
    /// Whether it gave a node to a domain that is dead: the client must retry.
    pub is_outdated: bool,
    pub has_created: bool,
    pub requests: Vec<Recorded>,
    pub record_bytes: usize,
    /// Whether it could not keep all requests, and cannot be replayed.
    pub is_unrecorded: bool,
    /// Whether its accesses, and the possibility of a replay, are uncertain. Memory may have been refused to it, or it
    /// had a reply that the model does not know.
    pub is_uncertain: bool,
    /// Whether only the possibility of a replay is uncertain.
    pub may_lack_replay: bool,
}

impl Transaction {
    /// Returns the changes of each owner's count of nodes.
    pub fn counts(&self) -> BTreeMap<u16, i64> {
        let mut counts = BTreeMap::new();
        for (_, seen) in self.seen.iter().filter(|(path, _)| path.starts_with('/')) {
            let Some(now) = &seen.now else { continue };
            if let Some(base) = &seen.base {
                *counts.entry(base.owner()).or_default() -= 1;
            }
            if let Some(now) = now {
                *counts.entry(now.owner()).or_default() += 1;
            }
        }
        counts
    }

    /// Keeps a request for a replay, within limits.
    pub fn record(&mut self, kind: T, payload: &[u8], reply: Result<Vec<u8>, String>, is_privileged: bool) {
        let (requests, bytes) = if is_privileged {
            (limits::REPLAY_REQUESTS_PRIVILEGED, limits::REPLAY_BYTES_PRIVILEGED)
        } else {
            (limits::REPLAY_REQUESTS, limits::REPLAY_BYTES)
        };
        self.record_bytes += Record::bytes_of(payload, reply.as_deref().map_err(|_| Errno::Inval));
        self.is_unrecorded |= self.requests.len() >= requests || self.record_bytes > bytes;
        self.requests.push(Recorded { kind, payload: payload.to_vec(), reply });
    }

    /// Returns whether another request has changed an accessed node.
    pub fn conflicts(&self, store: &Store) -> bool {
        let version = |node: Option<&Rc<Node>>| node.map(|node| node.version);
        self.seen.iter().any(|(path, seen)| version(seen.base.as_ref()) != version(store.get(path)))
    }

    /// Applies its changes to a store without a conflict.
    pub fn commit(self, store: &mut Store) {
        let mut events: Vec<_> = Vec::new();
        for (path, seen) in self.seen {
            if let Some(above) = seen.above {
                // Events of special nodes come last.
                let order = if path.starts_with('@') { usize::MAX } else { seen.order };
                events.push((order, path.clone(), above, seen.base));
            }
            if let Some(now) = seen.now {
                store.set(&path, now.map(|node| (*node).clone()));
            }
        }
        events.sort_by_key(|(order, ..)| *order);
        for (_, path, above, before) in events {
            store.tell(&path, before.as_deref());
            store.told.last_mut().expect("the event was just noted").above = above;
        }
    }

    /// Acts on a domain's death. The transaction cannot be committed any more if it gave a node to the domain, nor be
    /// replayed if it gave it a right.
    pub fn forget_domain(&mut self, domid: u16) {
        let suffix = domid.to_string();
        self.is_unrecorded |= self.requests.iter().any(|request| {
            let mut strings = request.payload.split(|byte| *byte == 0).skip(1);
            let is_grant = request.kind == T::SetPerms && request.reply.is_ok();
            is_grant && strings.any(|entry| entry.get(1..) == Some(suffix.as_bytes()))
        });
        for seen in self.seen.values_mut() {
            let was_owner = seen.base.as_ref().is_some_and(|base| base.owner() == domid);
            if let Some(base) = &mut seen.base {
                Rc::make_mut(base).permissions = without(&base.permissions, domid);
            }
            if let Some(Some(node)) = &mut seen.now {
                self.is_outdated |= node.owner() == domid && !was_owner;
                Rc::make_mut(node).permissions = without(&node.permissions, domid);
            }
        }
    }
}

/// A transaction with its store, and the number of paths that it may access.
pub struct InTransaction<'a> {
    pub store: &'a Store,
    pub transaction: &'a mut Transaction,
    pub limit: usize,
}

impl View for InTransaction<'_> {
    fn look(&mut self, path: &str) -> Result<Option<Rc<Node>>, Refused> {
        let order = self.transaction.seen.len();
        if !self.transaction.seen.contains_key(path) {
            let paths = self.transaction.seen.keys().filter(|path| path.starts_with('/')).count();
            if path.starts_with('/') && paths + 1 > self.limit {
                self.transaction.has_failed = true;
                return Err("ENOSPC");
            }
            let base = self.store.get(path).cloned();
            self.transaction.seen.insert(path.into(), Seen { order, base, now: None, above: None });
        }
        let seen = &self.transaction.seen[path];
        Ok(seen.now.as_ref().unwrap_or(&seen.base).clone())
    }

    fn set(&mut self, path: &str, node: Option<Node>) {
        // A parent that was not accessed is gone already for others. The commit will conflict.
        if let Some(seen) = self.transaction.seen.get_mut(path) {
            seen.now = Some(node.map(Rc::new));
        }
    }

    fn tell(&mut self, path: &str, _before: Option<&Node>) {
        self.tell_removal(path, true);
    }

    fn tell_removal(&mut self, path: &str, is_top: bool) {
        if let Some(seen) = self.transaction.seen.get_mut(path) {
            seen.above = Some(is_top || seen.above == Some(true));
        }
    }

    fn note_created(&mut self) {
        self.transaction.has_created = true;
    }
}

/// Returns the permissions without a dead domain's entries, except for the owner's.
pub fn without(permissions: &Permissions, domid: u16) -> Permissions {
    let kept = permissions.iter().enumerate().filter(|(at, entry)| *at == 0 || entry.domid != domid);
    kept.map(|(_, entry)| entry.clone()).collect()
}

/// Returns the parent's path. That of the root and of a special name is the root.
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        None | Some(("", _)) => "/",
        Some((parent, _)) => parent,
    }
}

pub fn name(path: &str) -> &str {
    path.rsplit_once('/').expect("a path has a slash").1
}

pub fn child(path: &str, name: &str) -> String {
    format!("{}/{name}", if path == "/" { "" } else { path })
}
