//! The domain's memory as a PV guest has it: pages, machine frames and page tables.
//!
//! Physical page N is mapped at `VIRT_BASE + N * 4096`, the *linear* mapping. The domain builder maps the first few MiB
//! this way. [`Memory::map_all`] maps the rest, and removes the rights that a page does not need. The *ring window* is
//! below the linear mapping; granted pages are mapped there ([`Memory::window_entry`]).
//!
//! Page tables can be changed by hypercall only, because Xen checks each entry. A page that becomes a table must not be
//! writable anywhere, so its own linear mapping is made read-only first. Tables are never freed.

mod second_space;

use core::fmt;
use core::ops::Range;
use core::ptr;

use crate::xen::abi::{MACHINE_TO_PHYS, XenError};
use crate::xen::entry;
use crate::xen::hypercall;
use crate::xen::page_table::{ENTRIES, ENTRY_BYTES, Entry, Level};
use crate::xen::shared_page::PAGE_BYTES;

/// Start of the ring window, below the linear mapping and in the same 512 GiB. The window therefore costs only one
/// table of level 2, and the tables of level 1 that are used.
const WINDOW_BASE: usize = 0x2000_0000;
/// Slots of the ring window. `init-xenstore-domain` gives its domain 128 maptrack frames of 256 mappings each, so more
/// mappings are impossible.
pub(crate) const WINDOW_SLOTS: usize = 32_768;
/// Upper bound of the linear mapping: the end of the first entry of the root table. This kernel has no use for more
/// than 511 GiB.
const LINEAR_END: usize = Level::Four.entry_span();
/// Changes of page-table entries in one hypercall.
const BATCH: usize = 64;

/// `UVMF_INVLPG | UVMF_LOCAL` (`xen/include/public/xen.h`): drop the old translation on this processor.
const FORGET_ENTRY: usize = 2;
/// The domain of the page-table changes (`DOMID_SELF`).
const DOMID_SELF: usize = 0x7ff0;

/// The reason why a page table could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryError {
    /// No page is free for a table.
    NoPage,
    /// Xen refused a change.
    Refused(XenError),
    /// A frame is not one of this domain's pages.
    ForeignFrame,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPage => f.write_str("no page is free for a page table"),
            Self::Refused(error) => error.fmt(f),
            Self::ForeignFrame => f.write_str("a frame is not one of this domain's pages"),
        }
    }
}

impl From<XenError> for MemoryError {
    fn from(error: XenError) -> Self {
        Self::Refused(error)
    }
}

/// The place of an entry of the ring window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowEntry {
    /// Virtual address that the entry maps.
    pub(crate) address: usize,
    /// Machine address of the entry itself.
    pub(crate) entry_machine_address: u64,
}

/// The domain's pages and tables.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Virtual address of the root table.
    root: usize,
    /// Virtual address of the p2m list: machine frames by physical page.
    p2m: usize,
    /// Number of the domain's pages that can be mapped.
    pages: usize,
    /// Number of these pages and of others that the p2m list already names: see [`Memory::extend`].
    listed_pages: usize,
    /// Whether pages can be made non-executable.
    no_execute: bool,
}

impl Memory {
    /// # Safety
    /// `root` and `p2m` must be the virtual addresses of the root table and of the p2m list of `pages` entries, as in
    /// `start_info`. Both must be in the linear mapping. Only one `Memory` may exist.
    pub(crate) unsafe fn new(root: usize, p2m: usize, pages: usize) -> Self {
        let pages = pages.min((LINEAR_END - entry::virt_base()) / PAGE_BYTES);
        Self { root, p2m, pages, listed_pages: pages, no_execute: true }
    }

    /// Returns the machine frame of the page that is linearly mapped at `address`.
    fn frame_at(&self, address: usize) -> u64 {
        let page = (address - entry::virt_base()) / PAGE_BYTES;
        assert!(page < self.pages, "{address:#x} is not in the linear mapping");
        // SAFETY: the index is inside the list, as the caller of `new` guaranteed; the list is not changed.
        unsafe { ptr::with_exposed_provenance::<u64>(self.p2m).add(page).read() }
    }

    /// Returns the address of machine frame `frame` in the linear mapping.
    ///
    /// # Errors
    /// [`MemoryError::ForeignFrame`] if the frame is not one of this domain's pages.
    pub(crate) fn address_of_frame(&self, frame: u64) -> Result<usize, MemoryError> {
        let index = usize::try_from(frame).map_err(|_| MemoryError::ForeignFrame)?;
        // SAFETY: Xen maps the table for every frame of the machine, read-only. The frame comes from a page table or
        // from `start_info`, so it is a frame of the machine.
        let page = unsafe { ptr::with_exposed_provenance::<u64>(MACHINE_TO_PHYS).add(index).read_volatile() };
        let page = usize::try_from(page).ok().filter(|page| *page < self.pages).ok_or(MemoryError::ForeignFrame)?;
        let address = entry::virt_base() + page * PAGE_BYTES;
        if self.frame_at(address) == frame { Ok(address) } else { Err(MemoryError::ForeignFrame) }
    }

