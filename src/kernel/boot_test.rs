//! Tests that need the kernel's own environment, and deliberate crashes that show how they are reported. Only images
//! that are built with the feature `boot-test` contain them.
//!
//! The command line names the test: `--boot-test=panic`, for instance.

use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::ptr;

use xen_sys::{EVTCHNOP_alloc_unbound, evtchn_alloc_unbound};

use super::boot_info::BootInfo;
use crate::xen::event_channel::{self, two_level};
use crate::xen::{entry, hypercall, sched, shared_info};

/// The number by which a domain refers to itself (`DOMID_SELF`).
const DOMID_SELF: u16 = 0x7ff0;

/// Runs the test that the command line names.
pub(crate) fn run(boot: &BootInfo) {
    let text = core::str::from_utf8(boot.command_line).unwrap_or_default();
    let test = text.split_ascii_whitespace().find_map(|word| word.strip_prefix("--boot-test="));
    let Some(test) = test else { return };
    log::info!("boot test: {test}");
    match test {
        "ports" => ports(),
        "panic" => panic!("asked for"),
        "memory" => drop(black_box(Vec::<u8>::with_capacity(1 << 30))),
        "stack" => {
            black_box(recurse(1));
        }
        // SAFETY: the access is meant to fault, at an address where nothing is mapped.
        "null" => unsafe {
            ptr::null::<u8>().wrapping_add(16).read_volatile();
        },
        // SAFETY: the access is meant to fault: code is not writable.
        "text" => unsafe { ptr::with_exposed_provenance_mut::<u8>(entry::text().start).write_volatile(0) },
        // SAFETY: the call is meant to fault: read-only data is not executable.
        "execute" => unsafe { asm!("call {}", in(reg) entry::rodata().start) },
        // SAFETY: the instruction is meant to fault.
        "opcode" => unsafe { asm!("ud2") },
        "nested" => panic!("{}", Nested),
        _ => log::warn!("there is no such test"),
    }
}

/// Binds as many event channels as exist, each to an end of its own, and lets each fire once.
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
    // Binding makes a port fire.
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

/// Returns a new port that only this domain may bind to.
fn unbound_port() -> Option<u32> {
    let mut argument = evtchn_alloc_unbound { dom: DOMID_SELF, remote_dom: DOMID_SELF, port: 0 };
    // SAFETY: the structure is the operation's; Xen only writes the port into it.
    unsafe { hypercall::operation(xen_sys::__HYPERVISOR_event_channel_op, EVTCHNOP_alloc_unbound, &mut argument) }
        .ok()?;
    Some(argument.port)
}

/// Exhausts the stack.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(depth + 1) + frame[3] }
}

/// A value that panics while a panic is printed.
struct Nested;

impl core::fmt::Display for Nested {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        panic!("a panic in a panic")
    }
}
