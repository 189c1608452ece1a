//! A page that Xen or another domain may change at any moment.
//!
//! Access is by atomic loads and stores of words and by copies, never by a reference to the contents. No value is ever
//! assumed to stay. Every access is checked against the page's bounds, so the methods are safe.

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Size of a page in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A mapped page, shared with Xen or with another domain.
#[derive(Debug)]
pub(crate) struct SharedPage {
    base: NonNull<u8>,
}

// SAFETY: the page is memory that others write anyway. All access is by atomic operations or byte copies that no
// reference depends on.
unsafe impl Send for SharedPage {}

impl SharedPage {
    /// Takes a page into use.
    ///
    /// # Safety
    /// `base` must be the start of a page that stays mapped for reading and writing as long as this value lives. No
    /// Rust reference into the page may exist.
    pub(crate) unsafe fn new(base: NonNull<u8>) -> Self {
        assert!(base.addr().get().is_multiple_of(PAGE_BYTES), "a shared page begins at a page boundary");
        Self { base }
    }

    /// Returns a pointer to `bytes` bytes at offset `at`, aligned to `bytes`.
    fn at(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(at.is_multiple_of(bytes) && at <= PAGE_BYTES - bytes, "offset {at} is not in the page");
        // SAFETY: the offset was just checked to be inside the page.
        unsafe { self.base.as_ptr().add(at) }
    }

    fn word8(&self, at: usize) -> &AtomicU8 {
        // SAFETY: the address is inside the page; an atomic may be changed by others at any time.
        unsafe { AtomicU8::from_ptr(self.at(at, 1)) }
    }

    fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the address is inside the page and aligned; an atomic may be changed by others at any time.
        unsafe { AtomicU32::from_ptr(self.at(at, 4).cast()) }
    }

    fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: the address is inside the page and aligned; an atomic may be changed by others at any time.
        unsafe { AtomicU64::from_ptr(self.at(at, 8).cast()) }
    }

    /// Loads a byte (acquire).
    pub(crate) fn load8(&self, at: usize) -> u8 {
        self.word8(at).load(Ordering::Acquire)
    }

    /// Stores a byte (release).
    pub(crate) fn store8(&self, at: usize, value: u8) {
        self.word8(at).store(value, Ordering::Release);
    }

    /// Returns the address of a byte, for the assembly around the blocking hypercall.
    pub(crate) fn address8(&self, at: usize) -> *mut u8 {
        self.at(at, 1)
    }

    /// Loads 32 bits (acquire).
    pub(crate) fn load32(&self, at: usize) -> u32 {
        self.word32(at).load(Ordering::Acquire)
    }

    /// Stores 32 bits (release).
    pub(crate) fn store32(&self, at: usize, value: u32) {
        self.word32(at).store(value, Ordering::Release);
    }

    /// Loads 64 bits (acquire).
    pub(crate) fn load64(&self, at: usize) -> u64 {
        self.word64(at).load(Ordering::Acquire)
    }

    /// Stores 64 bits (release).
    pub(crate) fn store64(&self, at: usize, value: u64) {
        self.word64(at).store(value, Ordering::Release);
    }

    /// Replaces 64 bits with `value`, and returns the old value (a full fence).
    pub(crate) fn swap64(&self, at: usize, value: u64) -> u64 {
        self.word64(at).swap(value, Ordering::SeqCst)
    }

    /// Copies bytes out, from offset `at`. If they are changed meanwhile, the result is any mixture of old and new
    /// bytes.
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        assert!(at <= PAGE_BYTES && to.len() <= PAGE_BYTES - at, "the copy is not in the page");
        // SAFETY: the bytes are inside the page, as just checked. `to` is an exclusive reference and so is not in the
        // page.
        unsafe { copy(self.base.as_ptr().add(at), to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in, to offset `at`.
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at <= PAGE_BYTES && from.len() <= PAGE_BYTES - at, "the copy is not in the page");
        // SAFETY: the bytes are inside the page, as just checked. `from` is a reference and so is not in the page.
        unsafe { copy(from.as_ptr(), self.base.as_ptr().add(at), from.len()) }
    }
}

/// Copies bytes by an instruction that is opaque to the compiler. The compiler must assume nothing about memory that is
/// written from outside at the same time; a copy of its own would be a data race.
///
/// # Safety
/// Both blocks must be mapped, and must not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller upholds the contract; the direction flag is clear, as the ABI says.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}
