//! The successor layout ([`SuccessorLayout`]): its pages, page tables, p2m list and `start_info`, as a domain builder would make
//! them.
//!
//! From the image's base upwards:
//!
//! - the image,
//! - the p2m list,
//! - `start_info`,
//! - the console's page,
//! - the list of ring mappings, followed by console lines,
//! - the page tables,
//! - the boot stack,
//! - free memory,
//! - the stream as the boot module, at the very end so that its memory can join the heap once it has been read.
//!
//! The p2m list names all pages of the domain, the predecessor's last. `start_info` counts only the successor's own.

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr;

use xen_sys::start_info;
use zerocopy::IntoBytes as _;

use super::pages::{NoPages, PageStream, Pages};
use super::program::Program;
use crate::kernel::boot_info::BootInfo;
use crate::kernel::log;
use crate::kernel::platform::RingMapping;
use crate::xen::abi::XenError;
use crate::xen::entry;
use crate::xen::memory::{Memory, MemoryError};
use crate::xen::page_table::{ENTRIES, Entry, Level};
use crate::xen::shared_page::PAGE_BYTES;
use crate::xen::trampoline::{ROOT_INDEX, SuccessorEntry, Trampoline};

/// The reason why a successor layout cannot be built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unbuildable {
    /// There is not enough memory.
    NoPages(NoPages),
    /// The layout does not fit into one entry of the root table.
    TooLarge,
    /// Xen refused a change.
    Memory(MemoryError),
    /// Xen refused the page tables.
    Tables(XenError),
}

impl From<NoPages> for Unbuildable {
    fn from(error: NoPages) -> Self {
        Self::NoPages(error)
    }
}

impl From<MemoryError> for Unbuildable {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

/// The places of all parts, as page numbers of the successor.
#[derive(Clone, Debug)]
struct Layout {
    base: usize,
    frame_list: usize,
    start_info: usize,
    console: usize,
    mappings: usize,
    tables: Range<usize>,
    stack: usize,
    module: usize,
    /// Number of all pages.
    end: usize,
}

/// Entries of the p2m list in a page.
const LIST_ENTRIES: usize = PAGE_BYTES / size_of::<u64>();

/// Returns the pages that `bytes` take.
const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

/// Returns how many entries of a level `range` touches.
fn entries(level: Level, range: &Range<usize>) -> usize {
    range.end.div_ceil(level.entry_span()) - range.start / level.entry_span()
}

impl Layout {
    fn new(base: usize, image: usize, total: usize, list_bytes: usize, heap: usize, stream: usize) -> Self {
        let frame_list = image;
        let start_info = frame_list + pages_for(total * size_of::<u64>());
        let console = start_info + 1;
        let mappings_at = console + 1;
        let tables_at = mappings_at + pages_for(list_bytes);
        let behind = 1 + heap + stream;
        let mut tables = 0;
        loop {
            let end = tables_at + tables + behind;
            let range = base..base + end * PAGE_BYTES;
            let needed = 2 + entries(Level::Three, &range) + entries(Level::Two, &range);
            if needed == tables {
                let stack = tables_at + tables;
                let module = stack + 1 + heap;
                let tables = tables_at..tables_at + tables;
                return Self {
                    base,
                    frame_list,
                    start_info,
                    console,
                    mappings: mappings_at,
                    tables,
                    stack,
                    module,
                    end,
                };
            }
            tables = needed;
        }
    }

    const fn address(&self, page: usize) -> usize {
        self.base + page * PAGE_BYTES
    }
}

/// The contents of a successor layout.
pub(crate) struct Contents<'a> {
    /// The kernel.
    pub(crate) program: Program<'a>,
    /// Its command line, without NUL.
    pub(crate) command_line: &'a [u8],
    /// The saved state. Its pages are the successor's until the successor fails.
    pub(crate) stream: &'a PageStream,
    /// The predecessor's ring mappings.
    pub(crate) mappings: &'a [RingMapping],
    /// Lines that do not fit into the console yet.
    pub(crate) lines: &'a [u8],
    /// Pages of free memory.
    pub(crate) heap_pages: usize,
}

