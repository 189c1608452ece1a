//! A second address space beside the present one: frames go from one to the other, tables are pinned, and memory grows by
//! what the other one leaves.
//!
//! A frame that becomes a table in one space must not be writable in any other: so whatever is given to the other
//! space is unmapped here first.

use core::ops::Range;

use super::{ExtendedOperation, Memory, MemoryError, WINDOW_SLOTS, WindowEntry, extended, update_entries};
use crate::xen::abi::XenError;
use crate::xen::entry;
use crate::xen::page_table::{ENTRY_BYTES, Entry, Level};
use crate::xen::shared_page::PAGE_BYTES;

/// Changes for one hypercall. More would not be faster: Xen looks for other work every 64 or so.
const BATCH: usize = 128;

/// Changes that are collected, and made when there are enough.
struct Batch {
    updates: [xen_sys::mmu_update; BATCH],
    count: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { updates: [xen_sys::mmu_update { ptr: 0, val: 0 }; BATCH], count: 0 }
    }

    /// # Safety
    /// Nothing that is in use may lose its meaning by this change, when it is made.
    unsafe fn push(&mut self, ptr: u64, val: u64) -> Result<(), XenError> {
        if self.count == BATCH {
            self.make()?;
        }
        self.updates[self.count] = xen_sys::mmu_update { ptr, val };
        self.count += 1;
        Ok(())
    }

    fn make(&mut self) -> Result<(), XenError> {
        let count = core::mem::take(&mut self.count);
        // SAFETY: whoever pushed the changes promised it.
        unsafe { update_entries(&self.updates[..count]) }
    }
}

impl Memory {
    /// Pages of the domain, as far as this space has them.
    pub(crate) const fn pages(&self) -> usize {
        self.pages
    }

    /// The machine frame of the page that is linearly mapped at `address`.
    pub(crate) fn frame(&self, address: usize) -> u64 {
        self.frame_at(address)
    }

    /// The machine frame of the root table.
    pub(crate) fn root_frame(&self) -> u64 {
        self.frame_at(self.root)
    }

    /// Changes the entries of linearly mapped pages: `entry` says what a page's frame is to be mapped as.
    ///
    /// # Safety
    /// Nothing that is in use may lose its meaning by it.
    unsafe fn remap(
        &self,
        addresses: impl Iterator<Item = usize>,
        entry: impl Fn(u64) -> Entry,
    ) -> Result<(), MemoryError> {
        let mut batch = Batch::new();
        let mut known: Option<(usize, usize)> = None;
        for address in addresses {
            let region = address / Level::Two.entry_span();
            let table = match known {
                Some((known_region, table)) if known_region == region => table,
                _ => self.table(address, Level::One, &mut || None)?,
            };
            known = Some((region, table));
            let at = self.entry_machine_address(table, Level::One.index(address));
            // SAFETY: the caller's promise.
            unsafe { batch.push(at, entry(self.frame_at(address)).0) }?;
        }
        Ok(batch.make()?)
    }

    /// Unmaps linearly mapped pages, so that their frames can be used elsewhere.
    ///
    /// # Errors
    /// When Xen refuses; some may be unmapped then, and [`Memory::map_pages`] maps them again.
    ///
    /// # Safety
    /// Nobody may use what is in these pages before they are mapped again.
    pub(crate) unsafe fn unmap_pages(&self, addresses: impl Iterator<Item = usize>) -> Result<(), MemoryError> {
        // SAFETY: the caller's promise.
        unsafe { self.remap(addresses, |_| Entry::ABSENT) }
    }

    /// Maps pages again that were unmapped or made tables, for reading and writing. Their contents are anything.
    ///
    /// # Errors
    /// When Xen refuses: a frame is still a table, for instance.
    pub(crate) fn map_pages(&self, addresses: impl Iterator<Item = usize>) -> Result<(), MemoryError> {
        let rights = Entry::new(0, Entry::READ_WRITE).with_rights(true, !self.no_execute);
        // SAFETY: the pages get back the frames that are theirs.
        unsafe { self.remap(addresses, |frame| Entry::new(frame, rights.0)) }
    }

    /// Tells Xen's table which page a machine frame is: (frame, page).
    ///
    /// # Errors
    /// When Xen refuses: a frame is not this domain's.
    pub(crate) fn name_frames(&self, frames: impl Iterator<Item = (u64, usize)>) -> Result<(), MemoryError> {
        let mut batch = Batch::new();
        for (frame, page) in frames {
            // SAFETY: the table only says what a frame is called; nothing is mapped by it.
            unsafe { batch.push(frame << 12 | u64::from(xen_sys::MMU_MACHPHYS_UPDATE), page as u64) }?;
        }
        Ok(batch.make()?)
    }

    /// Takes the right away to write a free page, so that it can become a table.
    ///
    /// # Errors
    /// When Xen refuses.
    pub(crate) fn make_page_table(&self, page: usize) -> Result<(), MemoryError> {
        self.make_table(page)
    }

