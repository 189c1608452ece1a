//! A ring page: a file that is mapped into memory and shared with the process that plays the domain.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

/// Size of a page in bytes.
const PAGE_BYTES: usize = 4096;

/// A mapped ring page.
pub(crate) struct MappedPage(NonNull<u8>);

impl MappedPage {
    /// Maps the first page of a file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < PAGE_BYTES as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than a page"));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let address = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, access, MapFlags::SHARED, &file, 0) }?;
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at address 0"))
    }

    fn word(&self, field: Field) -> &AtomicU32 {
        // SAFETY: the offset is inside the page and a multiple of four; an atomic may be changed by others at any time.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(field.offset()).cast()) }
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

impl RingPage for MappedPage {
    fn load(&self, field: Field) -> u32 {
        self.word(field).load(Ordering::Acquire)
    }

    fn store(&self, field: Field, value: u32) {
        self.word(field).store(value, Ordering::Release);
    }

    fn copy_requests(&self, at: usize, to: &mut [u8]) {
        assert!(at <= RING_BYTES && to.len() <= RING_BYTES - at);
        // SAFETY: the range is inside the page, as just checked, and `to` is not in it. The other process may write
        // meanwhile. Bytes have no invalid value, and the copy is checked before anything relies on it.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr().add(at), to.as_mut_ptr(), to.len()) }
    }

    fn copy_replies(&self, at: usize, from: &[u8]) {
        assert!(at <= RING_BYTES && from.len() <= RING_BYTES - at);
        // SAFETY: the range is inside the page, as just checked, and `from` is not in it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.0.as_ptr().add(RING_BYTES + at), from.len()) }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}
