//! GET_QUOTA and SET_QUOTA (`docs/misc/xenstore.txt`).

use crate::engine::requests::change_set::{Effect, QuotaScope};
use crate::engine::requests::{RequestContext, parse_domid, refuse_missing};
use crate::store::quota::Quota;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// The value that means "no quota of this kind" between servers. No client may set it.
const NO_SUCH_QUOTA: u32 = u32::MAX;

/// GET_QUOTA `[[<domid>|]<quota>|]` answers a number, or without a quota the names of all, with blanks between.
pub(super) fn get_quota(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let value = match payload::count_strings(context.payload) {
        0 => return names(context),
        1 => {
            let [name] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
            context.view.state.domains.default_quotas().get(parse_name(name)?)
        }
        _ => {
            let [domid, name] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
            let domid = parse_domid(domid)?;
            refuse_missing(context, domid)?;
            context.view.state.domains.quotas(domid).get(parse_name(name)?)
        }
    };
    context.answer_number(value)
}

/// SET_QUOTA `[<domid>|]<quota>|<value>|` sets a quota. Without a domain, it applies to domains that become known
/// later. 0 means no limit.
pub(super) fn set_quota(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let (scope, name, value) = if let Some([name, value]) = payload::exact_strings(context.payload) {
        (QuotaScope::NewDomains, name, value)
    } else {
        let [domid, name, value] = payload::exact_strings(context.payload).ok_or(Errno::Inval)?;
        let domid = parse_domid(domid)?;
        refuse_missing(context, domid)?;
        if context.view.state.domains.get(domid).is_none() {
            context.changes.domains.push(domid);
        }
        (QuotaScope::Domain(domid), name, value)
    };
    let quota = parse_name(name)?;
    let value = payload::decimal(value).and_then(|value| u32::try_from(value).ok());
    let value = value.filter(|value| *value != NO_SUCH_QUOTA).ok_or(Errno::Inval)?;
    context.changes.effect = Some(Effect::SetQuota { scope, quota, value });
    context.ok()
}

fn names(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    for (at, quota) in Quota::ALL.into_iter().enumerate() {
        let blank = if at == 0 { "" } else { " " };
        let prefix = if quota.is_soft() { "soft-" } else { "" };
        context.answer_text(format_args!("{blank}{prefix}{}", quota.name()))?;
    }
    context.answer(b"\0")
}

fn parse_name(name: &[u8]) -> Result<Quota, Errno> {
    core::str::from_utf8(name).ok().and_then(Quota::from_protocol_name).ok_or(Errno::Inval)
}