    /// Reads entry `index` of the table at `table`.
    fn read(table: usize, index: usize) -> Entry {
        assert!(index < ENTRIES, "a table has 512 entries");
        // SAFETY: `table` is the linear address of a page table, which is mapped for reading.
        Entry(unsafe { ptr::with_exposed_provenance::<u64>(table).add(index).read_volatile() })
    }

    /// Returns the machine address of entry `index` of the table at `table`.
    fn entry_machine_address(&self, table: usize, index: usize) -> u64 {
        (self.frame_at(table) << 12) + (index * ENTRY_BYTES) as u64
    }

    /// Returns the table of level `target` for `address`. Creates missing tables on the way with pages from
    /// `free_page`.
    fn table(
        &self,
        address: usize,
        target: Level,
        free_page: &mut impl FnMut() -> Option<usize>,
    ) -> Result<usize, MemoryError> {
        let mut table = self.root;
        let mut level = Level::Four;
        while level != target {
            let index = level.index(address);
            let entry = Self::read(table, index);
            table = if entry.is_present() {
                self.address_of_frame(entry.frame())?
            } else {
                let new = free_page().ok_or(MemoryError::NoPage)?;
                fill_page(new, |_| Entry::ABSENT);
                self.make_table(new)?;
                self.link(table, index, new)?;
                new
            };
            level = level.below().expect("the target lies below the root");
        }
        Ok(table)
    }

    /// Makes the page at `page` read-only, so that it can become a table.
    fn make_table(&self, page: usize) -> Result<(), MemoryError> {
        let entry = Entry::new(self.frame_at(page), Entry::READ_ONLY).with_rights(false, !self.no_execute);
        // SAFETY: the page is free: nothing else is kept in it that would be written.
        Ok(unsafe { update_mapping(page, entry) }?)
    }

    /// Makes entry `index` of the table at `parent` lead to the table at `child`.
    fn link(&self, parent: usize, index: usize, child: usize) -> Result<(), MemoryError> {
        let entry = Entry::new(self.frame_at(child), Entry::TABLE);
        let update = xen_sys::mmu_update { ptr: self.entry_machine_address(parent, index), val: entry.0 };
        // SAFETY: the entry was absent, so only addresses without a meaning change their meaning.
        Ok(unsafe { update_entries(&[update]) }?)
    }

    /// Maps all of the domain's pages, and gives each page of the image the rights that it needs: code is not writable,
    /// the rest not executable. Returns the free range, which begins at `first_free`, without the pages that became
    /// tables.
    ///
    /// # Errors
    /// Fails if Xen refuses a change, or if the pages that the builder mapped are too few for the tables.
    ///
    /// # Safety
    /// All pages from `first_free` on must be unused.
    pub(crate) unsafe fn map_all(&mut self, first_free: usize) -> Result<Range<usize>, MemoryError> {
        let mut next = first_free.next_multiple_of(PAGE_BYTES);
        let end = entry::virt_base() + self.pages * PAGE_BYTES;
        let mut mapped = entry::virt_base();
        // In steps of one table: each new table maps 511 more pages than it costs.
        while mapped < end {
            let index = Level::Two.index(mapped);
            let mut free_page = || take_page(&mut next, mapped.min(end));
            let parent = self.table(mapped, Level::Two, &mut free_page)?;
            if !Self::read(parent, index).is_present() {
                let new = free_page().ok_or(MemoryError::NoPage)?;
                let rights = Entry::new(0, Entry::READ_WRITE).with_rights(true, !self.no_execute);
                fill_page(new, |index| match mapped + index * PAGE_BYTES {
                    address if address < end => Entry::new(self.frame_at(address), rights.0),
                    _ => Entry::ABSENT,
                });
                self.make_table(new)?;
                self.link(parent, index, new)?;
            } else {
                self.protect(mapped..(mapped + Level::Two.entry_span()).min(end))?;
            }
            mapped += Level::Two.entry_span();
        }
        for page in entry::guard_pages() {
            // SAFETY: nothing is kept in a guard page.
            unsafe { update_mapping(page, Entry::ABSENT) }?;
        }
        Ok(next..end)
    }

    /// Sets the rights of the pages that the builder mapped in `range`, which one table of level 1 covers.
    fn protect(&mut self, range: Range<usize>) -> Result<(), MemoryError> {
        let table = self.table(range.start, Level::One, &mut || None)?;
        let mut batch = [xen_sys::mmu_update { ptr: 0, val: 0 }; BATCH];
        let mut count = 0;
        for address in range.step_by(PAGE_BYTES) {
            let index = Level::One.index(address);
            let old = Self::read(table, index);
            let executable = entry::text().contains(&address);
            // A page that the builder made read-only is a page table.
            let writable = old.0 & Entry::WRITABLE != 0 && !executable && !entry::rodata().contains(&address);
            let new = old.with_rights(writable, executable || !self.no_execute);
            if old.is_present() && old != new {
                batch[count] = xen_sys::mmu_update { ptr: self.entry_machine_address(table, index), val: new.0 };
                count += 1;
            }
            if count == BATCH {
                self.apply(&batch)?;
                count = 0;
            }
        }
        self.apply(&batch[..count])
    }

