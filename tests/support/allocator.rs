//! An allocator that counts the allocations of this thread, and their bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Forwards to the system's allocator, and counts.
pub struct Counting;

fn count(bytes: usize) {
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get().wrapping_add(1)));
    let _ = BYTES.try_with(|count| count.set(count.get().wrapping_add(bytes)));
}

/// Returns how many allocations `act` makes, including those that grow a block.
pub fn allocations(act: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get().wrapping_sub(before)
}

/// How many bytes `act` allocates; of a block that grows, all.
pub fn allocated_bytes(act: impl FnOnce()) -> usize {
    let before = BYTES.get();
    act();
    BYTES.get().wrapping_sub(before)
}

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