    /// Sets an entry of the root table, which leads to a table of level 3 in a frame that is a table already or can
    /// become one.
    ///
    /// # Errors
    /// When Xen refuses.
    ///
    /// # Safety
    /// Nothing that is in use may be mapped below the entry before, and what is mapped after must be in order.
    pub(crate) unsafe fn set_root_entry(&self, index: usize, entry: Entry) -> Result<(), MemoryError> {
        let update = xen_sys::mmu_update {
            ptr: self.root_frame() * PAGE_BYTES as u64 + (index * ENTRY_BYTES) as u64,
            val: entry.0,
        };
        // SAFETY: the caller's promise.
        Ok(unsafe { update_entries(&[update]) }?)
    }

    /// Makes a frame a root table for good, until [`Memory::unpin_root`]: Xen checks it and everything below.
    ///
    /// # Errors
    /// When Xen refuses what is in the tables.
    pub(crate) fn pin_root(&self, frame: u64) -> Result<(), XenError> {
        // SAFETY: the current tables stay what they are.
        unsafe { extended(ExtendedOperation::about(xen_sys::MMUEXT_PIN_L4_TABLE, frame)) }
    }

    /// Lets a root table go, with all below that nothing else uses.
    ///
    /// # Errors
    /// When it is not pinned.
    ///
    /// # Safety
    /// It must not be the current one.
    pub(crate) unsafe fn unpin_root(&self, frame: u64) -> Result<(), XenError> {
        // SAFETY: the caller's promise.
        unsafe { extended(ExtendedOperation::about(xen_sys::MMUEXT_UNPIN_TABLE, frame)) }
    }

    /// Says how many pages the p2m list names, for [`Memory::extend`].
    ///
    /// # Safety
    /// The list must have so many entries, and the frames of those that are not mapped yet must belong to nobody else.
    pub(crate) unsafe fn list(&mut self, pages: usize) {
        self.listed_pages = pages.min((super::LINEAR_END - entry::virt_base()) / PAGE_BYTES).max(self.pages);
    }

    /// How many pages are listed that are not mapped yet.
    pub(crate) const fn missing_pages(&self) -> usize {
        self.listed_pages.saturating_sub(self.pages)
    }

    /// Takes up to `most` further pages of the list into the linear mapping. Returns the new part. Tables are made of
    /// pages from `free_page`.
    ///
    /// # Errors
    /// When there is no page for a table or Xen refuses; those pages and all behind them are lost then.
    pub(crate) fn extend(
        &mut self,
        most: usize,
        free_page: impl FnMut() -> Option<usize>,
    ) -> Result<Range<usize>, MemoryError> {
        let first = self.pages;
        self.pages += self.missing_pages().min(most);
        let gained = self.map_new(first..self.pages, free_page);
        if gained.is_err() {
            self.listed_pages = self.pages;
        }
        gained
    }

    /// Names pages that had other names, and maps them.
    fn map_new(
        &self,
        all: Range<usize>,
        mut free_page: impl FnMut() -> Option<usize>,
    ) -> Result<Range<usize>, MemoryError> {
        let base = entry::virt_base();
        self.name_frames(all.clone().map(|page| (self.frame_at(base + page * PAGE_BYTES), page)))?;
        let range = base + all.start * PAGE_BYTES..base + all.end * PAGE_BYTES;
        let mut region = range.start;
        while region < range.end {
            self.table(region, Level::One, &mut free_page)?;
            region = (region / Level::Two.entry_span() + 1) * Level::Two.entry_span();
        }
        self.map_pages(range.clone().step_by(PAGE_BYTES))?;
        Ok(range)
    }

    /// Maps linearly mapped pages a second time, one behind the other, for reading: at the end of the ring window. Returns
    /// where. Tables are made of pages from `free_page`.
    ///
    /// # Errors
    /// When the window is too small, there is no page for a table, or Xen refuses.
    ///
    /// # Safety
    /// No rings may be mapped in that part of the window.
    pub(crate) unsafe fn map_in_a_row(
        &self,
        pages: &[usize],
        mut free_page: impl FnMut() -> Option<usize>,
    ) -> Result<usize, MemoryError> {
        let rights = Entry::new(0, Entry::READ_ONLY).with_rights(false, !self.no_execute);
        let first = WINDOW_SLOTS.checked_sub(pages.len()).ok_or(MemoryError::NoPage)?;
        let mut start = None;
        let mut batch = Batch::new();
        for (slot, page) in (first..).zip(pages) {
            let WindowEntry { address, entry_machine_address } = self.window_entry(slot, &mut free_page)?;
            start.get_or_insert(address);
            // SAFETY: nothing is mapped there; the frame is one of ours.
            unsafe { batch.push(entry_machine_address, Entry::new(self.frame_at(*page), rights.0).0) }?;
        }
        batch.make()?;
        start.ok_or(MemoryError::NoPage)
    }

    /// Undoes [`Memory::map_in_a_row`] of so many pages.
    ///
    /// # Errors
    /// When Xen refuses.
    ///
    /// # Safety
    /// Nobody may use those addresses any more.
    pub(crate) unsafe fn unmap_row(&self, pages: usize) -> Result<(), MemoryError> {
        let mut batch = Batch::new();
        for slot in WINDOW_SLOTS.saturating_sub(pages)..WINDOW_SLOTS {
            let entry = self.window_entry(slot, || None)?;
            // SAFETY: the caller's promise.
            unsafe { batch.push(entry.entry_machine_address, Entry::ABSENT.0) }?;
        }
        Ok(batch.make()?)
    }
}
