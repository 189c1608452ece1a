//! DIRECTORY and DIRECTORY_PART.

use crate::engine::requests::RequestContext;
use crate::engine::requests::lists::{self, KeptList, ListChange};
use crate::engine::work;
use crate::limits;
use crate::store::node::Node;
use crate::store::path::{Path, PathScratch};
use crate::store::permission::Access;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// DIRECTORY `<path>|` answers the children's names with a NUL each.
pub(super) fn directory(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = context.path(payload::only_string(context.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    let node = context.view.get(path, Access::READ)?;
    let answered = node.children().names().try_for_each(|name| {
        context.answer(name.as_bytes())?;
        context.answer(b"\0")
    });
    context.view.spend(work::of_path(context.reply.len()));
    answered
}

/// DIRECTORY_PART `<path>|<offset>|` answers the node's generation and as many names from a byte offset on as fit;
/// after the last name comes an empty one.
///
/// Outside of transactions, later parts come from the list as it was at the first part
/// ([`crate::engine::requests::lists`]). The present node still decides whether the client may read it.
pub(super) fn directory_part(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let [spelling, offset] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
    let mut scratch = PathScratch::new();
    let path = context.path(spelling, &mut scratch)?;
    let node = context.view.get(path, Access::READ)?;
    // Parsed as in the C server; a negative offset is past the end.
    let offset = usize::try_from(payload::leading_number(offset)).unwrap_or(usize::MAX);
    let is_in_transaction = context.view.transaction.is_some();
    let lists = context.lists;
    if offset > 0
        && !is_in_transaction
        && let Some(at) = lists::find(lists, path, offset)
        && let Some(list) = lists.get(at)
    {
        return kept_part(context, at, list, offset);
    }
    context.answer_number(node.generation())?;
    let next = present_part(context, &node, offset)?;
    if let Some(next) = next
        && offset == 0
        && !is_in_transaction
    {
        keep(context, path, &node, next);
    }
    Ok(())
}

/// Answers a part of a kept list.
fn kept_part(context: &mut RequestContext<'_>, at: usize, list: &KeptList, offset: usize) -> Result<(), Errno> {
    context.answer_number(list.generation())?;
    let names = list.names_from(offset);
    // The empty name after the last one needs a byte.
    let room = limits::PAYLOAD_BYTES.saturating_sub(context.reply.len()).saturating_sub(1);
    if names.len() <= room {
        context.changes.list = Some(ListChange::Drop { at });
        context.answer(names)?;
        return context.answer(b"\0");
    }
    let bytes = names.iter().take(room).rposition(|byte| *byte == 0).map_or(0, |end| end.saturating_add(1));
    context.changes.list = Some(ListChange::Advance { at, next: offset.saturating_add(bytes) });
    context.answer(names.get(..bytes).unwrap_or_default())
}

/// Answers a part of the present list. Returns the offset of the next part unless this is the last one.
fn present_part(context: &mut RequestContext<'_>, node: &Node, offset: usize) -> Result<Option<usize>, Errno> {
    let mut at = 0_usize;
    for name in node.children().names() {
        let end = at.saturating_add(name.len());
        if end >= offset {
            // An offset inside a name begins there, as when the list were one string.
            let part = name.as_bytes().get(offset.saturating_sub(at)..).unwrap_or_default();
            let with_both_nuls = part.len().saturating_add(2);
            if context.reply.len().saturating_add(with_both_nuls) > limits::PAYLOAD_BYTES {
                context.view.spend(work::of_path(at));
                return Ok(Some(at));
            }
            context.answer(part)?;
            context.answer(b"\0")?;
        }
        at = end.saturating_add(1);
    }
    context.view.spend(work::of_path(at));
    context.answer(b"\0")?;
    Ok(None)
}

/// Keeps the list of a directory whose first part is in the reply, if the client can afford both.
fn keep(context: &mut RequestContext<'_>, path: Path<'_>, node: &Node, next: usize) {
    if let Some(list) = affordable(context, path, node, next) {
        context.changes.list = Some(ListChange::Keep(list));
    } else if lists::find(context.lists, path, next).is_some() {
        context.changes.list = Some(ListChange::Outdate { path: path.to_owned(), next });
    }
}

/// Returns the list of a directory if the client can afford it and the reply.
fn affordable(context: &mut RequestContext<'_>, path: Path<'_>, node: &Node, next: usize) -> Option<KeptList> {
    let names = node.children().list_bytes();
    let bytes = KeptList::bytes_of(path, names);
    let mut budget = context.view.budget;
    let reply = context.reply.len().saturating_add(limits::MESSAGE_OVERHEAD_BYTES);
    budget.take(bytes).and_then(|()| budget.take(reply)).ok()?;
    context.view.spend(work::of_bytes(names));
    let list = KeptList::of(path, node, names, next)?;
    context.view.budget.take(bytes).ok()?;
    Some(list)
}
