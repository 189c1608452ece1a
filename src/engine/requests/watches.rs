//! WATCH, UNWATCH and RESET_WATCHES.

use crate::engine::requests::Call;
use crate::engine::requests::change_set::Effect;
use crate::store::path::PathScratch;
use crate::store::quota::Quota;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::payload;

/// WATCH `<path>|<token>|[<depth>|]`: the path need not exist, nor be readable; that is looked at for each event.
pub(super) fn watch(call: &mut Call<'_>) -> Result<(), Errno> {
    let (spelling, token, depth) = if let Some([spelling, token]) = payload::exact_strings(call.payload) {
        (spelling, token, None)
    } else {
        let [spelling, token, depth] = payload::exact_strings(call.payload).ok_or(Errno::Inval)?;
        (spelling, token, Some(parse_depth(call, depth)?))
    };
    let mut scratch = PathScratch::new();
    let path = call.any_path(spelling, &mut scratch)?.as_str();
    if call.view.state.watches.find(call.connection, path, token).is_some() {
        return Err(Errno::Exist);
    }
    let watches = call.view.state.domains.get(call.domid).map_or(0, |domain| domain.watches);
    if call.exceeds(Quota::Watches, watches.saturating_add(1)) {
        return Err(Errno::NoSpc);
    }
    call.grow(path.len().saturating_add(token.len()))?;
    let relative = !matches!(spelling.first(), Some(b'/' | b'@'));
    call.changes.effect = Some(Effect::Watch { path: path.into(), token: token.into(), relative, depth });
    call.ok()
}

/// How many levels below its path a watch is to see. Only for clients that have the feature.
fn parse_depth(call: &Call<'_>, depth: &[u8]) -> Result<u32, Errno> {
    if !call.features().contains(Features::WATCH_DEPTH) {
        return Err(Errno::Inval);
    }
    payload::decimal(depth).and_then(|depth| u32::try_from(depth).ok()).ok_or(Errno::Inval)
}

/// UNWATCH `<path>|<token>|`.
pub(super) fn unwatch(call: &mut Call<'_>) -> Result<(), Errno> {
    let [spelling, token] = payload::exact_strings(call.payload).ok_or(Errno::Inval)?;
    let mut scratch = PathScratch::new();
    let path = call.any_path(spelling, &mut scratch)?.as_str();
    if call.view.state.watches.find(call.connection, path, token).is_none() {
        return Err(Errno::NoEnt);
    }
    call.changes.effect = Some(Effect::Unwatch { path: path.into(), token: token.into() });
    call.ok()
}

/// RESET_WATCHES: withdraws all watches and all transactions, that of the request included.
pub(super) fn reset_watches(call: &mut Call<'_>) -> Result<(), Errno> {
    call.changes.ends_transaction = true;
    call.changes.effect = Some(Effect::Reset);
    call.ok()
}
