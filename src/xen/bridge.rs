//! The bridge: two pages that are mapped at the same addresses in two address spaces, over which the processor goes from
//! one kernel to another and back (`boot/bridge.s`).
//!
//! Whoever builds it is the *predecessor*, the other one the *successor*. The successor finds in the data page who its
//! predecessor was; until it takes the bridge down, any failure leads back.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ptr;

use super::abi::XenError;
use super::entry;
use super::memory::{ExtendedOperation, Memory, MemoryError};
use super::page_table::{ENTRIES, Entry, Level};
use super::shared_page::PAGE_BYTES;

/// Where the code page is: the second entry of the root table, which neither kernel uses otherwise.
const BASE: usize = Level::Four.entry_span();
/// That entry.
pub(crate) const ROOT_INDEX: usize = 1;
/// Where the data page is.
const DATA: usize = BASE + PAGE_BYTES;
/// Pages that a bridge takes: three tables, code and data.
pub(crate) const PAGES: usize = 5;
/// Says that the data page is one, and which layout it has. Another layout gets another number.
const MAGIC: u64 = u64::from_be_bytes(*b"xsbridg1");
/// Bytes for what the successor says at its end.
const TEXT_BYTES: usize = 512;

/// How the way over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The successor's tables were refused.
    Refused,
    /// The successor's time was over, at this instruction.
    Late(u64),
    /// A fault, before the successor had handlers: vector and instruction.
    Fault(u64, u64),
    /// The successor gave up and said why, in [`Data::text`].
    GaveUp,
}

const OUTCOME_FAULT: u64 = 1;
const OUTCOME_LATE: u64 = 2;
const OUTCOME_GAVE_UP: u64 = 3;
const OUTCOME_REFUSED: u64 = 4;

/// What one kernel tells the other. Fields are only ever added, at the end: the rest of the page is zero, so whoever has an
/// older predecessor finds zeros there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Handover {
    /// The predecessor's root table, a machine frame.
    pub(crate) predecessor_root: u64,
    /// Pages of the domain, which the successor's p2m list names: its own first, then the predecessor's.
    pub(crate) total_pages: u64,
    /// Where the successor has the list of the predecessor's ring mappings: a virtual address.
    pub(crate) mappings: u64,
    /// How many there are.
    pub(crate) mapping_count: u64,
    /// Bytes of console lines behind that list.
    pub(crate) line_bytes: u64,
    /// The port of `VIRQ_DOM_EXC`.
    pub(crate) exception_port: u32,
    /// The port of `VIRQ_TIMER`.
    pub(crate) timer_port: u32,
    /// When the predecessor stopped serving, in nanoseconds since the host's start.
    pub(crate) stopped_ns: u64,
    /// How long it took to save the state.
    pub(crate) save_ns: u64,
    /// Why this is no live update but a restart.
    pub(crate) crash: CrashNote,
    /// The latest crashes that requests caused.
    pub(crate) recent: [RecentCrash; RECENT_CRASHES],
}

/// How many crashes are remembered. A domain that causes another one after so many of others' gets a fresh chance.
pub(crate) const RECENT_CRASHES: usize = 8;

/// A crash that a request caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RecentCrash {
    /// Whose request it was.
    pub(crate) domain: u16,
    /// When, in milliseconds since the host's start; 0 for never.
    pub(crate) at_ms: u64,
}

impl RecentCrash {
    /// None.
    pub(crate) const NEVER: Self = Self { domain: 0, at_ms: 0 };
}

/// Bytes of the report of a crash.
pub(crate) const REPORT_BYTES: usize = 1024;

/// The crash that led to a restart.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct CrashNote {
    /// Whose request it was.
    pub(crate) domain: u16,
    /// 1 if that was not the domain's first a short time before.
    pub(crate) is_repeated: u16,
    /// Bytes of the report; 0 if there was no crash.
    pub(crate) report_bytes: u32,
    /// What happened.
    pub(crate) report: [u8; REPORT_BYTES],
}

impl CrashNote {
    /// There was none.
    pub(crate) const NONE: Self = Self { domain: 0, is_repeated: 0, report_bytes: 0, report: [0; REPORT_BYTES] };

    /// Whether there was a crash.
    pub(crate) const fn is_there(&self) -> bool {
        self.report_bytes > 0
    }
}

/// The data page.
#[derive(Debug)]
#[repr(C)]
struct Data {
    magic: u64,
    /// The predecessor's stack pointer.
    saved_rsp: u64,
    /// The address of the upcall mask, in the predecessor's space.
    upcall_mask: u64,
    to_successor: ExtendedOperation,
    to_predecessor: ExtendedOperation,
    entry_rip: u64,
    entry_rsp: u64,
    entry_rsi: u64,
    /// Where the successor jumps to go back.
    return_rip: u64,
    outcome: u64,
    fault_vector: u64,
    fault_rip: u64,
    text_bytes: u64,
    text: [u8; TEXT_BYTES],
    handover: Handover,
}

