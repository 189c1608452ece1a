//! GET_FEATURE and SET_FEATURE: the features offered in the feature word of a domain's ring.

use crate::engine::requests::change_set::Effect;
use crate::engine::requests::{RequestContext, parse_domid, refuse_missing};
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::payload;

/// GET_FEATURE `[<domid>|]` answers a number: the client's own features, or another domain's for the control domain.
pub(super) fn get_feature(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let strings = payload::count_strings(context.payload);
    let features = if strings == 0 {
        context.features()
    } else if !context.view.requester.is_privileged() {
        return Err(Errno::Acces);
    } else {
        let [domid] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
        let domid = parse_domid(domid)?;
        refuse_missing(context, domid)?;
        context.view.state.domains.features(domid)
    };
    context.answer_number(features.bits())
}

/// SET_FEATURE `<domid>|<value>|` limits the features that a domain is offered when it is introduced.
pub(super) fn set_feature(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let [domid, value] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
    let domid = parse_domid(domid)?;
    let value = payload::decimal(value).ok_or(Errno::Inval)?;
    refuse_missing(context, domid)?;
    if context.view.state.domains.is_introduced(domid) {
        return Err(Errno::Busy);
    }
    let features = u32::try_from(value).ok().and_then(Features::from_bits).ok_or(Errno::Inval)?;
    if context.view.state.domains.get(domid).is_none() {
        context.changes.domains.push(domid);
    }
    context.changes.effect = Some(Effect::SetFeatures { domid, features });
    context.ok()
}
