//! A transaction as items: nodes' records, and an extension after them. Also a transaction restored from these.
//!
//! Without the extension, a restored transaction reads its nodes as they are at the restore. The records contain its
//! accesses, but not the state that it saw. Nodes that it only read conflict if they differ by then.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::snapshot::codec::{Reader, Writer};
use crate::engine::snapshot::extension::{self, read_entries, write_entries};
use crate::engine::snapshot::{Item, NoMemory, NodeAccess, TransactionItem};
use crate::store::domain_table::Domains;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf};
use crate::store::permission::Permissions;
use crate::store::record::{Record, RecordLimits};
use crate::store::special::{Special, SpecialNode, Specials};
use crate::store::state::State;
use crate::store::transaction::{
    Accessed, ChildChange, Local, NodeChange, Seen, SeenSpecial, Transaction, TransactionState,
};
use crate::store::watch::Scope;
use crate::wire::errno::Errno;
use crate::wire::header::MessageType;

/// A generation that no node of the tree has: it always conflicts.
const NEVER: u64 = 0;

/// The content of a node's record in a transaction.
#[derive(Clone, Debug)]
pub(super) struct PendingNode<'a> {
    /// The transaction's access.
    pub(super) access: NodeAccess,
    /// Its value.
    pub(super) value: Cow<'a, [u8]>,
    /// Its permissions; `None` if the transaction sees no node.
    pub(super) permissions: Option<Permissions>,
}

impl<'a> PendingNode<'a> {
    /// Returns the record's content for an accessed node.
    ///
    /// The document has no record for an access to a missing node. The record then shows a read without permissions.
    pub(super) fn of(accessed: &'a Accessed, domains: &Domains) -> Self {
        let read = if accessed.base.is_some() { NodeAccess::READ } else { NodeAccess::empty() };
        let access = match accessed.local {
            Local::Untouched => NodeAccess::READ,
            Local::Present(_) => read | NodeAccess::WRITTEN,
            Local::Absent => NodeAccess::empty(),
        };
        let node = accessed.current();
        let permissions = node.map(|node| domains.adjusted(node.permissions(), node.generation()));
        Self { access, value: node.map_or(&[][..], |node| node.value()).into(), permissions }
    }
}

