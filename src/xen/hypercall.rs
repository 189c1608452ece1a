//! Calls into the hypervisor.
//!
//! The arguments are in `rdi`, `rsi`, `rdx`, `r10`, `r8`, the result is in `rax`
//! (`xen/include/public/arch-x86/xen-x86_64.h`). The `syscall` instruction overwrites `rcx` and `r11`. A debug build of
//! Xen also overwrites the argument registers.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::abi::XenError;
use super::entry;

/// Bytes of one stub in the hypercall page.
const STUB_BYTES: usize = 32;

/// Number of calls.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Returns the number of hypercalls, without those that block.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Makes hypercall `number` and returns Xen's result.
///
/// A pointer among the arguments must have been converted to a number by `expose_provenance`. Only then does the
/// compiler know that Xen may use it.
///
/// # Safety
/// The arguments must be valid for that hypercall. Xen reads and writes the memory that they point at, and some calls
/// change what this domain's addresses mean.
#[inline]
pub(crate) unsafe fn raw(number: u32, arguments: [usize; 5]) -> isize {
    // There is one processor, so no locked addition is needed.
    COUNT.store(count().wrapping_add(1), Ordering::Relaxed);
    let [a1, a2, a3, a4, a5] = arguments;
    let stub = entry::hypercall_stubs() + number as usize * STUB_BYTES;
    let result: isize;
    // SAFETY: the stub is code that Xen wrote for a call. It pushes (so `nostack` must not be given), makes the
    // hypercall and returns. Everything that it may change is listed, including memory. The caller guarantees the
    // arguments.
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

/// Makes a hypercall as [`raw`] does, and returns the result as a `Result`.
///
/// # Errors
/// The error number that Xen returned.
///
/// # Safety
/// As for [`raw`].
pub(crate) unsafe fn checked(number: u32, arguments: [usize; 5]) -> Result<usize, XenError> {
    // SAFETY: the caller upholds the contract.
    let result = unsafe { raw(number, arguments) };
    usize::try_from(result).map_err(|_| XenError(i32::try_from(result.wrapping_neg()).unwrap_or(i32::MAX)))
}

/// Makes a hypercall of the usual form: a command, and a structure that Xen reads and may write.
///
/// # Errors
/// The error number that Xen returned.
///
/// # Safety
/// `T` must be the structure that `command` of `number` takes, and its contents must not break memory safety.
pub(crate) unsafe fn operation<T>(number: u32, command: u32, argument: &mut T) -> Result<usize, XenError> {
    // SAFETY: the pointer is to a live, writable structure of the right type, as the caller guarantees.
    unsafe { checked(number, [command as usize, ptr::from_mut(argument).expose_provenance(), 0, 0, 0]) }
}

/// Returns the hypervisor's major and minor version numbers.
pub(crate) fn xen_version() -> (u16, u16) {
    // SAFETY: `XENVER_version` (0) takes no pointer and cannot fail.
    let version = unsafe { raw(xen_sys::__HYPERVISOR_xen_version, [0; 5]) };
    let version = u32::try_from(version).unwrap_or(0);
    ((version >> 16) as u16, (version & 0xffff) as u16)
}
