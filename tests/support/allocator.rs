//! The system's allocator with an account for each thread, as tests run in parallel: a heap of a stated size, and each time
//! that it was too small. A test crate uses it as its `#[global_allocator]`.
//!
//! An allocation that fails ends a kernel of stable Rust: the collections of `alloc` have no way back. The server therefore
//! has to check for memory before. An allocation beyond the heap's size succeeds here all the same, and is counted: one is
//! enough to fail a test. Code that handles a failed allocation is tested by [`failing`]: there the allocation does fail, and
//! ends the test where no code handles it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::host::Heap;

/// This thread's account. All sizes are in bytes.
struct Account {
    /// Whether allocations count now.
    is_counting: Cell<bool>,
    used: Cell<usize>,
    size: Cell<usize>,
    /// The most in use since the last look.
    peak: Cell<usize>,
    /// Allocations since the last look.
    allocations: Cell<usize>,
    /// Their sizes.
    allocated: Cell<usize>,
    /// Allocations that there was no room for.
    overdrafts: Cell<usize>,
    /// Whether an allocation that there is no room for fails.
    is_failing: Cell<bool>,
}

thread_local! {
    static ACCOUNT: Account = const {
        Account {
            is_counting: Cell::new(true),
            used: Cell::new(0),
            size: Cell::new(usize::MAX),
            peak: Cell::new(0),
            allocations: Cell::new(0),
            allocated: Cell::new(0),
            overdrafts: Cell::new(0),
            is_failing: Cell::new(false),
        }
    };
}

impl Account {
    /// Notes an allocation, and returns whether it succeeds.
    fn allocate(&self, bytes: usize) -> bool {
        if !self.is_counting.get() {
            return true;
        }
        let used = self.used.get().wrapping_add(bytes);
        let is_overdraft = used > self.size.get();
        self.overdrafts.set(self.overdrafts.get() + usize::from(is_overdraft));
        if is_overdraft && self.is_failing.get() {
            return false;
        }
        self.used.set(used);
        self.peak.set(self.peak.get().max(used));
        self.allocations.set(self.allocations.get() + 1);
        self.allocated.set(self.allocated.get().wrapping_add(bytes));
        true
    }

    fn free(&self, bytes: usize) {
        if self.is_counting.get() {
            self.used.set(self.used.get().wrapping_sub(bytes));
        }
    }
}

/// The allocator.
pub struct Accounting {
    rounds: bool,
}

impl Accounting {
    /// Counts the bytes that are requested.
    pub const fn exact() -> Self {
        Self { rounds: false }
    }

    /// Counts bytes as the kernel's allocator rounds them: a word after each block, and multiples of 32 bytes.
    pub const fn as_the_kernel() -> Self {
        Self { rounds: true }
    }

    const fn counted(&self, bytes: usize) -> usize {
        if self.rounds { (bytes + size_of::<usize>()).next_multiple_of(32) } else { bytes }
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Accounting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !ACCOUNT.with(|account| account.allocate(self.counted(layout.size()))) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ACCOUNT.with(|account| account.free(self.counted(layout.size())));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    /// A block that grows counts twice for a moment, as if it had moved.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !ACCOUNT.with(|account| account.allocate(self.counted(new_size))) {
            return std::ptr::null_mut();
        }
        ACCOUNT.with(|account| account.free(self.counted(layout.size())));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// The memory that some work took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// More bytes in use than before; negative if fewer.
    pub held: isize,
    /// The most bytes that were in use meanwhile in addition to those before.
    pub peak: usize,
    /// Allocations, those included by which a block grows.
    pub allocations: usize,
    /// The bytes of these allocations; of a block that grows, all.
    pub allocated: usize,
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
            allocated: self.allocated + later.allocated,
            overdrafts: self.overdrafts + later.overdrafts,
        }
    }
}

/// Does work whose allocations count.
pub fn on_heap<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let (before, was_counting) = ACCOUNT.with(|account| {
        account.peak.set(account.used.get());
        account.overdrafts.set(0);
        account.allocations.set(0);
        account.allocated.set(0);
        (account.used.get(), account.is_counting.replace(true))
    });
    let result = work();
    let taken = ACCOUNT.with(|account| {
        account.is_counting.set(was_counting);
        Taken {
            held: account.used.get().cast_signed().wrapping_sub(before.cast_signed()),
            peak: account.peak.get().saturating_sub(before),
            allocations: account.allocations.get(),
            allocated: account.allocated.get(),
            overdrafts: account.overdrafts.get(),
        }
    });
    (result, taken)
}

/// Begins with an empty heap without bounds, where only the work of [`on_heap`] counts.
pub fn reset() {
    ACCOUNT.with(|account| {
        account.is_counting.set(false);
        account.used.set(0);
        account.size.set(usize::MAX);
    });
}

/// Bytes in use.
pub fn used_bytes() -> usize {
    ACCOUNT.with(|account| account.used.get())
}

/// Bytes that are free, for the server to ask.
pub fn free_bytes() -> usize {
    ACCOUNT.with(|account| account.size.get().saturating_sub(account.used.get()))
}

/// Makes the heap so large that so many bytes are free.
pub fn set_free(bytes: usize) {
    ACCOUNT.with(|account| account.size.set(account.used.get().saturating_add(bytes)));
}

/// The heap of this allocator.
pub struct Limited;

impl Heap for Limited {
    fn reset() {
        reset();
    }

    fn free_bytes() -> usize {
        free_bytes()
    }

    fn on_heap<T>(work: impl FnOnce() -> T) -> (T, Taken) {
        on_heap(work)
    }
}

/// Does something while an allocation that there is no room for fails.
pub fn failing<T>(work: impl FnOnce() -> T) -> T {
    ACCOUNT.with(|account| account.is_failing.set(true));
    let result = work();
    ACCOUNT.with(|account| account.is_failing.set(false));
    result
}
