//! What Xen says about a domain: reading the answers. Pure: who asks is `domctl`.

use super::abi::{
    DOMCTL_PAYLOAD_BYTES, DOMINF_DYING, DOMINF_SHUTDOWN, DOMINF_XS_DOMAIN, DOMSTATE_CAP_CONTROL, DOMSTATE_CAP_XENSTORE,
    DOMSTATE_DEAD, DOMSTATE_EXIST, DOMSTATE_SHUTDOWN,
};

/// A domain's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It exists and has not been shut down.
    Running,
    /// It exists and has been shut down.
    Shutdown,
    /// It has been torn down and will not come back.
    Dying,
    /// There is none of this number.
    Absent,
}

/// A domain, as Xen describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Its state.
    pub(crate) state: State,
    /// Which domain it is, of all that have had and will have its number.
    pub(crate) unique_id: Option<u64>,
    /// Whether it is a Xenstore domain (and does not control the host besides).
    pub(crate) is_store: bool,
}

impl Description {
    /// There is no such domain.
    pub(crate) const ABSENT: Self = Self { state: State::Absent, unique_id: None, is_store: false };
}

/// Reads `struct xen_domctl_get_domain_state`: a 16-bit state, 16-bit capabilities, 32 bits of padding, and the unique id.
pub(crate) fn from_stable(payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> Description {
    let state = u16::from_le_bytes([payload[0], payload[1]]);
    let capabilities = u16::from_le_bytes([payload[2], payload[3]]);
    let id = u64::from_le_bytes([
        payload[8],
        payload[9],
        payload[10],
        payload[11],
        payload[12],
        payload[13],
        payload[14],
        payload[15],
    ]);
    let state = if state & DOMSTATE_EXIST == 0 {
        return Description::ABSENT;
    } else if state & DOMSTATE_DEAD != 0 {
        State::Dying
    } else if state & DOMSTATE_SHUTDOWN != 0 {
        State::Shutdown
    } else {
        State::Running
    };
    let is_store = capabilities & (DOMSTATE_CAP_XENSTORE | DOMSTATE_CAP_CONTROL) == DOMSTATE_CAP_XENSTORE;
    Description { state, unique_id: (id != 0).then_some(id), is_store }
}

/// Reads the beginning of `struct xen_domctl_getdomaininfo`: a 16-bit domain, 16 bits of padding, 32 bits of flags.
/// Xen answers for the first domain whose number is not below the one that was asked for.
///
/// Nothing here tells two domains with one number apart, so that there is no unique id: the handle is the tools' to
/// choose and to change, and stays the same over a restart; the frame of the shared-info page is soon used again, and a
/// live domain's changes when it maps the page elsewhere; processor time may be the larger for either. To take a live
/// domain for another one would cost it its nodes, so that nothing uncertain will do.
///
/// What is missed without: a domain that is known only because permissions name it, and whose number is in use again
/// before anybody looked. An introduced one can't be missed: as long as we map its ring, Xen keeps the dead domain
/// and its number.
pub(crate) fn from_versioned(asked: u16, payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> Description {
    let found = u16::from_le_bytes([payload[0], payload[1]]);
    let flags = u32::from_le_bytes([payload[4], payload[5], payload[6], payload[7]]);
    let state = if found != asked {
        return Description::ABSENT;
    } else if flags & DOMINF_DYING != 0 {
        State::Dying
    } else if flags & DOMINF_SHUTDOWN != 0 {
        State::Shutdown
    } else {
        State::Running
    };
    Description { state, unique_id: None, is_store: flags & DOMINF_XS_DOMAIN != 0 }
}