/// The code's stack is the rest of the data page. It holds a return address and what Xen pushes at an upcall.
const STACK_BYTES_MIN: usize = 1024;
const _: () = assert!(size_of::<Data>() + STACK_BYTES_MIN <= PAGE_BYTES);

global_asm!(
    include_str!("../../boot/bridge.s"),
    saved_rsp = const offset_of!(Data, saved_rsp),
    upcall_mask = const offset_of!(Data, upcall_mask),
    to_successor = const offset_of!(Data, to_successor),
    to_predecessor = const offset_of!(Data, to_predecessor),
    entry_rip = const offset_of!(Data, entry_rip),
    entry_rsp = const offset_of!(Data, entry_rsp),
    entry_rsi = const offset_of!(Data, entry_rsi),
    outcome = const offset_of!(Data, outcome),
    fault_vector = const offset_of!(Data, fault_vector),
    fault_rip = const offset_of!(Data, fault_rip),
    outcome_fault = const OUTCOME_FAULT,
    outcome_late = const OUTCOME_LATE,
    outcome_refused = const OUTCOME_REFUSED,
    mmuext_op = const xen_sys::__HYPERVISOR_mmuext_op,
    sched_op = const xen_sys::__HYPERVISOR_sched_op,
    sched_shutdown = const xen_sys::SCHEDOP_shutdown,
    crash = const xen_sys::SHUTDOWN_crash,
);

unsafe extern "C" {
    static bridge_start: u8;
    static bridge_enter: u8;
    static bridge_return: u8;
    static bridge_upcall: u8;
    static bridge_failsafe: u8;
    static bridge_faults: u8;
    static bridge_end: u8;
    fn cross_bridge(enter: usize);
}

/// Where a symbol of the code is on the bridge.
macro_rules! on_bridge {
    ($symbol:ident) => {
        BASE + ((&raw const $symbol).addr() - (&raw const bridge_start).addr())
    };
}

/// How the successor is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Its root table, a machine frame.
    pub(crate) root_frame: u64,
    /// Its first instruction.
    pub(crate) entry: usize,
    /// The end of its boot stack.
    pub(crate) stack_end: usize,
    /// Its `start_info`.
    pub(crate) start_info: usize,
}

/// The predecessor's end of a bridge.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// Linear addresses: tables of level 3, 2 and 1, code, data.
    pages: [usize; PAGES],
}

impl Bridge {
    /// Builds a bridge of free pages of the linear mapping, and maps it in the current space.
    ///
    /// # Errors
    /// When Xen refuses; [`Bridge::take_down`] puts the pages in order again.
    ///
    /// # Safety
    /// The pages must be free, page-aligned, and belong to the bridge until it is taken down.
    pub(crate) unsafe fn build(memory: &Memory, pages: [usize; PAGES]) -> (Self, Result<(), MemoryError>) {
        let bridge = Self { pages };
        let [level3, level2, level1, code, data] = pages;
        for page in pages {
            // SAFETY: the page is free, as the caller promises.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(page).write_bytes(0, PAGE_BYTES) };
        }
        let code_bytes = (&raw const bridge_end).addr() - (&raw const bridge_start).addr();
        assert!(code_bytes <= PAGE_BYTES, "the bridge's code is one page");
        // SAFETY: the code lies between its symbols; the page is free.
        unsafe {
            ptr::with_exposed_provenance_mut::<u8>(code).copy_from_nonoverlapping(&raw const bridge_start, code_bytes);
        }
        let set = |table: usize, index: usize, entry: Entry| {
            assert!(index < ENTRIES, "a table has 512 entries");
            // SAFETY: the page is free, and mapped for writing until it is made a table.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(table).add(index).write(entry.0) };
        };
        let data_rights = Entry::new(0, Entry::READ_WRITE).with_rights(true, false);
        set(level3, Level::Three.index(BASE), Entry::new(memory.frame(level2), Entry::TABLE));
        set(level2, Level::Two.index(BASE), Entry::new(memory.frame(level1), Entry::TABLE));
        set(level1, Level::One.index(BASE), Entry::new(memory.frame(code), Entry::READ_ONLY));
        set(level1, Level::One.index(DATA), Entry::new(memory.frame(data), data_rights.0));
        let linked = bridge.link(memory);
        (bridge, linked)
    }

    fn link(&self, memory: &Memory) -> Result<(), MemoryError> {
        for table in &self.pages[..3] {
            memory.make_page_table(*table)?;
        }
        // SAFETY: nothing is mapped there, and the tables were just made.
        unsafe { memory.set_root_entry(ROOT_INDEX, self.entry_for_root(memory)) }
    }

    /// The entry that the successor's root table must have at [`ROOT_INDEX`].
    pub(crate) fn entry_for_root(&self, memory: &Memory) -> Entry {
        Entry::new(memory.frame(self.pages[0]), Entry::TABLE)
    }

