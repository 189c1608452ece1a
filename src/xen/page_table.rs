//! The arithmetic of x86-64 page tables: the entry of a table that maps an address, and the contents of an entry.
//!
//! The module is pure: `memory` reads and changes the tables.

use super::shared_page::PAGE_BYTES;

/// Number of entries of a table.
pub(crate) const ENTRIES: usize = 512;
/// Size of an entry in bytes.
pub(crate) const ENTRY_BYTES: usize = 8;

/// The level of a table. A level 1 entry maps a page, a level 4 table is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Maps 4 KiB for each entry.
    One,
    /// Maps 2 MiB for each entry.
    Two,
    /// Maps 1 GiB for each entry.
    Three,
    /// Maps 512 GiB for each entry.
    Four,
}

impl Level {
    /// Returns the bytes that an entry of this level maps.
    pub(crate) const fn entry_span(self) -> usize {
        PAGE_BYTES
            << match self {
                Self::One => 0,
                Self::Two => 9,
                Self::Three => 18,
                Self::Four => 27,
            }
    }

    /// Returns the index of the entry that maps `address` in a table of this level.
    pub(crate) const fn index(self, address: usize) -> usize {
        address / self.entry_span() % ENTRIES
    }

    /// Returns the level below.
    pub(crate) const fn below(self) -> Option<Self> {
        match self {
            Self::One => None,
            Self::Two => Some(Self::One),
            Self::Three => Some(Self::Two),
            Self::Four => Some(Self::Three),
        }
    }
}

/// An entry of a page table: a machine frame and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    /// An entry that maps nothing.
    pub(crate) const ABSENT: Self = Self(0);
    /// The entry maps something.
    pub(crate) const PRESENT: u64 = 1 << 0;
    /// The memory is writable.
    pub(crate) const WRITABLE: u64 = 1 << 1;
    /// Ring 3 may use the memory. Xen runs a 64-bit PV kernel there, and sets the flag of level 1 itself.
    pub(crate) const USER: u64 = 1 << 2;
    /// The entry has been used. Set from the start, so that the processor has nothing to write back.
    pub(crate) const ACCESSED: u64 = 1 << 5;
    /// The memory has been written. Set from the start as well.
    pub(crate) const DIRTY: u64 = 1 << 6;
    /// The memory is not executable.
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
    /// The flags of an entry that leads to a lower table. Only the lowest level restricts rights.
    pub(crate) const TABLE: u64 = Self::PRESENT | Self::WRITABLE | Self::USER | Self::ACCESSED | Self::DIRTY;
    /// The flags of a read-only page.
    pub(crate) const READ_ONLY: u64 = Self::PRESENT | Self::ACCESSED | Self::DIRTY;
    /// The flags of a page for reading and writing.
    pub(crate) const READ_WRITE: u64 = Self::READ_ONLY | Self::WRITABLE;

    /// The bits of the frame's address: 12 to 51.
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Creates an entry for machine frame `frame`.
    pub(crate) const fn new(frame: u64, flags: u64) -> Self {
        Self((frame << 12) & Self::ADDRESS | flags)
    }

    /// Returns the machine frame.
    pub(crate) const fn frame(self) -> u64 {
        (self.0 & Self::ADDRESS) >> 12
    }

    /// Returns whether the entry maps something.
    pub(crate) const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Returns the same frame with other rights: writable only if `writable`, executable only if `executable`.
    pub(crate) const fn with_rights(self, writable: bool, executable: bool) -> Self {
        let writable = if writable { Self::WRITABLE } else { 0 };
        let no_execute = if executable { 0 } else { Self::NO_EXECUTE };
        Self(self.0 & !(Self::WRITABLE | Self::NO_EXECUTE) | writable | no_execute)
    }
}
