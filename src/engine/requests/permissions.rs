//! GET_PERMS and SET_PERMS, on nodes and on special nodes.

use alloc::vec::Vec;

use crate::engine::hypervisor::DomainState;
use crate::engine::requests::Call;
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
pub(super) fn get_perms(call: &mut Call<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let permissions = match call.any_path(payload::only_string(call.payload).ok_or(Errno::Inval)?, &mut scratch)? {
        AnyPath::Node(path) => call.view.get(path, Access::READ)?.permissions().clone(),
        AnyPath::Special(name) => {
            let (_, node) = get_special(call, name, Access::READ)?;
            node.permissions
        }
    };
    for entry in permissions.entries() {
        call.answer(&[entry.letter()])?;
        call.answer_number(entry.domid.0)?;
    }
    Ok(())
}

/// SET_PERMS `<path>|<entry>|…` replaces the entries.
///
/// An entry for a domain that does not exist is kept and never takes effect, except the owner's, which is refused.
pub(super) fn set_perms(call: &mut Call<'_>) -> Result<(), Errno> {
    let strings = payload::count_strings(call.payload);
    let entries = strings.checked_sub(1).filter(|entries| *entries > 0).ok_or(Errno::Inval)?;
    if call.exceeds(Quota::NodePermissions, entries) {
        return Err(Errno::NoSpc);
    }
    let (spelling, rest) = payload::split_string(call.payload).ok_or(Errno::Inval)?;
    let permissions = Permissions::parse(rest, entries).map_err(|_| Errno::Inval)?;
    let permissions = mark_missing_domains(call, &permissions)?;

    let mut scratch = PathScratch::new();
    match call.any_path(spelling, &mut scratch)? {
        AnyPath::Node(path) => set_node_perms(call, path, permissions)?,
        AnyPath::Special(name) => {
            let (special, node) = get_special(call, name, Access::WRITE | Access::OWNER)?;
            refuse_new_owner(call, &node.permissions, &permissions)?;
            if call.view.transaction.is_some() {
                call.grow(permissions.entries().len().saturating_mul(Node::ENTRY_BYTES))?;
            }
            call.changes.nodes.push(NodeChange::SetSpecial { special, permissions });
        }
    }
    call.ok()
}

fn set_node_perms(call: &mut Call<'_>, path: Path<'_>, permissions: Permissions) -> Result<(), Errno> {
    let node = call.view.get(path, Access::WRITE | Access::OWNER)?;
    refuse_new_owner(call, node.permissions(), &permissions)?;
    let names = node.children().list_bytes();
    let bytes = Node::record_bytes(permissions.entries().len(), node.value().len(), names);
    if call.exceeds(Quota::NodeSize, bytes) {
        return Err(Errno::NoSpc);
    }
    let (before, copy) = match &call.view.transaction {
        Some(transaction) => (0, transaction.bytes_of_copy(path)),
        None => (node.permissions().entries().len(), 0),
    };
    let more = permissions.entries().len().saturating_sub(before).saturating_mul(Node::ENTRY_BYTES);
    call.grow(more.saturating_add(copy))?;
    call.changes.nodes.push(NodeChange::SetPermissions { path: path.to_owned(), permissions });
    Ok(())
}

/// Only the control domain gives a node to somebody else.
fn refuse_new_owner(call: &Call<'_>, before: &Permissions, after: &Permissions) -> Result<(), Errno> {
    if call.view.requester.is_privileged() || before.owner() == after.owner() { Ok(()) } else { Err(Errno::Perm) }
}

/// The special node of a name, if the requester has all of `wanted`. Any other name counts as a missing node. The node above
/// it decides whether the requester may learn that, as in `View::get`.
fn get_special(call: &mut Call<'_>, name: &str, wanted: Access) -> Result<(Special, SpecialNode), Errno> {
    let Some(special) = Special::from_name(name) else {
        let has = access_above(call, name)?;
        return if has.intersects(wanted) { Err(Errno::NoEnt) } else { Err(Errno::Acces) };
    };
    let node = call.view.special(special)?;
    let has = call.view.requester.access(&node.permissions, node.generation);
    if has.contains(wanted) { Ok((special, node)) } else { Err(Errno::Acces) }
}

/// The requester's rights on the node above a special name: a special node, or the root.
fn access_above(call: &mut Call<'_>, name: &str) -> Result<Access, Errno> {
    let above = name.match_indices('/').filter_map(|(at, _)| name.get(..at)).find_map(Special::from_name);
    if let Some(special) = above {
        let node = call.view.special(special)?;
        return Ok(call.view.requester.access(&node.permissions, node.generation));
    }
    let (root, _) = call.view.nearest_ancestor(Path::ROOT)?;
    Ok(call.view.access(&root))
}

/// Marks entries that name domains that do not exist, and lets those that exist become known. An entry for all domains is
/// marked when the client does not have that feature.
fn mark_missing_domains(call: &mut Call<'_>, permissions: &Permissions) -> Result<Permissions, Errno> {
    let mut missing: Vec<DomId> = Vec::new();
    for entry in permissions.entries() {
        if entry.domid == DomId::ANY {
            if !call.features().contains(Features::DOMID_ANY) {
                missing.push(entry.domid);
            }
            continue;
        }
        if call.view.state.domains.get(entry.domid).is_some() {
            continue;
        }
        if call.domain_state(entry.domid) == DomainState::Absent {
            missing.push(entry.domid);
        } else {
            call.changes.domains.push(entry.domid);
        }
    }
    if missing.contains(&permissions.owner()) {
        return Err(Errno::NoEnt);
    }
    Ok(if missing.is_empty() { permissions.clone() } else { permissions.marked(|domid| missing.contains(&domid)) })
}
