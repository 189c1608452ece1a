//! Warm restart: after a panic or a processor fault in a request, this same program starts again, in a successor layout
//! of its own. It gets the state of before that request. The request's client loses its connection
//! (`docs/warm-restart.md`).
//!
//! A warm restart is impossible if no request was in flight, or if a second crash interrupts the restart: the domain
//! then ends with the crash reason. If only memory is missing, this kernel may resume in place ([`super::in_place`]).

use core::fmt::Write as _;
use core::ptr;

use spin::Mutex;
use xenstore::engine::report::crash::Crash;
use xenstore::engine::requests::in_flight::InFlight;
use xenstore::server::Server;
use xenstore::stream::writer::WriteError;
use xenstore::wire::header::MessageType;

use super::error::RestartError;
use super::in_place::Rest;
use super::pages::PageStream;
use super::program::Program;
use super::{Home, Try, bytes_without_stream, try_successor};
use crate::kernel::heap;
use crate::kernel::in_flight;
use crate::kernel::platform::XenPlatform;
use crate::xen::time;
use crate::xen::trampoline::{CrashNote, Handover, RECENT_CRASHES, REPORT_BYTES, RecentCrash};

/// The interval in which a second crash by a domain's requests shuts the domain out, in milliseconds.
const REPEATED_MS: u64 = 60_000;
/// Bytes of a request's path in the report.
const PATH_BYTES: usize = 256;

/// Addresses of the values that the main loop serves with.
#[derive(Clone, Copy)]
pub(super) struct Serving {
    server: usize,
    platform: usize,
    home: usize,
    stack_pointer: usize,
}

impl Serving {
    /// Returns references to the server, its platform and the kernel's parts.
    ///
    /// # Safety
    /// Code that used these values before must never run again.
    pub(super) unsafe fn everything<'a>(self) -> (&'a mut Server, &'a mut XenPlatform, &'a Home<'a>) {
        // SAFETY: the main loop registered these addresses, which stay valid for good. By the caller's promise there is
        // no other user.
        unsafe {
            let server = &mut *ptr::with_exposed_provenance_mut::<Server>(self.server);
            let platform = &mut *ptr::with_exposed_provenance_mut::<XenPlatform>(self.platform);
            (server, platform, &*ptr::with_exposed_provenance::<Home<'a>>(self.home))
        }
    }

    /// Returns the main loop's stack pointer.
    pub(super) const fn stack_pointer(self) -> usize {
        self.stack_pointer
    }
}

/// A warm restart that did not take place.
pub(crate) struct Refused {
    /// The reason.
    pub(crate) why: RestartError,
    /// The values needed to resume in place, if only memory is missing.
    pub(crate) rest: Option<Rest>,
}

impl From<RestartError> for Refused {
    fn from(why: RestartError) -> Self {
        Self { why, rest: None }
    }
}

static SERVING: Mutex<Option<Serving>> = Mutex::new(None);
static RECENT: Mutex<[RecentCrash; RECENT_CRASHES]> = Mutex::new([RecentCrash::NEVER; RECENT_CRASHES]);

/// Registers the values that a warm restart needs.
///
/// `stack_pointer` is that of the function that holds the values.
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

/// Returns what the main loop serves with, once [`register`] or [`serve_again`] has set it.
pub(super) fn serving() -> Option<Serving> {
    *SERVING.lock()
}

/// Registers the values of before a crash again.
pub(super) fn serve_again(serving: Serving) {
    *SERVING.lock() = Some(serving);
}

/// Adopts the predecessor's record of recent crashes.
pub(crate) fn remember(recent: [RecentCrash; RECENT_CRASHES]) {
    *RECENT.lock() = recent;
}

/// Returns the record of recent crashes.
pub(crate) fn recent() -> [RecentCrash; RECENT_CRASHES] {
    RECENT.try_lock().map_or([RecentCrash::NEVER; RECENT_CRASHES], |recent| *recent)
}

/// Records a crash. Returns whether the domain had caused another one less than [`REPEATED_MS`] before.
fn note(domain: u16, now_ms: u64) -> bool {
    let Some(mut recent) = RECENT.try_lock() else { return true };
    let is_recent = |crash: &RecentCrash| crash.at_ms > 0 && now_ms.saturating_sub(crash.at_ms) < REPEATED_MS;
    let is_repeated = recent.iter().any(|crash| crash.domain == domain && is_recent(crash));
    if let Some(oldest) = recent.iter_mut().min_by_key(|crash| crash.at_ms) {
        *oldest = RecentCrash { domain, at_ms: now_ms };
    }
    is_repeated
}

