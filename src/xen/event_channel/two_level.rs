//! The two-level interface: 64 words of 64 pending bits, and a selector with one bit for each word
//! (`xen/include/public/event_channel.h`, `xen/include/public/xen.h`).
//!
//! A look costs what fired: the selector names the words, a word names the ports. 4096 ports are the limit.
//! Why this interface and not the FIFO one: `docs/boot.md`.

use crate::xen::shared_page::SharedPage;

/// Bits of a word, and words.
const WORD_BITS: u32 = u64::BITS;
/// Ports that exist (`EVTCHN_2L_NR_CHANNELS`). Port 0 is never used.
pub(crate) const PORTS: u32 = WORD_BITS * WORD_BITS;

/// Where things are in the shared-info page; `shared_info` checks the numbers against the structures.
pub(crate) mod offset {
    /// Set by Xen when an event became pending; a byte.
    pub(crate) const UPCALL_PENDING: usize = 0;
    /// While it is not zero, Xen delivers no upcall; a byte.
    pub(crate) const UPCALL_MASK: usize = 1;
    /// A bit for each word of pending bits that is not zero.
    pub(crate) const PENDING_SELECTOR: usize = 8;
    /// The words of pending bits.
    pub(crate) const PENDING: usize = 2048;
    /// The words of mask bits: a masked port becomes pending but sets no bit of the selector.
    pub(crate) const MASK: usize = 2560;
}

/// Unmasks every port, and forgets what fired while it was masked: whoever bound a port has to look. Which events matter is
/// decided by binding.
///
/// Unmasked first: what fires in between is either forgotten or reported.
pub(crate) fn unmask_all(shared_info: &SharedPage) {
    for word in 0..WORD_BITS {
        shared_info.store64(word_offset(offset::MASK, word), 0);
        shared_info.swap64(word_offset(offset::PENDING, word), 0);
    }
}

/// Masks every port but one, and forgets all that fired. No upcall is pending then.
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
/// Whatever fires during the call is either reported by it or leaves the upcall-pending flag set, so that blocking
/// afterwards returns at once. That follows from the order: the flag is cleared before the selector, the selector
/// before the words, and Xen sets them the other way round.
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

/// The offset of word `word`, which is below 64.
fn word_offset(base: usize, word: u32) -> usize {
    base + word as usize * size_of::<u64>()
}
