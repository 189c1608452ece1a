//! Checks whether an uploaded file is a kernel that this one can start. Such a file is a static 64-bit ELF file with
//! the notes of a Xen PV guest (`xen/include/public/elfnote.h`).
//!
//! The check covers every field of the file that the starting kernel uses. No file that passes can make that kernel
//! read outside the file, or write outside the memory set apart for the image.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::limits;
use crate::update::upload::Upload;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;
/// Bytes of an ELF file's header, of a program header, and of a note's header.
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const NOTE_HEADER_BYTES: usize = 12;
/// The owner of Xen's notes, with its NUL.
const OWNER: [u8; 4] = *b"Xen\0";
/// Types of program headers.
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// A segment's flag: executable.
const PF_X: u32 = 1;
/// The first bytes of a file that `gzip` compressed.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The reason why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStartable {
    /// The file does not begin like an ELF file, or ends within the header. The field has its first bytes.
    NoElf([u8; 4]),
    /// The file is an ELF file, but not a static x86-64 program.
    OtherElf(&'static str),
    /// The number of the file's program headers is 0, or exceeds [`limits::IMAGE_SEGMENTS`].
    SegmentCount(u16),
    /// The file is a kernel for PVH, which a PV guest cannot start.
    Pvh,
    /// The file has no notes of a PV kernel.
    NoNotes,
    /// A required note is missing or unreadable.
    Note(&'static str),
    /// A program header is invalid; the number counts from 0.
    Segment(u16, &'static str),
    /// An address is outside the image's memory, or at a wrong place in it.
    Address(&'static str),
}

impl fmt::Display for NotStartable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoElf(bytes) => {
                let [a, b, c, d] = bytes;
                let hint = if bytes.starts_with(&GZIP) { "; is it compressed?" } else { "" };
                write!(f, "it is not an ELF file (first bytes {a:02x} {b:02x} {c:02x} {d:02x}{hint})")
            }
            Self::OtherElf(what) => write!(f, "it is an ELF file, but {what}"),
            Self::SegmentCount(count) => write!(f, "it has {count} segments, and not 1 to {}", limits::IMAGE_SEGMENTS),
            Self::Pvh => f.write_str("it is a PVH kernel, and this domain is PV"),
            Self::NoNotes => f.write_str("it has no notes of a Xen PV kernel"),
            Self::Note(what) => write!(f, "its note {what} is missing or wrong"),
            Self::Segment(number, what) => write!(f, "its segment {number} {what}"),
            Self::Address(what) => write!(f, "the address of its {what} is invalid"),
        }
    }
}

/// A part of the file that is copied into memory. The memory after it is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Offset and length in the file, in bytes.
    file_at: usize,
    file_bytes: usize,
    /// Addresses in memory.
    memory: Range<u64>,
    is_executable: bool,
}

/// A kernel that can be started. Addresses are virtual, in its own address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    entry: u64,
    base: u64,
    end: u64,
    hypercall_page: u64,
    segments: Vec<Segment>,
}

