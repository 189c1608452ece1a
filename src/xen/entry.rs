//! The functions and addresses that the kernel's assembly (`boot/pv.s`) and `linker.ld` define.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr;

use super::abi::KERNEL_CODE_SEGMENT;
use super::hypercall;
use super::shared_page::PAGE_BYTES;

/// Size of the kernel's stack in bytes. The engine never recurses over guests' data, so the program alone determines
/// the depth. Measured use is far below this size. 128 KiB leave room for formatting a panic on top of the deepest
/// handler, at 3 % of the smallest domain (4 MiB).
pub(crate) const STACK_BYTES: usize = 128 * 1024;
/// Size of the fault handler's stack in bytes. The handler formats and prints, and then restarts the kernel or ends the
/// domain.
pub(crate) const FAULT_STACK_BYTES: usize = 64 * 1024;

unsafe extern "C" {
    static __virt_base: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __image_end: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static _start: u8;
    static hypercall_page: u8;
    static shared_info_page: u8;
    static boot_stack: u8;
    static fault_stack: u8;
    static fault_stubs: u8;
    static event_upcall: u8;
    static failsafe_callback: u8;
    fn block_until_event(mask: *mut u8);
}

/// The address of a symbol, without an access to its contents.
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol).addr()
    };
}

/// Returns the address at which physical page 0 is mapped.
pub(crate) fn virt_base() -> usize {
    address!(__virt_base)
}

/// Returns the bytes of memory that the image takes.
pub(crate) fn image_bytes() -> usize {
    address!(__image_end) - virt_base()
}

/// Returns the address of the page of hypercall stubs.
pub(crate) fn hypercall_stubs() -> usize {
    address!(hypercall_page)
}

/// Returns the address of the page that the shared-info page replaces.
pub(crate) fn shared_info() -> usize {
    address!(shared_info_page)
}

/// Returns the range of executable code.
pub(crate) fn text() -> Range<usize> {
    address!(__text_start)..address!(__text_end)
}

/// Returns the range of read-only data.
pub(crate) fn rodata() -> Range<usize> {
    address!(__rodata_start)..address!(__rodata_end)
}

/// Returns the range of writable data that is not zero at the start.
pub(crate) fn data() -> Range<usize> {
    address!(__data_start)..address!(__data_end)
}

/// Returns the address of the first instruction.
pub(crate) fn start() -> usize {
    address!(_start)
}

/// Returns the addresses of the pages below the two stacks.
pub(crate) fn guard_pages() -> [usize; 2] {
    [address!(boot_stack), address!(fault_stack)]
}

/// The processor's state at a processor fault. `boot/pv.s` fills the fields in this order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultFrame {
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
    pub(crate) rax: u64,
    pub(crate) rbx: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) rbp: u64,
    pub(crate) r8: u64,
    pub(crate) r9: u64,
    pub(crate) r10: u64,
    pub(crate) r11: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
}

const _: () = assert!(size_of::<FaultFrame>() == 176);

/// Returns the current registers, approximately: some hold values that the compiler needs for this call.
#[inline(always)]
pub(crate) fn registers() -> FaultFrame {
    let mut frame = MaybeUninit::<FaultFrame>::zeroed();
    // SAFETY: the stores stay in the frame, at the offsets of its fields, and no register is changed. The pushes need
    // the stack, which `nostack` would deny.
    unsafe {
        asm!(
            "mov [rax + 64], rbx", "mov [rax + 72], rcx", "mov [rax + 80], rdx", "mov [rax + 88], rsi",
            "mov [rax + 96], rdi", "mov [rax + 104], rbp", "mov [rax + 112], r8", "mov [rax + 120], r9",
            "mov [rax + 128], r10", "mov [rax + 136], r11", "mov [rax + 144], r12", "mov [rax + 152], r13",
            "mov [rax + 160], r14", "mov [rax + 168], r15", "mov [rax + 40], rsp",
            "mov [rax + 24], cs", "mov [rax + 48], ss",
            "pushfq", "pop qword ptr [rax + 32]",
            "call 2f",
            "2: pop qword ptr [rax + 16]",
            in("rax") frame.as_mut_ptr(),
        );
        frame.assume_init()
    }
}

