//! What state a domain is in.
//!
//! The interface is versioned with the hypervisor, and the image runs on several: the version is found out at boot by
//! trying. From 4.21 on there is a stable operation, which is preferred.

use core::ops::RangeInclusive;

use super::abi::{DOMCTL_GET_DOMAIN_STATE, DOMCTL_GETDOMAININFO, DOMCTL_PAYLOAD_BYTES, Domctl, XenError};
use super::domain_state::{self, Description, State};
use super::hypercall;

/// Interface versions that are tried: 4.14 has 0x12, 4.22 has 0x18. The leading fields of the answer are the same in
/// all of them; whether they are in a later one is not known, so none is tried.
const VERSIONS: RangeInclusive<u32> = 0x12..=0x18;

/// Which operation this hypervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// `XEN_DOMCTL_get_domain_state`.
    Stable,
    /// `XEN_DOMCTL_getdomaininfo` of this version.
    Versioned(u32),
}

/// Why no operation can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// This domain is not privileged: Xen does not take it for the Xenstore domain.
    NotPrivileged,
    /// None of the interface versions is known to this hypervisor.
    UnknownVersion,
    /// Something else.
    Failed(XenError),
}

impl Interface {
    /// Finds out which operation works, by asking about domain 0.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn probe() -> Result<Self, Unusable> {
        if Self::Stable.ask(0).is_ok() {
            return Ok(Self::Stable);
        }
        for version in VERSIONS {
            let interface = Self::Versioned(version);
            match interface.ask(0) {
                // Domain 0 may be missing (a number above 0 is returned then), which says that the version is right.
                Ok(_) | Err(XenError::ESRCH) => return Ok(interface),
                Err(XenError::EACCES) => {}
                Err(XenError::EPERM) => return Err(Unusable::NotPrivileged),
                Err(error) => return Err(Unusable::Failed(error)),
            }
        }
        Err(Unusable::UnknownVersion)
    }

    /// What Xen says of domain `domain`. A question that it does not answer counts as [`Description::ABSENT`]: 4.22 answers a
    /// Xenstore domain's question about a domain that is gone with `EPERM`.
    pub(crate) fn describe(self, domain: u16) -> Description {
        self.ask(domain).unwrap_or(Description::ABSENT)
    }

    /// The lowest number from `from` to below `end` that a domain has, Xenstore domains left out.
    ///
    /// Asks for one number after the other: that works on all Xens. A list is only for a control domain, and which
    /// domains have changed is said once, to whoever asks first. 30,000 questions take some ten milliseconds.
    pub(crate) fn next(self, from: u16, end: u16) -> Option<u16> {
        (from..end).find(|domain| {
            let description = self.describe(*domain);
            description.state != State::Absent && !description.is_store
        })
    }

    fn ask(self, domain: u16) -> Result<Description, XenError> {
        let (command, interface_version) = match self {
            Self::Stable => (DOMCTL_GET_DOMAIN_STATE, 0),
            Self::Versioned(version) => (DOMCTL_GETDOMAININFO, version),
        };
        let mut argument =
            Domctl { command, interface_version, domain, pad: [0; 3], payload: [0; DOMCTL_PAYLOAD_BYTES] };
        let arguments = [(&raw mut argument).expose_provenance(), 0, 0, 0, 0];
        // SAFETY: the structure is larger than Xen's in every version; both operations only read state.
        unsafe { hypercall::checked(xen_sys::__HYPERVISOR_domctl, arguments) }?;
        Ok(match self {
            Self::Stable => domain_state::from_stable(&argument.payload),
            Self::Versioned(_) => domain_state::from_versioned(domain, &argument.payload),
        })
    }
}
