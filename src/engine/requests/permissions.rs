//! GET_PERMS and SET_PERMS, on nodes and on special nodes.

use alloc::vec::Vec;

use crate::engine::hypervisor::DomainState;
use crate::engine::requests::RequestContext;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::{AnyPath, Path, PathScratch};
use crate::store::permission::{Access, Permissions};
use crate::store::quota::Quota;
use crate::store::special::{Special, SpecialNode};
use crate::store::transaction::NodeChange;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::payload;

/// GET_PERMS `<path>|` answers the entries with a NUL each.
pub(super) fn get_perms(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let permissions =
        match context.any_path(payload::only_string(context.payload).ok_or(Errno::Inval)?, &mut scratch)? {
            AnyPath::Node(path) => context.view.get(path, Access::READ)?.permissions().clone(),
            AnyPath::Special(name) => {
                let (_, node) = get_special(context, name, Access::READ)?;
                node.permissions
            }
        };
    for entry in permissions.entries() {
        context.answer(&[entry.letter()])?;
        context.answer_number(entry.domid.0)?;
    }
    Ok(())
}

/// SET_PERMS `<path>|<entry>|…` replaces the entries.
///
/// An entry for a domain that does not exist is kept and never takes effect, except the owner's, which is refused.
pub(super) fn set_perms(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let strings = payload::count_strings(context.payload);
    let entries = strings.checked_sub(1).filter(|entries| *entries > 0).ok_or(Errno::Inval)?;
    if context.exceeds(Quota::NodePermissions, entries) {
        return Err(Errno::NoSpc);
    }
    let (spelling, rest) = payload::split_string(context.payload).ok_or(Errno::Inval)?;
    let permissions = Permissions::parse(rest, entries).map_err(|_| Errno::Inval)?;
    let permissions = mark_missing_domains(context, &permissions)?;

    let mut scratch = PathScratch::new();
    match context.any_path(spelling, &mut scratch)? {
        AnyPath::Node(path) => set_node_perms(context, path, permissions)?,
        AnyPath::Special(name) => {
            let (special, node) = get_special(context, name, Access::WRITE | Access::OWNER)?;
            refuse_new_owner(context, &node.permissions, &permissions)?;
            if context.view.transaction.is_some() {
                context.grow(permissions.entries().len().saturating_mul(Node::ENTRY_BYTES))?;
            }
            context.changes.nodes.push(NodeChange::SetSpecial { special, permissions });
        }
    }
    context.ok()
}

fn set_node_perms(context: &mut RequestContext<'_>, path: Path<'_>, permissions: Permissions) -> Result<(), Errno> {
    let node = context.view.get(path, Access::WRITE | Access::OWNER)?;
    refuse_new_owner(context, node.permissions(), &permissions)?;
    let names = node.children().list_bytes();
    let bytes = Node::record_bytes(permissions.entries().len(), node.value().len(), names);
    if context.exceeds(Quota::NodeSize, bytes) {
        return Err(Errno::NoSpc);
    }
    let (before, copy) = match &context.view.transaction {
        Some(transaction) => (0, transaction.bytes_of_copy(path)),
        None => (node.permissions().entries().len(), 0),
    };
    let more = permissions.entries().len().saturating_sub(before).saturating_mul(Node::ENTRY_BYTES);
    context.grow(more.saturating_add(copy))?;
    context.changes.nodes.push(NodeChange::SetPermissions { path: path.to_owned(), permissions });
    Ok(())
}

/// Refuses to give a node to another owner, unless the control domain does it.
fn refuse_new_owner(context: &RequestContext<'_>, before: &Permissions, after: &Permissions) -> Result<(), Errno> {
    if context.view.requester.is_privileged() || before.owner() == after.owner() { Ok(()) } else { Err(Errno::Perm) }
}

/// Returns the special node of a name, if the requester has all of `wanted`. Any other name counts as a missing node.
/// The node above it decides whether the requester may learn that, as in `View::get`.
fn get_special(context: &mut RequestContext<'_>, name: &str, wanted: Access) -> Result<(Special, SpecialNode), Errno> {
    let Some(special) = Special::from_name(name) else {
        let has = access_above(context, name)?;
        return if has.intersects(wanted) { Err(Errno::NoEnt) } else { Err(Errno::Acces) };
    };
    let node = context.view.special(special)?;
    let has = context.view.requester.access(&node.permissions, node.generation);
    if has.contains(wanted) { Ok((special, node)) } else { Err(Errno::Acces) }
}

/// Returns the requester's rights on the node above a special name: a special node, or the root.
fn access_above(context: &mut RequestContext<'_>, name: &str) -> Result<Access, Errno> {
    let above = name.match_indices('/').filter_map(|(at, _)| name.get(..at)).find_map(Special::from_name);
    if let Some(special) = above {
        let node = context.view.special(special)?;
        return Ok(context.view.requester.access(&node.permissions, node.generation));
    }
    let (root, _) = context.view.nearest_ancestor(Path::ROOT)?;
    Ok(context.view.access(&root))
}

/// Marks entries that name domains that do not exist, and makes the existing ones known. Also marks an entry for all
/// domains if the client does not have that feature.
fn mark_missing_domains(context: &mut RequestContext<'_>, permissions: &Permissions) -> Result<Permissions, Errno> {
    let mut missing: Vec<DomId> = Vec::new();
    for entry in permissions.entries() {
        if entry.domid == DomId::ANY {
            if !context.features().contains(Features::DOMID_ANY) {
                missing.push(entry.domid);
            }
            continue;
        }
        if context.view.state.domains.get(entry.domid).is_some() {
            continue;
        }
        if context.domain_state(entry.domid) == DomainState::Absent {
            missing.push(entry.domid);
        } else {
            context.changes.domains.push(entry.domid);
        }
    }
    if missing.contains(&permissions.owner()) {
        return Err(Errno::NoEnt);
    }
    Ok(if missing.is_empty() { permissions.clone() } else { permissions.marked(|domid| missing.contains(&domid)) })
}
