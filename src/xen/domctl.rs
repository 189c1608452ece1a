//! The state of domains.
//!
//! The interface is versioned with the hypervisor, and the image runs on several hypervisors. The kernel finds the
//! version at boot by trying. From 4.21 on there is a stable operation, which it prefers.

use core::fmt;
use core::ops::RangeInclusive;

use super::abi::{DOMCTL_GET_DOMAIN_STATE, DOMCTL_GETDOMAININFO, DOMCTL_PAYLOAD_BYTES, Domctl, XenError};
use super::domain_state::{self, Description, State};
use super::hypercall;

/// Interface versions that are tried: 4.14 has 0x12, 4.22 has 0x18. The leading fields of the answer are the same in
/// all of them. Later versions are not tried, because their fields are unknown.
const VERSIONS: RangeInclusive<u32> = 0x12..=0x18;

/// The operation that this hypervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    /// `XEN_DOMCTL_get_domain_state`.
    Stable,
    /// `XEN_DOMCTL_getdomaininfo` of this version.
    Versioned(u32),
}

/// The reason why no operation can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// This domain is not privileged: Xen does not recognise it as the Xenstore domain.
    NotPrivileged,
    /// The hypervisor knows none of the interface versions.
    UnknownVersion,
    /// Another error.
    Failed(XenError),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivileged => f.write_str("this domain has no Xenstore privilege"),
            Self::UnknownVersion => {
                write!(f, "its domctl version is not one of {:#x} to {:#x}", VERSIONS.start(), VERSIONS.end())
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stable => f.write_str("get_domain_state"),
            Self::Versioned(version) => write!(f, "getdomaininfo of version {version:#x}"),
        }
    }
}

impl Interface {
    /// Finds out which operation works, by a request about domain 0.
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
                // Domain 0 may be missing. Xen then returns a number above 0, which shows that the version is right.
                Ok(_) | Err(XenError::ESRCH) => return Ok(interface),
                Err(XenError::EACCES) => {}
                Err(XenError::EPERM) => return Err(Unusable::NotPrivileged),
                Err(error) => return Err(Unusable::Failed(error)),
            }
        }
        Err(Unusable::UnknownVersion)
    }

    /// Returns Xen's description of domain `domain`. A request that Xen does not answer counts as
    /// [`Description::ABSENT`]: 4.22 answers with `EPERM` if a Xenstore domain asks about a domain that is gone.
    pub(crate) fn describe(self, domain: u16) -> Description {
        self.ask(domain).unwrap_or(Description::ABSENT)
    }

    /// Returns the lowest number of an existing domain from `from` to below `end`, without Xenstore domains.
    ///
    /// Tries one number after the other, which works on all Xens. Only a control domain gets a list, and Xen reports
    /// a changed domain once, to the first caller. 30,000 requests take some ten milliseconds.
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
        // SAFETY: the structure is larger than Xen's in every version, and both operations only read state.
        unsafe { hypercall::checked(xen_sys::__HYPERVISOR_domctl, arguments) }?;
        Ok(match self {
            Self::Stable => domain_state::from_stable(&argument.payload),
            Self::Versioned(_) => domain_state::from_versioned(domain, &argument.payload),
        })
    }
}
