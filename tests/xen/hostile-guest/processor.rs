//! The guest's second processor, which scribbles on the ring while the first one uses it.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::xen::abi::XenError;
use crate::xen::hypercall;
use crate::xen::memory::Memory;

use super::random::Random;

/// Bytes of its stack: it calls almost nothing.
const STACK_BYTES: usize = 16 * 1024;
/// The offset and the number of the ring's words (`struct xenstore_domain_interface`: the four indices).
const INDICES: usize = 2048 / 4;
const INDEX_COUNT: u32 = 4;

/// The ring page; 0 for none.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static IS_AT_IT: AtomicBool = AtomicBool::new(false);
static WRITES: AtomicU64 = AtomicU64::new(0);

/// `struct cpu_user_regs` (`xen/include/public/arch-x86/xen-x86_64.h`).
#[repr(C)]
struct Registers {
    general: [u64; 15],
    error_and_vector: u64,
    rip: u64,
    cs: u16,
    padding: u16,
    saved_upcall_mask: u32,
    rflags: u64,
    rsp: u64,
    ss: u64,
    es_ds_fs_gs: [u64; 4],
}

/// `struct vcpu_guest_context` (`xen/include/public/arch-x86/xen.h`).
#[repr(C)]
struct Context {
    fpu: [u64; 64],
    flags: u64,
    registers: Registers,
    traps: [[u64; 2]; 256],
    ldt: [u64; 2],
    gdt: [u64; 17],
    kernel_ss: u64,
    kernel_sp: u64,
    control: [u64; 8],
    debug: [u64; 8],
    callbacks: [u64; 3],
    vm_assist: u64,
    segment_bases: [u64; 3],
}

const _: () = assert!(size_of::<Registers>() == 200 && size_of::<Context>() == 5168);

/// `VGCF_in_kernel`.
const IN_KERNEL: u64 = 1 << 2;
/// `FLAT_KERNEL_CS` and `FLAT_KERNEL_SS`.
const KERNEL_CS: u16 = 0xe033;
const KERNEL_SS: u16 = 0xe02b;
/// `VCPUOP_initialise` and `VCPUOP_up` (`xen/include/public/vcpu.h`).
const INITIALISE: usize = 0;
const UP: usize = 1;

/// Starts the processor on this page.
///
/// # Errors
/// The error number that Xen returned: there is no second processor.
pub(super) fn start(memory: &Memory, page: usize) -> Result<(), XenError> {
    PAGE.store(page, Ordering::Release);
    let stack = Box::leak(Box::new([0_u128; STACK_BYTES / 16]));
    let stack_end = ptr::from_mut(stack).expose_provenance() + STACK_BYTES;
    // SAFETY: plain numbers.
    let mut context: Box<Context> = unsafe { Box::new(core::mem::zeroed()) };
    context.flags = IN_KERNEL;
    context.registers.rip = scribble as *const () as u64;
    context.registers.cs = KERNEL_CS;
    // The stack pointer as after a call, as the ABI requires.
    context.registers.rsp = stack_end as u64 - 8;
    context.registers.ss = KERNEL_SS.into();
    context.kernel_ss = KERNEL_SS.into();
    context.kernel_sp = stack_end as u64;
    context.control[3] = memory.root_frame() << 12;
    let argument = ptr::from_mut(&mut *context).expose_provenance();
    // SAFETY: the context has its own stack, code that never returns, and the present page tables.
    unsafe {
        hypercall::checked(xen_sys::__HYPERVISOR_vcpu_op, [INITIALISE, 1, argument, 0, 0])?;
        hypercall::checked(xen_sys::__HYPERVISOR_vcpu_op, [UP, 1, 0, 0, 0])?;
    }
    Ok(())
}

/// Starts or stops the scribbling.
pub(super) fn set(is_at_it: bool) {
    IS_AT_IT.store(is_at_it, Ordering::Release);
}

/// Returns how many words it has written.
pub(super) fn writes() -> u64 {
    WRITES.load(Ordering::Relaxed)
}

/// Runs the second processor. It uses nothing of the kernel's, which is made for one processor.
extern "C" fn scribble() -> ! {
    let words = ptr::with_exposed_provenance_mut::<u32>(PAGE.load(Ordering::Acquire));
    let mut random = Random::new(0x5eed);
    loop {
        if !IS_AT_IT.load(Ordering::Acquire) {
            core::hint::spin_loop();
            continue;
        }
        // Half of the values are close together: possible values are as harmful as impossible ones.
        let value = if random.below(2) == 0 { random.below(2048) } else { random.word() };
        let at = INDICES + random.below(INDEX_COUNT) as usize;
        // SAFETY: a word of the ring page, which is this guest's own.
        unsafe { words.add(at).write_volatile(value) };
        WRITES.fetch_add(1, Ordering::Relaxed);
    }
}
