//! The functions and addresses that the kernel's assembly (`boot/pv.s`) and `linker.ld` define.

use core::arch::asm;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr;

use super::abi::KERNEL_CODE_SEGMENT;
use super::hypercall;
use super::shared_page::PAGE_BYTES;

/// The kernel's stack. The engine follows no guest's data by recursion, so its depth is that of the program: measured
/// use is far below. 128 KiB leave room for formatting a panic on top of the deepest handler, at 3 % of the smallest
/// domain (4 MiB).
pub(crate) const STACK_BYTES: usize = 128 * 1024;
/// The stack of the fault handler, which formats and prints, and then starts the kernel anew or ends the domain.
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

/// The address of a symbol; what is there is not looked at.
macro_rules! address {
    ($symbol:ident) => {
        (&raw const $symbol).addr()
    };
}

/// Where physical page 0 is mapped.
pub(crate) fn virt_base() -> usize {
    address!(__virt_base)
}

/// Bytes of memory that the image takes.
pub(crate) fn image_bytes() -> usize {
    address!(__image_end) - virt_base()
}

/// The page of hypercall stubs.
pub(crate) fn hypercall_stubs() -> usize {
    address!(hypercall_page)
}

/// The page whose place the shared-info page takes.
pub(crate) fn shared_info() -> usize {
    address!(shared_info_page)
}

/// What is executed.
pub(crate) fn text() -> Range<usize> {
    address!(__text_start)..address!(__text_end)
}

/// What is only read.
pub(crate) fn rodata() -> Range<usize> {
    address!(__rodata_start)..address!(__rodata_end)
}

/// What is written, and was not zero at the start.
pub(crate) fn data() -> Range<usize> {
    address!(__data_start)..address!(__data_end)
}

/// The first instruction.
pub(crate) fn start() -> usize {
    address!(_start)
}

/// The pages below the two stacks.
pub(crate) fn guard_pages() -> [usize; 2] {
    [address!(boot_stack), address!(fault_stack)]
}

/// What the processor's state was at a fault; `boot/pv.s` fills it in this order.
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

/// The registers as they are, more or less: some hold what the compiler needs for this call.
#[inline(always)]
pub(crate) fn registers() -> FaultFrame {
    let mut frame = MaybeUninit::<FaultFrame>::zeroed();
    // SAFETY: the stores stay in the frame, at the offsets of its fields, and no register is changed. The pushes
    // need the stack, which `nostack` would deny.
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

/// The stack pointer of whoever calls this.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: a register is read.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// Leaves everything that the stack holds below `stack_pointer`, and calls `next` there.
///
/// # Safety
/// `stack_pointer` must be what [`stack_pointer`] gave in a function that has not returned. What was called from there never
/// runs again, and nothing may be used any more that it kept on the stack.
pub(crate) unsafe fn unwind_to(stack_pointer: usize, next: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller's promise. At a call the stack pointer is a multiple of 16, as the ABI wants it.
    unsafe {
        asm!("mov rsp, {}", "and rsp, -16", "call {}", "ud2", in(reg) stack_pointer, in(reg) next, options(noreturn))
    }
}

/// Looks through the kernel's stack upwards from `rsp` for numbers that point into the code, stores them and returns
/// how many they are. None, if `rsp` is not in that stack.
pub(crate) fn code_addresses(rsp: usize, found: &mut [usize]) -> usize {
    let stack = address!(boot_stack) + PAGE_BYTES..address!(boot_stack) + PAGE_BYTES + STACK_BYTES;
    let mut count = 0;
    let mut at = rsp.next_multiple_of(size_of::<usize>());
    while stack.contains(&at) && count < found.len() {
        // SAFETY: an aligned word of the stack, which is mapped; nothing else runs that would write it.
        let word = unsafe { ptr::with_exposed_provenance::<usize>(at).read_volatile() };
        if text().contains(&word) {
            found[count] = word;
            count += 1;
        }
        at += size_of::<usize>();
    }
    count
}

/// Vectors that get a handler: 0 to 19 (`boot/pv.s`).
const VECTORS: u8 = 20;
/// Bytes of one stub there.
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

/// The handler leaves upcalls masked (`TI_SET_IF`).
const TRAP_MASKS_UPCALLS: u8 = 1 << 2;

/// Tells Xen where to deliver faults and events: to this kernel.
pub(crate) fn register_handlers() {
    register_own_fault_handlers();
    register_callbacks(address!(event_upcall), address!(failsafe_callback));
}

/// Tells Xen to deliver faults to this kernel.
pub(crate) fn register_own_fault_handlers() {
    register_fault_handlers(address!(fault_stubs));
}

/// Tells Xen where to deliver faults: to stubs that follow each other from `stubs` on, [`FAULT_STUB_BYTES`] each.
pub(crate) fn register_fault_handlers(stubs: usize) {
    let mut table = [TrapInfo::default(); VECTORS as usize + 1]; // the last stays zero: the end of the table
    for (vector, trap) in (0..VECTORS).zip(&mut table) {
        let address = stubs + usize::from(vector) * FAULT_STUB_BYTES;
        *trap = TrapInfo { vector, flags: TRAP_MASKS_UPCALLS, cs: KERNEL_CODE_SEGMENT, address };
    }
    let arguments = [ptr::from_ref(&table).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the table is terminated and each address is a stub that is made to be entered by a fault.
    let outcome = unsafe { hypercall::checked(xen_sys::__HYPERVISOR_set_trap_table, arguments) };
    assert!(outcome.is_ok(), "Xen refused the fault handlers: {outcome:?}");
}

/// Tells Xen where to deliver events, and where to go when it can't load a segment register.
pub(crate) fn register_callbacks(event: usize, failsafe: usize) {
    // SAFETY: both addresses are entries made for these callbacks; the third is for system calls of a user mode that
    // does not exist here.
    let outcome = unsafe { hypercall::checked(xen_sys::__HYPERVISOR_set_callbacks, [event, failsafe, 0, 0, 0]) };
    assert!(outcome.is_ok(), "Xen refused the callbacks: {outcome:?}");
}

/// Blocks until an event is pending, with upcalls unmasked meanwhile. They are masked again when this returns.
///
/// # Safety
/// `mask` must be this vCPU's upcall mask byte, and [`register_handlers`] must have been called.
pub(crate) unsafe fn block(mask: *mut u8) {
    // SAFETY: the assembly calls SCHEDOP_block and keeps the registers that the ABI says it keeps.
    unsafe { block_until_event(mask) }
}
