//! Structures and numbers of Xen's guest interface that the `xen-sys` crate lacks or has in an outdated form.
//!
//! Everything else comes from `xen-sys` (headers of 2018, whose stable part has not changed since). Each item names the
//! public header that it was written from.

/// A negative error number that a hypercall returned, as a positive one (`xen/include/public/errno.h`; the numbers are
/// Linux's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XenError(pub(crate) i32);

impl XenError {
    /// The caller may not do that.
    pub(crate) const EPERM: Self = Self(1);
    /// No such domain.
    pub(crate) const ESRCH: Self = Self(3);
    /// For a domctl: another interface version.
    pub(crate) const EACCES: Self = Self(13);
    /// No room left.
    pub(crate) const ENOSPC: Self = Self(28);
}

/// Says how an upcall, a callback or a fault handler is entered: a flat 64-bit code segment for ring 3, which Xen's
/// own descriptor table always has (`xen/include/public/arch-x86/xen-x86_64.h`, `FLAT_RING3_CS64`).
pub(crate) const KERNEL_CODE_SEGMENT: u16 = 0xe033;

/// Where Xen shows every guest the machine-to-physical table: 64-bit entries, indexed by machine frame
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
/// The grant reference by which every domain offers its Xenstore ring (`GNTTAB_RESERVED_XENSTORE`).
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
    /// Out: the name of the mapping.
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
/// The domain has been torn down but is still referred to (`XEN_DOMINF_dying`).
pub(crate) const DOMINF_DYING: u32 = 1 << 0;
/// The domain has been shut down (`XEN_DOMINF_shutdown`).
pub(crate) const DOMINF_SHUTDOWN: u32 = 1 << 2;
/// The domain exists (`XEN_DOMCTL_GETDOMSTATE_STATE_EXIST`).
pub(crate) const DOMSTATE_EXIST: u16 = 1 << 0;
/// The domain has been shut down (`XEN_DOMCTL_GETDOMSTATE_STATE_SHUTDOWN`).
pub(crate) const DOMSTATE_SHUTDOWN: u16 = 1 << 1;
/// The domain has been torn down (`XEN_DOMCTL_GETDOMSTATE_STATE_DEAD`).
pub(crate) const DOMSTATE_DEAD: u16 = 1 << 3;

/// It is a Xenstore domain (`XEN_DOMINF_xs_domain`).
pub(crate) const DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// It controls the host (`XEN_DOMCTL_GETDOMSTATE_CAP_CONTROL`).
pub(crate) const DOMSTATE_CAP_CONTROL: u16 = 1 << 0;
/// It is a Xenstore domain (`XEN_DOMCTL_GETDOMSTATE_CAP_XENSTORE`).
pub(crate) const DOMSTATE_CAP_XENSTORE: u16 = 1 << 2;

/// Bytes behind the header of [`Domctl`]. Xen writes back its whole structure, which is 128 bytes there in every
/// version so far; the rest is room for a version to come.
pub(crate) const DOMCTL_PAYLOAD_BYTES: usize = 1024 - 16;

/// `struct xen_domctl` (`xen/include/public/domctl.h`), with the operation's part as bytes because it changes between
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

/// The console ring: offsets in its page (`xen/include/public/io/console.h`, `struct xencons_interface`).
pub(crate) mod console_ring {
    /// Bytes of the queue from us to the console's daemon; the queue begins here.
    pub(crate) const OUT: usize = 1024;
    /// Length of that queue, a power of two.
    pub(crate) const OUT_BYTES: usize = 2048;
    /// What we consumed of the input.
    pub(crate) const IN_CONSUMER: usize = 3072;
    /// What the daemon produced of it.
    pub(crate) const IN_PRODUCER: usize = 3076;
    /// What the daemon consumed of the output.
    pub(crate) const OUT_CONSUMER: usize = 3080;
    /// What we produced of it.
    pub(crate) const OUT_PRODUCER: usize = 3084;
}

const _: () = {
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(size_of::<Domctl>() == 1024);
};
