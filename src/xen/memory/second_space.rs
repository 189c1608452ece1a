//! A second address space in addition to the current one: frames move from one to the other, tables are pinned, and
//! memory grows by what the other space leaves.
//!
//! A frame that becomes a table in one space must not be writable in any other. Frames that are given to the other
//! space are therefore unmapped here first.

use core::ops::Range;

use super::{ExtendedOperation, Memory, MemoryError, WINDOW_SLOTS, WindowEntry, extended, update_entries};
use crate::xen::abi::XenError;
use crate::xen::entry;
use crate::xen::page_table::{ENTRY_BYTES, Entry, Level};
use crate::xen::shared_page::PAGE_BYTES;

/// Changes in one hypercall. More would not be faster: Xen checks for other work every 64 or so.
const BATCH: usize = 128;

/// Changes that are collected, and applied when there are enough.
struct Batch {
    updates: [xen_sys::mmu_update; BATCH],
    count: usize,
}

impl Batch {
    const fn new() -> Self {
        Self { updates: [xen_sys::mmu_update { ptr: 0, val: 0 }; BATCH], count: 0 }
    }

    /// # Safety
    /// The change must keep the meaning of every address that is in use when it is applied.
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
        // SAFETY: the callers of `push` guaranteed it for each change.
        unsafe { update_entries(&self.updates[..count]) }
    }
}

impl Memory {
    /// Returns the number of the domain's pages that this space has.
    pub(crate) const fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the machine frame of the page that is linearly mapped at `address`.
    pub(crate) fn frame(&self, address: usize) -> u64 {
        self.frame_at(address)
    }

    /// Returns the machine frame of the root table.
    pub(crate) fn root_frame(&self) -> u64 {
        self.frame_at(self.root)
    }

