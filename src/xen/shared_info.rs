//! The shared-info page: what Xen tells this domain without being asked.
//!
//! `vcpu_info` stays at its default place in this page: registering another one works only once in a domain's life and
//! could not be repeated after a live update.

use core::mem::offset_of;
use core::ptr::{self, NonNull};

use spin::Once;
use xen_sys::{arch_vcpu_info, shared_info, vcpu_info, vcpu_time_info};

use super::entry;
use super::shared_page::SharedPage;

/// Offsets in the page. The structure begins with the information about vCPU 0, the only one.
pub(crate) mod offset {
    use super::*;

    /// Set by Xen when an event became pending.
    pub(crate) const UPCALL_PENDING: usize = offset_of!(vcpu_info, evtchn_upcall_pending);
    /// While it is not zero, Xen delivers no upcall.
    pub(crate) const UPCALL_MASK: usize = offset_of!(vcpu_info, evtchn_upcall_mask);
    /// A bit for each word of pending bits that is not zero.
    pub(crate) const PENDING_SELECTOR: usize = offset_of!(vcpu_info, evtchn_pending_sel);
    /// The address of the last page fault.
    pub(crate) const CR2: usize = offset_of!(vcpu_info, arch) + offset_of!(arch_vcpu_info, cr2);
    /// The words of pending bits.
    pub(crate) const PENDING: usize = offset_of!(shared_info, evtchn_pending);
    /// The words of mask bits.
    pub(crate) const MASK: usize = offset_of!(shared_info, evtchn_mask);

    const TIME: usize = offset_of!(vcpu_info, time);
    /// Odd while Xen writes the fields below, and different afterwards.
    pub(crate) const TIME_VERSION: usize = TIME + offset_of!(vcpu_time_info, version);
    /// The processor's counter at that system time.
    pub(crate) const TSC_TIMESTAMP: usize = TIME + offset_of!(vcpu_time_info, tsc_timestamp);
    /// Nanoseconds since the host's start.
    pub(crate) const SYSTEM_TIME: usize = TIME + offset_of!(vcpu_time_info, system_time);
    /// Counter to nanoseconds: a factor, and in the next word's first byte a shift.
    pub(crate) const TSC_TO_SYSTEM_MUL: usize = TIME + offset_of!(vcpu_time_info, tsc_to_system_mul);
    /// See [`TSC_TO_SYSTEM_MUL`].
    pub(crate) const TSC_SHIFT: usize = TIME + offset_of!(vcpu_time_info, tsc_shift);
}

static PAGE: Once<Shared> = Once::new();

struct Shared(SharedPage);

// SAFETY: all access is atomic.
unsafe impl Sync for Shared {}

/// Takes the page into use.
///
/// # Safety
/// The page at [`entry::shared_info`] must have been mapped to the shared-info frame, for good.
pub(crate) unsafe fn init() {
    PAGE.call_once(|| {
        let base = NonNull::new(ptr::with_exposed_provenance_mut(entry::shared_info()));
        // SAFETY: the caller mapped it, and the symbol's page is nobody else's.
        Shared(unsafe { SharedPage::new(base.expect("the image is not at address 0")) })
    });
}

/// The page, once [`init`] has run.
pub(crate) fn page() -> Option<&'static SharedPage> {
    PAGE.get().map(|shared| &shared.0)
}

/// The address of the last page fault, if it can be told.
pub(crate) fn fault_address() -> Option<u64> {
    page().map(|page| page.load64(offset::CR2))
}
