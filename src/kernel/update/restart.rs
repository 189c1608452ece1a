//! Warm restart: after a panic or a fault while a request was handled, the state as it was before that request goes to this
//! same program, started anew in a world of its own. Its client pays with its connection (`docs/warm-restart.md`).
//!
//! What can't be done so ends the domain: a crash while something else was done, another one on the way, too little memory.

use core::fmt::Write as _;
use core::ptr;

use spin::Mutex;
use xenstore::engine::crash::Crash;
use xenstore::engine::in_hand::{self, InHand};
use xenstore::server::Server;
use xenstore::wire::header::MessageType;

use super::pages::PageStream;
use super::program::Program;
use super::{Home, Try, bytes_beside_stream, try_successor};
use crate::kernel::heap;
use crate::kernel::platform::XenPlatform;
use crate::xen::bridge::{CrashNote, Handover, RECENT_CRASHES, REPORT_BYTES, RecentCrash};
use crate::xen::time;

/// A domain whose requests crash the server twice within this time gets no third try.
const REPEATED_MS: u64 = 60_000;
/// Bytes of a request's path that the report shows.
const PATH_BYTES: usize = 256;

/// Where the main loop keeps what it serves with.
#[derive(Clone, Copy)]
struct Serving {
    server: usize,
    platform: usize,
    home: usize,
}

static SERVING: Mutex<Option<Serving>> = Mutex::new(None);
static RECENT: Mutex<[RecentCrash; RECENT_CRASHES]> = Mutex::new([RecentCrash::NEVER; RECENT_CRASHES]);

/// Says where everything is that a restart needs.
///
/// # Safety
/// The values must stay where they are for good.
pub(crate) unsafe fn register(server: *mut Server, platform: *mut XenPlatform, home: *const Home<'_>) {
    let home = home.cast::<()>().expose_provenance();
    let serving = Serving { server: server.expose_provenance(), platform: platform.expose_provenance(), home };
    *SERVING.lock() = Some(serving);
}

/// Takes over what the predecessor remembers of crashes.
pub(crate) fn remember(recent: [RecentCrash; RECENT_CRASHES]) {
    *RECENT.lock() = recent;
}

/// What is remembered of crashes.
pub(crate) fn recent() -> [RecentCrash; RECENT_CRASHES] {
    RECENT.try_lock().map_or([RecentCrash::NEVER; RECENT_CRASHES], |recent| *recent)
}

/// Notes a crash. Returns whether the domain had caused one a short time before.
fn note(domain: u16, now_ms: u64) -> bool {
    let Some(mut recent) = RECENT.try_lock() else { return true };
    let is_recent = |crash: &RecentCrash| crash.at_ms > 0 && now_ms.saturating_sub(crash.at_ms) < REPEATED_MS;
    let is_repeated = recent.iter().any(|crash| crash.domain == domain && is_recent(crash));
    if let Some(oldest) = recent.iter_mut().min_by_key(|crash| crash.at_ms) {
        *oldest = RecentCrash { domain, at_ms: now_ms };
    }
    is_repeated
}

/// Starts this program anew. Returns why that is not possible.
pub(crate) fn start(what: &str) -> &'static str {
    let Some(Serving { server, platform, home }) = SERVING.try_lock().and_then(|mut serving| serving.take()) else {
        return "nothing was served";
    };
    let Some(request) = in_hand::current() else { return "no request was being handled" };
    if heap::is_busy() {
        return "it came in the middle of the allocator";
    }
    let stopped_ns = time::now_ns();
    // SAFETY: they are where the main loop said, for good. It never runs again, nor does the handler below it, which had
    // no more than a shared view of the state.
    let (server, platform, home) = unsafe {
        let server = &*ptr::with_exposed_provenance::<Server>(server);
        let platform = &*ptr::with_exposed_provenance::<XenPlatform>(platform);
        (server, platform, &*ptr::with_exposed_provenance::<Home<'static>>(home))
    };
    let domain = server.domain_in_hand(&request).0;
    let crash = describe(what, domain, &request, note(domain, time::now_ms()));
    let state_bytes = heap::usage().used;
    let mut stream = PageStream::default();
    if server.save_after_crash(&request, &mut stream, time::now_ms()).is_err() {
        return "the state can't be saved";
    }
    stream.trim();
    let program = Program::Own;
    let rings = platform.ring_count();
    if heap::usage().free < bytes_beside_stream(platform.memory(), program.memory_bytes(), rings, state_bytes) {
        return "there is not enough memory for another world";
    }
    let mappings = platform.ring_mappings();
    let parts =
        Try { program, command_line: None, crash, stream: &stream, state_bytes, mappings: &mappings, stopped_ns };
    log::error!("{}", try_successor(platform.memory(), home, &parts));
    "the restart failed as well"
}

/// The note for the kernel that goes on.
fn describe(what: &str, domain: u16, request: &InHand, is_repeated: bool) -> CrashNote {
    let mut report = heapless::String::<REPORT_BYTES>::new();
    let InHand { header, payload, .. } = request;
    let bytes = (header.payload_bytes as usize).min(PATH_BYTES);
    // SAFETY: the handler never went on, so the payload is still where it was.
    let start = unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(*payload), bytes) };
    let path = start.split(|byte| *byte == 0).next().unwrap_or_default();
    let kind = MessageType::from_wire(header.kind);
    // What does not fit is left out.
    let _ = write!(report, "domain {domain}, {kind:?} {}: {what}", path.escape_ascii());
    let mut note = CrashNote { domain, is_repeated: is_repeated.into(), ..CrashNote::NONE };
    note.report_bytes = report.len() as u32;
    note.report[..report.len()].copy_from_slice(report.as_bytes());
    note
}

/// Makes whoever caused the crash pay, and tells of it: in the kernel that goes on, once all was taken over.
#[inline(never)]
pub(crate) fn settle(handover: &Handover, node: &str, server: &mut Server, platform: &mut XenPlatform) {
    remember(handover.recent);
    if !handover.crash.is_there() {
        return;
    }
    let CrashNote { domain, is_repeated, report, report_bytes } = &handover.crash;
    let is_repeated = *is_repeated != 0;
    let report = report.get(..*report_bytes as usize).unwrap_or(report);
    let report = core::str::from_utf8(report).unwrap_or("a report that can't be read");
    let domid = xenstore::store::domain::DomId(*domain);
    let out = if is_repeated { "; not its first within a minute: it is shut out" } else { "" };
    log::error!("restarted after a crash: {report}{out}");
    let crash = Crash { domid, is_repeated, report, node };
    server.handle_crash(&crash, platform, time::now_ms());
}
