//! A live update with too little memory: this kernel drops its state, which is in the stream, to make room for the
//! successor. If the update fails, it restores the state from the stream.
//!
//! This happens only on request (`-F`). The way back is a little weaker: if a successor damages the stream and then
//! fails, there is no state to resume with.

use core::ptr;

use xenstore::server::Server;
use xenstore::server::reattach::Reattached;
use xenstore::server::stream::load;
use xenstore::server::update::Successor;

use super::{Home, Try, try_successor};
use crate::kernel::heap;
use crate::kernel::platform::XenPlatform;
use crate::xen::time;

/// Starts the successor without keeping the state. Returns, with the server as it was, if no successor took over.
pub(super) fn start(
    server: &mut Server,
    platform: &mut XenPlatform,
    home: &Home<'_>,
    successor: &Successor,
    parts: Try<'_>,
) {
    let Try { stream, .. } = parts;
    log::warn!("live update: drops the present state, because there is no memory to keep it");
    let sum = stream.sum();
    platform.release_rings();
    server.drop_state();
    let why = try_successor(platform.memory(), home, &Try { mappings: &[], ..parts });
    let pages = stream.pages();
    assert!(!pages.are_lost() && stream.sum() == sum, "{why}; and the saved state has changed");
    let used = stream.len().div_ceil(crate::xen::shared_page::PAGE_BYTES);
    let pages = pages.addresses().get(..used).unwrap_or_default();
    // SAFETY: all rings were unmapped, and none is mapped before this row is unmapped.
    let start = unsafe { platform.memory().map_in_a_row(pages, heap::give_page) }
        .unwrap_or_else(|error| panic!("{why}; and the saved state can't be mapped: {error}"));
    // SAFETY: the pages were just mapped there, hold this many bytes, and are not written.
    let bytes = unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(start), stream.len()) };
    let engine = load(bytes, &home.config, time::now_ms())
        .unwrap_or_else(|error| panic!("{why}; and the saved state can't be restored: {error}"));
    // SAFETY: the engine holds copies; `bytes` ends here.
    if let Err(error) = unsafe { platform.memory().unmap_row(used) } {
        log::error!("the saved state can't be unmapped: {error}");
        stream.pages().lose();
    }
    let reattached = server.take_state_back(engine, &successor.asked, &why, platform, time::now_ms());
    let Reattached { connections, lost, .. } = reattached;
    log::info!("the saved state is restored; {connections} connections of {} reattached", connections + lost);
}
