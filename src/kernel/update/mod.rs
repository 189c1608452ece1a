//! Live update: this kernel makes room for a successor, hands over, and goes on as if nothing had been if the successor does
//! not say that it serves (`docs/live-update.md`).
//!
//! The predecessor's steps are here and in [`world`]; the successor's in [`successor`]. Where there is no memory for both, the
//! predecessor may have to part with its state first ([`without_state`]). Until the successor takes the
//! bridge down, everything that the predecessor has stays as it is: its memory is not mapped elsewhere, its ring mappings
//! and ports are not touched.
//!
//! What grows with what guests have is asked for and may be refused: the state on its way into the stream, lists of pages and
//! of ring mappings. The rest is taken out of [`RESERVE_BYTES`], which [`Pages::grow`] leaves: a command line of a page at
//! most, two bytes for each ring that is let go, lines for the console ([`console::BUFFER_BYTES`]), and reasons in words of
//! a message at most.

mod in_place;
pub(crate) mod pages;
pub(crate) mod program;
pub(crate) mod restart;
pub(crate) mod successor;
mod without_state;
pub(crate) mod world;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xenstore::engine::config::Config;
use xenstore::server::Server;
use xenstore::server::update::Successor;
use xenstore::stream::writer::WriteError;

use super::boot_info::BootInfo;
use super::main_loop::OwnPorts;
use super::platform::{RingMapping, XenPlatform};
use super::{heap, log as console};
use crate::xen::bridge::{self, Bridge, CrashNote, Handover, Outcome};
use crate::xen::event_channel::two_level;
use crate::xen::memory::Memory;
use crate::xen::shared_page::PAGE_BYTES;
use crate::xen::{entry, shared_info, time};
use pages::{PageStream, Pages, RESERVE_BYTES};
use program::Program;
use world::{Contents, Unbuildable, World};

/// How long a successor may take to restore, beside [`TIME_PER_MIB_MS`]: many times what it takes on a slow, busy host.
/// Guests wait for so long if it hangs.
const TIME_BASE_MS: u64 = 10_000;
/// How much longer for each MiB of state.
const TIME_PER_MIB_MS: u64 = 2_000;
/// Memory that the successor gets beside what its state will take: for restoring, and to serve the first requests.
const SUCCESSOR_EXTRA_BYTES: usize = 512 * 1024;

/// For how long nobody is served, about, on a slow host: as it was measured under emulation.
pub(crate) const fn expected_pause_ms(stream_bytes: usize) -> u64 {
    PAUSE_BASE_MS + PAUSE_PER_MIB_MS * stream_bytes as u64 / (1 << 20)
}

/// The pause with an empty store.
const PAUSE_BASE_MS: u64 = 75;
/// What each MiB of state adds.
const PAUSE_PER_MIB_MS: u64 = 100;

/// What of this kernel a live update needs.
pub(crate) struct Home<'a> {
    /// What the builder told it.
    pub(crate) boot: &'a BootInfo,
    /// Its own ports.
    pub(crate) ports: OwnPorts,
    /// What its server was configured with.
    pub(crate) config: Config,
    /// The path of the node that tells of a crash.
    pub(crate) crash_node: &'a str,
}

/// What a try needs.
struct Try<'a> {
    program: Program<'a>,
    /// The new command line; without this it gets the present one.
    command_line: Option<&'a str>,
    /// Why this is a restart; [`CrashNote::NONE`] for an update.
    crash: CrashNote,
    /// The state.
    stream: &'a PageStream,
    /// Bytes of heap that the state takes here.
    state_bytes: usize,
    /// The ring mappings, which the successor undoes once it serves.
    mappings: &'a [RingMapping],
    /// When serving stopped, in nanoseconds since the host's start.
    stopped_ns: u64,
}

/// Bytes of heap for a successor whose state takes `state_bytes` here. It lays the same out anew, without the holes.
const fn successor_heap_bytes(state_bytes: usize) -> usize {
    state_bytes + state_bytes / 8 + SUCCESSOR_EXTRA_BYTES
}

/// Bytes that a try needs beside the stream.
pub(crate) fn bytes_beside_stream(memory: &Memory, image_bytes: usize, mappings: usize, state_bytes: usize) -> usize {
    let heap_pages = successor_heap_bytes(state_bytes).div_ceil(PAGE_BYTES);
    let pages = world::pages_beside_stream(memory, image_bytes, mappings, heap_pages);
    (pages + bridge::PAGES) * PAGE_BYTES + RESERVE_BYTES
}