/// Returns the stack pointer of the calling function.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: the instruction only reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Discards everything that the stack holds below `stack_pointer`, and calls `next` there.
///
/// # Safety
/// `stack_pointer` must be a value that [`stack_pointer`] returned in a function that has not returned. Functions that
/// it called never run again, and nothing that they kept on the stack may be used any more.
pub(crate) unsafe fn unwind_to(stack_pointer: usize, next: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller upholds the contract. At a call the stack pointer is a multiple of 16, as the ABI requires.
    unsafe {
        asm!("mov rsp, {}", "and rsp, -16", "call {}", "ud2", in(reg) stack_pointer, in(reg) next, options(noreturn))
    }
}

/// Searches the kernel's stack upwards from `rsp` for numbers that point into the code. Stores them in `found` and
/// returns their count, which is 0 if `rsp` is not in that stack.
pub(crate) fn code_addresses(rsp: usize, found: &mut [usize]) -> usize {
    let stack = address!(boot_stack) + PAGE_BYTES..address!(boot_stack) + PAGE_BYTES + STACK_BYTES;
    let mut count = 0;
    let mut at = rsp.next_multiple_of(size_of::<usize>());
    while stack.contains(&at) && count < found.len() {
        // SAFETY: the address is an aligned word of the stack, which is mapped. No other code runs that would write it.
        let word = unsafe { ptr::with_exposed_provenance::<usize>(at).read_volatile() };
        if text().contains(&word) {
            found[count] = word;
            count += 1;
        }
        at += size_of::<usize>();
    }
    count
}

/// Number of vectors with a handler: 0 to 19 (`boot/pv.s`).
const VECTORS: u8 = 20;
/// Bytes of one stub in `boot/pv.s`.
const FAULT_STUB_BYTES: usize = 16;

/// `struct trap_info` (`xen/include/public/arch-x86/xen.h`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TrapInfo {
    vector: u8,
    flags: u8,
    cs: u16,
    address: usize,
}

/// Flag of a handler that leaves upcalls masked (`TI_SET_IF`).
const TRAP_MASKS_UPCALLS: u8 = 1 << 2;

/// Registers this kernel's handlers of processor faults and events.
pub(crate) fn register_handlers() {
    register_own_fault_handlers();
    register_callbacks(address!(event_upcall), address!(failsafe_callback));
}

/// Registers this kernel's handlers of processor faults.
pub(crate) fn register_own_fault_handlers() {
    register_fault_handlers(address!(fault_stubs));
}

/// Registers handlers of processor faults: stubs that follow each other from `stubs` on, [`FAULT_STUB_BYTES`] each.
pub(crate) fn register_fault_handlers(stubs: usize) {
    let mut table = [TrapInfo::default(); VECTORS as usize + 1]; // the last stays zero: the end of the table
    for (vector, trap) in (0..VECTORS).zip(&mut table) {
        let address = stubs + usize::from(vector) * FAULT_STUB_BYTES;
        *trap = TrapInfo { vector, flags: TRAP_MASKS_UPCALLS, cs: KERNEL_CODE_SEGMENT, address };
    }
    let arguments = [ptr::from_ref(&table).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the table is terminated, and each address is a stub that a fault may enter.
    let outcome = unsafe { hypercall::checked(xen_sys::__HYPERVISOR_set_trap_table, arguments) };
    if let Err(error) = outcome {
        panic!("Xen refused the fault handlers: {error}");
    }
}

/// Registers the addresses that Xen enters for events, and when it cannot load a segment register.
pub(crate) fn register_callbacks(event: usize, failsafe: usize) {
    // SAFETY: both addresses are entries made for these callbacks. The third is for system calls of a user mode that
    // does not exist here.
    let outcome = unsafe { hypercall::checked(xen_sys::__HYPERVISOR_set_callbacks, [event, failsafe, 0, 0, 0]) };
    if let Err(error) = outcome {
        panic!("Xen refused the callbacks: {error}");
    }
}

/// Blocks until an event is pending. Upcalls are unmasked meanwhile, and masked again when this returns.
///
/// # Safety
/// `mask` must be this vCPU's upcall mask byte, and [`register_handlers`] must have been called.
pub(crate) unsafe fn block(mask: *mut u8) {
    // SAFETY: the assembly calls SCHEDOP_block and preserves the registers that the ABI requires.
    unsafe { block_until_event(mask) }
}
