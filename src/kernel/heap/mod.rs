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

/// The allocator for the `alloc` crate.
struct KernelHeap(Mutex<Arena>);

#[global_allocator]
static HEAP: KernelHeap = KernelHeap(Mutex::new(Arena::new()));

impl KernelHeap {
    /// Locks the arena. There is one processor and no interruption, so the lock is always free; waiting for a held lock
    /// would never end.
    fn lock(&self) -> MutexGuard<'_, Arena> {
        self.0.try_lock().expect("the allocator does not call itself")
    }
}

// SAFETY: blocks come from the arena, which returns disjoint blocks of the range that it was given.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        unsafe { self.lock().allocate(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { self.lock().deallocate(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract.
        unsafe { self.lock().reallocate(block, layout, new_size) }
    }
}

/// Takes one page out of the heap for good and returns its address.
pub(crate) fn give_page() -> Option<usize> {
    let layout = Layout::from_size_align(PAGE_BYTES, PAGE_BYTES).ok()?;
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc(layout) }).map(|page| page.as_ptr().expose_provenance())
}

/// Gives the heap its memory. Must be called only once.
///
/// # Safety
/// The range must be mapped for reading and writing. Nothing else may ever use it.
pub(crate) unsafe fn init(range: Range<usize>) {
    // SAFETY: the caller upholds the contract.
    unsafe { HEAP.lock().init(range) };
}

/// Enlarges the heap by the `bytes` that follow it in memory.
///
/// # Safety
/// The `bytes` after the heap's end must be mapped for reading and writing. Nothing else may ever use them.
pub(crate) unsafe fn extend(bytes: usize) {
    // SAFETY: the caller upholds the contract.
    unsafe { HEAP.lock().extend(bytes) };
}

/// Returns the address at which the heap ends.
pub(crate) fn end() -> usize {
    HEAP.lock().end()
}

/// Returns whether a crash interrupted the allocator, whose lock is then never released.
pub(crate) fn is_busy() -> bool {
    HEAP.0.is_locked()
}

/// Returns the used and the free bytes.
pub(crate) fn usage() -> Usage {
    HEAP.lock().usage()
}
