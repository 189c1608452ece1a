//! A domain's ring page, as the domain sees it: a file that the server maps too.
//!
//! Source of the layout: `xen/include/public/io/xs_wire.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const PAGE_BYTES: usize = 4096;
/// Bytes of each of the two rings.
pub const RING_BYTES: usize = 1024;
const REPLIES: usize = 1024;
const REQUEST_CONSUMER: usize = 2048;
const REQUEST_PRODUCER: usize = 2052;
const REPLY_CONSUMER: usize = 2056;
const REPLY_PRODUCER: usize = 2060;
const ERROR: usize = 2072;

/// A mapped ring page.
pub struct Page(NonNull<u8>);

impl Page {
    /// Creates the file again, all zero, and maps it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(PAGE_BYTES as u64)?;
        Self::map(&file)
    }

    /// Maps a page that a server uses already.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::map(&OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn map(file: &File) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing else uses.
        let address = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, access, MapFlags::SHARED, file, 0) }?;
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at address 0"))
    }

    /// Appends as many of `bytes` to the requests as there is room for, and returns how many.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let (consumer, producer) = (self.load(REQUEST_CONSUMER), self.load(REQUEST_PRODUCER));
        let room = RING_BYTES - producer.wrapping_sub(consumer) as usize;
        let at = producer as usize % RING_BYTES;
        let count = bytes.len().min(room).min(RING_BYTES - at);
        // SAFETY: `at + count` is at most `RING_BYTES`, inside the page. The server does not access these bytes before
        // the producer index includes them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_ptr().add(at), count) }
        self.store(REQUEST_PRODUCER, producer.wrapping_add(count as u32));
        count
    }

    /// Takes the bytes in the reply ring. Returns whether the server may have waited for room.
    pub fn receive(&self, to: &mut Vec<u8>) -> bool {
        let (consumer, producer) = (self.load(REPLY_CONSUMER), self.load(REPLY_PRODUCER));
        let have = producer.wrapping_sub(consumer) as usize;
        assert!(have <= RING_BYTES, "the server wrote {have} bytes into a ring of {RING_BYTES}");
        let at = consumer as usize % RING_BYTES;
        let count = have.min(RING_BYTES - at);
        let start = to.len();
        to.resize(start + count, 0);
        // SAFETY: `at + count` is at most `RING_BYTES`, inside the page, and `to` was just made long enough. The server
        // does not write there before the consumer index allows it.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr().add(REPLIES + at), to[start..].as_mut_ptr(), count) }
        self.store(REPLY_CONSUMER, consumer.wrapping_add(count as u32));
        fence(Ordering::SeqCst);
        count > 0 && self.load(REPLY_PRODUCER).wrapping_sub(consumer) as usize >= RING_BYTES
    }

    /// Returns the reason for which the server shut the connection, or 0.
    pub fn error(&self) -> u32 {
        self.load(ERROR)
    }

    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: all offsets are constants of this file, inside the page and multiples of four. Others may change an
        // atomic at any time.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no reference into it remains.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}
