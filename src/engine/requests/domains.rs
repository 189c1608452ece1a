//! INTRODUCE, RELEASE, RESUME, SET_TARGET, IS_DOMAIN_INTRODUCED and GET_DOMAIN_PATH.

use crate::engine::requests::change_set::Effect;
use crate::engine::requests::{Call, parse_domid};
use crate::limits;
use crate::store::domain::DomId;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// INTRODUCE `<domid>|<frame>|<port>|…`: maps the domain's ring and binds its port. The frame is not needed: the ring is
/// mapped by grant. The ring page names the port; if it names none, the request's port counts (`xs_wire.h`,
/// `evtchn_port`).
///
/// For an introduced domain the server binds the request's port and resets the connection. The toolstack has just created
/// that port, and the ring page may still name an older one. The C server does the same.
pub(super) fn introduce(call: &mut Call<'_>) -> Result<(), Errno> {
    let [domid, _frame, port] = payload::first_strings(call.payload).ok_or(Errno::Inval)?;
    let domid = parse_domid(domid)?;
    if domid.is_reserved() {
        return Err(Errno::Inval);
    }
    let remote_port = payload::decimal(port).and_then(|port| u32::try_from(port).ok()).filter(|port| *port > 0);
    let remote_port = remote_port.ok_or(Errno::Inval)?;
    call.changes.effect = Some(if call.view.state.domains.is_introduced(domid) {
        Effect::Rebind { domid, remote_port }
    } else {
        call.grow(limits::CONNECTION_BYTES)?;
        call.hypervisor.map_ring(domid)?;
        let in_ring = call.hypervisor.port_in_ring(domid);
        match call.hypervisor.bind_port(domid, if in_ring == 0 { remote_port } else { in_ring }) {
            Ok(port) => Effect::Introduce { domid, port },
            Err(errno) => {
                call.hypervisor.unmap_ring(domid);
                return Err(errno);
            }
        }
    });
    call.ok()
}

/// RELEASE `<domid>|`.
pub(super) fn release(call: &mut Call<'_>) -> Result<(), Errno> {
    let domid = introduced_guest(call)?;
    call.changes.effect = Some(Effect::Release(domid));
    call.ok()
}

/// RESUME `<domid>|`: the domain's next shutdown is reported again.
pub(super) fn resume(call: &mut Call<'_>) -> Result<(), Errno> {
    let domid = introduced_guest(call)?;
    call.changes.effect = Some(Effect::Resume(domid));
    call.ok()
}

/// SET_TARGET `<domid>|<target domid>|…`.
pub(super) fn set_target(call: &mut Call<'_>) -> Result<(), Errno> {
    let [domid, target] = payload::first_strings(call.payload).ok_or(Errno::Inval)?;
    let (domid, target) = (parse_domid(domid)?, parse_domid(target)?);
    for domid in [domid, target] {
        if !call.view.state.domains.is_introduced(domid) {
            return Err(Errno::NoEnt);
        }
    }
    call.changes.effect = Some(Effect::SetTarget { domid, target });
    call.ok()
}

/// IS_DOMAIN_INTRODUCED `<domid>|` answers T or F.
pub(super) fn is_domain_introduced(call: &mut Call<'_>) -> Result<(), Errno> {
    let domid = parse_domid(payload::only_string(call.payload).ok_or(Errno::Inval)?)?;
    let is_introduced = domid == DomId::SELF || call.view.state.domains.is_introduced(domid);
    call.answer(if is_introduced { b"T\0" } else { b"F\0" })
}

/// GET_DOMAIN_PATH `<domid>|` answers `/local/domain/<domid>`, whether or not there is such a domain.
pub(super) fn get_domain_path(call: &mut Call<'_>) -> Result<(), Errno> {
    let domid = parse_domid(payload::only_string(call.payload).ok_or(Errno::Inval)?)?;
    call.answer(b"/local/domain/")?;
    call.answer_number(domid.0)
}

/// The introduced domain that the request names. The control domain is refused. The Xenstore domain, which the C server
/// refuses as well, is never introduced here.
fn introduced_guest(call: &Call<'_>) -> Result<DomId, Errno> {
    let domid = parse_domid(payload::only_string(call.payload).ok_or(Errno::Inval)?)?;
    if domid == call.view.config.privileged {
        return Err(Errno::Inval);
    }
    if call.view.state.domains.is_introduced(domid) { Ok(domid) } else { Err(Errno::NoEnt) }
}
