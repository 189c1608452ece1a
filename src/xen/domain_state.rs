//! What Xen says about a domain: reading the answers. Pure: who asks is `domctl`.

use super::abi::{
    DOMCTL_PAYLOAD_BYTES, DOMINF_DYING, DOMINF_SHUTDOWN, DOMSTATE_DEAD, DOMSTATE_EXIST, DOMSTATE_SHUTDOWN,
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

/// Reads `struct xen_domctl_get_domain_state`: a 16-bit state first.
pub(crate) fn from_stable(payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> State {
    let state = u16::from_le_bytes([payload[0], payload[1]]);
    if state & DOMSTATE_EXIST == 0 {
        State::Absent
    } else if state & DOMSTATE_DEAD != 0 {
        State::Dying
    } else if state & DOMSTATE_SHUTDOWN != 0 {
        State::Shutdown
    } else {
        State::Running
    }
}

/// Reads the beginning of `struct xen_domctl_getdomaininfo`: a 16-bit domain, 16 bits of padding, 32 bits of flags.
/// Xen answers for the first domain whose number is not below the one that was asked for.
pub(crate) fn from_versioned(asked: u16, payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> State {
    let found = u16::from_le_bytes([payload[0], payload[1]]);
    let flags = u32::from_le_bytes([payload[4], payload[5], payload[6], payload[7]]);
    if found != asked {
        State::Absent
    } else if flags & DOMINF_DYING != 0 {
        State::Dying
    } else if flags & DOMINF_SHUTDOWN != 0 {
        State::Shutdown
    } else {
        State::Running
    }
}
