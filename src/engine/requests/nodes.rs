//! READ, WRITE, MKDIR, RM.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::requests::RequestContext;
use crate::engine::work;
use crate::store::node::Node;
use crate::store::path::{Path, PathScratch};
use crate::store::permission::Access;
use crate::store::quota::Quota;
use crate::store::transaction::{NodeChange, walk_seen};
use crate::wire::errno::Errno;
use crate::wire::payload;

/// READ `<path>|` answers the value.
pub(super) fn read(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = context.path(payload::only_string(context.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    let node = context.view.get(path, Access::READ)?;
    context.answer(node.value())
}

/// WRITE `<path>|<value>` sets the value, and creates the node if necessary.
pub(super) fn write(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let (spelling, value) = payload::split_string(context.payload).ok_or(Errno::Inval)?;
    let path = context.path(spelling, &mut scratch)?;
    match context.view.get(path, Access::WRITE) {
        Ok(node) => {
            check_size(context, &node, value.len(), 0)?;
            // A transaction keeps the new value in addition to the old one.
            let growth = match &context.view.transaction {
                Some(transaction) => {
                    let copy = transaction.bytes_of_copy(path).saturating_sub(node.value().len());
                    value.len().saturating_add(copy)
                }
                None => value.len().saturating_sub(node.value().len()),
            };
            context.grow(growth)?;
            context.changes.nodes.push(NodeChange::Write { path: path.to_owned(), value: value.into() });
        }
        Err(Errno::NoEnt) => create(context, path, value)?,
        Err(errno) => return Err(errno),
    }
    context.ok()
}

/// MKDIR `<path>|` creates a node without value. Succeeds for an existing node.
pub(super) fn mkdir(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = context.path(payload::only_string(context.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    match context.view.get(path, Access::WRITE) {
        Ok(_) => {}
        Err(Errno::NoEnt) => create(context, path, &[])?,
        Err(errno) => return Err(errno),
    }
    context.ok()
}

/// RM `<path>|` removes the node and its descendants. Succeeds for a missing node whose parent exists.
pub(super) fn rm(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = context.path(payload::only_string(context.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    match context.view.get(path, Access::WRITE) {
        Ok(_) => {}
        Err(Errno::NoEnt) => {
            let parent = path.parent().map(|parent| context.view.read(parent)).transpose()?.flatten();
            return if parent.is_some() { context.ok() } else { Err(Errno::NoEnt) };
        }
        Err(errno) => return Err(errno),
    }
    let parent = path.parent().ok_or(Errno::Inval)?;
    if context.view.transaction.is_some() {
        context.view.read(parent)?;
        grow_list_above(context, path)?;
        // The transaction has to access the nodes that it removes. A listed child that is gone by now is a conflict
        // already: the commit will be refused.
        see_all(context, path)?;
    }
    context.changes.nodes.push(NodeChange::Remove { path: path.to_owned() });
    context.ok()
}

/// Lets the transaction see a node and its descendants. It keeps the path of nodes down to the last one: a descent from
/// the root for each node would make a deep chain expensive.
fn see_all(context: &mut RequestContext<'_>, top: Path<'_>) -> Result<(), Errno> {
    // The nodes of the committed tree down to the last one, each with the length of its path.
    let mut way: Vec<(usize, Option<&Rc<Node>>)> = Vec::new();
    let state = context.view.state;
    let first = work::of_path(top.as_str().len());
    walk_seen(top, |path| {
        let above = path.parent().map_or(0, |parent| parent.as_str().len());
        while way.pop_if(|(bytes, _)| *bytes > above).is_some() {}
        let node = match way.last() {
            Some((_, parent)) => parent.and_then(|parent| parent.children().get(path.name())),
            None => state.tree.get(path),
        };
        let steps = if way.is_empty() { first } else { 1 };
        way.push((path.as_str().len(), node));
        context.view.look(path, steps, |_| node.cloned())
    })
}

/// Creates the missing node at `path` and the missing ones above it, as one change. All of them are counted and charged
/// before any is created.
fn create(context: &mut RequestContext<'_>, path: Path<'_>, value: &[u8]) -> Result<(), Errno> {
    let (parent, missing_above) = context.view.nearest_ancestor(path)?;
    let levels = missing_above.saturating_add(1);
    let is_privileged = context.view.requester.is_privileged();
    let inherited = parent.permissions();
    let permissions = if is_privileged { inherited.clone() } else { inherited.owned_by(context.domid) };
    let entries = permissions.entries().len();
    check_new_sizes(context, &parent, path, levels, entries, value.len())?;
    check_count(context, levels)?;
    for (level, made) in path.and_ancestors().take(levels).enumerate() {
        context.grow(Node::memory_bytes(made, entries, if level == 0 { value.len() } else { 0 }))?;
        grow_list_above(context, made)?;
    }
    context.changes.nodes.push(NodeChange::Create { path: path.to_owned(), levels, value: value.into(), permissions });
    Ok(())
}

/// Refuses a change that would make a node's record too large, by another value or by more bytes of names.
fn check_size(context: &mut RequestContext<'_>, node: &Node, value: usize, more_names: usize) -> Result<(), Errno> {
    if context.view.requester.is_privileged() {
        return Ok(());
    }
    let names = node.children().list_bytes().saturating_add(more_names);
    let bytes = Node::record_bytes(node.permissions().entries().len(), value, names);
    if context.exceeds(Quota::NodeSize, bytes) { Err(Errno::NoSpc) } else { Ok(()) }
}

/// Refuses records that are too large: of the `levels` new nodes from `path` upwards, and of the node that gets a
/// child.
fn check_new_sizes(
    context: &mut RequestContext<'_>,
    parent: &Node,
    path: Path<'_>,
    levels: usize,
    permissions: usize,
    value: usize,
) -> Result<(), Errno> {
    let mut child_name = 0;
    for (level, made) in path.and_ancestors().take(levels).enumerate() {
        let value = if level == 0 { value } else { 0 };
        if context.exceeds(Quota::NodeSize, Node::record_bytes(permissions, value, child_name)) {
            return Err(Errno::NoSpc);
        }
        child_name = made.name().len().saturating_add(1);
    }
    check_size(context, parent, parent.value().len(), child_name)
}

/// Refuses more nodes than the creator may own, including those that its transaction has created or removed.
fn check_count(context: &mut RequestContext<'_>, more: usize) -> Result<(), Errno> {
    let owned = context.view.state.domains.get(context.domid).map_or(0, |domain| domain.nodes);
    let pending = context.view.transaction.as_ref().map_or(0, |transaction| transaction.count(context.domid));
    let after = owned.saturating_add_signed(pending).saturating_add(more as u64);
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    if context.exceeds(Quota::Nodes, after) { Err(Errno::NoSpc) } else { Ok(()) }
}

/// Takes memory for what a transaction keeps of a change to the list of children above `path`.
fn grow_list_above(context: &mut RequestContext<'_>, path: Path<'_>) -> Result<(), Errno> {
    let bytes = context.view.transaction.as_ref().map_or(0, |transaction| transaction.bytes_of_child_change(path));
    context.grow(bytes)
}
