//! The allocator: a range of memory, cut into blocks by `talc`.
//!
//! The amount of free memory says nothing about the size of its pieces. The server checks for the memory that it needs
//! before it works. After that no allocation may fail, not even that of a long list when only gaps between small blocks
//! are free. A spare part of the memory therefore does not count as free, and serves only blocks that fit nowhere else.
//!
//! This module uses no other part of the kernel, so tests run it unchanged on a host (`tests/heap/`). `docs/boot.md`
//! says why the allocator uses this crate.

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ops::Range;
use core::ptr::{self, NonNull};

use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

/// Bytes of the spare part of a heap that is large enough. This is twice the size of the longest list that a guest can
/// make the server build in one request: the changes of its largest transaction.
pub(crate) const SPARE_BYTES: usize = 256 * 1024;
/// Size of a page in bytes. Parts are whole pages.
const PAGE_BYTES: usize = 4096;
/// The divisor for the spare part of a smaller heap: one byte in this many.
const SPARE_SHARE: usize = 16;

type Blocks = Talc<Manual, DefaultBinning>;

/// Memory from which blocks are allocated.
pub(crate) struct Arena {
    blocks: Blocks,
    /// The spare part, for blocks that fit nowhere else.
    spare: Blocks,
    /// Ranges of the spare part: one in the first memory, and one in memory that was added later.
    spare_ranges: [Range<usize>; 2],
    /// Address at which the memory ends; `None` before there is any.
    end: Option<NonZeroUsize>,
    /// The most bytes that were in use at once.
    peak: usize,
}

/// An arena's use of memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes in use, including the allocator's own data around the blocks.
    pub(crate) used: usize,
    /// Free bytes, in any number of pieces, without the spare part.
    pub(crate) free: usize,
    /// The most bytes that were in use at once.
    pub(crate) peak: usize,
}

impl Arena {
    /// Creates an arena without memory.
    pub(crate) const fn new() -> Self {
        Self { blocks: Talc::new(Manual), spare: Talc::new(Manual), spare_ranges: [0..0, 0..0], end: None, peak: 0 }
    }

    /// Gives the arena its memory. Must be called only once. A range that is too small even for the allocator's own
    /// lists is not used.
    ///
    /// # Safety
    /// The range must be mapped for reading and writing. Nothing else may ever use it.
    pub(crate) unsafe fn init(&mut self, range: Range<usize>) {
        // SAFETY: the caller upholds the contract.
        let rest = unsafe { self.set_apart(0, range) };
        // SAFETY: the caller upholds the contract.
        let end = unsafe { self.blocks.claim(ptr::with_exposed_provenance_mut(rest.start), rest.len()) };
        self.end = end.map(NonNull::expose_provenance);
    }

    /// Enlarges the arena by the `bytes` that follow it in memory.
    ///
    /// # Safety
    /// The `bytes` after [`Arena::end`] must be mapped for reading and writing. Nothing else may ever use them.
    pub(crate) unsafe fn extend(&mut self, bytes: usize) {
        let Some(end) = self.end else { return };
        let added = end.get()..end.get().saturating_add(bytes);
        // SAFETY: the caller upholds the contract.
        let rest = unsafe { self.set_apart(1, added.clone()) };
        let to = ptr::with_exposed_provenance_mut::<u8>(rest.end);
        let new_end = if rest == added {
            // SAFETY: the end is the one that the crate returned last; the caller guarantees the memory after it.
            Some(unsafe { self.blocks.extend(NonNull::with_exposed_provenance(end), to) })
        } else {
            // SAFETY: the caller upholds the contract.
            unsafe { self.blocks.claim(ptr::with_exposed_provenance_mut(rest.start), rest.len()) }
        };
        self.end = new_end.map(NonNull::expose_provenance).or(self.end);
    }

    /// Sets a part of new memory apart if the spare part is too small yet, and returns the rest.
    ///
    /// # Safety
    /// As for [`Arena::init`].
    unsafe fn set_apart(&mut self, number: usize, range: Range<usize>) -> Range<usize> {
        let missing = SPARE_BYTES.saturating_sub(self.spare.counters().claimed_bytes);
        if !self.spare_ranges[number].is_empty() {
            // Only one range of later memory is recorded: the first one is large enough, or is all that there is.
            return range;
        }
        let bytes = missing.min(range.len() / SPARE_SHARE) / PAGE_BYTES * PAGE_BYTES;
        if bytes == 0 {
            return range;
        }
        let middle = range.start + bytes;
        // SAFETY: the caller upholds the contract; this part is used for nothing else.
        if unsafe { self.spare.claim(ptr::with_exposed_provenance_mut(range.start), bytes) }.is_some() {
            self.spare_ranges[number] = range.start..middle;
        }
        middle..range.end
    }

    /// Returns the allocator that a block came from.
    fn blocks_of(&mut self, block: *mut u8) -> &mut Blocks {
        let is_spare = self.spare_ranges.iter().any(|range| range.contains(&block.addr()));
        if is_spare { &mut self.spare } else { &mut self.blocks }
    }

    /// Returns the address at which the arena ends; 0 if it has no memory.
    pub(crate) fn end(&self) -> usize {
        self.end.map_or(0, NonZeroUsize::get)
    }

    /// Allocates a block. Returns null if there is no room.
    ///
    /// # Safety
    /// The size must not be zero.
    pub(crate) unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        let block = unsafe { self.blocks.allocate(layout).or_else(|| self.spare.allocate(layout)) };
        self.note_peak();
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Frees a block.
    ///
    /// # Safety
    /// The block must come from [`Arena::allocate`] with this layout.
    pub(crate) unsafe fn deallocate(&mut self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.blocks_of(block).deallocate(block, layout) };
    }

    /// Changes a block's size. The block stays where it is if possible, as it always is for a smaller size. Otherwise
    /// its bytes are copied to another block. Returns null, with the block unchanged, if there is no room.
    ///
    /// # Safety
    /// As for [`Arena::deallocate`], and the new size must be possible for a layout and not zero.
    pub(crate) unsafe fn reallocate(&mut self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        if unsafe { self.blocks_of(block).try_realloc_in_place(block, layout, new_size) } {
            self.note_peak();
            return block;
        }
        // SAFETY: the caller guarantees that the size is possible. It is larger than the old size, so it is not zero.
        let larger = unsafe { self.allocate(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !larger.is_null() {
            // SAFETY: both blocks have at least this many bytes. The caller gave the old one up to be freed.
            unsafe {
                larger.copy_from_nonoverlapping(block, layout.size());
                self.deallocate(block, layout);
            }
        }
        larger
    }

    /// Returns the used and the free bytes.
    pub(crate) fn usage(&self) -> Usage {
        let used = |blocks: &Blocks| {
            let counters = blocks.counters();
            counters.claimed_bytes.saturating_sub(counters.available_bytes)
        };
        let used = used(&self.blocks).saturating_add(used(&self.spare));
        Usage { used, free: self.blocks.counters().available_bytes, peak: self.peak }
    }

    fn note_peak(&mut self) {
        self.peak = self.peak.max(self.usage().used);
    }
}