    /// Goes over, and returns when the way leads back. Faults and the alarm lead back as well, so that the handlers of this
    /// kernel have to be registered again afterwards. Upcalls are masked then.
    ///
    /// # Safety
    /// The successor's tables must be in order and pinned, and have this bridge. What is in its pages must be unmapped here.
    /// All ports but the alarm's must be masked, and no upcall pending.
    pub(crate) unsafe fn cross(&self, memory: &Memory, way: Way, upcall_mask: *mut u8, handover: Handover) -> Outcome {
        let new = |frame| ExtendedOperation::about(xen_sys::MMUEXT_NEW_BASEPTR, frame);
        let data = data();
        // SAFETY: the data page, which is mapped there as long as the bridge stands.
        unsafe {
            data.write(Data {
                magic: MAGIC,
                saved_rsp: 0,
                upcall_mask: upcall_mask.expose_provenance() as u64,
                to_successor: new(way.root_frame),
                to_predecessor: new(memory.root_frame()),
                entry_rip: way.entry as u64,
                entry_rsp: way.stack_end as u64,
                entry_rsi: way.start_info as u64,
                return_rip: on_bridge!(bridge_return) as u64,
                outcome: 0,
                fault_vector: 0,
                fault_rip: 0,
                text_bytes: 0,
                text: [0; TEXT_BYTES],
                handover,
            });
        }
        entry::register_fault_handlers(on_bridge!(bridge_faults));
        entry::register_callbacks(on_bridge!(bridge_upcall), on_bridge!(bridge_failsafe));
        // SAFETY: the caller's promise; the function keeps what a function has to keep.
        unsafe { cross_bridge(on_bridge!(bridge_enter)) };
        // SAFETY: as above; the other kernel is gone for good.
        let (outcome, fault_vector, fault_rip) = unsafe { ((*data).outcome, (*data).fault_vector, (*data).fault_rip) };
        match outcome {
            OUTCOME_REFUSED => Outcome::Refused,
            OUTCOME_LATE => Outcome::Late(fault_rip),
            OUTCOME_GAVE_UP => Outcome::GaveUp,
            _ => Outcome::Fault(fault_vector, fault_rip),
        }
    }

    /// What the successor said when it gave up.
    pub(crate) fn text(&self) -> ([u8; TEXT_BYTES], usize) {
        // SAFETY: the data page, which is mapped as long as the bridge stands. Nobody else runs.
        let (text, text_bytes) = unsafe { ((*data()).text, (*data()).text_bytes) };
        (text, usize::try_from(text_bytes).unwrap_or(0).min(TEXT_BYTES))
    }

    /// Takes the bridge down, in the current space; its pages are free again.
    ///
    /// # Errors
    /// When Xen refuses: its tables are still in use elsewhere.
    pub(crate) fn take_down(self, memory: &Memory) -> Result<[usize; PAGES], MemoryError> {
        // SAFETY: nobody is on the bridge.
        unsafe { memory.set_root_entry(ROOT_INDEX, Entry::ABSENT) }?;
        memory.map_pages(self.pages.into_iter())?;
        Ok(self.pages)
    }
}

/// The data page.
fn data() -> *mut Data {
    ptr::with_exposed_provenance_mut(DATA)
}

/// The successor's end of a bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FarEnd(());

impl FarEnd {
    /// Whether this kernel has come over a bridge.
    ///
    /// # Safety
    /// `root_table` must be the virtual address of the current root table.
    pub(crate) unsafe fn find(root_table: usize) -> Option<Self> {
        // SAFETY: the caller's promise: a table is mapped for reading.
        let entry = Entry(unsafe { ptr::with_exposed_provenance::<u64>(root_table).add(ROOT_INDEX).read_volatile() });
        if !entry.is_present() {
            return None;
        }
        // SAFETY: only a bridge is mapped there.
        (unsafe { (&raw const (*data()).magic).read_volatile() } == MAGIC).then_some(Self(()))
    }

    /// What the predecessor says.
    pub(crate) fn handover(self) -> Handover {
        // SAFETY: the data page is mapped until the bridge is taken down; nobody else runs.
        unsafe { (&raw const (*data()).handover).read() }
    }

    /// Goes back, for this reason.
    pub(crate) fn go_back(self, why: &str) -> ! {
        let bytes = why.as_bytes();
        let count = bytes.len().min(TEXT_BYTES);
        // SAFETY: as above. The bridge's code never returns.
        unsafe {
            (&raw mut (*data()).text).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), count);
            (&raw mut (*data()).text_bytes).write_volatile(count as u64);
            (&raw mut (*data()).outcome).write_volatile(OUTCOME_GAVE_UP);
            let back = (&raw const (*data()).return_rip).read_volatile();
            core::arch::asm!("jmp {}", in(reg) back, options(noreturn));
        }
    }

    /// Takes the bridge down: there is no way back any more.
    ///
    /// # Errors
    /// When Xen refuses.
    pub(crate) fn take_down(self, memory: &Memory) -> Result<(), XenError> {
        // SAFETY: nobody is on the bridge.
        match unsafe { memory.set_root_entry(ROOT_INDEX, Entry::ABSENT) } {
            Err(MemoryError::Refused(error)) => Err(error),
            _ => Ok(()),
        }
    }
}