/// Starts this program again. Returns only if that failed, with the reason.
pub(crate) fn start(what: &str) -> Refused {
    let Some(serving) = SERVING.try_lock().and_then(|mut serving| serving.take()) else {
        return RestartError::NotServing.into();
    };
    let Some(request) = in_flight::current() else { return RestartError::NoRequest.into() };
    if heap::is_busy() {
        return RestartError::InAllocator.into();
    }
    let stopped_ns = time::now_ns();
    // SAFETY: the main loop never runs again. Neither does the handler below it, which had no more than a shared view
    // of the state. A preparation after the handler changes only its own record, which is undone below.
    let (server, platform, home) = unsafe { serving.everything() };
    platform.gain_all_memory();
    server.undo_preparation(platform);
    let domain = server.domain_in_flight(&request).0;
    let crash = describe(what, domain, &request, note(domain, time::now_ms()));
    let state_bytes = heap::usage().used;
    let mut stream = PageStream::default();
    let saved = server.save_after_crash(&request, &mut stream, time::now_ms());
    stream.trim();
    let program = Program::Own;
    let rings = platform.ring_count();
    let needed = bytes_without_stream(platform.memory(), program.memory_bytes(), rings, state_bytes);
    let mappings = platform.ring_mappings();
    let has_memory = heap::usage().free >= needed && !matches!(saved, Err(WriteError::Full));
    let (true, Ok(mappings)) = (has_memory, mappings) else {
        return Refused { why: RestartError::NoMemory, rest: Some(Rest { serving, request, crash }) };
    };
    if saved.is_err() {
        return RestartError::NotSaved.into();
    }
    let parts =
        Try { program, command_line: None, crash, stream: &stream, state_bytes, mappings: &mappings, stopped_ns };
    log::error!("{}", try_successor(platform.memory(), home, &parts));
    RestartError::NoSuccessor.into()
}

/// Describes the crash for the kernel that continues.
fn describe(what: &str, domain: u16, request: &InFlight, is_repeated: bool) -> CrashNote {
    let mut report = heapless::String::<REPORT_BYTES>::new();
    let InFlight { header, payload, .. } = request;
    let bytes = (header.payload_bytes as usize).min(PATH_BYTES);
    // SAFETY: the handler did not continue, so the payload is still where it was.
    let start = unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(*payload), bytes) };
    let path = start.split(|byte| *byte == 0).next().unwrap_or_default();
    // Text that does not fit is left out.
    let _ = match MessageType::from_wire(header.kind) {
        Some(kind) => write!(report, "domain {domain}, {kind:?} {}: {what}", path.escape_ascii()),
        None => write!(report, "domain {domain}, request type {} {}: {what}", header.kind, path.escape_ascii()),
    };
    let mut note = CrashNote { domain, is_repeated: is_repeated.into(), ..CrashNote::NONE };
    note.report_bytes = report.len() as u32;
    note.report[..report.len()].copy_from_slice(report.as_bytes());
    note
}

/// Charges the domain that caused the crash and reports the crash. Runs in the successor, once it has taken everything
/// over.
#[inline(never)]
pub(crate) fn settle(handover: &Handover, node: &str, server: &mut Server, platform: &mut XenPlatform) {
    remember(handover.recent);
    if !handover.crash.is_there() {
        return;
    }
    report(&handover.crash, node, server, platform);
}

/// Charges and reports one crash, in the kernel that continues.
pub(super) fn report(crash: &CrashNote, node: &str, server: &mut Server, platform: &mut XenPlatform) {
    let CrashNote { domain, is_repeated, report, report_bytes } = crash;
    let is_repeated = *is_repeated != 0;
    let report = report.get(..*report_bytes as usize).unwrap_or(report);
    let report = core::str::from_utf8(report).unwrap_or("an unreadable report");
    let domid = xenstore::store::domain::DomId(*domain);
    let is_shut_out = is_repeated && domid != server.engine().privileged();
    let suffix = if is_shut_out { "; the domain is shut out: its second crash within a minute" } else { "" };
    log::error!("resumed after a crash: {report}{suffix}");
    let crash = Crash { domid, is_repeated, report, node };
    server.handle_crash(&crash, platform, time::now_ms());
}
