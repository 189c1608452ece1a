//! Tests that need the kernel's own place in the world, and ends on purpose, to see how they are reported: in images
//! that are built with the feature `boot-test` only.
//!
//! The test is named on the command line: `--boot-test=panic`, and so on.

use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use xen_sys::{EVTCHNOP_alloc_unbound, evtchn_alloc_unbound};

use super::boot_info::BootInfo;
use super::heap;
use super::update::pages::PageStream;
use super::update::{self, Try, successor};
use crate::xen::event_channel::{self, two_level};
use crate::xen::memory::Memory;
use crate::xen::{entry, hypercall, sched, shared_info};
use xenstore::update::image::Image;
use xenstore::update::upload::Upload;

/// The number by which a domain calls itself (`DOMID_SELF`).
const DOMID_SELF: u16 = 0x7ff0;

/// Does what the command line asks for.
pub(crate) fn run(boot: &BootInfo, mut memory: Memory) -> Memory {
    let text = core::str::from_utf8(boot.command_line).unwrap_or_default();
    let test = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("--boot-test="));
    let Some(test) = test else { return memory };
    log::info!("boot test: {test}");
    match test {
        "ports" => ports(),
        "panic" => panic!("asked for"),
        "memory" => drop(black_box(Vec::<u8>::with_capacity(1 << 30))),
        "stack" => {
            black_box(recurse(1));
        }
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
        "bridge" => bridge(boot, &memory),
        "back" => successor::give_up("it was asked to"),
        "hang" =>
        {
            #[expect(clippy::empty_loop, reason = "a kernel that hangs")]
            loop {}
        }
        "over" => {
            successor::commit(&mut memory);
            log::info!("over: {:?}, {} pages", heap::usage(), memory.pages());
            if let Some(module) = &boot.module {
                log::info!("module {module:x?}");
            }
        }
        _ => log::warn!("there is no such test"),
    }
    memory
}

/// Starts the boot module as a successor, in several ways.
fn bridge(boot: &BootInfo, memory: &Memory) {
    let ports = super::open_events();
    let Some(module) = boot.module.clone() else { return };
    // SAFETY: the module is mapped and nobody writes it.
    let bytes = unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(module.start), module.len()) };
    let mut file = Upload::new();
    file.push(bytes).expect("room");
    let image = Image::check(&file).expect("an image");
    for test in ["back", "null", "panic", "hang", "opcode", "back", "back", "over"] {
        let mut stream = PageStream::default();
        stream.push(&[0x55; 10_000]).expect("room");
        let command_line = alloc::format!("--boot-test={test}");
        let parts = Try {
            image: &image,
            file: &file,
            command_line: command_line.as_bytes(),
            stream,
            state_bytes: heap::usage().used,
            mappings: &[],
            stopped_ns: 0,
        };
        let why = update::try_successor(memory, boot, ports, parts);
        log::info!("{test}: {why}; {:?}", heap::usage());
    }
}

/// Binds as many event channels as there are, each to one end of its own, and lets each fire once.
fn ports() {
    let shared_info = shared_info::page().expect("mapped before");
    two_level::unmask_all(shared_info);
    let mut channels = Vec::new();
    while let Some(far) = unbound_port() {
        match event_channel::bind_interdomain(DOMID_SELF, far) {
            Ok(near) => channels.push((far, near)),
            Err(_) => break,
        }
    }
    // Binding lets a port fire.
    two_level::take_fired(shared_info, |_| ());
    let mut seen = 0;
    for (far, near) in &channels {
        event_channel::send(*far).expect("a bound port can be signalled");
        sched::block();
        two_level::take_fired(shared_info, |port| seen += usize::from(port == *near));
    }
    let highest = channels.iter().map(|(_, near)| *near).max();
    log::info!("{} channels, {seen} woke the kernel, highest port {highest:?}", channels.len());
    for (far, near) in channels {
        event_channel::close(near).expect("a bound port can be closed");
        event_channel::close(far).expect("a bound port can be closed");
    }
}

/// A new port that only this domain may bind to.
fn unbound_port() -> Option<u32> {
    let mut argument = evtchn_alloc_unbound { dom: DOMID_SELF, remote_dom: DOMID_SELF, port: 0 };
    // SAFETY: the structure is the operation's; Xen only writes the port into it.
    unsafe { hypercall::operation(xen_sys::__HYPERVISOR_event_channel_op, EVTCHNOP_alloc_unbound, &mut argument) }
        .ok()?;
    Some(argument.port)
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
