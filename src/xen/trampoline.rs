//! The trampoline ([`Trampoline`]): two pages that are mapped at the same addresses in two address spaces. The processor
//! uses them to switch from one kernel to another and back (`boot/trampoline.s`).
//!
//! The kernel that builds the trampoline is the *predecessor*, the other one the *successor*. The successor finds its
//! predecessor in the data page. Until it takes the trampoline down, any failure leads back.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ptr;

use super::abi::XenError;
use super::entry;
use super::memory::{ExtendedOperation, Memory, MemoryError};
use super::page_table::{ENTRIES, Entry, Level};
use super::shared_page::PAGE_BYTES;

/// Virtual address of the code page. It belongs to the second entry of the root table, which neither kernel uses
/// otherwise.
const BASE: usize = Level::Four.entry_span();
/// Index of that entry in the root table.
pub(crate) const ROOT_INDEX: usize = 1;
/// Virtual address of the data page.
const DATA: usize = BASE + PAGE_BYTES;
/// Pages that a trampoline takes: three page tables, code and data.
pub(crate) const PAGES: usize = 5;
/// The mark of a data page and of its layout. Another layout gets another number.
const MAGIC: u64 = u64::from_be_bytes(*b"xsbridg1");
/// Bytes for the successor's message when it gives up.
const TEXT_BYTES: usize = 512;

/// The outcome of a switch to a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Xen refused the successor's tables.
    Refused,
    /// The successor's time was over. The field is the address of the interrupted instruction.
    Late(u64),
    /// A processor fault came before the successor had handlers. The fields are the vector and the instruction's
    /// address.
    Fault(u64, u64),
    /// The successor gave up and left the reason in [`Data::text`].
    GaveUp,
}

const OUTCOME_FAULT: u64 = 1;
const OUTCOME_LATE: u64 = 2;
const OUTCOME_GAVE_UP: u64 = 3;
const OUTCOME_REFUSED: u64 = 4;

/// The information that one kernel hands to the other. New fields are only ever added at the end. The rest of the page
/// is zero, so the successor of an older predecessor finds zeros there.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Handover {
    /// Machine frame of the predecessor's root table.
    pub(crate) predecessor_root: u64,
    /// Pages of the domain, which the successor's p2m list names: its own first, then the predecessor's.
    pub(crate) total_pages: u64,
    /// Virtual address of the list of the predecessor's ring mappings, in the successor.
    pub(crate) mappings: u64,
    /// Number of ring mappings in the list.
    pub(crate) mapping_count: u64,
    /// Bytes of console lines after that list.
    pub(crate) line_bytes: u64,
    /// The port of `VIRQ_DOM_EXC`.
    pub(crate) exception_port: u32,
    /// The port of `VIRQ_TIMER`.
    pub(crate) timer_port: u32,
    /// Time at which the predecessor stopped serving, in nanoseconds since the host's start.
    pub(crate) stopped_ns: u64,
    /// Duration of saving the state, in nanoseconds.
    pub(crate) save_ns: u64,
    /// The crash that caused a warm restart; [`CrashNote::NONE`] in a live update.
    pub(crate) crash: CrashNote,
    /// The latest crashes that requests caused.
    pub(crate) recent: [RecentCrash; RECENT_CRASHES],
}

/// Number of recorded crashes. A domain's crash is forgotten after this many later ones; the domain then gets a fresh
/// chance.
pub(crate) const RECENT_CRASHES: usize = 8;

/// A crash that a request caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RecentCrash {
    /// The domain that sent the request.
    pub(crate) domain: u16,
    /// Time of the crash in milliseconds since the host's start; 0 for never.
    pub(crate) at_ms: u64,
}

impl RecentCrash {
    /// No crash.
    pub(crate) const NEVER: Self = Self { domain: 0, at_ms: 0 };
}

/// Bytes of the report of a crash.
pub(crate) const REPORT_BYTES: usize = 1024;

/// The crash that led to a warm restart.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct CrashNote {
    /// The domain that sent the request.
    pub(crate) domain: u16,
    /// 1 if the domain had caused another crash a short time before.
    pub(crate) is_repeated: u16,
    /// Bytes of the report; 0 if there was no crash.
    pub(crate) report_bytes: u32,
    /// The report's text.
    pub(crate) report: [u8; REPORT_BYTES],
}

