//! INTRODUCE, RELEASE, RESUME, SET_TARGET, IS_DOMAIN_INTRODUCED and GET_DOMAIN_PATH.

use crate::engine::requests::change_set::{Effect, Introduction};
use crate::engine::requests::{RequestContext, parse_domid};
use crate::limits;
use crate::store::domain::DomId;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// INTRODUCE `<domid>|<frame>|<port>|…`: maps the domain's ring and binds its port. The frame is not needed: the ring
/// is mapped by grant. The ring page names the port; if it names none, the request's port counts (`xs_wire.h`,
/// `evtchn_port`).
///
/// For an introduced domain the server binds the request's port and resets the connection. The toolstack has just
/// created that port, and the ring page may still name an older one. The C server does the same.
pub(super) fn introduce(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let [domid, _frame, port] = payload::first_strings(context.payload).ok_or(Errno::Inval)?;
    let domid = parse_domid(domid)?;
    if domid.is_reserved() {
        return Err(Errno::Inval);
    }
    let remote_port = payload::decimal(port).and_then(|port| u32::try_from(port).ok()).filter(|port| *port > 0);
    let remote_port = remote_port.ok_or(Errno::Inval)?;
    if context.view.state.domains.is_introduced(domid) {
        context.changes.effect = Some(Effect::Rebind { domid, remote_port });
    } else {
        context.grow(limits::CONNECTION_BYTES)?;
        context.changes.introduction = Some(Introduction { domid, remote_port });
    }
    context.ok()
}

/// RELEASE `<domid>|` forgets the domain: its connection, the nodes that it owns, and its rights.
pub(super) fn release(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let domid = introduced_guest(context)?;
    context.changes.effect = Some(Effect::Release(domid));
    context.ok()
}

/// RESUME `<domid>|`: the domain's next shutdown is reported again.
pub(super) fn resume(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let domid = introduced_guest(context)?;
    context.changes.effect = Some(Effect::Resume(domid));
    context.ok()
}

/// SET_TARGET `<domid>|<target domid>|…` gives the first domain the rights of the second.
pub(super) fn set_target(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let [domid, target] = payload::first_strings(context.payload).ok_or(Errno::Inval)?;
    let (domid, target) = (parse_domid(domid)?, parse_domid(target)?);
    for domid in [domid, target] {
        if !context.view.state.domains.is_introduced(domid) {
            return Err(Errno::NoEnt);
        }
    }
    context.changes.effect = Some(Effect::SetTarget { domid, target });
    context.ok()
}

/// IS_DOMAIN_INTRODUCED `<domid>|` answers T or F.
pub(super) fn is_domain_introduced(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let domid = parse_domid(payload::only_string(context.payload).ok_or(Errno::Inval)?)?;
    let is_introduced = domid == DomId::SELF || context.view.state.domains.is_introduced(domid);
    context.answer(if is_introduced { b"T\0" } else { b"F\0" })
}

/// GET_DOMAIN_PATH `<domid>|` answers `/local/domain/<domid>`, whether or not there is such a domain.
pub(super) fn get_domain_path(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let domid = parse_domid(payload::only_string(context.payload).ok_or(Errno::Inval)?)?;
    context.answer(b"/local/domain/")?;
    context.answer_number(domid.0)
}

/// Returns the introduced domain that the request names. Refuses the control domain. The C server refuses the Xenstore
/// domain as well, which is never introduced here.
fn introduced_guest(context: &RequestContext<'_>) -> Result<DomId, Errno> {
    let domid = parse_domid(payload::only_string(context.payload).ok_or(Errno::Inval)?)?;
    if domid == context.view.config.privileged {
        return Err(Errno::Inval);
    }
    if context.view.state.domains.is_introduced(domid) { Ok(domid) } else { Err(Errno::NoEnt) }
}
