//! Deliberate failures of a successor, to show that its predecessor resumes. Only images that are built with the
//! feature `boot-test` contain them.
//!
//! The command line names the failure: `--update-test=panic-before`, for instance.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::Restorer;
use xenstore::stream::reader::Reader;

use super::boot_info::BootInfo;

/// A point in a successor's boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the very start, before it has handlers.
    Start,
    /// Before the restore.
    Before,
    /// In the middle of the restore.
    During,
    /// Before it takes over.
    After,
}

/// Number of items that are restored before a failure in the middle.
const SOME_ITEMS: usize = 20;

/// Returns the failure that the command line names.
fn asked(boot: &BootInfo) -> Option<&'static str> {
    let text = core::str::from_utf8(boot.command_line).unwrap_or_default();
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix("--update-test="))
}

/// Fails if the command line names a failure for this place.
pub(crate) fn fail(boot: &BootInfo, place: Place) {
    match (place, asked(boot).unwrap_or_default()) {
        // SAFETY: the instruction is meant to fault.
        (Place::Start, "fault-early") => unsafe { asm!("ud2") },
        // SAFETY: the jump is meant to fault: nothing is mapped there.
        (Place::Start, "jump-early") => unsafe { asm!("jmp {}", in(reg) 0x1234_5678_usize) },
        (Place::Start, "hang-early") | (Place::Before, "hang-before") | (Place::After, "hang-after") => hang(),
        (Place::Before, "panic-before") | (Place::During, "panic-during") | (Place::After, "panic-after") => {
            panic!("asked for")
        }
        (Place::Before, "panic-twice") => panic!("{}", Nested),
        // SAFETY: the access is meant to fault, at an address where nothing is mapped.
        (Place::Before, "fault-before") | (Place::After, "fault-after") => unsafe {
            ptr::null::<u8>().wrapping_add(16).read_volatile();
        },
        (Place::Before, "memory") => loop {
            core::mem::forget(black_box(Vec::<u8>::with_capacity(10_000)));
        },
        _ => {}
    }
}

/// Returns the stream, damaged if the command line requests it.
pub(crate) fn spoil(boot: &BootInfo, stream: &'static [u8]) -> &'static [u8] {
    let mut copy = Vec::from(stream);
    match asked(boot).unwrap_or_default() {
        // Damages the length of a record in the middle, which is found by reading up to it.
        "corrupt" => {
            let mut reader = Reader::new(stream).expect("the predecessor's stream is one");
            while reader.offset() < stream.len() / 2 {
                reader.next_item().expect("the predecessor's stream is in order");
            }
            copy[reader.offset() + 4] ^= 0xf0;
        }
        "truncated" => copy.truncate(stream.len() * 2 / 3),
        "version" => copy[11] = 3,
        "nonsense" => copy.fill(0x5a),
        _ => return stream,
    }
    Box::leak(copy.into_boxed_slice())
}

/// Restores a part, and fails in the middle if the command line requests it.
pub(crate) fn restore_some(boot: &BootInfo, stream: &[u8], config: &Config) {
    if asked(boot) != Some("panic-during") {
        return;
    }
    let mut reader = Reader::new(stream).expect("the predecessor's stream is one");
    let mut restorer = Restorer::new(config, 0);
    for _ in 0..SOME_ITEMS {
        let item = reader.next_item().expect("the predecessor's stream is in order").expect("there are more items");
        restorer.push(&item).expect("the predecessor's items are in order");
    }
    fail(boot, Place::During);
}

/// Causes a processor fault.
pub(super) fn fault() {
    // SAFETY: the instruction is meant to fault.
    unsafe { asm!("ud2") }
}

/// Hangs.
fn hang() -> ! {
    #[expect(clippy::empty_loop, reason = "a kernel that hangs")]
    loop {}
}

/// A value that panics while a panic is printed.
struct Nested;

impl core::fmt::Display for Nested {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("a panic in a panic")
    }
}
