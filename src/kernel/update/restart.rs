//! Warm restart: after a panic or a fault while a request was handled, the state as it was before that request goes to this
//! same program, started anew in a world of its own. Its client pays with its connection (`docs/warm-restart.md`).
//!
//! What can't be done so ends the domain: a crash while something else was done, another one on the way. Where there is too
//! little memory for it, this kernel itself may go on ([`super::in_place`]).

use core::fmt::Write as _;
use core::ptr;

use spin::Mutex;
use xenstore::engine::report::crash::Crash;
use xenstore::engine::requests::in_hand::{self, InHand};
use xenstore::server::Server;
use xenstore::stream::writer::WriteError;
use xenstore::wire::header::MessageType;

use super::in_place::Rest;
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
pub(super) struct Serving {
    server: usize,
    platform: usize,
    home: usize,
    stack_pointer: usize,
}

impl Serving {
    /// What it serves with.
    ///
    /// # Safety
    /// Whoever used it must never run again.
    pub(super) unsafe fn everything<'a>(self) -> (&'a mut Server, &'a mut XenPlatform, &'a Home<'a>) {
        // SAFETY: they are where the main loop said, for good, and nobody else uses them.
        unsafe {
            let server = &mut *ptr::with_exposed_provenance_mut::<Server>(self.server);
            let platform = &mut *ptr::with_exposed_provenance_mut::<XenPlatform>(self.platform);
            (server, platform, &*ptr::with_exposed_provenance::<Home<'a>>(self.home))
        }
    }

    /// The main loop's stack pointer.
    pub(super) const fn stack_pointer(self) -> usize {
        self.stack_pointer
    }
}

/// Why there is no restart.
pub(crate) struct Refused {
    /// In words.
    pub(crate) why: &'static str,
    /// What it takes to go on without one, if only memory is missing.
    pub(crate) rest: Option<Rest>,
}

impl From<&'static str> for Refused {
    fn from(why: &'static str) -> Self {
        Self { why, rest: None }
    }
}

static SERVING: Mutex<Option<Serving>> = Mutex::new(None);
static RECENT: Mutex<[RecentCrash; RECENT_CRASHES]> = Mutex::new([RecentCrash::NEVER; RECENT_CRASHES]);

/// Says where everything is that a restart needs.
///
/// `stack_pointer` is that of the function that holds them.
///
/// # Safety
/// The values must stay where they are for good, and that function must never return.
pub(crate) unsafe fn register(
    server: *mut Server,
    platform: *mut XenPlatform,
    home: *const Home<'_>,
    stack_pointer: usize,
) {
    let (server, platform) = (server.expose_provenance(), platform.expose_provenance());
    let home = home.cast::<()>().expose_provenance();
    *SERVING.lock() = Some(Serving { server, platform, home, stack_pointer });
}

/// What is served with, once [`register`] or [`serve_again`] said so.
pub(super) fn serving() -> Option<Serving> {
    *SERVING.lock()
}

/// What was served with before a crash is served with once more.
pub(super) fn serve_again(serving: Serving) {
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
pub(crate) fn start(what: &str) -> Refused {
    let Some(serving) = SERVING.try_lock().and_then(|mut serving| serving.take()) else {
        return "nothing was served".into();
    };
    let Some(request) = in_hand::current() else { return "no request was being handled".into() };
    if heap::is_busy() {
        return "it came in the middle of the allocator".into();
    }
    let stopped_ns = time::now_ns();
    // SAFETY: the main loop never runs again, nor does the handler below it, which had no more than a shared view of the state.
    let (server, platform, home) = unsafe { serving.everything() };
    platform.gain_all_memory();
    let domain = server.domain_in_hand(&request).0;
    let crash = describe(what, domain, &request, note(domain, time::now_ms()));
    let state_bytes = heap::usage().used;
    let mut stream = PageStream::default();
    let saved = server.save_after_crash(&request, &mut stream, time::now_ms());
    stream.trim();
    let program = Program::Own;
    let rings = platform.ring_count();
    let needed = bytes_beside_stream(platform.memory(), program.memory_bytes(), rings, state_bytes);
    let mappings = platform.ring_mappings();
    let has_memory = heap::usage().free >= needed && !matches!(saved, Err(WriteError::Full));
    let (true, Ok(mappings)) = (has_memory, mappings) else {
        let why = "there is not enough memory for another world";
        return Refused { why, rest: Some(Rest { serving, request, crash }) };
    };
    if saved.is_err() {
        return "the state can't be saved".into();
    }
    let parts =
        Try { program, command_line: None, crash, stream: &stream, state_bytes, mappings: &mappings, stopped_ns };
    log::error!("{}", try_successor(platform.memory(), home, &parts));
    "the restart failed as well".into()
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
    tell(&handover.crash, node, server, platform);
}

/// The same for one crash, in whichever kernel goes on.
pub(super) fn tell(crash: &CrashNote, node: &str, server: &mut Server, platform: &mut XenPlatform) {
    let CrashNote { domain, is_repeated, report, report_bytes } = crash;
    let is_repeated = *is_repeated != 0;
    let report = report.get(..*report_bytes as usize).unwrap_or(report);
    let report = core::str::from_utf8(report).unwrap_or("a report that can't be read");
    let domid = xenstore::store::domain::DomId(*domain);
    let is_shut_out = is_repeated && domid != server.engine().privileged();
    let out = if is_shut_out { "; not its first within a minute: it is shut out" } else { "" };
    log::error!("goes on after a crash: {report}{out}");
    let crash = Crash { domid, is_repeated, report, node };
    server.handle_crash(&crash, platform, time::now_ms());
}