/// Does what [`xenstore::server::Action::StartUpdate`] asks for. Returns when there is no successor; who asked knows why
/// then.
pub(crate) fn start(server: &mut Server, platform: &mut XenPlatform, home: &Home<'_>) {
    let Some(successor) = server.take_successor() else { return };
    let stopped_ns = time::now_ns();
    platform.gain_all_memory();
    let state_bytes = heap::usage().used.saturating_sub(successor.file.len());
    let mut stream = PageStream::default();
    let saved = save(server, &successor, &mut stream);
    let room = saved.and_then(|()| find_room(platform, &successor, &stream, state_bytes));
    let list_bytes = platform.ring_count() * size_of::<RingMapping>();
    match room.and_then(|room| Ok((room, platform.ring_mappings().map_err(|_| no_memory(list_bytes))?))) {
        Ok((room, mappings)) => {
            let parts = Try {
                program: Program::File(&successor.image, &successor.file),
                command_line: successor.command_line.as_deref(),
                crash: CrashNote::NONE,
                stream: &stream,
                state_bytes,
                mappings: &mappings,
                stopped_ns,
            };
            match room {
                Room::BesideState => {
                    let why = try_successor(platform.memory(), home, &parts);
                    server.successor_failed(successor.asked, &why);
                }
                Room::InItsPlace => without_state::start(server, platform, home, &successor, parts),
            }
        }
        Err(why) => server.successor_failed(successor.asked, &why),
    }
    // What fired meanwhile was forgotten.
    server.wake_all();
}

/// Writes the state for the successor.
fn save(server: &Server, successor: &Successor, stream: &mut PageStream) -> Result<(), String> {
    match server.save_for(successor, stream, time::now_ms()) {
        Ok(()) => {
            stream.trim();
            Ok(())
        }
        Err(WriteError::Full) => Err(no_memory(stream.len())),
        Err(error) => Err(format!("the state can't be saved: {error:?}")),
    }
}

/// Where there is room for a successor.
enum Room {
    /// Beside everything that is here.
    BesideState,
    /// Only if the state, which is in the stream, is dropped here: that was asked for.
    InItsPlace,
}

/// Looks whether there is memory for the successor, now that the stream has its own.
fn find_room(
    platform: &XenPlatform,
    successor: &Successor,
    stream: &PageStream,
    state_bytes: usize,
) -> Result<Room, String> {
    let image_bytes = successor.image.memory_bytes() as usize;
    let needed = bytes_beside_stream(platform.memory(), image_bytes, platform.ring_count(), state_bytes);
    let free = heap::usage().free;
    if free >= needed {
        return Ok(Room::BesideState);
    }
    let (needed_kib, free_kib, state_kib) = (needed.div_ceil(1024), free / 1024, state_bytes / 1024);
    if free + state_bytes < needed {
        return Err(format!(
            "not enough memory, even without the {state_kib} KiB of the present state: {needed_kib} KiB are needed beside the stream's {} KiB, {free_kib} KiB are free",
            stream.len().div_ceil(1024)
        ));
    }
    if successor.force {
        return Ok(Room::InItsPlace);
    }
    Err(format!(
        "not enough memory to keep the present state until the new kernel serves: {needed_kib} KiB are needed, {free_kib} KiB are free; -F drops the {state_kib} KiB of the present state first, and makes it again from what was saved if the new kernel fails"
    ))
}

/// The new command line, or else the present one, with the mark of a live update.
fn marked(new: Option<&str>, present: &[u8]) -> Vec<u8> {
    let mut line = Vec::from(new.map_or(present, str::as_bytes));
    if !line.split(u8::is_ascii_whitespace).any(|word| MARKS.contains(&word)) {
        line.push(b' ');
        line.extend_from_slice(MARKS[0]);
    }
    line
}

/// How the command line says that this is a live update: for whoever reads it; the kernel looks for its predecessor's bridge.
const MARKS: [&[u8]; 2] = [b"--live-update", b"-U"];