/// The nodes of a transaction that is being restored, in the order of access.
pub(super) type PendingNodes = Vec<(PathBuf, PendingNode<'static>)>;

/// The encodings of the node that a transaction first saw.
mod base {
    /// There was no node.
    pub(super) const NONE: u64 = 0;
    /// The node is the tree's.
    pub(super) const OF_TREE: u64 = 1;
    /// Value and permissions are those of the record.
    pub(super) const OF_RECORD: u64 = 2;
    /// The node follows in full.
    pub(super) const OWN: u64 = 3;
}

/// The encodings of the transaction's own version of a node, as [`Local`].
mod local {
    pub(super) const UNTOUCHED: u64 = 0;
    /// Value and permissions are those of the record.
    pub(super) const PRESENT: u64 = 1;
    pub(super) const ABSENT: u64 = 2;
}

/// Writes the extension of a transaction.
pub(super) fn write(
    item: TransactionItem,
    transaction: &Transaction,
    accesses: &[(Path<'_>, &Accessed)],
    state: &State,
    now_ms: u64,
) -> Result<Item<'static>, NoMemory> {
    let mut body = extension::body();
    body.number(item.connection.0.into());
    body.number(item.id.into());
    let TransactionState { created, failed, outdated, looks, bytes, started_ms } = transaction.state();
    body.flag(created);
    // Earlier releases read only this flag, and must not commit an outdated transaction.
    body.flag(failed || outdated);
    body.size(looks);
    body.size(bytes);
    body.number(now_ms.saturating_sub(started_ms));
    body.size(accesses.len());
    for (path, accessed) in accesses {
        write_accessed(&mut body, accessed, state.tree.get(*path), &state.domains);
    }
    write_record(&mut body, transaction.record());
    body.flag(outdated && !failed);
    write_specials(&mut body, transaction, &state.domains);
    extension::item(extension::TRANSACTION, body)
}

fn write_accessed(body: &mut Writer, accessed: &Accessed, of_tree: Option<&Rc<Node>>, domains: &Domains) {
    match &accessed.base {
        None => body.number(base::NONE),
        Some(node) if of_tree.is_some_and(|of_tree| of_tree.generation() == node.generation()) => {
            body.number(base::OF_TREE);
        }
        Some(node) if matches!(accessed.local, Local::Untouched) => {
            body.number(base::OF_RECORD);
            write_node(body, node);
        }
        Some(node) => {
            body.number(base::OWN);
            write_node(body, node);
            write_entries(body, domains.adjusted(node.permissions(), node.generation()).entries());
            body.bytes(node.value());
        }
    }
    match &accessed.local {
        Local::Untouched => body.number(local::UNTOUCHED),
        Local::Present(node) => {
            body.number(local::PRESENT);
            write_node(body, node);
        }
        Local::Absent => body.number(local::ABSENT),
    }
    body.size(accessed.children.len());
    for change in &accessed.children {
        body.flag(matches!(change, ChildChange::Add(_)));
        body.bytes(change.name().as_bytes());
    }
    body.number(match accessed.event {
        None => 0,
        Some(Scope::Exact) => 1,
        Some(Scope::Subtree) => 2,
    });
}

/// Writes the generation of a node and the names of its children.
fn write_node(body: &mut Writer, node: &Node) {
    body.number(node.generation());
    body.size(node.children().len());
    node.children().names().for_each(|name| body.bytes(name.as_bytes()));
}

fn write_record(body: &mut Writer, record: &Record) {
    let Some(requests) = record.requests() else { return body.flag(true) };
    body.flag(false);
    body.size(requests.len());
    for request in requests {
        body.number(request.kind.to_wire().into());
        body.bytes(request.payload());
        match request.reply() {
            Ok(reply) => {
                body.flag(true);
                body.bytes(reply);
            }
            Err(errno) => {
                body.flag(false);
                body.bytes(errno.name().as_bytes());
            }
        }
    }
}

/// Writes the special nodes that a transaction has seen. They have no records, for which earlier releases would refuse
/// the stream.
fn write_specials(body: &mut Writer, transaction: &Transaction, domains: &Domains) {
    body.size(transaction.seen_specials().count());
    for (special, seen) in transaction.seen_specials() {
        body.number(special as u64);
        write_special(body, &seen.base, domains);
        body.flag(seen.local.is_some());
        if let Some(local) = &seen.local {
            write_special(body, local, domains);
        }
    }
}

fn write_special(body: &mut Writer, node: &SpecialNode, domains: &Domains) {
    body.number(node.generation);
    write_entries(body, domains.adjusted(&node.permissions, node.generation).entries());
}

/// Reads the output of [`write_specials`], which bodies of earlier releases lack.
fn read_specials(body: &mut Reader<'_>, transaction: &mut Transaction, specials: &Specials) -> Option<()> {
    for _ in 0..body.count().unwrap_or(0) {
        let number = body.number()?;
        let special = Special::ALL.into_iter().find(|special| *special as u64 == number)?;
        let base = read_special(body)?;
        let current = specials.get(special);
        // The same generation means the same version.
        let base = if base.generation == current.generation { current.clone() } else { base };
        let local = if body.flag()? { Some(read_special(body)?) } else { None };
        transaction.restore_special(special, SeenSpecial { base, local });
    }
    Some(())
}

fn read_special(body: &mut Reader<'_>) -> Option<SpecialNode> {
    let generation = body.number()?;
    Some(SpecialNode { permissions: Permissions::from_entries(&read_entries(body)?)?, generation })
}

/// Reads the transaction that an extension belongs to. Returns it, and a reader of the rest.
pub(super) fn read_name(body: &[u8]) -> Option<((u32, u32), Reader<'_>)> {
    let mut body = extension::read(body)?;
    Some(((body.small()?, body.small()?), body))
}

/// Reads a transaction from its extension, if that fits the nodes' records and the tree.
pub(super) fn read(mut body: Reader<'_>, nodes: &PendingNodes, committed: &State, now_ms: u64) -> Option<Transaction> {
    let mut state = TransactionState {
        created: body.flag()?,
        failed: body.flag()?,
        outdated: false,
        looks: body.small()?,
        bytes: body.small()?,
        started_ms: now_ms.saturating_sub(body.number()?),
    };
    if body.count()? != nodes.len() {
        return None;
    }
    let mut transaction = Transaction::default();
    for (path, node) in nodes {
        let seen = read_accessed(&mut body, node, committed.tree.get(path.as_path()))?;
        transaction.restore(path.clone(), seen);
    }
    let record = read_record(&mut body)?;
    // Bodies of earlier releases end here.
    if body.flag().unwrap_or(false) {
        (state.failed, state.outdated) = (false, true);
    }
    read_specials(&mut body, &mut transaction, &committed.specials)?;
    transaction.restore_state(state, record);
    transaction.is_sound().then_some(transaction)
}

fn read_accessed(body: &mut Reader<'_>, record: &PendingNode<'_>, of_tree: Option<&Rc<Node>>) -> Option<Seen> {
    let base = match body.number()? {
        base::NONE => None,
        base::OF_TREE => Some(of_tree?.clone()),
        base::OF_RECORD => Some(read_node_of_record(body, record)?),
        base::OWN => {
            let (generation, names) = read_node(body)?;
            let permissions = Permissions::from_entries(&read_entries(body)?)?;
            Some(Rc::new(Node::new(body.bytes()?.into(), permissions, generation).with_names(names)))
        }
        _ => return None,
    };
    let local = match body.number()? {
        local::UNTOUCHED => Local::Untouched,
        local::PRESENT => Local::Present(read_node_of_record(body, record)?),
        local::ABSENT => Local::Absent,
        _ => return None,
    };
    let mut children = Vec::new();
    for _ in 0..body.count()? {
        let is_new = body.flag()?;
        let name: Box<str> = read_name_of_child(body)?.into();
        children.push(if is_new { ChildChange::Add(name) } else { ChildChange::Remove(name) });
    }
    let event = match body.number()? {
        0 => None,
        1 => Some(Scope::Exact),
        2 => Some(Scope::Subtree),
        _ => return None,
    };
    Some(Seen { base, local, children, event })
}

fn read_node<'a>(body: &mut Reader<'a>) -> Option<(u64, Vec<&'a str>)> {
    let generation = body.number()?;
    let mut names = Vec::new();
    for _ in 0..body.count()? {
        names.push(read_name_of_child(body)?);
    }
    Some((generation, names))
}

fn read_node_of_record(body: &mut Reader<'_>, record: &PendingNode<'_>) -> Option<Rc<Node>> {
    let (generation, names) = read_node(body)?;
    let permissions = record.permissions.clone()?;
    Some(Rc::new(Node::new((*record.value).into(), permissions, generation).with_names(names)))
}

fn read_name_of_child<'a>(body: &mut Reader<'a>) -> Option<&'a str> {
    body.text().filter(|name| Path::is_name(name))
}

