//! Domains, as the store knows them.

use core::fmt;

/// A domain's number, 0 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub u16);

impl DomId {
    /// The control domain, unless a boot option says otherwise.
    pub const DOM0: Self = Self(0);
    /// The first number that no real domain has (`DOMID_FIRST_RESERVED`, `xen/include/public/xen.h`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// Names all domains in an entry of a node's permissions (`DOMID_ANY`).
    pub const ANY: Self = Self(0x7ff5);
    /// The number with which a domain refers to itself (`DOMID_SELF`).
    pub const SELF: Self = Self(0x7ff0);

    /// Returns whether no real domain has this number. Some of these numbers have a meaning for the hypervisor. The
    /// server must not pass them on from a client's request.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 >= Self::FIRST_RESERVED.0
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