/// The values of Xen's notes.
#[derive(Clone, Copy, Debug, Default)]
struct Notes {
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    base: Option<u64>,
    physical_offset: Option<u64>,
    is_pvh: bool,
    any: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_le_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

impl Image {
    /// Checks a file.
    ///
    /// # Errors
    /// Fails with [`NotStartable`] for the first error.
    pub fn check(file: &Upload) -> Result<Self, NotStartable> {
        let header = check_header(file)?;
        let table_at = usize::try_from(u64_at(&header, 32)).map_err(|_| NotStartable::NoElf([0; 4]))?;
        let count = u16_at(&header, 56);
        if count == 0 || usize::from(count) > limits::IMAGE_SEGMENTS {
            return Err(NotStartable::SegmentCount(count));
        }
        let program_header = |number: u16| {
            let at = usize::from(number).checked_mul(PROGRAM_HEADER_BYTES).and_then(|at| at.checked_add(table_at));
            let header = at.and_then(|at| file.read::<PROGRAM_HEADER_BYTES>(at));
            header.ok_or(NotStartable::Segment(number, "is described after the end of the file"))
        };
        let mut notes = Notes::default();
        for number in 0..count {
            let header = program_header(number)?;
            if u32_at(&header, 0) == PT_NOTE {
                let (at, bytes) = in_file(file, &header).ok_or(NotStartable::Segment(number, "is not in the file"))?;
                notes.read(file, at, bytes);
            }
        }
        if notes.is_pvh && notes.entry.is_none() {
            return Err(NotStartable::Pvh);
        }
        if !notes.any {
            return Err(NotStartable::NoNotes);
        }
        let base = notes.base.filter(|base| base.is_multiple_of(PAGE_BYTES)).ok_or(NotStartable::Note("VIRT_BASE"))?;
        let mut image = Self {
            entry: notes.entry.ok_or(NotStartable::Note("ENTRY"))?,
            base,
            end: base,
            hypercall_page: notes.hypercall_page.ok_or(NotStartable::Note("HYPERCALL_PAGE"))?,
            segments: Vec::new(),
        };
        for number in 0..count {
            let header = program_header(number)?;
            if u32_at(&header, 0) == PT_LOAD {
                image.add(file, &header, notes.physical_offset.unwrap_or(0), number)?;
            }
        }
        image.check_addresses()?;
        Ok(image)
    }

    /// Adds a segment, which has to follow the previous ones in memory.
    fn add(
        &mut self,
        file: &Upload,
        header: &[u8; PROGRAM_HEADER_BYTES],
        physical_offset: u64,
        number: u16,
    ) -> Result<(), NotStartable> {
        let wrong = |what| NotStartable::Segment(number, what);
        let (file_at, file_bytes) = in_file(file, header).ok_or(wrong("is not in the file"))?;
        // The same rule as the domain builder's: physical addresses count from an offset, virtual ones from the base.
        let offset = u64_at(header, 24).checked_sub(physical_offset).ok_or(wrong("lies below the base"))?;
        let start = self.base.checked_add(offset).ok_or(wrong("lies too high"))?;
        let bytes = u64_at(header, 40);
        if bytes < file_bytes as u64 {
            return Err(wrong("is longer in the file than in memory"));
        }
        let end = start.checked_add(bytes).ok_or(wrong("lies too high"))?;
        if end.saturating_sub(self.base) > limits::IMAGE_MEMORY_BYTES {
            return Err(wrong("needs too much memory"));
        }
        if start < self.end {
            return Err(wrong("overlaps the one before"));
        }
        self.end = end;
        let is_executable = u32_at(header, 4) & PF_X != 0;
        self.segments.push(Segment { file_at, file_bytes, memory: start..end, is_executable });
        Ok(())
    }

    fn check_addresses(&mut self) -> Result<(), NotStartable> {
        self.end = self.end.checked_next_multiple_of(PAGE_BYTES).ok_or(NotStartable::Address("end"))?;
        let is_code = |address: &u64| {
            self.segments.iter().any(|segment| segment.is_executable && segment.memory.contains(address))
        };
        if !is_code(&self.entry) {
            return Err(NotStartable::Address("entry"));
        }
        if !self.hypercall_page.is_multiple_of(PAGE_BYTES) || !is_code(&self.hypercall_page) {
            return Err(NotStartable::Address("hypercall page"));
        }
        if !is_code(&self.hypercall_page.saturating_add(PAGE_BYTES - 1)) {
            return Err(NotStartable::Address("hypercall page"));
        }
        Ok(())
    }

    /// Returns the entry point.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Returns the address of the first page; page-aligned.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// Returns the bytes of memory from the base on, in whole pages; at most [`limits::IMAGE_MEMORY_BYTES`].
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.end.saturating_sub(self.base)
    }