/// A successor layout that is built, or was.
#[derive(Debug)]
pub(crate) struct SuccessorLayout<'a> {
    layout: Layout,
    pages: Pages,
    stream: &'a PageStream,
    console: Option<usize>,
    is_pinned: bool,
}

/// Returns the pages of a layout with these parts, without the stream's.
pub(crate) fn pages_without_stream(memory: &Memory, image_bytes: usize, mappings: usize, heap_pages: usize) -> usize {
    let list_bytes = mappings * size_of::<RingMapping>() + log::BUFFER_BYTES;
    let layout = Layout::new(entry::virt_base(), pages_for(image_bytes), memory.pages(), list_bytes, heap_pages, 0);
    layout.end
}

impl<'a> SuccessorLayout<'a> {
    /// Builds a layout. Its pages are not mapped in this kernel any more, until [`SuccessorLayout::leave`].
    ///
    /// # Errors
    /// [`Unbuildable`], with everything as it was.
    pub(crate) fn build(
        memory: &Memory,
        boot: &BootInfo,
        trampoline: &Trampoline,
        contents: Contents<'a>,
    ) -> Result<Self, Unbuildable> {
        let Contents { program, command_line, stream, mappings, lines, heap_pages } = contents;
        let image_pages = pages_for(program.memory_bytes());
        let base = program.base();
        let stream_pages = pages_for(stream.len());
        let list_bytes = size_of_val(mappings) + lines.len();
        let layout = Layout::new(base, image_pages, memory.pages(), list_bytes, heap_pages, stream_pages);
        let top = Level::Four.index(layout.base);
        if top == ROOT_INDEX || Level::Four.index(layout.address(layout.end) - 1) != top {
            return Err(Unbuildable::TooLarge);
        }
        let console = match &boot.console {
            Some(channel) => Some(memory.address_of_frame(channel.frame)?),
            None => None,
        };
        // Allocated before the pages, which leave no long block free.
        let mut is_given = Vec::new();
        is_given.try_reserve_exact(memory.pages()).map_err(|_| NoPages { wanted: memory.pages() })?;
        is_given.resize(memory.pages(), false);
        let mut pages = Pages::default();
        pages.grow(layout.module)?;
        let mut successor = Self { layout, pages, stream, console, is_pinned: false };
        successor.fill(memory, boot, program, command_line, is_given);
        successor.put_lists(mappings, lines);
        successor.make_tables(memory, trampoline);
        match successor.hand_out(memory) {
            Ok(()) => Ok(successor),
            Err(error) => {
                successor.leave(memory);
                Err(error)
            }
        }
    }

    /// Returns the linear address at which this kernel has a page of the successor.
    fn source(&self, page: usize) -> usize {
        match self.console {
            Some(console) if page == self.layout.console => console,
            _ if page < self.layout.module => self.pages.addresses()[page],
            _ => self.stream.pages().addresses()[page - self.layout.module],
        }
    }

    /// Returns the pages that only the successor uses.
    fn given(&self) -> impl Iterator<Item = usize> {
        let is_shared = |page: &usize| self.console.is_some() && *page == self.layout.console;
        (0..self.layout.end).filter(move |page| !is_shared(page)).map(|page| self.source(page))
    }

