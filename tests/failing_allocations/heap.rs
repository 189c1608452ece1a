//! A heap of a stated size for what the server does, and a note of each time that it would have been too small.
//!
//! An allocation that fails ends a kernel of stable Rust: `alloc`'s collections have no way back. So the server has to know
//! before. Here an allocation beyond the heap's size succeeds all the same, and is counted: one is enough to fail a test. What
//! asks whether there is memory is tested by [`failing`]: there it has to fail, and ends the test where nobody asked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The state of this thread's heap: tests run beside each other.
struct Heap {
    /// Whether what is allocated now is the server's.
    is_counting: Cell<bool>,
    used: Cell<usize>,
    size: Cell<usize>,
    /// The most in use since the last look.
    peak: Cell<usize>,
    /// Allocations that there was no room for.
    overdrafts: Cell<usize>,
    allocations: Cell<usize>,
    /// Whether an allocation that there is no room for fails.
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

/// As the kernel's allocator rounds: a word behind each block, and multiples of 32 bytes.
fn rounded(layout: Layout) -> usize {
    (layout.size() + size_of::<usize>()).next_multiple_of(32)
}

// SAFETY: every call is passed on to the system's allocator as it is.
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

/// What some work of the server took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// More bytes in use than before; negative if fewer.
    pub held: isize,
    /// The most bytes that were in use meanwhile beside those before.
    pub peak: usize,
    /// Allocations.
    pub allocations: usize,
    /// Allocations that there was no room for.
    pub overdrafts: usize,
}

impl Taken {
    /// The same with what came after.
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

/// Bytes that are free, for the server to ask.
pub fn free_bytes() -> usize {
    HEAP.with(|heap| heap.size.get().saturating_sub(heap.used.get()))
}

/// Makes the heap so large that so many bytes are free.
pub fn set_free(bytes: usize) {
    HEAP.with(|heap| heap.size.set(heap.used.get().saturating_add(bytes)));
}

/// Does something while an allocation that there is no room for fails.
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
