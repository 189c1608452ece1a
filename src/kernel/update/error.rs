//! The reasons why a live update or a warm restart fails. Their texts are made where they are answered or logged.

use alloc::string::String;
use core::fmt;

use super::layout::Unbuildable;
use super::pages::NoPages;
use crate::kernel::heap;
use crate::xen::abi::XenError;
use crate::xen::memory::MemoryError;

/// The reason why no successor took over. `xenstore-control` shows its text unchanged.
#[derive(Debug)]
pub(crate) enum UpdateError {
    /// The heap does not have the bytes that were requested.
    NoMemory {
        /// Requested bytes.
        wanted: usize,
        /// Free bytes.
        free: usize,
    },
    /// The successor does not fit next to the present state. The requester has not allowed to drop that state (`-F`).
    NoRoomNextToState {
        /// Needed bytes in addition to the stream.
        needed: usize,
        /// Free bytes.
        free: usize,
        /// Bytes of the present state.
        state: usize,
    },
    /// The successor does not fit even in place of the present state.
    NoRoom {
        /// Needed bytes in addition to the stream.
        needed: usize,
        /// Free bytes.
        free: usize,
        /// Bytes of the present state.
        state: usize,
        /// Bytes of the stream.
        stream: usize,
    },
    /// A value of the state is too long for its field in the stream.
    TooLong(&'static str),
    /// The trampoline cannot be built.
    Trampoline(MemoryError),
    /// The image and its memory do not fit into one entry of the root table.
    TooLarge,
    /// Xen refused a change of the successor's memory.
    Memory(MemoryError),
    /// Xen refused the successor's page tables.
    Tables(XenError),
    /// Xen refused to switch to the successor's page tables.
    NotEntered,
    /// The successor did not commit in time.
    Late {
        /// Allowed time in milliseconds.
        allowed_ms: u64,
        /// Address of the interrupted instruction.
        rip: u64,
    },
    /// A processor fault ended the successor before it had handlers.
    Fault {
        /// Number of the exception.
        vector: u64,
        /// Address of the instruction.
        rip: u64,
    },
    /// The successor gave up, with this message.
    GaveUp(String),
}

impl UpdateError {
    /// Returns the error of a request for `wanted` bytes that the heap does not have.
    pub(super) fn no_memory(wanted: usize) -> Self {
        Self::NoMemory { wanted, free: heap::usage().free }
    }
}

impl From<NoPages> for UpdateError {
    fn from(error: NoPages) -> Self {
        Self::no_memory(error.wanted)
    }
}

impl From<Unbuildable> for UpdateError {
    fn from(error: Unbuildable) -> Self {
        match error {
            Unbuildable::NoPages(error) => error.into(),
            Unbuildable::TooLarge => Self::TooLarge,
            Unbuildable::Memory(error) => Self::Memory(error),
            Unbuildable::Tables(error) => Self::Tables(error),
        }
    }
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory { wanted, free } => {
                let (wanted, free) = (wanted.div_ceil(1024), free / 1024);
                write!(f, "not enough memory: {wanted} KiB more are needed, {free} KiB are free")
            }
            Self::NoRoomNextToState { needed, free, state } => {
                let (needed, free, state) = (needed.div_ceil(1024), free / 1024, state / 1024);
                write!(
                    f,
                    "not enough memory to keep the present state until the new kernel serves: {needed} KiB are needed, {free} KiB are free; -F drops the {state} KiB of the present state first, and restores them from the stream if the new kernel fails"
                )
            }
            Self::NoRoom { needed, free, state, stream } => {
                let (needed, free, state) = (needed.div_ceil(1024), free / 1024, state / 1024);
                let stream = stream.div_ceil(1024);
                write!(
                    f,
                    "not enough memory, even without the {state} KiB of the present state: {needed} KiB are needed in addition to the stream's {stream} KiB, {free} KiB are free"
                )
            }
            Self::TooLong(what) => write!(f, "the state can't be saved: field '{what}' of a record is too long"),
            Self::Trampoline(error) => write!(f, "the trampoline to the new kernel can't be built: {error}"),
            Self::TooLarge => {
                f.write_str("the new kernel and its memory do not fit into one entry of the root page table")
            }
            Self::Memory(error) => write!(f, "the new kernel's memory can't be made: {error}"),
            Self::Tables(error) => write!(f, "Xen refused the new kernel's page tables: {error}"),
            Self::NotEntered => f.write_str("Xen refused the new kernel's page tables"),
            Self::Late { allowed_ms, rip } => {
                write!(f, "the new kernel did not finish within {} seconds (it was at {rip:#x})", allowed_ms / 1000)
            }
            Self::Fault { vector, rip } => write!(f, "the new kernel ended with fault {vector} at {rip:#x}"),
            Self::GaveUp(why) => write!(f, "the new kernel gave up: {why}"),
        }
    }
}

/// The reason why there is no warm restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestartError {
    /// The main loop has not begun, or a restart has begun already.
    NotServing,
    /// No request was in flight.
    NoRequest,
    /// The crash interrupted the allocator.
    InAllocator,
    /// There is not enough memory for a successor layout.
    NoMemory,
    /// The state cannot be saved.
    NotSaved,
    /// No successor took over.
    NoSuccessor,
}

impl fmt::Display for RestartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotServing => "nothing was served",
            Self::NoRequest => "no request was in flight",
            Self::InAllocator => "the crash interrupted the allocator",
            Self::NoMemory => "there is not enough memory for a successor layout",
            Self::NotSaved => "the state can't be saved",
            Self::NoSuccessor => "the restart failed as well",
        })
    }
}