fn read_record(body: &mut Reader<'_>) -> Option<Record> {
    const UNLIMITED: RecordLimits = RecordLimits { requests: usize::MAX, bytes: usize::MAX };
    if body.flag()? {
        return Some(Record::dropped());
    }
    let mut record = Record::default();
    for _ in 0..body.count()? {
        let kind = MessageType::from_wire(body.small()?)?;
        let payload = body.bytes()?;
        let reply = if body.flag()? { Ok(body.bytes()?) } else { Err(Errno::from_name(body.text()?)?) };
        record.push(kind, payload, reply, UNLIMITED);
    }
    Some(record)
}

/// Restores a transaction from its nodes' records alone. It accesses the present nodes, and applies the recorded
/// changes. It cannot be replayed. It cannot be committed if the records contradict each other.
pub(super) fn rebuild(nodes: &PendingNodes, state: &mut State, now_ms: u64) -> Transaction {
    let mut transaction = Transaction::started(now_ms);
    for (path, record) in nodes {
        let path = path.as_path();
        if transaction.seen(path).is_none() {
            transaction.note(path.to_owned(), seen_by(record, state.tree.get(path)));
        }
    }
    for (path, record) in nodes.iter().filter(|(_, record)| !is_only_read(record)) {
        // The list of children of the node above changes too.
        if let Some(parent) = path.as_path().parent()
            && transaction.seen(parent).is_none()
            && transaction.seen(path.as_path()).flatten().is_none() == record.permissions.is_some()
        {
            transaction.note(parent.to_owned(), state.tree.get(parent).cloned());
        }
    }
    let mut in_order: Vec<_> = nodes.iter().enumerate().filter(|(_, (_, record))| !is_only_read(record)).collect();
    // This server writes each path once. Otherwise, the order of the records counts.
    in_order.sort_unstable_by_key(|(at, (path, _))| (path, *at));
    // Removals come first. A removed node takes its descendants with it.
    for (_, (path, _)) in in_order.iter().filter(|(_, (_, record))| record.permissions.is_none()) {
        if transaction.seen(path.as_path()).flatten().is_some() {
            remove(&mut transaction, path.as_path(), state);
        }
    }
    for (_, (path, record)) in in_order {
        let Some(permissions) = record.permissions.clone() else { continue };
        let (path, value) = (path.clone(), (*record.value).into());
        if transaction.seen(path.as_path()).flatten().is_some() {
            transaction.apply(NodeChange::Write { path: path.clone(), value }, state.next_generation());
            transaction.apply(NodeChange::SetPermissions { path, permissions }, state.next_generation());
        } else {
            let change = NodeChange::Create { path, levels: 1, value, permissions };
            transaction.apply(change, state.next_generation());
        }
    }
    *transaction.record_mut() = Record::dropped();
    if !transaction.is_sound() {
        // The transaction already conflicted: for example, a node was removed below one that it read later.
        transaction.outdate();
    }
    transaction
}

