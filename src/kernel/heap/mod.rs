//! The heap: all of the domain's memory that nothing else needs.

mod arena;

use alloc::alloc::alloc;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::NonNull;

use spin::{Mutex, MutexGuard};

use crate::xen::shared_page::PAGE_BYTES;
use arena::Arena;
pub(crate) use arena::Usage;

/// The allocator behind `alloc`.
struct KernelHeap(Mutex<Arena>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Arena::new()));

impl KernelHeap {
    /// There is one processor and nothing interrupts it, so the lock is free; were it held, waiting would be for ever.
    fn lock(&self) -> MutexGuard<'_, Arena> {
        self.0.try_lock().expect("the allocator does not call itself")
    }
}

// SAFETY: blocks come from the arena, which hands out disjoint blocks of the range that it was given.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.lock().allocate(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.lock().deallocate(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.lock().reallocate(block, layout, new_size) }
    }
}

/// Gives one page away for good, by its address.
pub(crate) fn give_page() -> Option<usize> {
    let layout = Layout::from_size_align(PAGE_BYTES, PAGE_BYTES).ok()?;
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc(layout) }).map(|page| page.as_ptr().expose_provenance())
}

/// Gives the heap its memory. Call it once.
///
/// # Safety
/// The range must be mapped for reading and writing and belong to nobody else, for good.
pub(crate) unsafe fn init(range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(range) };
}

/// Makes the heap larger, by what follows it in memory.
///
/// # Safety
/// The `bytes` behind the heap's end must be mapped for reading and writing and belong to nobody else, for good.
pub(crate) unsafe fn extend(bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().extend(bytes) };
}

/// Where the heap ends.
pub(crate) fn end() -> usize {
    HEAP.lock().end()
}

/// Whether somebody is in the middle of it, who never goes on.
pub(crate) fn is_busy() -> bool {
    HEAP.0.is_locked()
}

/// What is used and free.
pub(crate) fn usage() -> Usage {
    HEAP.lock().usage()
}