/// Starts a successor. Returns when it failed, with the reason; everything is as it was before then, but for what happened
/// outside meanwhile: whoever waits for something has to look.
fn try_successor(memory: &Memory, home: &Home<'_>, parts: &Try<'_>) -> String {
    let mut pages = Pages::default();
    if let Err(error) = pages.grow(bridge::PAGES) {
        return no_memory(error.wanted);
    }
    let Some(&[level3, level2, level1, code, data]) = pages.addresses().first_chunk() else {
        return no_memory(bridge::PAGES * PAGE_BYTES);
    };
    // SAFETY: the pages were just taken for it, and are kept until it is taken down.
    let (bridge, built) = unsafe { Bridge::build(memory, [level3, level2, level1, code, data]) };
    let why = match built {
        Ok(()) => cross(memory, home, &bridge, parts),
        Err(error) => format!("the bridge to the new kernel can't be built: {error:?}"),
    };
    if let Err(error) = bridge.take_down(memory) {
        log::error!("the bridge's pages can't be had back: {error:?}");
        pages.lose();
    }
    why
}

/// Builds the successor's world, goes over, and puts everything in order on coming back.
fn cross(memory: &Memory, home: &Home<'_>, bridge: &Bridge, parts: &Try<'_>) -> String {
    let &Try { program, command_line, crash, stream, state_bytes, mappings, stopped_ns } = parts;
    let Home { boot, ports, .. } = home;
    let stream_bytes = stream.len();
    log::info!("{stream_bytes} bytes of state: going over");
    let lines = console::waiting();
    let contents = Contents {
        program,
        command_line: &marked(command_line, boot.command_line),
        stream,
        mappings,
        lines: &lines,
        heap_pages: successor_heap_bytes(state_bytes).div_ceil(PAGE_BYTES),
    };
    let world = match World::build(memory, boot, bridge, contents) {
        Ok(world) => world,
        Err(Unbuildable::NoPages(error)) => return no_memory(error.wanted),
        Err(Unbuildable::TooLarge) => return String::from("the new kernel lies where no space can be made for it"),
        Err(Unbuildable::Memory(error)) => return format!("the new kernel's memory can't be made: {error:?}"),
        Err(Unbuildable::Tables(error)) => return format!("Xen refused the new kernel's page tables: {error:?}"),
    };
    let handover = Handover {
        predecessor_root: memory.root_frame(),
        total_pages: memory.pages() as u64,
        mappings: world.mappings_address() as u64,
        mapping_count: mappings.len() as u64,
        line_bytes: lines.len() as u64,
        exception_port: ports.domain_exception,
        timer_port: ports.timer,
        stopped_ns,
        save_ns: time::now_ns().saturating_sub(stopped_ns),
        crash,
        recent: restart::recent(),
    };
    let allowed_ms = TIME_BASE_MS + TIME_PER_MIB_MS * (stream_bytes as u64 >> 20);
    let shared_info = shared_info::page().expect("mapped at boot");
    two_level::mask_all_but(shared_info, ports.timer);
    time::set_alarm(Some(time::now_ms() + allowed_ms));
    let mask = shared_info.address8(two_level::offset::UPCALL_MASK);
    // SAFETY: the world is complete and pinned and has this bridge; its pages are unmapped here; ports are masked.
    let outcome = unsafe { bridge.cross(memory, world.way(memory, program), mask, handover) };
    entry::register_handlers();
    time::set_alarm(None);
    two_level::unmask_all(shared_info);
    console::resume();
    world.leave(memory);
    let why = describe(bridge, outcome, allowed_ms);
    let heap::Usage { used, free, .. } = heap::usage();
    log::warn!("back again: {why}; memory: used={used} free={free}");
    why
}

fn no_memory(wanted: usize) -> String {
    let free = heap::usage().free;
    format!("not enough memory: {} KiB more are needed, {} KiB are free", wanted.div_ceil(1024), free / 1024)
}

/// Why the successor did not stay, in a sentence.
fn describe(bridge: &Bridge, outcome: Outcome, allowed_ms: u64) -> String {
    match outcome {
        Outcome::Refused => String::from("Xen refused the new kernel's page tables"),
        Outcome::Late(rip) => {
            format!("the new kernel did not finish within {} seconds (it was at {rip:#x})", allowed_ms / 1000)
        }
        Outcome::Fault(vector, rip) => format!("the new kernel ended with fault {vector} at {rip:#x}"),
        Outcome::GaveUp => {
            let (text, bytes) = bridge.text();
            format!("the new kernel gave up: {}", String::from_utf8_lossy(&text[..bytes]))
        }
    }
}
