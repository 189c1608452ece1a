//! DIRECTORY and DIRECTORY_PART.

use crate::engine::requests::Call;
use crate::limits;
use crate::store::path::PathScratch;
use crate::store::permission::Access;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// DIRECTORY `<path>|` answers the children's names with a NUL each.
pub(super) fn directory(call: &mut Call<'_>) -> Result<(), Errno> {
    let mut scratch = PathScratch::new();
    let path = call.path(payload::only_string(call.payload).ok_or(Errno::Inval)?, &mut scratch)?;
    let node = call.view.get(path, Access::READ)?;
    node.children().names().try_for_each(|name| {
        call.answer(name.as_bytes())?;
        call.answer(b"\0")
    })
}

/// DIRECTORY_PART `<path>|<offset>|` answers the node's generation and as many names from a byte offset on as fit; after
/// the last name comes an empty one.
pub(super) fn directory_part(call: &mut Call<'_>) -> Result<(), Errno> {
    let [spelling, offset] = payload::exact_strings(call.payload).ok_or(Errno::Inval)?;
    let mut scratch = PathScratch::new();
    let path = call.path(spelling, &mut scratch)?;
    let node = call.view.get(path, Access::READ)?;
    // As the C server reads it; a negative one is past the end.
    let offset = usize::try_from(payload::leading_number(offset)).unwrap_or(usize::MAX);
    call.answer_text(format_args!("{}\0", node.generation()))?;

    let mut at = 0_usize;
    for name in node.children().names() {
        let end = at.saturating_add(name.len());
        if end >= offset {
            // An offset inside a name begins there, as when the list were one string.
            let part = name.as_bytes().get(offset.saturating_sub(at)..).unwrap_or_default();
            let with_both_nuls = part.len().saturating_add(2);
            if call.reply.len().saturating_add(with_both_nuls) > limits::PAYLOAD_BYTES {
                return Ok(());
            }
            call.answer(part)?;
            call.answer(b"\0")?;
        }
        at = end.saturating_add(1);
    }
    call.answer(b"\0")
}