impl CrashNote {
    /// No crash.
    pub(crate) const NONE: Self = Self { domain: 0, is_repeated: 0, report_bytes: 0, report: [0; REPORT_BYTES] };

    /// Returns whether there was a crash.
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
    /// Address of the upcall mask in the predecessor's space.
    upcall_mask: u64,
    to_successor: ExtendedOperation,
    to_predecessor: ExtendedOperation,
    entry_rip: u64,
    entry_rsp: u64,
    entry_rsi: u64,
    /// Address to which the successor jumps to return.
    return_rip: u64,
    outcome: u64,
    fault_vector: u64,
    fault_rip: u64,
    text_bytes: u64,
    text: [u8; TEXT_BYTES],
    handover: Handover,
}

/// The smallest stack of the trampoline's code, in bytes. The stack is the rest of the data page. It holds a return
/// address and Xen's data of an upcall.
const STACK_BYTES_MIN: usize = 1024;
const _: () = assert!(size_of::<Data>() + STACK_BYTES_MIN <= PAGE_BYTES);

// Another release of this kernel may be at the other end of the trampoline: these places stay the same as long as
// [`MAGIC`] does. The predecessor's assembly (`boot/trampoline.s`) uses the fields from `saved_rsp` to `fault_rip`. The
// successor reads `magic`, `return_rip` and `handover`, and writes `outcome`, `text_bytes` and `text`.
const _: () = {
    assert!(offset_of!(Data, magic) == 0);
    assert!(offset_of!(Data, saved_rsp) == 8);
    assert!(offset_of!(Data, upcall_mask) == 16);
    assert!(offset_of!(Data, to_successor) == 24);
    assert!(offset_of!(Data, to_predecessor) == 48);
    assert!(offset_of!(Data, entry_rip) == 72);
    assert!(offset_of!(Data, entry_rsp) == 80);
    assert!(offset_of!(Data, entry_rsi) == 88);
    assert!(offset_of!(Data, return_rip) == 96);
    assert!(offset_of!(Data, outcome) == 104);
    assert!(offset_of!(Data, fault_vector) == 112);
    assert!(offset_of!(Data, fault_rip) == 120);
    assert!(offset_of!(Data, text_bytes) == 128);
    assert!(offset_of!(Data, text) == 136 && TEXT_BYTES == 512);
    assert!(offset_of!(Data, handover) == 648);
};

// A successor of another release reads the handover. A new field adds to the size, and moves no other field.
const _: () = {
    assert!(offset_of!(Handover, predecessor_root) == 0);
    assert!(offset_of!(Handover, total_pages) == 8);
    assert!(offset_of!(Handover, mappings) == 16);
    assert!(offset_of!(Handover, mapping_count) == 24);
    assert!(offset_of!(Handover, line_bytes) == 32);
    assert!(offset_of!(Handover, exception_port) == 40);
    assert!(offset_of!(Handover, timer_port) == 44);
    assert!(offset_of!(Handover, stopped_ns) == 48);
    assert!(offset_of!(Handover, save_ns) == 56);
    assert!(offset_of!(Handover, crash) == 64);
    assert!(offset_of!(Handover, recent) == 1096 && RECENT_CRASHES == 8);
    assert!(size_of::<Handover>() == 1224);
};

// Parts of the handover, which cannot grow in place.
const _: () = {
    assert!(offset_of!(CrashNote, domain) == 0);
    assert!(offset_of!(CrashNote, is_repeated) == 2);
    assert!(offset_of!(CrashNote, report_bytes) == 4);
    assert!(offset_of!(CrashNote, report) == 8);
    assert!(size_of::<CrashNote>() == 1032);
    assert!(offset_of!(RecentCrash, domain) == 0);
    assert!(offset_of!(RecentCrash, at_ms) == 8);
    assert!(size_of::<RecentCrash>() == 16);
};

global_asm!(
    include_str!("../../boot/trampoline.s"),
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
    static trampoline_start: u8;
    static trampoline_enter: u8;
    static trampoline_return: u8;
    static trampoline_upcall: u8;
    static trampoline_failsafe: u8;
    static trampoline_faults: u8;
    static trampoline_end: u8;
    fn cross_trampoline(enter: usize);
}

/// The address of a symbol of the code in the trampoline.
macro_rules! on_trampoline {
    ($symbol:ident) => {
        BASE + ((&raw const $symbol).addr() - (&raw const trampoline_start).addr())
    };
}

