//! Functions that the compiler relies on and that a libc would provide.
//!
//! Short blocks are moved by a few overlapping words. Long blocks are moved by the string instructions, which
//! processors execute by the cache line. No function is a plain loop over bytes: the compiler would recognise the loop
//! and replace it with a call of the same function.
//!
//! A host test compiles this file too. There the names are not exported, and the host's own functions stay in use.

use core::arch::asm;
use core::ffi::c_int;

/// The largest block, in bytes, for which words are faster than starting a string instruction.
const SHORT_BYTES: usize = 32;

/// Copies up to [`SHORT_BYTES`] bytes. All loads come before all stores, so the blocks may overlap.
///
/// # Safety
/// As for `memmove`.
#[inline(always)]
unsafe fn move_short(to: *mut u8, from: *const u8, count: usize) {
    macro_rules! ends {
        ($word:ty) => {{
            let last = count - size_of::<$word>();
            // SAFETY: `count` is at least the word's size and at most twice as much, so both words lie in the blocks.
            unsafe {
                let (a, b) = (from.cast::<$word>().read_unaligned(), from.add(last).cast::<$word>().read_unaligned());
                to.cast::<$word>().write_unaligned(a);
                to.add(last).cast::<$word>().write_unaligned(b);
            }
        }};
    }
    match count {
        0 => {}
        // SAFETY: there is one byte.
        1 => unsafe { to.write(from.read()) },
        2..=4 => ends!(u16),
        5..=8 => ends!(u32),
        9..=16 => ends!(u64),
        _ => ends!(u128),
    }
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller upholds the contract; the direction flag is clear, as the ABI says.
    unsafe {
        if count <= SHORT_BYTES {
            move_short(to, from, count);
        } else {
            // Moves words, because an emulator executes each step of the instruction separately. The last words may be
            // written twice.
            let rest = count - 16;
            asm!("rep movsq", inout("rcx") rest.div_ceil(8) => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
            move_short(to.add(rest), from.add(rest), 16);
        }
    }
    to
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if count <= SHORT_BYTES {
        // SAFETY: the caller upholds the contract.
        unsafe { move_short(to, from, count) };
    } else if to.addr().wrapping_sub(from.addr()) >= count {
        // The target begins before the source or after its end: upwards.
        // SAFETY: the caller upholds the contract, and no byte is overwritten before it was read.
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
    } else {
        // Downwards: whole words from the end, then the rest at the start, which is short.
        // SAFETY: the caller upholds the contract; the words cover the last `count - rest` bytes, and the rest is below
        // them.
        unsafe {
            let rest = count % 8;
            asm!("std", "rep movsq", "cld", inout("rcx") count / 8 => _, inout("rdi") to.add(count - 8) => _,
                inout("rsi") from.add(count - 8) => _, options(nostack));
            move_short(to, from, rest);
        }
    }
    to
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memset(to: *mut u8, value: c_int, count: usize) -> *mut u8 {
    // SAFETY: the caller upholds the contract; the direction flag is clear.
    unsafe {
        let word = u64::from(value as u8) * 0x0101_0101_0101_0101;
        asm!("rep stosq", inout("rcx") count / 8 => _, inout("rdi") to => _, in("rax") word,
            options(nostack, preserves_flags));
        asm!("rep stosb", inout("rcx") count % 8 => _, inout("rdi") to.add(count / 8 * 8) => _, in("al") value as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
    let mut at = 0;
    // SAFETY: the caller guarantees `count` bytes at both addresses.
    unsafe {
        // Four words at a time while they are equal: long paths often differ only at their ends.
        while at + 32 <= count {
            let word = |from: *const u8, word: usize| from.add(at + word * 8).cast::<u64>().read_unaligned();
            let differs = |index| word(a, index) ^ word(b, index);
            if (differs(0) | differs(1)) | (differs(2) | differs(3)) != 0 {
                break;
            }
            at += 32;
        }
        while at + 8 <= count {
            let (x, y) = (a.add(at).cast::<u64>().read_unaligned(), b.add(at).cast::<u64>().read_unaligned());
            if x != y {
                return if x.swap_bytes() < y.swap_bytes() { -1 } else { 1 };
            }
            at += 8;
        }
        while at < count {
            let (x, y) = (a.add(at).read(), b.add(at).read());
            if x != y {
                return c_int::from(x) - c_int::from(y);
            }
            at += 1;
            asm!("", options(nomem, nostack, preserves_flags)); // keeps the loop a loop
        }
    }
    0
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
    // SAFETY: the caller guarantees the same for both functions.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
/// As in C.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller guarantees a terminated text.
    while unsafe { text.add(length).read() } != 0 {
        length += 1;
        // SAFETY: there is no instruction. The statement keeps the compiler from replacing the loop with a call.
        unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
    }
    length
}

/// The symbol that the unwinding tables of the ready-made `core` and `alloc` name. The linker script discards the
/// tables.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(crate) extern "C" fn rust_eh_personality() {}

/// The symbol that landing pads of the ready-made `core` and `alloc` name. It is never called: a panic aborts.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_snake_case)] // the ABI's name
pub(crate) extern "C" fn _Unwind_Resume() -> ! {
    panic!("unwinding can't begin: a panic aborts")
}
