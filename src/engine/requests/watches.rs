//! WATCH, UNWATCH and RESET_WATCHES.

use crate::engine::requests::RequestContext;
use crate::engine::requests::change_set::Effect;
use crate::store::path::PathScratch;
use crate::store::quota::Quota;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::payload;

/// WATCH `<path>|<token>|[<depth>|]`: the path may be missing or unreadable. The rights are checked for each event.
pub(super) fn watch(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let (spelling, token, depth) = if let Some([spelling, token]) = payload::exact_strings(context.payload) {
        (spelling, token, None)
    } else {
        let [spelling, token, depth] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
        (spelling, token, Some(parse_depth(context, depth)?))
    };
    let mut scratch = PathScratch::new();
    let path = context.any_path(spelling, &mut scratch)?.as_str();
    if context.view.state.watches.find(context.connection, path, token).is_some() {
        return Err(Errno::Exist);
    }
    let watches = context.view.state.domains.get(context.domid).map_or(0, |domain| domain.watches);
    if context.exceeds(Quota::Watches, watches.saturating_add(1)) {
        return Err(Errno::NoSpc);
    }
    context.grow(path.len().saturating_add(token.len()))?;
    let relative = !matches!(spelling.first(), Some(b'/' | b'@'));
    context.changes.effect = Some(Effect::Watch { path: path.into(), token: token.into(), relative, depth });
    context.ok()
}

/// Parses the number of levels that a watch covers below its path. Refuses clients without the feature.
fn parse_depth(context: &RequestContext<'_>, depth: &[u8]) -> Result<u32, Errno> {
    if !context.features().contains(Features::WATCH_DEPTH) {
        return Err(Errno::Inval);
    }
    payload::decimal(depth).and_then(|depth| u32::try_from(depth).ok()).ok_or(Errno::Inval)
}

/// UNWATCH `<path>|<token>|` removes the watch.
pub(super) fn unwatch(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let [spelling, token] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
    let mut scratch = PathScratch::new();
    let path = context.any_path(spelling, &mut scratch)?.as_str();
    if context.view.state.watches.find(context.connection, path, token).is_none() {
        return Err(Errno::NoEnt);
    }
    context.changes.effect = Some(Effect::Unwatch { path: path.into(), token: token.into() });
    context.ok()
}

/// RESET_WATCHES: removes all watches and all transactions, including the request's own.
pub(super) fn reset_watches(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    context.changes.ends_transaction = true;
    context.changes.effect = Some(Effect::Reset);
    context.ok()
}
