//! The successor's part of a live update: it restores the state, and only then takes over the predecessor's resources.
//!
//! Until [`commit`], every end of this kernel (panic, processor fault or orderly) leads back to the predecessor over
//! the trampoline ([`give_up`]). Until then the predecessor's memory is not mapped here, and its rings and ports are
//! not touched.
//!
//! Mapping all of that memory takes longer than the rest of the commit, and all clients wait for the commit. Most of
//! the memory therefore joins the heap while guests are served again ([`gain`]).

use core::ptr;

use spin::Mutex;
use xenstore::options::Options;
use xenstore::server::Server;
use xenstore::server::reattach::{Reattached, Reattachment};
use xenstore::server::stream::load;
use zerocopy::FromBytes as _;

use super::restart;
use crate::kernel::boot_info::BootInfo;
use crate::kernel::main_loop::OwnPorts;
use crate::kernel::platform::{RingMapping, XenPlatform};
#[cfg(feature = "boot-test")]
use crate::kernel::update_test;
use crate::kernel::{find_domains, heap, log, module, random, serve_with, stop};
use crate::xen::event_channel::two_level::{self, offset};
use crate::xen::memory::Memory;
use crate::xen::shared_page::PAGE_BYTES;
use crate::xen::trampoline::{Handover, MappedTrampoline};
use crate::xen::{entry, grant, shared_info, time};

/// Pages of the predecessor that join the heap before the first request: 8 MiB. Any request can be handled with them,
/// and another kernel received.
const PAGES_AT_ONCE: usize = 2048;
/// Pages that join the heap in one turn of the main loop: somewhat more than a millisecond under emulation.
pub(crate) const PAGES_A_TURN: usize = 1024;

/// The trampoline to the predecessor, until the commit.
static TRAMPOLINE: Mutex<Option<MappedTrampoline>> = Mutex::new(None);

/// Finds out at boot whether there is a predecessor.
///
/// # Safety
/// `root_table` must be the virtual address of the current root table.
pub(crate) unsafe fn find_predecessor(root_table: usize) -> bool {
    // SAFETY: the caller upholds the contract.
    let trampoline = unsafe { MappedTrampoline::find(root_table) };
    *TRAMPOLINE.lock() = trampoline;
    trampoline.is_some()
}

/// Returns to the predecessor, if there is one and this kernel has not committed.
pub(crate) fn give_up(why: &str) {
    if let Some(trampoline) = TRAMPOLINE.try_lock().and_then(|trampoline| *trampoline) {
        trampoline.return_to_predecessor(why);
    }
}

/// Returns the predecessor's handover, if there is a predecessor.
pub(crate) fn handover() -> Option<Handover> {
    TRAMPOLINE.lock().map(MappedTrampoline::handover)
}

/// Serves as the successor of another kernel, in the steps of `docs/live-update.md`: restores the state that the
/// predecessor handed over, commits, and reattaches the connections.
pub(crate) fn serve(boot: &BootInfo, options: &Options, mut memory: Memory) -> ! {
    let started_ns = time::now_ns();
    let domains = find_domains(boot, options);
    let (mut server, stream_bytes) = restore(boot, options);
    let Some(handover) = handover() else { stop(format_args!("there is no predecessor")) };
    #[cfg(feature = "boot-test")]
    update_test::fail(boot, update_test::Place::After);
    let restored_ns = time::now_ns();
    commit(&mut memory);
    let (domain_exception, timer) = (handover.exception_port, handover.timer_port);
    let ports = OwnPorts { domain_exception, timer, console: log::console_port() };
    let mut platform = XenPlatform::new(memory, domains);
    let reattached = server.reattach(&mut platform, time::now_ms(), Reattachment::Live);
    log::console_event();
    report(&handover, started_ns, restored_ns, stream_bytes, reattached, platform.free_bytes());
    restart::settle(&handover, &options.crash_node, &mut server, &mut platform);
    serve_with(server, platform, ports, boot, options)
}

