//! DIRECTORY and DIRECTORY_PART.

use crate::engine::requests::Call;
use crate::engine::requests::lists::{self, KeptList, ListChange};
use crate::engine::work;
use crate::limits;
use crate::store::node::Node;
use crate::store::path::{Path, PathScratch};
use crate::store::permission::Access;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// DIRECTORY `<path>|` answers the children's names with a NUL each.
pub(super) fn directory(call: &mut Call<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = call.path(payload::only_string(call.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    let node = call.view.get(path, Access::READ)?;
    let answered = node.children().names().try_for_each(|name| {
        call.answer(name.as_bytes())?;
        call.answer(b"\0")
    });
    call.view.spend(work::of_path(call.reply.len()));
    answered
}

/// DIRECTORY_PART `<path>|<offset>|` answers the node's generation and as many names from a byte offset on as fit; after
/// the last name comes an empty one.
///
/// Outside of transactions, later parts come from the list as it was at the first part ([`crate::engine::requests::lists`]). The
/// present node still decides whether the client may read it.
pub(super) fn directory_part(call: &mut Call<'_>) -> Result<(), Errno> {
    let [spelling, offset] = payload::exact_strings(call.payload).ok_or(Errno::Inval)?;
    let mut scratch = PathScratch::new();
    let path = call.path(spelling, &mut scratch)?;
    let node = call.view.get(path, Access::READ)?;
    // Parsed as in the C server; a negative offset is past the end.
    let offset = usize::try_from(payload::leading_number(offset)).unwrap_or(usize::MAX);
    let is_in_transaction = call.view.transaction.is_some();
    let lists = call.lists;
    if offset > 0
        && !is_in_transaction
        && let Some(at) = lists::find(lists, path, offset)
        && let Some(list) = lists.get(at)
    {
        return kept_part(call, at, list, offset);
    }
    call.answer_number(node.generation())?;
    let next = present_part(call, &node, offset)?;
    if let Some(next) = next
        && offset == 0
        && !is_in_transaction
    {
        keep(call, path, &node, next);
    }
    Ok(())
}

/// Answers a part of a kept list.
fn kept_part(call: &mut Call<'_>, at: usize, list: &KeptList, offset: usize) -> Result<(), Errno> {
    call.answer_number(list.generation())?;
    let names = list.names_from(offset);
    // The empty name after the last one needs a byte.
    let room = limits::PAYLOAD_BYTES.saturating_sub(call.reply.len()).saturating_sub(1);
    if names.len() <= room {
        call.changes.list = Some(ListChange::Drop { at });
        call.answer(names)?;
        return call.answer(b"\0");
    }
    let bytes = names.iter().take(room).rposition(|byte| *byte == 0).map_or(0, |end| end.saturating_add(1));
    call.changes.list = Some(ListChange::Advance { at, next: offset.saturating_add(bytes) });
    call.answer(names.get(..bytes).unwrap_or_default())
}

/// Answers a part of the present list. Returns the offset of the next part unless this is the last one.
fn present_part(call: &mut Call<'_>, node: &Node, offset: usize) -> Result<Option<usize>, Errno> {
    let mut at = 0_usize;
    for name in node.children().names() {
        let end = at.saturating_add(name.len());
        if end >= offset {
            // An offset inside a name begins there, as when the list were one string.
            let part = name.as_bytes().get(offset.saturating_sub(at)..).unwrap_or_default();
            let with_both_nuls = part.len().saturating_add(2);
            if call.reply.len().saturating_add(with_both_nuls) > limits::PAYLOAD_BYTES {
                call.view.spend(work::of_path(at));
                return Ok(Some(at));
            }
            call.answer(part)?;
            call.answer(b"\0")?;
        }
        at = end.saturating_add(1);
    }
    call.view.spend(work::of_path(at));
    call.answer(b"\0")?;
    Ok(None)
}

/// Keeps the list of a directory whose first part is in the reply, if the client can afford both.
fn keep(call: &mut Call<'_>, path: Path<'_>, node: &Node, next: usize) {
    if let Some(list) = affordable(call, path, node, next) {
        call.changes.list = Some(ListChange::Keep(list));
    } else if lists::find(call.lists, path, next).is_some() {
        call.changes.list = Some(ListChange::Outdate { path: path.to_owned(), next });
    }
}

/// The list of a directory, if the client can afford it and the reply.
fn affordable(call: &mut Call<'_>, path: Path<'_>, node: &Node, next: usize) -> Option<KeptList> {
    let names = node.children().list_bytes();
    let bytes = KeptList::bytes_of(path, names);
    let mut budget = call.view.budget;
    let reply = call.reply.len().saturating_add(limits::MESSAGE_OVERHEAD_BYTES);
    budget.take(bytes).and_then(|()| budget.take(reply)).ok()?;
    call.view.spend(work::of_bytes(names));
    let list = KeptList::of(path, node, names, next)?;
    call.view.budget.take(bytes).ok()?;
    Some(list)
}
