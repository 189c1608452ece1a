//! Ends on purpose, to see how: in images that are built with the feature `crash-test` only.
//!
//! The way is named on the command line: `--crash=panic`, and so on.

use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use crate::xen::entry;

/// Does what the command line asks for.
pub(crate) fn run(command_line: &[u8]) {
    let text = core::str::from_utf8(command_line).unwrap_or_default();
    let Some(way) = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("--crash=")) else { return };
    log::info!("crash test: {way}");
    match way {
        "panic" => panic!("asked for"),
        "memory" => drop(black_box(Vec::<u8>::with_capacity(1 << 30))),
        "stack" => drop(black_box(recurse(1))),
        // SAFETY: it is meant to fault, at an address that nothing is mapped at.
        "null" => unsafe {
            ptr::null::<u8>().wrapping_add(16).read_volatile();
        },
        // SAFETY: it is meant to fault: code can't be written.
        "text" => unsafe { ptr::with_exposed_provenance_mut::<u8>(entry::text().start).write_volatile(0) },
        // SAFETY: it is meant to fault: read-only data can't be executed.
        "execute" => unsafe { asm!("call {}", in(reg) entry::rodata().start) },
        // SAFETY: it is meant to fault.
        "opcode" => unsafe { asm!("ud2") },
        "nested" => panic!("{}", Nested),
        _ => log::warn!("no such way"),
    }
}

/// Uses up the stack.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(depth + 1) + frame[3] }
}

/// Panics while a panic is printed.
struct Nested;

impl core::fmt::Display for Nested {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("a panic in a panic")
    }
}