    /// Applies changes that only remove rights. Tolerates a processor that cannot mark pages as not executable.
    fn apply(&mut self, batch: &[xen_sys::mmu_update]) -> Result<(), MemoryError> {
        // SAFETY: the frames of the pages stay the same; code is not written and data is not executed.
        let result = unsafe { update_entries(batch) };
        if let Err(error) = result {
            if !self.no_execute {
                return Err(error.into());
            }
            log::warn!("pages cannot be made non-executable: {error}");
            self.no_execute = false;
            let mut again = [xen_sys::mmu_update { ptr: 0, val: 0 }; BATCH];
            for (to, from) in again.iter_mut().zip(batch) {
                *to = xen_sys::mmu_update { ptr: from.ptr, val: from.val & !Entry::NO_EXECUTE };
            }
            // SAFETY: as above.
            return Ok(unsafe { update_entries(&again[..batch.len()]) }?);
        }
        Ok(())
    }

    /// Maps machine frame `frame`, which Xen shares with this domain, in place of the page at `address`.
    ///
    /// # Errors
    /// Fails if Xen refuses.
    ///
    /// # Safety
    /// Nothing may be kept in the page at `address`.
    pub(crate) unsafe fn replace_page(&self, address: usize, frame: u64) -> Result<(), MemoryError> {
        // `map_all`, which is called later, sets whether the page is executable.
        // SAFETY: the caller upholds the contract.
        Ok(unsafe { update_mapping(address, Entry::new(frame, Entry::READ_WRITE)) }?)
    }

    /// Returns the place of slot `slot` of the ring window, after ensuring that the slot has a table. Tables are made
    /// of pages from `free_page`, which returns the linear address of a page that it gives away for good.
    ///
    /// # Errors
    /// Fails if there is no page or Xen refuses.
    pub(crate) fn window_entry(
        &self,
        slot: usize,
        mut free_page: impl FnMut() -> Option<usize>,
    ) -> Result<WindowEntry, MemoryError> {
        if slot >= WINDOW_SLOTS {
            return Err(MemoryError::NoPage);
        }
        let address = WINDOW_BASE + slot * PAGE_BYTES;
        let table = self.table(address, Level::One, &mut free_page)?;
        let index = Level::One.index(address);
        Ok(WindowEntry { address, entry_machine_address: self.entry_machine_address(table, index) })
    }
}

/// Takes the next page of the free range, if it is below `mapped`.
fn take_page(next: &mut usize, mapped: usize) -> Option<usize> {
    let page = *next;
    if page + PAGE_BYTES > mapped {
        return None;
    }
    *next = page + PAGE_BYTES;
    Some(page)
}

/// Writes a table into a free page that is mapped for writing.
fn fill_page(page: usize, entry: impl Fn(usize) -> Entry) {
    for index in 0..ENTRIES {
        // SAFETY: the page is free, mapped, and this kernel's own, as each source of free pages guarantees.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(page).add(index).write(entry(index).0) };
    }
}

/// Changes the entry that maps `address`, which has a table.
///
/// # Safety
/// The change must keep the meaning of every address that is in use.
unsafe fn update_mapping(address: usize, entry: Entry) -> Result<(), XenError> {
    let arguments = [address, entry.0 as usize, FORGET_ENTRY, 0, 0];
    // SAFETY: the caller upholds the contract; Xen checks the entry.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_update_va_mapping, arguments) }.map(|_| ())
}

/// Changes page-table entries, and drops all old translations.
///
/// # Safety
/// The changes must keep the meaning of every address that is in use.
unsafe fn update_entries(batch: &[xen_sys::mmu_update]) -> Result<(), XenError> {
    if batch.is_empty() {
        return Ok(());
    }
    let arguments = [batch.as_ptr().expose_provenance(), batch.len(), 0, DOMID_SELF, 0];
    // SAFETY: the caller upholds the contract; Xen checks each entry.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_mmu_update, arguments) }?;
    flush()
}

/// `struct mmuext_op` (`xen/include/public/xen.h`): a command, and its arguments.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExtendedOperation {
    command: u32,
    argument1: u64,
    argument2: u64,
}

impl ExtendedOperation {
    /// Creates a command about a machine frame.
    pub(crate) const fn about(command: u32, frame: u64) -> Self {
        Self { command, argument1: frame, argument2: 0 }
    }
}

/// Executes an extended operation.
///
/// # Safety
/// The operation must keep the meaning of every address that is in use.
unsafe fn extended(operation: ExtendedOperation) -> Result<(), XenError> {
    let arguments = [ptr::from_ref(&operation).expose_provenance(), 1, 0, DOMID_SELF, 0];
    // SAFETY: the structure is the right one; the caller guarantees the rest.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_mmuext_op, arguments) }.map(|_| ())
}

/// Drops all of the processor's translations.
fn flush() -> Result<(), XenError> {
    // SAFETY: dropping translations changes nothing but time.
    unsafe { extended(ExtendedOperation::about(xen_sys::MMUEXT_TLB_FLUSH_LOCAL, 0)) }
}