/// Restores the state from the boot module, or returns to the predecessor. Also returns the size of the stream in
/// bytes. Its memory joins the heap in [`commit`].
fn restore(boot: &BootInfo, options: &Options) -> (Server, usize) {
    let stream = module(boot).unwrap_or_else(|| stop(format_args!("there is no state to restore")));
    #[cfg(feature = "boot-test")]
    let stream = {
        update_test::fail(boot, update_test::Place::Before);
        update_test::restore_some(boot, stream, &options.config(random::hash_key()));
        update_test::spoil(boot, stream)
    };
    match load(stream, &options.config(random::hash_key()), time::now_ms()) {
        Ok(engine) => (Server::restored(engine), stream.len()),
        Err(error) => stop(format_args!("the state can't be restored: {error}")),
    }
}

/// Logs the durations of the update's parts and the sizes of the state.
fn report(
    handover: &Handover,
    started_ns: u64,
    restored_ns: u64,
    stream_bytes: usize,
    reattached: Reattached,
    free: usize,
) {
    let us = |from: u64, to: u64| to.saturating_sub(from) / 1000;
    let now = time::now_ns();
    let heap::Usage { used, .. } = heap::usage();
    ::log::info!(
        "{}: {} connections of {}, {} bytes of state; saved in {} us, switched in {} us, restored in {} us, took over in {} us; memory: used={used} free={free}",
        if handover.crash.is_there() { "warm restart" } else { "live update" },
        reattached.connections,
        reattached.connections + reattached.lost,
        stream_bytes,
        handover.save_ns / 1000,
        us(handover.stopped_ns + handover.save_ns, started_ns),
        us(started_ns, restored_ns),
        us(restored_ns, now),
    );
}

/// Takes over. Lets the predecessor go, undoes its ring mappings, and starts to add its memory to the heap. There is no
/// way back from here on. Afterwards upcalls are masked and all ports unmasked; earlier events are dropped.
pub(crate) fn commit(memory: &mut Memory) {
    let Some(trampoline) = TRAMPOLINE.lock().take() else { return };
    let handover = trampoline.handover();
    let shared_info = shared_info::page().expect("mapped at boot");
    shared_info.store8(offset::UPCALL_MASK, 1);
    entry::register_handlers();
    time::set_alarm(None);
    two_level::unmask_all(shared_info);
    let (mappings, lines) = lists(&handover);
    for mapping in mappings {
        // SAFETY: the mapping belongs to the predecessor, which does not run again.
        if let Err(error) = unsafe { grant::unmap(mapping.handle, mapping.entry_machine_address) } {
            ::log::error!("domain {}: the predecessor's mapping of its ring cannot be undone: {error}", mapping.domain);
        }
    }
    log::adopt(lines);
    trampoline.take_down(memory).expect("a root entry can be cleared");
    // SAFETY: the predecessor's root is not the current one.
    unsafe { memory.unpin_root(handover.predecessor_root) }.expect("the predecessor's root is pinned");
    let total = usize::try_from(handover.total_pages).unwrap_or(usize::MAX);
    // SAFETY: the predecessor listed all pages when it built this layout. Its own pages have no other user now.
    unsafe { memory.list(total) };
    gain(memory, PAGES_AT_ONCE);
}

/// Adds up to `most` of the predecessor's pages to the heap.
pub(crate) fn gain(memory: &mut Memory, most: usize) {
    let missing_kib = memory.missing_pages() * PAGE_BYTES / 1024;
    let gained = match memory.extend(most, heap::give_page) {
        Ok(gained) => gained,
        Err(error) => {
            return ::log::error!(
                "update: {missing_kib} KiB of the predecessor's memory could not be reclaimed: {error}"
            );
        }
    };
    // SAFETY: the first gained pages follow the module, which follows the heap and has been read. Later ones begin
    // where the heap ends, because nothing is gained any more after an error. All of that memory is mapped, and was the
    // predecessor's.
    unsafe { heap::extend(gained.end - heap::end()) };
}

/// Returns the predecessor's ring mappings, and the console lines that it could not print any more.
fn lists(handover: &Handover) -> (&[RingMapping], &[u8]) {
    let count = handover.mapping_count as usize;
    let bytes = count * size_of::<RingMapping>() + handover.line_bytes as usize;
    let start = ptr::with_exposed_provenance(handover.mappings as usize);
    // SAFETY: the predecessor put this many bytes there, in memory that nothing else uses.
    let bytes = unsafe { core::slice::from_raw_parts(start, bytes) };
    <[RingMapping]>::ref_from_prefix_with_elems(bytes, count).expect("the list begins with a page")
}
