//! Structures and numbers of Xen's guest interface that the `xen-sys` crate lacks or has in an outdated form.
//!
//! Everything else comes from `xen-sys`: headers of 2018, whose stable part has not changed since. Each item names the
//! public header that it was written from.

use core::fmt;

use zerocopy::FromBytes;

/// An error number that a hypercall returned, as a positive number (`xen/include/public/errno.h`; the numbers are
/// Linux's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XenError(pub(crate) i32);

impl fmt::Display for XenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xen error {}", self.0)
    }
}

impl XenError {
    /// The caller lacks the right.
    pub(crate) const EPERM: Self = Self(1);
    /// There is no such domain.
    pub(crate) const ESRCH: Self = Self(3);
    /// A domctl has another interface version.
    pub(crate) const EACCES: Self = Self(13);
    /// No room is left.
    pub(crate) const ENOSPC: Self = Self(28);
}

/// The code segment in which upcalls, callbacks and fault handlers are entered: a flat 64-bit segment for ring 3. Xen's
/// own descriptor table always has it (`xen/include/public/arch-x86/xen-x86_64.h`, `FLAT_RING3_CS64`).
pub(crate) const KERNEL_CODE_SEGMENT: u16 = 0xe033;

/// Virtual address of the machine-to-physical table in every guest: 64-bit entries, indexed by machine frame
/// (`xen/include/public/arch-x86/xen-x86_64.h`, `__MACH2PHYS_VIRT_START`).
pub(crate) const MACHINE_TO_PHYS: usize = 0xffff_8000_0000_0000;

/// `GNTTABOP_map_grant_ref` (`xen/include/public/grant_table.h`).
pub(crate) const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// `GNTTABOP_unmap_grant_ref` (`xen/include/public/grant_table.h`).
pub(crate) const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// The mapping is for the processor.
pub(crate) const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// `host_addr` is the machine address of a page-table entry, not a virtual address.
pub(crate) const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
/// The grant reference through which every domain offers its Xenstore ring (`GNTTAB_RESERVED_XENSTORE`).
pub(crate) const GNTTAB_RESERVED_XENSTORE: u32 = 1;

/// `struct gnttab_map_grant_ref` (`xen/include/public/grant_table.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MapGrantRef {
    pub(crate) host_addr: u64,
    pub(crate) flags: u32,
    pub(crate) reference: u32,
    pub(crate) domain: u16,
    /// Out: 0, or a negative `GNTST_*`.
    pub(crate) status: i16,
    /// Out: the handle of the mapping.
    pub(crate) handle: u32,
    pub(crate) device_address: u64,
}

/// `struct gnttab_unmap_grant_ref` (`xen/include/public/grant_table.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UnmapGrantRef {
    pub(crate) host_addr: u64,
    pub(crate) device_address: u64,
    pub(crate) handle: u32,
    /// Out: 0, or a negative `GNTST_*`.
    pub(crate) status: i16,
}

/// `XEN_DOMCTL_getdomaininfo` (`xen/include/public/domctl.h`).
pub(crate) const DOMCTL_GETDOMAININFO: u32 = 5;
/// `XEN_DOMCTL_get_domain_state`, Xen 4.21 and later (`xen/include/public/domctl.h`).
pub(crate) const DOMCTL_GET_DOMAIN_STATE: u32 = 90;
/// The domain has been torn down, but references to it remain (`XEN_DOMINF_dying`).
pub(crate) const DOMINF_DYING: u32 = 1 << 0;
/// The domain has been shut down (`XEN_DOMINF_shutdown`).
pub(crate) const DOMINF_SHUTDOWN: u32 = 1 << 2;
/// The domain exists (`XEN_DOMCTL_GETDOMSTATE_STATE_EXIST`).
pub(crate) const DOMSTATE_EXIST: u16 = 1 << 0;
/// The domain has been shut down (`XEN_DOMCTL_GETDOMSTATE_STATE_SHUTDOWN`).
pub(crate) const DOMSTATE_SHUTDOWN: u16 = 1 << 1;
/// The domain has been torn down (`XEN_DOMCTL_GETDOMSTATE_STATE_DEAD`).
pub(crate) const DOMSTATE_DEAD: u16 = 1 << 3;

/// The domain is a Xenstore domain (`XEN_DOMINF_xs_domain`).
pub(crate) const DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// The domain controls the host (`XEN_DOMCTL_GETDOMSTATE_CAP_CONTROL`).
pub(crate) const DOMSTATE_CAP_CONTROL: u16 = 1 << 0;
/// The domain is a Xenstore domain (`XEN_DOMCTL_GETDOMSTATE_CAP_XENSTORE`).
pub(crate) const DOMSTATE_CAP_XENSTORE: u16 = 1 << 2;

/// Bytes after the header of [`Domctl`]. Xen writes its whole structure back, which is 128 bytes there in every version
/// so far. The rest is room for later versions.
pub(crate) const DOMCTL_PAYLOAD_BYTES: usize = 1024 - 16;

/// `struct xen_domctl` (`xen/include/public/domctl.h`). The operation's part is bytes, because it changes between
/// versions.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Domctl {
    pub(crate) command: u32,
    pub(crate) interface_version: u32,
    /// In and out.
    pub(crate) domain: u16,
    pub(crate) pad: [u16; 3],
    pub(crate) payload: [u8; DOMCTL_PAYLOAD_BYTES],
}

/// `struct xen_domctl_get_domain_state` (`xen/include/public/domctl.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes)]
pub(crate) struct DomainState {
    /// `XEN_DOMCTL_GETDOMSTATE_STATE_*`.
    pub(crate) state: u16,
    /// `XEN_DOMCTL_GETDOMSTATE_CAP_*`.
    pub(crate) capabilities: u16,
    pub(crate) pad: u32,
    /// 0 if this Xen does not report it.
    pub(crate) unique_id: u64,
}

/// The beginning of `struct xen_domctl_getdomaininfo` (`xen/include/public/domctl.h`), which is the same in every
/// version so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes)]
pub(crate) struct DomainInfo {
    pub(crate) domain: u16,
    pub(crate) pad: u16,
    /// `XEN_DOMINF_*`.
    pub(crate) flags: u32,
}

/// The console ring: offsets in its page (`xen/include/public/io/console.h`, `struct xencons_interface`).
pub(crate) mod console_ring {
    /// Offset of the queue from this kernel to the console's daemon.
    pub(crate) const OUT: usize = 1024;
    /// Length of that queue in bytes, a power of two.
    pub(crate) const OUT_BYTES: usize = 2048;
    /// Offset of this kernel's consumer index of the input.
    pub(crate) const IN_CONSUMER: usize = 3072;
    /// Offset of the daemon's producer index of the input.
    pub(crate) const IN_PRODUCER: usize = 3076;
    /// Offset of the daemon's consumer index of the output.
    pub(crate) const OUT_CONSUMER: usize = 3080;
    /// Offset of this kernel's producer index of the output.
    pub(crate) const OUT_PRODUCER: usize = 3084;
}

const _: () = {
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(size_of::<Domctl>() == 1024);
    assert!(size_of::<DomainState>() == 16);
    assert!(size_of::<DomainInfo>() == 8);
};
