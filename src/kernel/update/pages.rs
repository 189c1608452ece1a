//! Pages that are taken out of the heap for another address space. They return to the heap when their owner is dropped.

use alloc::alloc::{alloc, dealloc};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::Cell;
use core::ptr;

use xenstore::stream::writer::{Sink, SinkFull};

use crate::kernel::heap;
use crate::xen::shared_page::PAGE_BYTES;

/// Pages that are taken at once. The allocator's word after each block costs up to a page for each block. Where there
/// is no large block, single pages serve as well.
const BLOCK_PAGES: usize = 32;
/// Bytes that the heap keeps when pages are taken from it: for everything else that needs memory meanwhile, such as log
/// lines and lists of pages.
pub(crate) const RESERVE_BYTES: usize = 256 * 1024;

/// The error of a heap that has no more pages to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPages {
    /// Bytes that were requested.
    pub(crate) wanted: usize,
}

/// Pages of the linear mapping, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// Address of each block and its number of pages.
    blocks: Vec<(usize, usize)>,
    addresses: Vec<usize>,
    /// Whether the pages are unusable for good.
    are_lost: Cell<bool>,
}

impl Pages {
    /// Takes `count` more pages.
    ///
    /// # Errors
    /// [`NoPages`]; pages that were already taken stay.
    pub(crate) fn grow(&mut self, count: usize) -> Result<(), NoPages> {
        let no_pages = NoPages { wanted: count * PAGE_BYTES };
        if heap::usage().free < no_pages.wanted + RESERVE_BYTES {
            return Err(no_pages);
        }
        self.addresses.try_reserve(count).map_err(|_| no_pages)?;
        self.blocks.try_reserve(count).map_err(|_| no_pages)?;
        let mut missing = count;
        let mut block_pages = BLOCK_PAGES;
        while missing > 0 {
            block_pages = block_pages.min(missing);
            match take(block_pages) {
                Some(block) => {
                    self.blocks.push((block, block_pages));
                    self.addresses.extend((0..block_pages).map(|page| block + page * PAGE_BYTES));
                    missing -= block_pages;
                }
                None if block_pages > 1 => block_pages /= 2,
                None => return Err(no_pages),
            }
        }
        Ok(())
    }

    /// Gives whole blocks back until `count` pages, or a few more, are left.
    fn shrink(&mut self, count: usize) {
        while let Some((block, pages)) = self.blocks.pop_if(|(_, pages)| self.addresses.len() >= count + *pages) {
            self.addresses.truncate(self.addresses.len() - pages);
            give_back(block, pages);
        }
    }

    /// Returns the number of pages.
    pub(crate) fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Marks the pages as lost because Xen does not release them. They never return to the heap.
    pub(crate) fn lose(&self) {
        self.are_lost.set(true);
    }

    /// Returns whether [`Pages::lose`] was called.
    pub(crate) fn are_lost(&self) -> bool {
        self.are_lost.get()
    }

    /// Returns the pages' linear addresses.
    pub(crate) fn addresses(&self) -> &[usize] {
        &self.addresses
    }
}

impl Drop for Pages {
    /// Gives the pages back. They must be mapped for reading and writing again, or be lost.
    fn drop(&mut self) {
        if self.are_lost.get() {
            return;
        }
        for (block, pages) in self.blocks.drain(..) {
            give_back(block, pages);
        }
    }
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_BYTES, PAGE_BYTES).expect("a size that the heap can have")
}

/// Gives a block back to the heap.
fn give_back(block: usize, pages: usize) {
    // SAFETY: the block came from `take` with this size, and its pages are mapped as they were.
    unsafe { dealloc(ptr::with_exposed_provenance_mut(block), layout(pages)) };
}

/// Takes a block out of the heap.
fn take(pages: usize) -> Option<usize> {
    // SAFETY: the size is not zero.
    let block = unsafe { alloc(layout(pages)) };
    (!block.is_null()).then(|| block.expose_provenance())
}

impl Sink for PageStream {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.push(bytes).map_err(|_| SinkFull)
    }
}

/// A stream of bytes in pages.
#[derive(Debug, Default)]
pub(crate) struct PageStream {
    pages: Pages,
    bytes: usize,
}

impl PageStream {
    /// Adds bytes at the end.
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), NoPages> {
        while !bytes.is_empty() {
            let (page, at) = (self.bytes / PAGE_BYTES, self.bytes % PAGE_BYTES);
            if page == self.pages.len() {
                self.pages.grow(BLOCK_PAGES)?;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - at));
            // SAFETY: the address is inside a page that this value owns. The page is mapped until it is put to another
            // use.
            unsafe {
                ptr::with_exposed_provenance_mut::<u8>(self.pages.addresses[page] + at)
                    .copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            self.bytes += part.len();
            bytes = rest;
        }
        Ok(())
    }

    /// Gives back the pages after the end.
    pub(crate) fn trim(&mut self) {
        self.pages.shrink(self.bytes.div_ceil(PAGE_BYTES));
    }

    /// Returns the length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.bytes
    }

    /// Returns a checksum (FNV-1a, word by word). Equal bytes have equal sums, and a change goes unseen only by a rare
    /// accident.
    pub(crate) fn sum(&self) -> u64 {
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        let words = self.bytes.div_ceil(size_of::<u64>());
        let per_page = PAGE_BYTES / size_of::<u64>();
        for word in 0..words {
            let page = ptr::with_exposed_provenance::<u64>(self.pages.addresses[word / per_page]);
            // SAFETY: the address is inside a page that this value owns and that is mapped.
            let word = unsafe { page.add(word % per_page).read() };
            sum = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
        sum
    }

    /// Returns the pages, some of which may be unused.
    pub(crate) const fn pages(&self) -> &Pages {
        &self.pages
    }
}