    /// Writes bytes at an address of the successor.
    fn put(&self, address: usize, mut bytes: &[u8]) {
        let mut offset = address - self.layout.base;
        while !bytes.is_empty() {
            let (page, at) = (offset / PAGE_BYTES, offset % PAGE_BYTES);
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - at));
            // SAFETY: the page was taken for the layout and is still mapped here.
            unsafe {
                ptr::with_exposed_provenance_mut::<u8>(self.source(page) + at)
                    .copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            offset += part.len();
            bytes = rest;
        }
    }

    /// Writes the image, with zeros where it has no bytes.
    fn put_image(&self, program: Program<'_>) {
        let mut done = 0;
        program.for_each_part(&mut |offset, bytes| {
            // Segments do not overlap, and come in the order of their addresses.
            self.put_zeros(done, offset);
            self.put(self.layout.base + offset, bytes);
            done = offset + bytes.len();
        });
        self.put_zeros(done, self.layout.frame_list * PAGE_BYTES);
    }

    /// Writes zeros from one offset to another.
    fn put_zeros(&self, from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let count = (to - at).min(PAGE_BYTES - at % PAGE_BYTES);
            // SAFETY: the address is in a page that was taken for the layout and is still mapped here.
            unsafe {
                ptr::with_exposed_provenance_mut::<u8>(self.source(at / PAGE_BYTES) + at % PAGE_BYTES)
                    .write_bytes(0, count);
            }
            at += count;
        }
    }

    /// Fills all pages but the page tables.
    fn fill(&self, memory: &Memory, boot: &BootInfo, program: Program<'_>, command_line: &[u8], is_given: Vec<bool>) {
        let layout = &self.layout;
        self.put_image(program);
        self.put_zeros(layout.frame_list * PAGE_BYTES, layout.console * PAGE_BYTES);
        self.put_zeros((layout.console + 1) * PAGE_BYTES, layout.stack * PAGE_BYTES);
        // Xen's stubs are the same in every page that it fills.
        // SAFETY: the page of stubs is code of this kernel, which is never written.
        let stubs =
            unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(entry::hypercall_stubs()), PAGE_BYTES) };
        self.put(program.hypercall_page(), stubs);
        self.put_frame_list(memory, is_given);
        let info = self.start_info(boot, memory, command_line);
        // SAFETY: the structure is plain data.
        let bytes = unsafe { core::slice::from_raw_parts(ptr::from_ref(&info).cast::<u8>(), size_of::<start_info>()) };
        self.put(layout.address(layout.start_info), bytes);
    }

    /// Writes the list of ring mappings, followed by the console lines.
    fn put_lists(&self, mappings: &[RingMapping], lines: &[u8]) {
        let at = self.mappings_address();
        self.put(at, mappings.as_bytes());
        self.put(at + size_of_val(mappings), lines);
    }

    /// Writes the p2m list: the successor's frames, then all others of the domain. `is_given` must have room for all
    /// pages.
    fn put_frame_list(&self, memory: &Memory, mut is_given: Vec<bool>) {
        let base = entry::virt_base();
        let (mut list, mut at) = (0, 0);
        let mut next = |frame: u64| {
            if at % LIST_ENTRIES == 0 {
                list = self.source(self.layout.frame_list + at / LIST_ENTRIES);
            }
            // SAFETY: the address is in a page that was taken for the layout and is still mapped here.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(list).add(at % LIST_ENTRIES).write(frame) };
            at += 1;
        };
        for page in 0..self.layout.end {
            let address = self.source(page);
            is_given[(address - base) / PAGE_BYTES] = true;
            next(memory.frame(address));
        }
        for (page, _) in is_given.iter().enumerate().filter(|(_, is_given)| !**is_given) {
            next(memory.frame(base + page * PAGE_BYTES));
        }
    }

    fn start_info(&self, boot: &BootInfo, memory: &Memory, command_line: &[u8]) -> start_info {
        let layout = &self.layout;
        // SAFETY: all fields are integers, for which zero is a value.
        let mut info: start_info = unsafe { core::mem::zeroed() };
        for (to, from) in info.magic.iter_mut().zip(b"xen-3.0-x86_64\0") {
            *to = from.cast_signed();
        }
        info.nr_pages = layout.end as u64;
        info.shared_info = boot.shared_info_frame << 12;
        if let Some(channel) = &boot.console {
            // SAFETY: the union is zero, which is a value of both variants.
            let console = unsafe { &mut info.console.domU };
            (console.mfn, console.evtchn) = (channel.frame, channel.port);
        }
        info.pt_base = layout.address(layout.tables.start) as u64;
        info.nr_pt_frames = layout.tables.len() as u64;
        info.mfn_list = layout.address(layout.frame_list) as u64;
        info.mod_start = layout.address(layout.module) as u64;
        info.mod_len = self.stream.len() as u64;
        let room = info.cmd_line.len() - 1;
        for (to, from) in info.cmd_line[..room].iter_mut().zip(command_line) {
            *to = from.cast_signed();
        }
        info.first_p2m_pfn = layout.frame_list as u64;
        info.nr_p2m_frames = pages_for(memory.pages() * size_of::<u64>()) as u64;
        info
    }

    /// Writes the page tables: the root, level 3, levels 2, levels 1.
    fn make_tables(&self, memory: &Memory, trampoline: &Trampoline) {
        let layout = &self.layout;
        let range = layout.base..layout.address(layout.end);
        let set = |page: usize, index: usize, entry: Entry| {
            assert!(index < ENTRIES, "a table has 512 entries");
            // SAFETY: the page belongs to the layout, is zeroed, and is still mapped here for writing.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(self.source(page)).add(index).write(entry.0) };
        };
        let lead = |page: usize| Entry::new(memory.frame(self.source(page)), Entry::TABLE);
        let (root, level3) = (layout.tables.start, layout.tables.start + 1);
        let level2 = level3 + 1;
        let level1 = level2 + entries(Level::Three, &range);
        set(root, Level::Four.index(layout.base), lead(level3));
        set(root, ROOT_INDEX, trampoline.entry_for_root(memory));
        let span3 = Level::Three.entry_span();
        for (number, table) in (level2..level1).enumerate() {
            set(level3, Level::Three.index(layout.base / span3 * span3 + number * span3), lead(table));
        }
        let span2 = Level::Two.entry_span();
        for (number, table) in (level1..layout.tables.end).enumerate() {
            let address = layout.base / span2 * span2 + number * span2;
            set(level2 + address / span3 - layout.base / span3, Level::Two.index(address), lead(table));
        }
        for page in 0..layout.end {
            let address = layout.address(page);
            let rights = if layout.tables.contains(&page) { Entry::READ_ONLY } else { Entry::READ_WRITE };
            let entry = Entry::new(memory.frame(self.source(page)), rights);
            set(level1 + address / span2 - layout.base / span2, Level::One.index(address), entry);
        }
    }

    /// Unmaps the pages here, gives them the successor's page numbers, and turns its tables into page tables.
    fn hand_out(&mut self, memory: &Memory) -> Result<(), Unbuildable> {
        // SAFETY: only the layout uses its pages, and from here on it only reads their frame numbers.
        unsafe { memory.unmap_pages(self.given()) }?;
        memory.name_frames((0..self.layout.end).map(|page| (memory.frame(self.source(page)), page)))?;
        memory.pin_root(self.root_frame(memory)).map_err(Unbuildable::Tables)?;
        self.is_pinned = true;
        Ok(())
    }

    fn root_frame(&self, memory: &Memory) -> u64 {
        memory.frame(self.source(self.layout.tables.start))
    }

    /// Returns how the successor is entered.
    pub(crate) fn entry(&self, memory: &Memory, program: Program<'_>) -> SuccessorEntry {
        SuccessorEntry {
            root_frame: self.root_frame(memory),
            entry: program.entry(),
            stack_end: self.layout.address(self.layout.stack + 1),
            start_info: self.layout.address(self.layout.start_info),
        }
    }

    /// Returns the address of the list of ring mappings in the successor.
    pub(crate) fn mappings_address(&self) -> usize {
        self.layout.address(self.layout.mappings)
    }

    /// Returns the layout's size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.layout.end * PAGE_BYTES
    }

    /// Takes all pages back, no matter what the successor did with them.
    pub(crate) fn leave(self, memory: &Memory) {
        let old = |address: usize| (memory.frame(address), (address - entry::virt_base()) / PAGE_BYTES);
        let outcome = (|| {
            if self.is_pinned {
                // SAFETY: the current root is another one.
                unsafe { memory.unpin_root(self.root_frame(memory)) }?;
            }
            memory.name_frames((0..self.layout.end).map(|page| old(self.source(page))))?;
            memory.map_pages(self.given())
        })();
        if let Err(error) = outcome {
            // Xen still uses these pages. Their loss costs less than their reuse would break.
            ::log::error!(
                "update: {} KiB of the failed successor's memory could not be reclaimed: {error}",
                self.bytes() / 1024
            );
            self.pages.lose();
            self.stream.pages().lose();
        }
    }
}
