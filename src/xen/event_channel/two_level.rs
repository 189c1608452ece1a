//! The two-level interface: 64 words of 64 pending bits, and a selector with one bit for each word
//! (`xen/include/public/event_channel.h`, `xen/include/public/xen.h`).
//!
//! Taking events costs only as much as there are events: the selector names the words, and a word names the ports. 4096
//! ports are the limit. `docs/boot.md` says why the kernel uses this interface and not the FIFO one.

use crate::xen::shared_page::SharedPage;

/// Bits of a word, and number of words.
const WORD_BITS: u32 = u64::BITS;
/// Ports that exist (`EVTCHN_2L_NR_CHANNELS`). Port 0 is never used.
pub(crate) const PORTS: u32 = WORD_BITS * WORD_BITS;

/// Offsets in the shared-info page; `shared_info` checks the numbers against the structures.
pub(crate) mod offset {
    /// A byte that Xen sets when an event becomes pending.
    pub(crate) const UPCALL_PENDING: usize = 0;
    /// A byte; while it is not zero, Xen delivers no upcall.
    pub(crate) const UPCALL_MASK: usize = 1;
    /// The selector: a bit for each word of pending bits that is not zero.
    pub(crate) const PENDING_SELECTOR: usize = 8;
    /// The words of pending bits.
    pub(crate) const PENDING: usize = 2048;
    /// The words of mask bits: a masked port becomes pending but sets no bit of the selector.
    pub(crate) const MASK: usize = 2560;
}

/// Unmasks every port, and drops events that came while it was masked: the code that bound a port has to check. Binding
/// decides which events matter.
///
/// Unmasks first: an event in between is either dropped or reported.
pub(crate) fn unmask_all(shared_info: &SharedPage) {
    for word in 0..WORD_BITS {
        shared_info.store64(word_offset(offset::MASK, word), 0);
        shared_info.swap64(word_offset(offset::PENDING, word), 0);
    }
}

/// Masks every port but one, and drops all events. No upcall is pending then.
pub(crate) fn mask_all_but(shared_info: &SharedPage, port: u32) {
    for word in 0..WORD_BITS {
        let left = if port / WORD_BITS == word { 1 << (port % WORD_BITS) } else { 0 };
        shared_info.store64(word_offset(offset::MASK, word), !left);
        shared_info.swap64(word_offset(offset::PENDING, word), 0);
    }
    shared_info.store8(offset::UPCALL_PENDING, 0);
    shared_info.swap64(offset::PENDING_SELECTOR, 0);
}

/// Calls `fired` once for each port that fired since the last call, and marks it as seen: at most [`PORTS`] calls.
///
/// An event during the call is either reported by it or leaves the upcall-pending flag set, so that blocking afterwards
/// returns at once. The order ensures this: the flag is cleared before the selector, the selector before the words, and
/// Xen sets them the other way round.
pub(crate) fn take_fired(shared_info: &SharedPage, mut fired: impl FnMut(u32)) {
    shared_info.store8(offset::UPCALL_PENDING, 0);
    let mut selector = shared_info.swap64(offset::PENDING_SELECTOR, 0); // a full fence, after the store
    while selector != 0 {
        let word = selector.trailing_zeros();
        selector &= selector - 1;
        let mut pending = shared_info.swap64(word_offset(offset::PENDING, word), 0);
        while pending != 0 {
            let bit = pending.trailing_zeros();
            pending &= pending - 1;
            fired(word * WORD_BITS + bit);
        }
    }
}

/// Returns the offset of word `word`, which is below 64.
fn word_offset(base: usize, word: u32) -> usize {
    base + word as usize * size_of::<u64>()
}