/// Restores the special nodes in a transaction from another server's records. The transaction sees the present nodes.
pub(super) fn rebuild_specials(
    records: &[(Special, PendingNode<'static>)],
    transaction: &mut Transaction,
    state: &mut State,
) {
    for (special, record) in records {
        let current = state.specials.get(*special).clone();
        let is_same = record.permissions.as_ref() == Some(&current.permissions);
        if transaction.special(*special).is_none() {
            transaction.note_special(*special, current);
        }
        match &record.permissions {
            Some(permissions) if !is_only_read(record) => {
                let change = NodeChange::SetSpecial { special: *special, permissions: permissions.clone() };
                transaction.apply(change, state.next_generation());
            }
            // The node differs from the one that the transaction saw.
            _ if !is_same => transaction.outdate(),
            _ => {}
        }
    }
}

fn is_only_read(record: &PendingNode<'_>) -> bool {
    record.access == NodeAccess::READ
}

/// Returns the node that a transaction first saw, as far as its record shows.
fn seen_by(record: &PendingNode<'_>, of_tree: Option<&Rc<Node>>) -> Option<Rc<Node>> {
    if !is_only_read(record) {
        return of_tree.cloned();
    }
    let permissions = record.permissions.as_ref()?;
    let is_same = |node: &&Rc<Node>| node.value() == &*record.value && node.permissions() == permissions;
    if let Some(node) = of_tree.filter(is_same) {
        return Some(node.clone());
    }
    let names: Vec<&str> = of_tree.into_iter().flat_map(|node| node.children().names()).collect();
    Some(Rc::new(Node::new((*record.value).into(), permissions.clone(), NEVER).with_names(names)))
}

/// Removes a node and its descendants in the tree from a transaction.
fn remove(transaction: &mut Transaction, top: Path<'_>, state: &mut State) {
    let tree = state.tree.clone();
    tree.visit_children_first(top, &mut |visit| {
        match transaction.seen(visit.path) {
            None => transaction.note(visit.path.to_owned(), Some(visit.node.clone())),
            // Removed already, as a descendant of another node.
            Some(None) => return,
            Some(Some(_)) => {}
        }
        let scope = if visit.path == top { Scope::Subtree } else { Scope::Exact };
        transaction.remove_one(visit.path, scope, state.next_generation());
    });
}
