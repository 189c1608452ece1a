//! The successor's part of a live update: it restores, and only then takes over what was the predecessor's.
//!
//! Until [`commit`] any end of this kernel, by panic, fault or in order, leads back over the bridge ([`give_up`]). The
//! predecessor's memory is not mapped here before, and its rings and ports are not touched.
//!
//! To map all of that memory takes longer than all else that is done at the commit, and everybody waits for it. So the greater
//! part joins the heap while guests are served again ([`gain`]).

use alloc::vec::Vec;
use core::ptr;

use spin::Mutex;

use crate::kernel::platform::RingMapping;
use crate::kernel::{heap, log};
use crate::xen::bridge::{FarEnd, Handover};
use crate::xen::event_channel::two_level::{self, offset};
use crate::xen::memory::Memory;
use crate::xen::shared_page::PAGE_BYTES;
use crate::xen::{entry, grant, shared_info, time};

/// Pages of the predecessor's that join the heap before anybody is served: 8 MiB, with which any request can be handled and
/// another kernel received.
const PAGES_AT_ONCE: usize = 2048;
/// Pages that join the heap in one turn of the main loop: somewhat more than a millisecond under emulation.
pub(crate) const PAGES_A_TURN: usize = 1024;

/// The way back, while there is one.
static WAY_BACK: Mutex<Option<FarEnd>> = Mutex::new(None);

/// Finds out at boot whether there is a predecessor.
///
/// # Safety
/// `root_table` must be the virtual address of the current root table.
pub(crate) unsafe fn find_predecessor(root_table: usize) -> bool {
    // SAFETY: the caller's promise.
    let far = unsafe { FarEnd::find(root_table) };
    *WAY_BACK.lock() = far;
    far.is_some()
}

/// Goes back to the predecessor, if there is one and it has not been let go.
pub(crate) fn give_up(why: &str) {
    if let Some(far) = WAY_BACK.try_lock().and_then(|far| *far) {
        far.go_back(why);
    }
}

/// What the predecessor says, if there is one.
pub(crate) fn handover() -> Option<Handover> {
    WAY_BACK.lock().map(FarEnd::handover)
}

/// Takes over: the predecessor is let go, its ring mappings are undone, and its memory begins to join the heap. There is no way
/// back from here on. Upcalls are masked and all ports unmasked; what fired before is forgotten.
pub(crate) fn commit(memory: &mut Memory) {
    let Some(far) = WAY_BACK.lock().take() else { return };
    let handover = far.handover();
    let shared_info = shared_info::page().expect("mapped at boot");
    shared_info.store8(offset::UPCALL_MASK, 1);
    entry::register_handlers();
    time::set_alarm(None);
    two_level::unmask_all(shared_info);
    for mapping in mappings(&handover) {
        // SAFETY: the predecessor, whose mapping it is, does not run again.
        if let Err(error) = unsafe { grant::unmap(mapping.handle, mapping.entry_machine_address) } {
            ::log::error!("the predecessor's mapping of domain {}'s ring can't be undone: {error:?}", mapping.domain);
        }
    }
    log::adopt(lines(&handover));
    far.take_down(memory).expect("a root entry can be cleared");
    // SAFETY: the predecessor's root is not the current one.
    unsafe { memory.unpin_root(handover.predecessor_root) }.expect("the predecessor's root is pinned");
    let total = usize::try_from(handover.total_pages).unwrap_or(usize::MAX);
    // SAFETY: the builder of this world made the list for all pages; those of the predecessor are nobody's now.
    unsafe { memory.list(total) };
    gain(memory, PAGES_AT_ONCE);
}

/// Lets up to `most` pages that were the predecessor's join the heap.
pub(crate) fn gain(memory: &mut Memory, most: usize) {
    let missing_kib = memory.missing_pages() * PAGE_BYTES / 1024;
    let gained = match memory.extend(most, heap::give_page) {
        Ok(gained) => gained,
        Err(error) => return ::log::error!("{missing_kib} KiB of the predecessor's memory can't be had: {error:?}"),
    };
    // SAFETY: what lies between the heap and the first pages that are gained is the module, which has been read, and later ones
    // begin where the heap ends, as nothing is gained any more after an error. All of it is mapped, and was the predecessor's.
    unsafe { heap::extend(gained.end - heap::end()) };
}

/// Console lines that the predecessor could not print any more.
fn lines(handover: &Handover) -> &[u8] {
    let behind = handover.mappings as usize + handover.mapping_count as usize * size_of::<RingMapping>();
    // SAFETY: the predecessor put so many bytes behind the list, in memory that nothing else uses.
    unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(behind), handover.line_bytes as usize) }
}

/// The predecessor's ring mappings.
fn mappings(handover: &Handover) -> Vec<RingMapping> {
    let count = usize::try_from(handover.mapping_count).unwrap_or(0);
    let first = ptr::with_exposed_provenance::<RingMapping>(handover.mappings as usize);
    // SAFETY: the predecessor put so many there, in memory that nothing else uses.
    (0..count).map(|at| unsafe { first.add(at).read_unaligned() }).collect()
}
