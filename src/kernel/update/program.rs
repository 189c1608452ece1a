//! The program of a successor: an uploaded kernel, or this one as it was at its start.

use core::ptr;

use spin::Mutex;
use xenstore::update::image::Image;
use xenstore::update::upload::Upload;

use crate::xen::entry;
use crate::xen::shared_page::PAGE_BYTES;

/// This kernel's data before anything was written to it. Code and constants never change.
static OWN_DATA: Mutex<[u8; PAGE_BYTES]> = Mutex::new([0; PAGE_BYTES]);

/// Keeps this kernel's data for [`Program::Own`]. Must be called before anything else.
pub(crate) fn keep_own_data() {
    let data = entry::data();
    if let Some(mut kept) = OWN_DATA.try_lock() {
        let from = ptr::with_exposed_provenance::<u8>(data.start);
        // SAFETY: the linker's symbols enclose mapped memory of this image, at most a page. Nothing else uses it yet.
        unsafe { kept.as_mut_ptr().copy_from_nonoverlapping(from, data.len().min(PAGE_BYTES)) };
    }
}

/// A program that can be started.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Program<'a> {
    /// An uploaded kernel.
    File(&'a Image, &'a Upload),
    /// This kernel.
    Own,
}

impl Program<'_> {
    /// Returns the address at which its first page is to be mapped.
    pub(crate) fn base(self) -> usize {
        match self {
            Self::File(image, _) => image.base() as usize,
            Self::Own => entry::virt_base(),
        }
    }

    /// Returns the bytes of memory that it takes.
    pub(crate) fn memory_bytes(self) -> usize {
        match self {
            Self::File(image, _) => image.memory_bytes() as usize,
            Self::Own => entry::image_bytes(),
        }
    }

    /// Returns the address of its first instruction.
    pub(crate) fn entry(self) -> usize {
        match self {
            Self::File(image, _) => image.entry() as usize,
            Self::Own => entry::start(),
        }
    }

    /// Returns the address of its page for Xen's hypercall stubs.
    pub(crate) fn hypercall_page(self) -> usize {
        match self {
            Self::File(image, _) => image.hypercall_page() as usize,
            Self::Own => entry::hypercall_stubs(),
        }
    }

    /// Calls `put` with each piece and its offset from the base, in the order of the offsets. Everything else is zero.
    pub(crate) fn for_each_part(self, put: &mut dyn FnMut(usize, &[u8])) {
        match self {
            Self::File(image, file) => image.for_each_part(file, |offset, bytes| put(offset as usize, bytes)),
            Self::Own => {
                for range in [entry::text(), entry::rodata()] {
                    // SAFETY: the linker's symbols enclose mapped memory of this image that is never written.
                    let bytes =
                        unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(range.start), range.len()) };
                    put(range.start - entry::virt_base(), bytes);
                }
                let data = entry::data();
                if let Some(kept) = OWN_DATA.try_lock() {
                    put(data.start - entry::virt_base(), &kept[..data.len().min(PAGE_BYTES)]);
                }
            }
        }
    }
}