/// How the successor is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SuccessorEntry {
    /// Machine frame of its root table.
    pub(crate) root_frame: u64,
    /// Address of its first instruction.
    pub(crate) entry: usize,
    /// Address of the end of its boot stack.
    pub(crate) stack_end: usize,
    /// Address of its `start_info`.
    pub(crate) start_info: usize,
}

/// The predecessor's end of a trampoline.
#[derive(Debug)]
pub(crate) struct Trampoline {
    /// Linear addresses of the tables of level 3, 2 and 1, the code, and the data.
    pages: [usize; PAGES],
}

impl Trampoline {
    /// Builds a trampoline from free pages of the linear mapping, and maps it in the current space.
    ///
    /// # Errors
    /// Fails if Xen refuses; [`Trampoline::take_down`] then restores the pages.
    ///
    /// # Safety
    /// The pages must be free, page-aligned, and belong to the trampoline until it is taken down.
    pub(crate) unsafe fn build(memory: &Memory, pages: [usize; PAGES]) -> (Self, Result<(), MemoryError>) {
        let trampoline = Self { pages };
        let [level3, level2, level1, code, data] = pages;
        for page in pages {
            // SAFETY: the page is free, as the caller guarantees.
            unsafe { ptr::with_exposed_provenance_mut::<u8>(page).write_bytes(0, PAGE_BYTES) };
        }
        let code_bytes = (&raw const trampoline_end).addr() - (&raw const trampoline_start).addr();
        assert!(code_bytes <= PAGE_BYTES, "the trampoline's code is one page");
        // SAFETY: the code lies between its symbols, and the page is free.
        unsafe {
            ptr::with_exposed_provenance_mut::<u8>(code)
                .copy_from_nonoverlapping(&raw const trampoline_start, code_bytes);
        }
        let set = |table: usize, index: usize, entry: Entry| {
            assert!(index < ENTRIES, "a table has 512 entries");
            // SAFETY: the page is free, and mapped for writing until it becomes a table.
            unsafe { ptr::with_exposed_provenance_mut::<u64>(table).add(index).write(entry.0) };
        };
        let data_rights = Entry::new(0, Entry::READ_WRITE).with_rights(true, false);
        set(level3, Level::Three.index(BASE), Entry::new(memory.frame(level2), Entry::TABLE));
        set(level2, Level::Two.index(BASE), Entry::new(memory.frame(level1), Entry::TABLE));
        set(level1, Level::One.index(BASE), Entry::new(memory.frame(code), Entry::READ_ONLY));
        set(level1, Level::One.index(DATA), Entry::new(memory.frame(data), data_rights.0));
        let linked = trampoline.link(memory);
        (trampoline, linked)
    }

    fn link(&self, memory: &Memory) -> Result<(), MemoryError> {
        for table in &self.pages[..3] {
            memory.make_page_table(*table)?;
        }
        // SAFETY: nothing is mapped below that entry, and the tables were just made.
        unsafe { memory.set_root_entry(ROOT_INDEX, self.entry_for_root(memory)) }
    }

    /// Returns the entry that the successor's root table must have at [`ROOT_INDEX`].
    pub(crate) fn entry_for_root(&self, memory: &Memory) -> Entry {
        Entry::new(memory.frame(self.pages[0]), Entry::TABLE)
    }

    /// Switches to the successor, and returns when the successor gives up or fails. Processor faults and the alarm lead
    /// back as well. Afterwards this kernel's handlers must be registered again. Upcalls are masked then.
    ///
    /// # Safety
    /// The successor's tables must be in order and pinned, and contain this trampoline. The contents of its pages must
    /// be unmapped here. All ports but the alarm's must be masked, and no upcall pending.
    pub(crate) unsafe fn cross(
        &self,
        memory: &Memory,
        start: SuccessorEntry,
        upcall_mask: *mut u8,
        handover: Handover,
    ) -> Outcome {
        let new = |frame| ExtendedOperation::about(xen_sys::MMUEXT_NEW_BASEPTR, frame);
        let data = data();
        // SAFETY: the data page is mapped there as long as the trampoline exists.
        unsafe {
            data.write(Data {
                magic: MAGIC,
                saved_rsp: 0,
                upcall_mask: upcall_mask.expose_provenance() as u64,
                to_successor: new(start.root_frame),
                to_predecessor: new(memory.root_frame()),
                entry_rip: start.entry as u64,
                entry_rsp: start.stack_end as u64,
                entry_rsi: start.start_info as u64,
                return_rip: on_trampoline!(trampoline_return) as u64,
                outcome: 0,
                fault_vector: 0,
                fault_rip: 0,
                text_bytes: 0,
                text: [0; TEXT_BYTES],
                handover,
            });
        }
        entry::register_fault_handlers(on_trampoline!(trampoline_faults));
        entry::register_callbacks(on_trampoline!(trampoline_upcall), on_trampoline!(trampoline_failsafe));
        // SAFETY: the caller upholds the contract; the function preserves the registers that a function has to
        // preserve.
        unsafe { cross_trampoline(on_trampoline!(trampoline_enter)) };
        // SAFETY: as above; the other kernel never runs again.
        let (outcome, fault_vector, fault_rip) = unsafe { ((*data).outcome, (*data).fault_vector, (*data).fault_rip) };
        match outcome {
            OUTCOME_REFUSED => Outcome::Refused,
            OUTCOME_LATE => Outcome::Late(fault_rip),
            OUTCOME_GAVE_UP => Outcome::GaveUp,
            _ => Outcome::Fault(fault_vector, fault_rip),
        }
    }

