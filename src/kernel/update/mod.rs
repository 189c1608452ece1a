//! Live update: this kernel builds a successor's memory and hands over. It resumes unchanged if the successor does not
//! report that it serves (`docs/live-update.md`).
//!
//! The predecessor's steps are here and in [`layout`], which builds the successor layout; the successor's steps are in
//! [`successor`]. Where there is no memory for both, the predecessor may have to drop its state first
//! ([`without_state`]). The predecessor stays as it is until the successor takes the trampoline ([`Trampoline`]) down: its
//! memory is not mapped elsewhere, and its ring mappings and ports are not touched.
//!
//! Memory that grows with what guests have is requested, and the request may fail: the state on its way into the
//! stream, the lists of pages and of ring mappings. The rest comes from [`RESERVE_BYTES`], which [`Pages::grow`]
//! leaves:
//!
//! - a command line of at most a page,
//! - two bytes for each ring that is let go,
//! - lines for the console ([`console::BUFFER_BYTES`]),
//! - reasons, each of at most a message's length.

mod error;
mod in_place;
pub(crate) mod layout;
pub(crate) mod pages;
pub(crate) mod program;
pub(crate) mod restart;
pub(crate) mod successor;
mod without_state;

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
use crate::xen::event_channel::two_level;
use crate::xen::memory::Memory;
use crate::xen::shared_page::PAGE_BYTES;
use crate::xen::trampoline::{self, CrashNote, Handover, Outcome, Trampoline};
use crate::xen::{entry, shared_info, time};
use error::UpdateError;
use layout::{Contents, SuccessorLayout};
use pages::{PageStream, Pages, RESERVE_BYTES};
use program::Program;

/// Time limit for a successor's restore in milliseconds, in addition to [`TIME_PER_MIB_MS`]. It is many times what a
/// slow, busy host needs. Guests wait this long if the successor hangs.
const TIME_BASE_MS: u64 = 10_000;
/// Additional time limit for each MiB of state, in milliseconds.
const TIME_PER_MIB_MS: u64 = 2_000;
/// Memory of the successor in addition to its state's: for the restore, and for the first requests.
const SUCCESSOR_EXTRA_BYTES: usize = 512 * 1024;

/// Estimates the pause of service in milliseconds, for a slow host: calibrated under emulation.
pub(crate) const fn expected_pause_ms(stream_bytes: usize) -> u64 {
    PAUSE_BASE_MS + PAUSE_PER_MIB_MS * stream_bytes as u64 / (1 << 20)
}

/// Pause with an empty store, in milliseconds.
const PAUSE_BASE_MS: u64 = 75;
/// Additional pause for each MiB of state, in milliseconds.
const PAUSE_PER_MIB_MS: u64 = 100;

/// The parts of this kernel that a live update needs.
pub(crate) struct Home<'a> {
    /// The domain builder's information.
    pub(crate) boot: &'a BootInfo,
    /// The kernel's own ports.
    pub(crate) ports: OwnPorts,
    /// The server's configuration.
    pub(crate) config: Config,
    /// Path of the node that reports a crash.
    pub(crate) crash_node: &'a str,
}

/// The inputs of one attempt to start a successor.
struct Try<'a> {
    program: Program<'a>,
    /// The new command line; `None` keeps the present one.
    command_line: Option<&'a str>,
    /// The reason for a warm restart; [`CrashNote::NONE`] for an update.
    crash: CrashNote,
    /// The saved state.
    stream: &'a PageStream,
    /// Bytes of heap that the state takes in this kernel.
    state_bytes: usize,
    /// The ring mappings, which the successor undoes once it serves.
    mappings: &'a [RingMapping],
    /// When serving stopped, in nanoseconds since the host's start.
    stopped_ns: u64,
}

/// Returns the bytes of heap for a successor whose state takes `state_bytes` here. The successor lays the state out
/// again, without the holes.
const fn successor_heap_bytes(state_bytes: usize) -> usize {
    state_bytes + state_bytes / 8 + SUCCESSOR_EXTRA_BYTES
}

/// Returns the bytes that an attempt needs in addition to the stream.
pub(crate) fn bytes_without_stream(memory: &Memory, image_bytes: usize, mappings: usize, state_bytes: usize) -> usize {
    let heap_pages = successor_heap_bytes(state_bytes).div_ceil(PAGE_BYTES);
    let pages = layout::pages_without_stream(memory, image_bytes, mappings, heap_pages);
    (pages + trampoline::PAGES) * PAGE_BYTES + RESERVE_BYTES
}

/// Executes [`xenstore::server::Action::StartUpdate`]. Returns if no successor took over; the requester then has the
/// reason.
pub(crate) fn start(server: &mut Server, platform: &mut XenPlatform, home: &Home<'_>) {
    let Some(successor) = server.take_successor() else { return };
    let stopped_ns = time::now_ns();
    platform.gain_all_memory();
    let state_bytes = heap::usage().used.saturating_sub(successor.file.len());
    let mut stream = PageStream::default();
    let saved = save(server, &successor, &mut stream);
    let room = saved.and_then(|()| find_room(platform, &successor, &stream, state_bytes));
    let list_bytes = platform.ring_count() * size_of::<RingMapping>();
    match room.and_then(|room| Ok((room, platform.ring_mappings().map_err(|_| UpdateError::no_memory(list_bytes))?))) {
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
                Room::NextToState => {
                    let why = try_successor(platform.memory(), home, &parts);
                    server.successor_failed(successor.asked, &why);
                }
                Room::InPlaceOfState => without_state::start(server, platform, home, &successor, parts),
            }
        }
        Err(why) => server.successor_failed(successor.asked, &why),
    }
    // Events that arrived meanwhile were dropped.
    server.wake_all();
}

