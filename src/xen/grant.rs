//! Mapping pages that other domains grant.
//!
//! A mapping names the machine address of the page-table entry (`GNTMAP_contains_pte`), not a virtual address. It can
//! therefore be undone under any current page tables.

use core::fmt;

use super::abi::{
    GNTMAP_CONTAINS_PTE, GNTMAP_HOST_MAP, GNTTABOP_MAP_GRANT_REF, GNTTABOP_UNMAP_GRANT_REF, MapGrantRef, UnmapGrantRef,
    XenError,
};
use super::hypercall;
use super::memory::WindowEntry;

/// The reason why a grant could not be mapped or unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantError {
    /// The hypercall failed.
    Refused(XenError),
    /// The operation failed: a negative `GNTST_*` (`xen/include/public/grant_table.h`).
    Status(i16),
}

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Status(status) => write!(f, "grant status {status}"),
        }
    }
}

/// Maps grant `reference` of `domain` through the page-table entry `at`, for reading and writing. Returns the handle
/// that unmaps it.
///
/// # Errors
/// [`GrantError`], with nothing mapped.
pub(crate) fn map(domain: u16, reference: u32, at: WindowEntry) -> Result<u32, GrantError> {
    let mut argument = MapGrantRef {
        host_addr: at.entry_machine_address,
        flags: GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE,
        reference,
        domain,
        ..MapGrantRef::default()
    };
    let arguments = [GNTTABOP_MAP_GRANT_REF as usize, (&raw mut argument).expose_provenance(), 1, 0, 0];
    // SAFETY: the argument is one structure of the right type. The entry belongs to the ring window, which has no other
    // use.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_grant_table_op, arguments) }.map_err(GrantError::Refused)?;
    match argument.status {
        0 => Ok(argument.handle),
        status => Err(GrantError::Status(status)),
    }
}

/// Undoes [`map`], under any current page tables.
///
/// # Errors
/// [`GrantError`], with the mapping as it was.
///
/// # Safety
/// The mapping must not be used any more.
pub(crate) unsafe fn unmap(handle: u32, entry_machine_address: u64) -> Result<(), GrantError> {
    let mut argument = UnmapGrantRef { host_addr: entry_machine_address, handle, ..UnmapGrantRef::default() };
    let arguments = [GNTTABOP_UNMAP_GRANT_REF as usize, (&raw mut argument).expose_provenance(), 1, 0, 0];
    // SAFETY: the argument is one structure of the right type, and the mapping is out of use.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_grant_table_op, arguments) }.map_err(GrantError::Refused)?;
    match argument.status {
        0 => Ok(()),
        status => Err(GrantError::Status(status)),
    }
}
