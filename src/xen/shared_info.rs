//! The shared-info page: information that Xen provides without a hypercall.
//!
//! `vcpu_info` stays at its default place in this page. Another place can be registered only once in a domain's life,
//! so that could not be repeated after a live update.

use core::mem::offset_of;
use core::ptr::{self, NonNull};

use spin::Once;
use xen_sys::{arch_vcpu_info, shared_info, vcpu_info, vcpu_time_info};

use super::entry;
use super::event_channel::two_level;
use super::shared_page::SharedPage;
use super::time_scale::Calibration;

/// Offset of the address of the last page fault.
const CR2: usize = offset_of!(vcpu_info, arch) + offset_of!(arch_vcpu_info, cr2);
const TIME: usize = offset_of!(vcpu_info, time);
/// Offset of the version of the calibration: odd while Xen writes the calibration, and different afterwards.
const TIME_VERSION: usize = TIME + offset_of!(vcpu_time_info, version);
const TSC_TIMESTAMP: usize = TIME + offset_of!(vcpu_time_info, tsc_timestamp);
const SYSTEM_TIME: usize = TIME + offset_of!(vcpu_time_info, system_time);
const TSC_TO_SYSTEM_MUL: usize = TIME + offset_of!(vcpu_time_info, tsc_to_system_mul);
const TSC_SHIFT: usize = TIME + offset_of!(vcpu_time_info, tsc_shift);

// The structure begins with the information about vCPU 0, the only one.
const _: () = {
    assert!(offset_of!(shared_info, vcpu_info) == 0);
    assert!(offset_of!(vcpu_info, evtchn_upcall_pending) == two_level::offset::UPCALL_PENDING);
    assert!(offset_of!(vcpu_info, evtchn_upcall_mask) == two_level::offset::UPCALL_MASK);
    assert!(offset_of!(vcpu_info, evtchn_pending_sel) == two_level::offset::PENDING_SELECTOR);
    assert!(offset_of!(shared_info, evtchn_pending) == two_level::offset::PENDING);
    assert!(offset_of!(shared_info, evtchn_mask) == two_level::offset::MASK);
};

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
        // SAFETY: the caller mapped the page, and nothing else uses the symbol's page.
        Shared(unsafe { SharedPage::new(base.expect("the image is not at address 0")) })
    });
}

/// Returns the page, once [`init`] has run.
pub(crate) fn page() -> Option<&'static SharedPage> {
    PAGE.get().map(|shared| &shared.0)
}

/// Returns the address of the last page fault, once [`init`] has run.
pub(crate) fn fault_address() -> Option<u64> {
    page().map(|page| page.load64(CR2))
}

/// Returns a consistent copy of the clock's state, which Xen updates now and then; `None` while Xen writes it.
pub(crate) fn calibration(page: &SharedPage) -> Option<Calibration> {
    let version = page.load32(TIME_VERSION);
    let calibration = Calibration {
        timestamp: page.load64(TSC_TIMESTAMP),
        system_time_ns: page.load64(SYSTEM_TIME),
        factor: page.load32(TSC_TO_SYSTEM_MUL),
        shift: page.load8(TSC_SHIFT).cast_signed(),
    };
    (version & 1 == 0 && page.load32(TIME_VERSION) == version).then_some(calibration)
}