    /// Returns the successor's message when it gave up, and the message's length in bytes.
    pub(crate) fn text(&self) -> ([u8; TEXT_BYTES], usize) {
        // SAFETY: the data page is mapped as long as the trampoline exists. No other code runs.
        let (text, text_bytes) = unsafe { ((*data()).text, (*data()).text_bytes) };
        (text, usize::try_from(text_bytes).unwrap_or(0).min(TEXT_BYTES))
    }

    /// Takes the trampoline down in the current space, and returns its pages, which are free again.
    ///
    /// # Errors
    /// Fails if Xen refuses because its tables are still in use elsewhere.
    pub(crate) fn take_down(self, memory: &Memory) -> Result<[usize; PAGES], MemoryError> {
        // SAFETY: no code runs on the trampoline.
        unsafe { memory.set_root_entry(ROOT_INDEX, Entry::ABSENT) }?;
        memory.map_pages(self.pages.into_iter())?;
        Ok(self.pages)
    }
}

/// Returns the address of the data page.
fn data() -> *mut Data {
    ptr::with_exposed_provenance_mut(DATA)
}

/// The successor's end of a trampoline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedTrampoline(());

impl MappedTrampoline {
    /// Finds out whether a predecessor started this kernel over a trampoline.
    ///
    /// # Safety
    /// `root_table` must be the virtual address of the current root table.
    pub(crate) unsafe fn find(root_table: usize) -> Option<Self> {
        // SAFETY: the caller guarantees that a table is mapped there for reading.
        let entry = Entry(unsafe { ptr::with_exposed_provenance::<u64>(root_table).add(ROOT_INDEX).read_volatile() });
        if !entry.is_present() {
            return None;
        }
        // SAFETY: only a trampoline is mapped there.
        (unsafe { (&raw const (*data()).magic).read_volatile() } == MAGIC).then_some(Self(()))
    }

    /// Returns the predecessor's handover.
    pub(crate) fn handover(self) -> Handover {
        // SAFETY: the data page is mapped until the trampoline is taken down. No other code runs.
        unsafe { (&raw const (*data()).handover).read() }
    }

    /// Returns to the predecessor, with the reason `why`.
    pub(crate) fn return_to_predecessor(self, why: &str) -> ! {
        let bytes = why.as_bytes();
        let count = bytes.len().min(TEXT_BYTES);
        // SAFETY: as above. The trampoline's code never returns.
        unsafe {
            (&raw mut (*data()).text).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), count);
            (&raw mut (*data()).text_bytes).write_volatile(count as u64);
            (&raw mut (*data()).outcome).write_volatile(OUTCOME_GAVE_UP);
            let back = (&raw const (*data()).return_rip).read_volatile();
            core::arch::asm!("jmp {}", in(reg) back, options(noreturn));
        }
    }

    /// Takes the trampoline down: there is no way back any more.
    ///
    /// # Errors
    /// Fails if Xen refuses.
    pub(crate) fn take_down(self, memory: &Memory) -> Result<(), XenError> {
        // SAFETY: no code runs on the trampoline.
        match unsafe { memory.set_root_entry(ROOT_INDEX, Entry::ABSENT) } {
            Err(MemoryError::Refused(error)) => Err(error),
            _ => Ok(()),
        }
    }
}