    /// Returns the address of the page of hypercall stubs, which lies in the image's memory.
    #[must_use]
    pub const fn hypercall_page(&self) -> u64 {
        self.hypercall_page
    }

    /// Calls `put` with each piece of the file and its offset from the base in memory. All other memory is zero.
    pub fn for_each_part(&self, file: &Upload, mut put: impl FnMut(u64, &[u8])) {
        for segment in &self.segments {
            let mut offset = segment.memory.start.saturating_sub(self.base);
            for part in file.parts(segment.file_at, segment.file_bytes) {
                put(offset, part);
                offset = offset.saturating_add(part.len() as u64);
            }
        }
    }
}

/// Checks that the file is a static x86-64 ELF file.
fn check_header(file: &Upload) -> Result<[u8; HEADER_BYTES], NotStartable> {
    let first_bytes = file.read(0).unwrap_or_default();
    let header = file.read::<HEADER_BYTES>(0).filter(|header| header.starts_with(b"\x7fELF"));
    let header = header.ok_or(NotStartable::NoElf(first_bytes))?;
    let kind = (header.get(4), header.get(5), u16_at(&header, 18));
    if kind != (Some(&2), Some(&1), 62) {
        return Err(NotStartable::OtherElf("not for x86-64"));
    }
    if u16_at(&header, 16) != 2 {
        return Err(NotStartable::OtherElf("not a static program"));
    }
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES {
        return Err(NotStartable::OtherElf("with program headers of another size"));
    }
    Ok(header)
}

/// Returns a segment's offset and length in the file; `None` if the file ends before.
fn in_file(file: &Upload, header: &[u8; PROGRAM_HEADER_BYTES]) -> Option<(usize, usize)> {
    let at = usize::try_from(u64_at(header, 8)).ok()?;
    let bytes = usize::try_from(u64_at(header, 32)).ok()?;
    (at.checked_add(bytes)? <= file.len()).then_some((at, bytes))
}

impl Notes {
    /// Reads the notes of a segment. Skips notes of other owners, and stops at an invalid note.
    fn read(&mut self, file: &Upload, at: usize, bytes: usize) {
        let end = at.saturating_add(bytes);
        let mut at = at;
        for _ in 0..limits::IMAGE_NOTES {
            let Some(header) = file.read::<NOTE_HEADER_BYTES>(at).filter(|_| at < end) else { return };
            let words = [u32_at(&header, 0), u32_at(&header, 4), u32_at(&header, 8)];
            let [owner_bytes, value_bytes, kind] = words;
            let padded = |bytes: u32| usize::try_from(bytes).ok()?.checked_next_multiple_of(4);
            let (Some(owner), Some(value)) = (padded(owner_bytes), padded(value_bytes)) else { return };
            let owner_at = at.saturating_add(NOTE_HEADER_BYTES);
            let value_at = owner_at.saturating_add(owner);
            if owner_bytes == 4 && file.read(owner_at) == Some(OWNER) {
                self.note(kind, number(file, value_at, value_bytes));
            }
            at = value_at.saturating_add(value);
        }
    }

    /// Stores the value of one of Xen's notes.
    const fn note(&mut self, kind: u32, value: Option<u64>) {
        match kind {
            1 => self.entry = value,
            2 => self.hypercall_page = value,
            3 => self.base = value,
            4 => self.physical_offset = value,
            18 => self.is_pvh = true,
            _ => return,
        }
        self.any = true;
    }
}

/// Returns a note's value, if it is a number of 4 or 8 bytes.
fn number(file: &Upload, at: usize, bytes: u32) -> Option<u64> {
    match bytes {
        4 => file.read(at).map(|word| u64::from(u32::from_le_bytes(word))),
        8 => file.read(at).map(u64::from_le_bytes),
        _ => None,
    }
}

#[cfg(test)]
#[path = "image/tests.rs"]
mod tests;
