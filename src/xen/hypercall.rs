//! Calls into the hypervisor.
//!
//! The arguments go in `rdi`, `rsi`, `rdx`, `r10`, `r8`, the result comes in `rax`
//! (`xen/include/public/arch-x86/xen-x86_64.h`). `rcx` and `r11` are lost to the `syscall` instruction. A debug build
//! of Xen also spoils the argument registers.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::abi::XenError;
use super::entry;

/// Bytes of one stub in the hypercall page.
const STUB_BYTES: usize = 32;

/// Calls that were made.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// How many hypercalls were made, without those that block.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Makes hypercall `number` and returns what Xen returned.
///
/// A pointer among the arguments must have been made a number by `expose_provenance`: only then does the compiler know
/// that Xen may use it.
///
/// # Safety
/// The arguments must be valid for that hypercall: Xen reads and writes the memory that they point at, and some calls
/// change what this domain's addresses mean.
#[inline]
pub(crate) unsafe fn raw(number: u32, arguments: [usize; 5]) -> isize {
    // There is one processor, so that no locked addition is needed.
    COUNT.store(count().wrapping_add(1), Ordering::Relaxed);
    let [a1, a2, a3, a4, a5] = arguments;
    let stub = entry::hypercall_stubs() + number as usize * STUB_BYTES;
    let result: isize;
    // SAFETY: the stub is a piece of code that Xen wrote for a call: it pushes, so `nostack` must not be given, makes
    // the hypercall and returns. All that it may change is listed, memory included. The arguments are the caller's.
    unsafe {
        asm!(
            "call rax",
            inlateout("rax") stub => result,
            inlateout("rdi") a1 => _,
            inlateout("rsi") a2 => _,
            inlateout("rdx") a3 => _,
            inlateout("r10") a4 => _,
            inlateout("r8") a5 => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// [`raw`], with the result as a `Result`.
///
/// # Errors
/// The error number that Xen returned.
///
/// # Safety
/// As for [`raw`].
pub(crate) unsafe fn checked(number: u32, arguments: [usize; 5]) -> Result<usize, XenError> {
    // SAFETY: the caller's promise.
    let result = unsafe { raw(number, arguments) };
    usize::try_from(result).map_err(|_| XenError(i32::try_from(result.wrapping_neg()).unwrap_or(i32::MAX)))
}

/// Makes a hypercall of the usual form: a command, and a structure that Xen reads and may write.
///
/// # Errors
/// The error number that Xen returned.
///
/// # Safety
/// `T` must be the structure that `command` of `number` takes, and what it says must not break memory safety.
pub(crate) unsafe fn operation<T>(number: u32, command: u32, argument: &mut T) -> Result<usize, XenError> {
    // SAFETY: the pointer is to a live, writable structure of the right type, as the caller promises.
    unsafe { checked(number, [command as usize, ptr::from_mut(argument).expose_provenance(), 0, 0, 0]) }
}

/// The hypervisor's version: major and minor number.
pub(crate) fn xen_version() -> (u16, u16) {
    // SAFETY: `XENVER_version` (0) takes no pointer and can't fail.
    let version = unsafe { raw(xen_sys::__HYPERVISOR_xen_version, [0; 5]) };
    let version = u32::try_from(version).unwrap_or(0);
    ((version >> 16) as u16, (version & 0xffff) as u16)
}
