//! Failures of a successor on purpose, to see that its predecessor goes on: in images that are built with the feature
//! `boot-test` only.
//!
//! The failure is named on the command line: `--update-test=panic-before`, and so on.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use xenstore::engine::config::Config;
use xenstore::engine::requests::in_hand::FAULT;
use xenstore::engine::snapshot::Restorer;
use xenstore::store::domain::DomId;
use xenstore::stream::reader::Reader;

use super::boot_info::BootInfo;

/// Where in its boot a successor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At its very start: it has no handlers yet.
    Start,
    /// About to restore.
    Before,
    /// In the middle of it.
    During,
    /// About to take over.
    After,
}

/// Items that are restored before a failure in the middle.
const SOME_ITEMS: usize = 20;

/// The failure that the command line asks for.
fn asked(boot: &BootInfo) -> Option<&'static str> {
    let text = core::str::from_utf8(boot.command_line).unwrap_or_default();
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix("--update-test="))
}

/// Fails if the command line says so for this place.
pub(crate) fn fail(boot: &BootInfo, place: Place) {
    match (place, asked(boot).unwrap_or_default()) {
        // SAFETY: it is meant to fault.
        (Place::Start, "fault-early") => unsafe { asm!("ud2") },
        // SAFETY: it is meant to fault: nothing is there.
        (Place::Start, "jump-early") => unsafe { asm!("jmp {}", in(reg) 0x1234_5678_usize) },
        (Place::Start, "hang-early") | (Place::Before, "hang-before") | (Place::After, "hang-after") => hang(),
        (Place::Before, "panic-before") | (Place::During, "panic-during") | (Place::After, "panic-after") => {
            panic!("asked for")
        }
        (Place::Before, "panic-twice") => panic!("{}", Nested),
        // SAFETY: it is meant to fault, at an address that nothing is mapped at.
        (Place::Before, "fault-before") | (Place::After, "fault-after") => unsafe {
            ptr::null::<u8>().wrapping_add(16).read_volatile();
        },
        (Place::Before, "memory") => loop {
            core::mem::forget(black_box(Vec::<u8>::with_capacity(10_000)));
        },
        _ => {}
    }
}

/// The stream, with something wrong if the command line says so.
pub(crate) fn spoil(boot: &BootInfo, stream: &'static [u8]) -> &'static [u8] {
    let mut copy = Vec::from(stream);
    match asked(boot).unwrap_or_default() {
        // The length of a record in the middle, found by reading up to it.
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

/// Restores a part, and fails in the middle if the command line says so.
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

/// Faults if this is the domain that stands for a fault.
pub(crate) fn fault_for(domid: DomId) {
    if domid == FAULT {
        // SAFETY: it is meant to fault.
        unsafe { asm!("ud2") }
    }
}

/// Never gets anywhere.
fn hang() -> ! {
    #[expect(clippy::empty_loop, reason = "a kernel that hangs")]
    loop {}
}

/// Panics while a panic is printed.
struct Nested;

impl core::fmt::Display for Nested {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("a panic in a panic")
    }
}