/// Writes the state for the successor into `stream`.
fn save(server: &Server, successor: &Successor, stream: &mut PageStream) -> Result<(), UpdateError> {
    match server.save_for(successor, stream, time::now_ms()) {
        Ok(()) => {
            stream.trim();
            Ok(())
        }
        Err(WriteError::Full) => Err(UpdateError::no_memory(stream.len())),
        Err(WriteError::TooLong(what)) => Err(UpdateError::TooLong(what)),
    }
}

/// Where a successor finds room.
enum Room {
    /// Next to this kernel's state.
    NextToState,
    /// Only in place of this kernel's state, which is in the stream: the requester has allowed this.
    InPlaceOfState,
}

/// Checks whether the successor fits into memory, now that the stream has its own.
fn find_room(
    platform: &XenPlatform,
    successor: &Successor,
    stream: &PageStream,
    state_bytes: usize,
) -> Result<Room, UpdateError> {
    let image_bytes = successor.image.memory_bytes() as usize;
    let needed = bytes_without_stream(platform.memory(), image_bytes, platform.ring_count(), state_bytes);
    let free = heap::usage().free;
    if free >= needed {
        return Ok(Room::NextToState);
    }
    let state = state_bytes;
    if free + state < needed {
        return Err(UpdateError::NoRoom { needed, free, state, stream: stream.len() });
    }
    if successor.force {
        return Ok(Room::InPlaceOfState);
    }
    Err(UpdateError::NoRoomNextToState { needed, free, state })
}

/// Returns the new command line, or else the present one, with the mark of a live update.
fn marked(new: Option<&str>, present: &[u8]) -> Vec<u8> {
    let mut line = Vec::from(new.map_or(present, str::as_bytes));
    if !line.split(u8::is_ascii_whitespace).any(|word| MARKS.contains(&word)) {
        line.push(b' ');
        line.extend_from_slice(MARKS[0]);
    }
    line
}

/// The command line's marks of a live update. They are information only: the kernel itself looks for its predecessor's
/// trampoline.
const MARKS: [&[u8]; 2] = [b"--live-update", b"-U"];

/// Starts a successor. Returns the reason if it failed. Everything is then as before, except for changes outside of
/// this kernel: code that waits for an event must check again.
fn try_successor(memory: &Memory, home: &Home<'_>, parts: &Try<'_>) -> UpdateError {
    let mut pages = Pages::default();
    if let Err(error) = pages.grow(trampoline::PAGES) {
        return error.into();
    }
    let Some(&[level3, level2, level1, code, data]) = pages.addresses().first_chunk() else {
        return UpdateError::no_memory(trampoline::PAGES * PAGE_BYTES);
    };
    // SAFETY: the pages were just taken for the trampoline, and are kept until it is taken down.
    let (trampoline, built) = unsafe { Trampoline::build(memory, [level3, level2, level1, code, data]) };
    let why = match built {
        Ok(()) => cross(memory, home, &trampoline, parts),
        Err(error) => UpdateError::Trampoline(error),
    };
    if let Err(error) = trampoline.take_down(memory) {
        log::error!("update: the trampoline's pages could not be reclaimed: {error}");
        pages.lose();
    }
    why
}

/// Builds the successor layout, switches to it, and restores everything when the successor comes back.
fn cross(memory: &Memory, home: &Home<'_>, trampoline: &Trampoline, parts: &Try<'_>) -> UpdateError {
    let &Try { program, command_line, crash, stream, state_bytes, mappings, stopped_ns } = parts;
    let Home { boot, ports, .. } = home;
    let stream_bytes = stream.len();
    log::info!("starting the successor with {stream_bytes} bytes of state");
    let lines = console::waiting();
    let contents = Contents {
        program,
        command_line: &marked(command_line, boot.command_line),
        stream,
        mappings,
        lines: &lines,
        heap_pages: successor_heap_bytes(state_bytes).div_ceil(PAGE_BYTES),
    };
    let successor = match SuccessorLayout::build(memory, boot, trampoline, contents) {
        Ok(successor) => successor,
        Err(error) => return error.into(),
    };
    let handover = Handover {
        predecessor_root: memory.root_frame(),
        total_pages: memory.pages() as u64,
        mappings: successor.mappings_address() as u64,
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
    // SAFETY: the successor layout is complete and pinned, and contains this trampoline. Its pages are unmapped here,
    // and ports are masked.
    let outcome = unsafe { trampoline.cross(memory, successor.entry(memory, program), mask, handover) };
    entry::register_handlers();
    time::set_alarm(None);
    two_level::unmask_all(shared_info);
    console::resume();
    successor.leave(memory);
    let why = reason(trampoline, outcome, allowed_ms);
    let heap::Usage { used, free, .. } = heap::usage();
    log::warn!("the successor did not take over: {why}; memory: used={used} free={free}");
    why
}

/// Returns why the successor did not stay.
fn reason(trampoline: &Trampoline, outcome: Outcome, allowed_ms: u64) -> UpdateError {
    match outcome {
        Outcome::Refused => UpdateError::NotEntered,
        Outcome::Late(rip) => UpdateError::Late { allowed_ms, rip },
        Outcome::Fault(vector, rip) => UpdateError::Fault { vector, rip },
        Outcome::GaveUp => {
            let (text, bytes) = trampoline.text();
            UpdateError::GaveUp(String::from_utf8_lossy(&text[..bytes]).into_owned())
        }
    }
}
