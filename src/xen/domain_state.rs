//! Reading Xen's answers about a domain. The module is pure: `domctl` makes the calls.

use zerocopy::FromBytes as _;

use super::abi::{
    DOMCTL_PAYLOAD_BYTES, DOMINF_DYING, DOMINF_SHUTDOWN, DOMINF_XS_DOMAIN, DOMSTATE_CAP_CONTROL, DOMSTATE_CAP_XENSTORE,
    DOMSTATE_DEAD, DOMSTATE_EXIST, DOMSTATE_SHUTDOWN, DomainInfo, DomainState,
};

/// A domain's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The domain exists and has not been shut down.
    Running,
    /// The domain exists and has been shut down.
    Shutdown,
    /// The domain has been torn down and will not come back.
    Dying,
    /// No domain has this number.
    Absent,
}

/// Xen's description of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Its state.
    pub(crate) state: State,
    /// The domain's identity among all that had or will have its number; `None` if this Xen does not report it.
    pub(crate) unique_id: Option<u64>,
    /// Whether it is a Xenstore domain that does not also control the host.
    pub(crate) is_store: bool,
}

impl Description {
    /// The description of a domain that does not exist.
    pub(crate) const ABSENT: Self = Self { state: State::Absent, unique_id: None, is_store: false };
}

/// Reads `struct xen_domctl_get_domain_state`.
pub(crate) fn from_stable(payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> Description {
    let Ok((answer, _)) = DomainState::read_from_prefix(payload) else { return Description::ABSENT };
    let DomainState { state, capabilities, unique_id: id, .. } = answer;
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

/// Reads the beginning of `struct xen_domctl_getdomaininfo`. Xen answers for the first domain whose number is not below
/// the requested one.
///
/// There is no unique id, because no field reliably distinguishes two domains with the same number:
///
/// - The tools choose and change the handle, and it stays the same over a restart.
/// - The frame of the shared-info page is soon used again. A live domain's frame changes when it maps the page
///   elsewhere.
/// - Processor time may be larger for either domain.
///
/// A live domain that is mistaken for another one would lose its nodes, so an uncertain answer is not enough.
///
/// Without a unique id, one case goes unnoticed: a domain is known only because permissions name it, and its number is
/// in use again before the server checks. An introduced domain cannot be missed: as long as its ring is mapped here,
/// Xen keeps the dead domain and its number.
pub(crate) fn from_versioned(asked: u16, payload: &[u8; DOMCTL_PAYLOAD_BYTES]) -> Description {
    let Ok((answer, _)) = DomainInfo::read_from_prefix(payload) else { return Description::ABSENT };
    let DomainInfo { domain: found, flags, .. } = answer;
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
