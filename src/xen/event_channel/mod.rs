//! Event channels: binding, closing and signalling ports, and finding those that fired.

pub(crate) mod two_level;

use xen_sys::{
    __HYPERVISOR_event_channel_op as EVENT_CHANNEL_OP, EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_close,
    EVTCHNOP_send, EVTCHNOP_status, EVTCHNSTAT_interdomain as INTERDOMAIN, EVTCHNSTAT_unbound as UNBOUND,
    evtchn_bind_interdomain, evtchn_bind_virq, evtchn_close, evtchn_send, evtchn_status, evtchn_status__bindgen_ty_1,
};

use super::abi::XenError;
use super::hypercall;

/// This domain (`DOMID_SELF`, `xen/include/public/xen.h`).
const DOMID_SELF: u16 = 0x7ff0;

/// Binds a new port to `remote_port` of domain `domain`. The port may fire at once.
///
/// # Errors
/// The error number that Xen returned.
pub(crate) fn bind_interdomain(domain: u16, remote_port: u32) -> Result<u32, XenError> {
    let mut argument = evtchn_bind_interdomain { remote_dom: domain, remote_port, local_port: 0 };
    // SAFETY: the structure is the operation's; Xen only writes the port into it.
    unsafe { hypercall::operation(EVENT_CHANNEL_OP, EVTCHNOP_bind_interdomain, &mut argument) }?;
    Ok(argument.local_port)
}

/// Binds a new port to virtual interrupt `virq` on vCPU 0.
///
/// # Errors
/// The error number that Xen returned.
pub(crate) fn bind_virq(virq: u32) -> Result<u32, XenError> {
    let mut argument = evtchn_bind_virq { virq, vcpu: 0, port: 0 };
    // SAFETY: the structure is the operation's; Xen only writes the port into it.
    unsafe { hypercall::operation(EVENT_CHANNEL_OP, EVTCHNOP_bind_virq, &mut argument) }?;
    Ok(argument.port)
}

/// Returns the domain at the other end of a port of this domain. That domain may be gone. Returns `None` for a port of
/// another kind, or for none.
///
/// # Errors
/// The error number that Xen returned.
pub(crate) fn other_end(port: u32) -> Result<Option<u16>, XenError> {
    let u = evtchn_status__bindgen_ty_1 { virq: 0 };
    let mut argument = evtchn_status { dom: DOMID_SELF, port, status: 0, vcpu: 0, u };
    // SAFETY: the structure is the operation's; Xen only writes the port's state into it.
    unsafe { hypercall::operation(EVENT_CHANNEL_OP, EVTCHNOP_status, &mut argument) }?;
    Ok(match argument.status {
        // SAFETY: the status says which variant of the union is valid, and any bytes make a domid.
        INTERDOMAIN => Some(unsafe { argument.u.interdomain.dom }),
        // SAFETY: as above.
        UNBOUND => Some(unsafe { argument.u.unbound.dom }),
        _ => None,
    })
}

/// Closes a port.
///
/// # Errors
/// The error number that Xen returned.
pub(crate) fn close(port: u32) -> Result<(), XenError> {
    let mut argument = evtchn_close { port };
    // SAFETY: the structure is the operation's.
    unsafe { hypercall::operation(EVENT_CHANNEL_OP, EVTCHNOP_close, &mut argument) }.map(|_| ())
}

/// Signals the other end of a port.
///
/// # Errors
/// The error number that Xen returned. A missing other end is not an error.
pub(crate) fn send(port: u32) -> Result<(), XenError> {
    let mut argument = evtchn_send { port };
    // SAFETY: the structure is the operation's.
    unsafe { hypercall::operation(EVENT_CHANNEL_OP, EVTCHNOP_send, &mut argument) }.map(|_| ())
}
