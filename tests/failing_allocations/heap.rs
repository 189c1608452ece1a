//! A heap of a stated size for the server, and a record of each allocation that would have exceeded it.
//!
//! A failed allocation ends a kernel of stable Rust, as `alloc`'s collections cannot report it. The server therefore
//! has to check before. Here an allocation beyond the heap's size succeeds all the same, and is counted: a single one
//! fails a test. [`failing`] tests code that checks for memory: there the allocation fails, and ends the test if there
//! was no check.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The state of this thread's heap, as tests run in parallel.
struct Heap {
    /// Whether allocations are the server's at the moment.
    is_counting: Cell<bool>,
    used: Cell<usize>,
    size: Cell<usize>,
    /// The most bytes in use since the last reading.
    peak: Cell<usize>,
    /// Allocations without room.
    overdrafts: Cell<usize>,
    allocations: Cell<usize>,
    /// Whether an allocation without room fails.
    is_failing: Cell<bool>,
}

thread_local! {
    static HEAP: Heap = const {
        Heap {
            is_counting: Cell::new(false),
            used: Cell::new(0),
            size: Cell::new(usize::MAX),
            peak: Cell::new(0),
            overdrafts: Cell::new(0),
            allocations: Cell::new(0),
            is_failing: Cell::new(false),
        }
    };
}

/// The system's allocator, with an account of the server's part.
struct Accounting;

#[global_allocator]
static ACCOUNTING: Accounting = Accounting;

/// Rounds as the kernel's allocator does: a word after each block, and multiples of 32 bytes.
fn rounded(layout: Layout) -> usize {
    (layout.size() + size_of::<usize>()).next_multiple_of(32)
}

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Accounting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let has_failed = HEAP.try_with(|heap| {
            if heap.is_counting.get() {
                let is_failing = heap.is_failing.get();
                if is_failing && heap.used.get().saturating_add(rounded(layout)) > heap.size.get() {
                    heap.overdrafts.set(heap.overdrafts.get() + 1);
                    return true;
                }
                heap.used.set(heap.used.get().wrapping_add(rounded(layout)));
                heap.peak.set(heap.peak.get().max(heap.used.get()));
                heap.allocations.set(heap.allocations.get() + 1);
                let is_overdraft = heap.used.get() > heap.size.get();
                heap.overdrafts.set(heap.overdrafts.get() + usize::from(is_overdraft));
            }
            false
        });
        if has_failed == Ok(true) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HEAP.try_with(|heap| {
            if heap.is_counting.get() {
                heap.used.set(heap.used.get().wrapping_sub(rounded(layout)));
            }
        });
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The memory that some work of the server took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// The change of the bytes in use; negative if fewer are in use.
    pub held: isize,
    /// The most additional bytes in use meanwhile.
    pub peak: usize,
    /// Allocations.
    pub allocations: usize,
    /// Allocations without room.
    pub overdrafts: usize,
}

impl Taken {
    /// Returns the sum of this work and later work.
    pub fn and(self, later: Self) -> Self {
        Self {
            held: self.held + later.held,
            peak: self.peak.max(usize::try_from(self.held).unwrap_or(0) + later.peak),
            allocations: self.allocations + later.allocations,
            overdrafts: self.overdrafts + later.overdrafts,
        }
    }
}

/// Does work of the server on its heap.
pub fn on_heap<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let before = HEAP.with(|heap| {
        heap.peak.set(heap.used.get());
        heap.overdrafts.set(0);
        heap.allocations.set(0);
        heap.is_counting.set(true);
        heap.used.get()
    });
    let result = work();
    let taken = HEAP.with(|heap| {
        heap.is_counting.set(false);
        Taken {
            held: heap.used.get().cast_signed().wrapping_sub(before.cast_signed()),
            peak: heap.peak.get().saturating_sub(before),
            allocations: heap.allocations.get(),
            overdrafts: heap.overdrafts.get(),
        }
    });
    (result, taken)
}

/// Returns the free bytes, for the server's checks.
pub fn free_bytes() -> usize {
    HEAP.with(|heap| heap.size.get().saturating_sub(heap.used.get()))
}

/// Sets the heap's size so that so many bytes are free.
pub fn set_free(bytes: usize) {
    HEAP.with(|heap| heap.size.set(heap.used.get().saturating_add(bytes)));
}

/// Runs `work` while an allocation without room fails.
pub fn failing<T>(work: impl FnOnce() -> T) -> T {
    HEAP.with(|heap| heap.is_failing.set(true));
    let result = work();
    HEAP.with(|heap| heap.is_failing.set(false));
    result
}

/// Begins with an empty heap without bounds.
pub fn reset() {
    HEAP.with(|heap| {
        heap.used.set(0);
        heap.size.set(usize::MAX);
    });
}
