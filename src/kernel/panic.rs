//! The end on a panic or a processor fault. It is reported with its place and reason, and the kernel then takes the
//! first way that is possible:
//!
//! - A successor that has not committed yet returns to its predecessor.
//! - If a request was in flight, a warm restart continues with the state of before that request.
//! - If only the memory for a restart is missing, and after a panic only, this kernel resumes without that request.
//! - Otherwise the domain ends with the crash reason.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::log::{last_words, print_line, take_over};
use super::update::{restart, successor};
use crate::xen::entry::{self, FaultFrame};
use crate::xen::sched::{self, Reason};
use crate::xen::shared_info;

/// The vector of a page fault.
const PAGE_FAULT: u64 = 14;
/// Number of addresses from the stack that are printed.
const CALLS: usize = 12;

/// Whether the end has begun: a second panic or processor fault ends the domain without a further report.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The reason as the predecessor gets it.
type Why = heapless::String<WHY_BYTES>;
/// Size of the reason in bytes; a longer one is cut off.
const WHY_BYTES: usize = 400;

/// Formats the reason without the heap, which may be what failed.
fn why(text: fmt::Arguments<'_>) -> Why {
    /// A writer that keeps as much as fits.
    struct Cut(Why);
    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars().try_for_each(|char| self.0.push(char)).map_err(|_| fmt::Error)
        }
    }
    let mut cut = Cut(Why::new());
    // Text that does not fit is left out.
    let _ = fmt::write(&mut cut, text);
    cut.0
}

/// Begins the end. If the end had already begun, ends the domain at once.
fn begin() {
    if ENDING.swap(true, Ordering::SeqCst) {
        successor::give_up("a panic or fault while another was reported");
        sched::shutdown(Reason::Crash);
    }
    // SAFETY: nothing below the panic or processor fault runs again.
    unsafe { take_over() };
}

/// Takes the first way that is possible. After a panic this kernel itself may resume. After a processor fault it may
/// not, because its memory may be damaged.
fn end(why: &Why, is_panic: bool) -> ! {
    successor::give_up(why);
    let refused = restart::start(why);
    print_line(format_args!("no warm restart: {}", refused.why));
    if let Some(rest) = refused.rest.filter(|_| is_panic) {
        rest.resume(|| ENDING.store(false, Ordering::SeqCst));
    }
    last_words();
    sched::shutdown(Reason::Crash)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let registers = entry::registers();
    begin();
    // The place is printed first, because formatting the message may be what fails.
    match info.location() {
        Some(location) => print_line(format_args!("panic at {location}")),
        None => print_line(format_args!("panic")),
    }
    print_line(format_args!("  {}", info.message()));
    print_registers(&registers);
    let why = match info.location() {
        Some(location) => why(format_args!("panic at {location}: {}", info.message())),
        None => why(format_args!("panic: {}", info.message())),
    };
    end(&why, true)
}

/// Returns a processor fault's name, as in the processor manual.
fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection",
        14 => "page fault",
        17 => "alignment check",
        _ => "exception",
    }
}

/// Handles a processor fault. `boot/pv.s` calls it, on a stack of its own.
pub(crate) extern "C" fn fault(frame: &FaultFrame) -> ! {
    begin();
    let f = frame;
    print_line(format_args!("fault {} ({}), error code {:#x}, at rip {:#x}", f.vector, name(f.vector), f.error, f.rip));
    if f.vector == PAGE_FAULT {
        match shared_info::fault_address() {
            Some(address) => print_line(format_args!("  address (cr2) {address:#018x}")),
            None => print_line(format_args!("  address (cr2) unknown")),
        }
    }
    print_registers(frame);
    end(&why(format_args!("fault {} ({}) at {:#x}", f.vector, name(f.vector), f.rip)), false)
}

/// Prints the registers, and the numbers on the stack that look like return addresses.
fn print_registers(f: &FaultFrame) {
    print_line(format_args!("  rip {:016x} rsp {:016x} rbp {:016x} rflags {:x}", f.rip, f.rsp, f.rbp, f.rflags));
    print_line(format_args!("  rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", f.rax, f.rbx, f.rcx, f.rdx));
    print_line(format_args!("  rsi {:016x} rdi {:016x} r8  {:016x} r9  {:016x}", f.rsi, f.rdi, f.r8, f.r9));
    print_line(format_args!("  r10 {:016x} r11 {:016x} r12 {:016x} r13 {:016x}", f.r10, f.r11, f.r12, f.r13));
    print_line(format_args!("  r14 {:016x} r15 {:016x} cs {:x} ss {:x}", f.r14, f.r15, f.cs & 0xffff, f.ss));
    let mut calls = [0; CALLS];
    let found = entry::code_addresses(f.rsp as usize, &mut calls);
    // Numbers that point into the code: return addresses, and some stale ones.
    print_line(format_args!("  stack {:x?}", &calls[..found]));
}
