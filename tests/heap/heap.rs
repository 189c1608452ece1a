//! The kernel's allocator as the server's heap: `src/kernel/heap/arena.rs` over a buffer of a stated size. Clients and
//! tests allocate from the system.
//!
//! The heap never exceeds the buffer: an allocation without a block is fatal, as in the kernel.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::arena::{Arena, Usage};
use crate::support::allocator::Taken;
use crate::support::host::Heap;

/// The state of this thread's heap, as tests run in parallel.
struct ThreadHeap {
    /// The largest block that the server requested since the last reading.
    asked: Cell<usize>,
    arena: RefCell<Arena>,
    range: Cell<(usize, usize)>,
    /// Whether allocations are the server's at the moment.
    is_server: Cell<bool>,
}

thread_local! {
    static HEAP: ThreadHeap = const {
        ThreadHeap { asked: Cell::new(0), arena: RefCell::new(Arena::new()), range: Cell::new((0, 0)), is_server: Cell::new(false) }
    };
}

/// The system's allocator, except for the server's part.
struct Split;

#[global_allocator]
static SPLIT: Split = Split;

/// Returns whether a block belongs to this thread's arena.
fn is_in_arena(heap: &ThreadHeap, block: *mut u8) -> bool {
    let (start, end) = heap.range.get();
    (start..end).contains(&block.addr())
}

// SAFETY: each block returns to its origin, which its address shows.
unsafe impl GlobalAlloc for Split {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let of_server = HEAP.try_with(|heap| {
            heap.is_server.get().then(|| {
                heap.asked.set(heap.asked.get().max(layout.size()));
                // SAFETY: the caller's promise.
                unsafe { heap.arena.borrow_mut().allocate(layout) }
            })
        });
        match of_server {
            Ok(Some(block)) => block,
            // SAFETY: the caller's promise.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let was_in_arena = HEAP.try_with(|heap| {
            let is_in_arena = is_in_arena(heap, block);
            if is_in_arena {
                // SAFETY: the caller's promise; the address shows the owner.
                unsafe { heap.arena.borrow_mut().deallocate(block, layout) };
            }
            is_in_arena
        });
        if was_in_arena != Ok(true) {
            // SAFETY: the caller's promise; the address shows the owner.
            unsafe { System.dealloc(block, layout) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let of_server = HEAP.try_with(|heap| {
            is_in_arena(heap, block).then(|| {
                heap.asked.set(heap.asked.get().max(new_size));
                // SAFETY: the caller's promise; the address shows the owner.
                unsafe { heap.arena.borrow_mut().reallocate(block, layout, new_size) }
            })
        });
        match of_server {
            Ok(Some(block)) => block,
            // SAFETY: the caller's promise; the address shows the owner.
            _ => unsafe { System.realloc(block, layout, new_size) },
        }
    }
}

/// The server's heap. It keeps no account of single pieces of work.
pub struct KernelHeap;

impl Heap for KernelHeap {
    /// Does nothing: the heap begins with [`set_size`].
    fn reset() {}

    fn free_bytes() -> usize {
        free_bytes()
    }

    fn on_heap<T>(work: impl FnOnce() -> T) -> (T, Taken) {
        HEAP.with(|heap| heap.is_server.set(true));
        let result = work();
        HEAP.with(|heap| heap.is_server.set(false));
        (result, Taken::default())
    }
}

/// Gives this thread's heap its memory.
pub fn set_size(bytes: usize) {
    let buffer = Vec::<u128>::with_capacity(bytes / size_of::<u128>()).leak();
    let start = buffer.as_mut_ptr().expose_provenance();
    let range: Range<usize> = start..start + bytes;
    HEAP.with(|heap| {
        assert_eq!(heap.arena.borrow().end(), 0, "one heap a thread");
        heap.range.set((range.start, range.end));
        // SAFETY: the buffer belongs to the arena alone, for good.
        unsafe { heap.arena.borrow_mut().init(range) };
    });
}

pub fn usage() -> Usage {
    HEAP.with(|heap| heap.arena.borrow().usage())
}

/// Returns the bytes of the largest block that the server requested since the last reading.
pub fn largest_asked() -> usize {
    HEAP.with(|heap| heap.asked.take())
}

/// Returns the free bytes, for the server's checks.
pub fn free_bytes() -> usize {
    usage().free
}

/// Returns the bytes of the largest block that could be allocated now.
pub fn largest_block() -> usize {
    let (mut possible, mut impossible) = (0, usage().free + 1);
    while impossible - possible > 1 {
        let bytes = possible.midpoint(impossible);
        let layout = Layout::from_size_align(bytes, 8).expect("a size below the buffer's");
        HEAP.with(|heap| {
            let mut arena = heap.arena.borrow_mut();
            // SAFETY: the size is not zero, and the block is freed at once.
            let block = unsafe { arena.allocate(layout) };
            if block.is_null() {
                impossible = bytes;
            } else {
                possible = bytes;
                // SAFETY: the block was just allocated with this layout.
                unsafe { arena.deallocate(block, layout) };
            }
        });
    }
    possible
}
