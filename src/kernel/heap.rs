//! The heap: all of the domain's memory that nothing else needs.

use alloc::alloc::alloc;
use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use spin::{Mutex, MutexGuard};

use crate::xen::shared_page::PAGE_BYTES;

/// The allocator behind `alloc`.
struct KernelHeap {
    inner: Mutex<Heap>,
    /// The most bytes that were in use at once.
    peak: AtomicUsize,
}

#[global_allocator]
static HEAP: KernelHeap = KernelHeap { inner: Mutex::new(Heap::empty()), peak: AtomicUsize::new(0) };

impl KernelHeap {
    /// There is one processor and nothing interrupts it, so the lock is free; were it held, waiting would be for ever.
    fn lock(&self) -> MutexGuard<'_, Heap> {
        self.inner.try_lock().expect("the allocator does not call itself")
    }
}

// SAFETY: blocks come from `linked_list_allocator`, whose heap hands out disjoint blocks of the range that it was given.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut heap = self.lock();
        let Ok(block) = heap.allocate_first_fit(layout) else { return ptr::null_mut() };
        self.peak.fetch_max(heap.used(), Ordering::Relaxed);
        block.as_ptr()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller promises that the block came from `alloc` with this layout.
            unsafe { self.lock().deallocate(block, layout) };
        }
    }
}

/// Gives one page away for good, by its address.
pub(crate) fn give_page() -> Option<usize> {
    let layout = Layout::from_size_align(PAGE_BYTES, PAGE_BYTES).ok()?;
    // SAFETY: the size is not zero.
    NonNull::new(unsafe { alloc(layout) }).map(|page| page.as_ptr().expose_provenance())
}

/// Bytes of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// In use.
    pub(crate) used: usize,
    /// Free, in however many pieces.
    pub(crate) free: usize,
    /// The most that were in use at once.
    pub(crate) peak: usize,
}

/// Gives the heap its memory. Call it once.
///
/// # Safety
/// The range must be mapped for reading and writing and belong to nobody else, for good.
pub(crate) unsafe fn init(range: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(ptr::with_exposed_provenance_mut(range.start), range.len()) };
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
    HEAP.lock().top().expose_provenance()
}

/// Whether somebody is in the middle of it, who never goes on.
pub(crate) fn is_busy() -> bool {
    HEAP.inner.is_locked()
}

/// What is used and free.
pub(crate) fn usage() -> Usage {
    let heap = HEAP.lock();
    Usage { used: heap.used(), free: heap.free(), peak: HEAP.peak.load(Ordering::Relaxed) }
}