    /// Changes the entries of linearly mapped pages: `entry` returns the new entry for a page's frame.
    ///
    /// # Safety
    /// The changes must keep the meaning of every address that is in use.
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
            // SAFETY: the caller upholds the contract.
            unsafe { batch.push(at, entry(self.frame_at(address)).0) }?;
        }
        Ok(batch.make()?)
    }

    /// Unmaps linearly mapped pages, so that their frames can be used elsewhere.
    ///
    /// # Errors
    /// Fails if Xen refuses. Some pages may be unmapped then, and [`Memory::map_pages`] maps them again.
    ///
    /// # Safety
    /// The contents of these pages must not be used before they are mapped again.
    pub(crate) unsafe fn unmap_pages(&self, addresses: impl Iterator<Item = usize>) -> Result<(), MemoryError> {
        // SAFETY: the caller upholds the contract.
        unsafe { self.remap(addresses, |_| Entry::ABSENT) }
    }

    /// Maps pages again that were unmapped or became tables, for reading and writing. Their contents are arbitrary.
    ///
    /// # Errors
    /// Fails if Xen refuses, for instance because a frame is still a table.
    pub(crate) fn map_pages(&self, addresses: impl Iterator<Item = usize>) -> Result<(), MemoryError> {
        let rights = Entry::new(0, Entry::READ_WRITE).with_rights(true, !self.no_execute);
        // SAFETY: the pages get their own frames back.
        unsafe { self.remap(addresses, |frame| Entry::new(frame, rights.0)) }
    }

    /// Enters frames into Xen's machine-to-physical table: pairs of a machine frame and its page number.
    ///
    /// # Errors
    /// Fails if Xen refuses, because a frame is not this domain's.
    pub(crate) fn name_frames(&self, frames: impl Iterator<Item = (u64, usize)>) -> Result<(), MemoryError> {
        let mut batch = Batch::new();
        for (frame, page) in frames {
            // SAFETY: the table only gives a frame its page number; nothing is mapped by it.
            unsafe { batch.push(frame << 12 | u64::from(xen_sys::MMU_MACHPHYS_UPDATE), page as u64) }?;
        }
        Ok(batch.make()?)
    }

    /// Makes a free page read-only, so that it can become a table.
    ///
    /// # Errors
    /// Fails if Xen refuses.
    pub(crate) fn make_page_table(&self, page: usize) -> Result<(), MemoryError> {
        self.make_table(page)
    }

    /// Sets an entry of the root table. The entry leads to a table of level 3, in a frame that is a table already or
    /// can become one.
    ///
    /// # Errors
    /// Fails if Xen refuses.
    ///
    /// # Safety
    /// Nothing that is in use may be mapped below the entry before. The tables below it afterwards must be in order.
    pub(crate) unsafe fn set_root_entry(&self, index: usize, entry: Entry) -> Result<(), MemoryError> {
        let update = xen_sys::mmu_update {
            ptr: self.root_frame() * PAGE_BYTES as u64 + (index * ENTRY_BYTES) as u64,
            val: entry.0,
        };
        // SAFETY: the caller upholds the contract.
        Ok(unsafe { update_entries(&[update]) }?)
    }

    /// Pins a frame as a root table, until [`Memory::unpin_root`]: Xen checks it and all tables below.
    ///
    /// # Errors
    /// Fails if Xen refuses the contents of the tables.
    pub(crate) fn pin_root(&self, frame: u64) -> Result<(), XenError> {
        // SAFETY: the current tables stay unchanged.
        unsafe { extended(ExtendedOperation::about(xen_sys::MMUEXT_PIN_L4_TABLE, frame)) }
    }

    /// Unpins a root table, with all tables below that nothing else uses.
    ///
    /// # Errors
    /// Fails if the table is not pinned.
    ///
    /// # Safety
    /// The table must not be the current one.
    pub(crate) unsafe fn unpin_root(&self, frame: u64) -> Result<(), XenError> {
        // SAFETY: the caller upholds the contract.
        unsafe { extended(ExtendedOperation::about(xen_sys::MMUEXT_UNPIN_TABLE, frame)) }
    }

    /// Sets the number of pages that the p2m list names, for [`Memory::extend`].
    ///
    /// # Safety
    /// The list must have this many entries. Nothing else may use the frames of the pages that are not mapped yet.
    pub(crate) unsafe fn list(&mut self, pages: usize) {
        self.listed_pages = pages.min((super::LINEAR_END - entry::virt_base()) / PAGE_BYTES).max(self.pages);
    }

    /// Returns the number of listed pages that are not mapped yet.
    pub(crate) const fn missing_pages(&self) -> usize {
        self.listed_pages.saturating_sub(self.pages)
    }

    /// Adds up to `most` further pages of the list to the linear mapping, and returns the new part. Tables are made of
    /// pages from `free_page`.
    ///
    /// # Errors
    /// Fails if there is no page for a table or Xen refuses. Those pages and all later ones are then lost.
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

    /// Gives pages new page numbers, and maps them.
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

    /// Maps linearly mapped pages a second time, one after the other and for reading, at the end of the ring window.
    /// Returns the address of the first one. Tables are made of pages from `free_page`.
    ///
    /// # Errors
    /// Fails if the window is too small, there is no page for a table, or Xen refuses.
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
            // SAFETY: nothing is mapped there; the frame is one of this domain's.
            unsafe { batch.push(entry_machine_address, Entry::new(self.frame_at(*page), rights.0).0) }?;
        }
        batch.make()?;
        start.ok_or(MemoryError::NoPage)
    }

    /// Undoes [`Memory::map_in_a_row`] for this many pages.
    ///
    /// # Errors
    /// Fails if Xen refuses.
    ///
    /// # Safety
    /// Those addresses must not be used any more.
    pub(crate) unsafe fn unmap_row(&self, pages: usize) -> Result<(), MemoryError> {
        let mut batch = Batch::new();
        for slot in WINDOW_SLOTS.saturating_sub(pages)..WINDOW_SLOTS {
            let entry = self.window_entry(slot, || None)?;
            // SAFETY: the caller upholds the contract.
            unsafe { batch.push(entry.entry_machine_address, Entry::ABSENT.0) }?;
        }
        Ok(batch.make()?)
    }
}
