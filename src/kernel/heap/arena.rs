//! The allocator: a range of memory, cut into blocks by `talc`.
//!
//! Free memory is a sum, and says nothing of its pieces. The server asks for what it needs before it works, and then no
//! allocation may fail, not even that of a long list when all that is free are gaps between small blocks. So a part of the
//! memory is set apart, does not count as free, and serves only what finds no place in the rest.
//!
//! It stands alone, so that tests run the very same on a host (`tests/heap/`). `docs/boot.md` says why this crate.

use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ops::Range;
use core::ptr::{self, NonNull};

use talc::DefaultBinning;
use talc::base::Talc;
use talc::source::Manual;

/// Bytes that are set apart, of a heap that is large enough: twice what the longest list takes that a guest can make the
/// server build in one request, the changes of its largest transaction.
pub(crate) const SPARE_BYTES: usize = 256 * 1024;
/// Parts are whole pages.
const PAGE_BYTES: usize = 4096;
/// The part of a smaller heap that is set apart: one in so many bytes.
const SPARE_SHARE: usize = 16;

type Blocks = Talc<Manual, DefaultBinning>;

/// Memory from which blocks are allocated.
pub(crate) struct Arena {
    blocks: Blocks,
    /// For what finds no place among the other blocks.
    spare: Blocks,
    /// Where the spare blocks are: in the memory of the beginning, and in what came later.
    spare_ranges: [Range<usize>; 2],
    /// The address where the memory ends; `None` before there is any.
    end: Option<NonZeroUsize>,
    /// The most bytes that were in use at once.
    peak: usize,
}

/// Bytes of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// In use, with what the allocator needs around the blocks.
    pub(crate) used: usize,
    /// Free, in however many pieces, without what is set apart.
    pub(crate) free: usize,
    /// The most that were in use at once.
    pub(crate) peak: usize,
}

impl Arena {
    /// An arena without memory.
    pub(crate) const fn new() -> Self {
        Self { blocks: Talc::new(Manual), spare: Talc::new(Manual), spare_ranges: [0..0, 0..0], end: None, peak: 0 }
    }

    /// Gives it its memory. Call it once. A range that is too small even for the allocator's own lists is left alone.
    ///
    /// # Safety
    /// The range must be mapped for reading and writing and belong to nobody else, for good.
    pub(crate) unsafe fn init(&mut self, range: Range<usize>) {
        // SAFETY: the caller's promise.
        let rest = unsafe { self.set_apart(0, range) };
        // SAFETY: the caller's promise.
        let end = unsafe { self.blocks.claim(ptr::with_exposed_provenance_mut(rest.start), rest.len()) };
        self.end = end.map(NonNull::expose_provenance);
    }

    /// Makes it larger, by what follows it in memory.
    ///
    /// # Safety
    /// The `bytes` behind [`Arena::end`] must be mapped for reading and writing and belong to nobody else, for good.
    pub(crate) unsafe fn extend(&mut self, bytes: usize) {
        let Some(end) = self.end else { return };
        let added = end.get()..end.get().saturating_add(bytes);
        // SAFETY: the caller's promise.
        let rest = unsafe { self.set_apart(1, added.clone()) };
        let to = ptr::with_exposed_provenance_mut::<u8>(rest.end);
        let new_end = if rest == added {
            // SAFETY: the end is the crate's own last word on it; what follows is the caller's promise.
            Some(unsafe { self.blocks.extend(NonNull::with_exposed_provenance(end), to) })
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.blocks.claim(ptr::with_exposed_provenance_mut(rest.start), rest.len()) }
        };
        self.end = new_end.map(NonNull::expose_provenance).or(self.end);
    }

    /// Sets a part of new memory apart if there is not enough yet, and returns the rest.
    ///
    /// # Safety
    /// As for [`Arena::init`].
    unsafe fn set_apart(&mut self, number: usize, range: Range<usize>) -> Range<usize> {
        let missing = SPARE_BYTES.saturating_sub(self.spare.counters().claimed_bytes);
        if !self.spare_ranges[number].is_empty() {
            // One range of what comes later is remembered: the first part that comes is large enough, or all that there is.
            return range;
        }
        let bytes = missing.min(range.len() / SPARE_SHARE) / PAGE_BYTES * PAGE_BYTES;
        if bytes == 0 {
            return range;
        }
        let middle = range.start + bytes;
        // SAFETY: the caller's promise; nobody else gets this part.
        if unsafe { self.spare.claim(ptr::with_exposed_provenance_mut(range.start), bytes) }.is_some() {
            self.spare_ranges[number] = range.start..middle;
        }
        middle..range.end
    }

    /// Whose block it is.
    fn blocks_of(&mut self, block: *mut u8) -> &mut Blocks {
        let is_spare = self.spare_ranges.iter().any(|range| range.contains(&block.addr()));
        if is_spare { &mut self.spare } else { &mut self.blocks }
    }

    /// Where it ends; 0 when it has no memory.
    pub(crate) fn end(&self) -> usize {
        self.end.map_or(0, NonZeroUsize::get)
    }

    /// A block, or null.
    ///
    /// # Safety
    /// The size must not be zero.
    pub(crate) unsafe fn allocate(&mut self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { self.blocks.allocate(layout).or_else(|| self.spare.allocate(layout)) };
        self.note_peak();
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Gives a block back.
    ///
    /// # Safety
    /// It must be one of [`Arena::allocate`] for this layout.
    pub(crate) unsafe fn deallocate(&mut self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.blocks_of(block).deallocate(block, layout) };
    }

    /// Makes a block larger or smaller: where it is if that can be done, as it always can for a smaller one; otherwise its
    /// bytes are copied to another. Null leaves it as it was.
    ///
    /// # Safety
    /// As for [`Arena::deallocate`], and the new size must be possible for a layout and not zero.
    pub(crate) unsafe fn reallocate(&mut self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        if unsafe { self.blocks_of(block).try_realloc_in_place(block, layout, new_size) } {
            self.note_peak();
            return block;
        }
        // SAFETY: the caller's promise; it is larger than the old size, so not zero.
        let larger = unsafe { self.allocate(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !larger.is_null() {
            // SAFETY: two blocks that have at least so many bytes; the old one is the caller's to give back.
            unsafe {
                larger.copy_from_nonoverlapping(block, layout.size());
                self.deallocate(block, layout);
            }
        }
        larger
    }

    /// What is used and free.
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
