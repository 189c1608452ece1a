//! The request that a handler executes now. The report of a crash names it, and its connection pays for the crash.
//!
//! A handler changes nothing. Its change set is applied afterwards, in a step that cannot fail. If a request is in flight after a
//! panic, the state is therefore as the previous request left it. A kernel has one engine, and a panic handler can only look
//! at statics.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::store::watch::ConnectionId;
use crate::wire::header::Header;

/// Which connection's request it is, plus one; 0 for none.
static CONNECTION: AtomicU64 = AtomicU64::new(0);
static KIND: AtomicU32 = AtomicU32::new(0);
static REQUEST: AtomicU32 = AtomicU32::new(0);
static TRANSACTION: AtomicU32 = AtomicU32::new(0);
static PAYLOAD: AtomicUsize = AtomicUsize::new(0);
static PAYLOAD_BYTES: AtomicU32 = AtomicU32::new(0);

/// A request that is being handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Whose it is.
    pub connection: ConnectionId,
    /// What it says.
    pub header: Header,
    /// Where its payload is in memory; it stays there until the handler ends.
    pub payload: usize,
}

/// A handler begins.
pub(in crate::engine) fn begin(connection: ConnectionId, header: Header, payload: &[u8]) {
    KIND.store(header.kind, Relaxed);
    REQUEST.store(header.request_id, Relaxed);
    TRANSACTION.store(header.transaction_id, Relaxed);
    PAYLOAD.store(payload.as_ptr().addr(), Relaxed);
    PAYLOAD_BYTES.store(header.payload_bytes, Relaxed);
    CONNECTION.store(connection.0.saturating_add(1), Relaxed);
}

/// The handler is done.
pub(in crate::engine) fn end() {
    CONNECTION.store(0, Relaxed);
}

/// Crashes on purpose, in images for tests only: when a request names a node `crash-by-panic` or `crash-by-fault`. The
/// test's hypervisor makes the fault.
#[cfg(feature = "boot-test")]
#[expect(clippy::panic, reason = "that is what it is for")]
pub(in crate::engine) fn crash_if_asked(context: &mut crate::engine::requests::RequestContext<'_>) {
    let name = context.payload.split(|byte| *byte == 0).next().unwrap_or_default();
    if name.ends_with(b"/crash-by-panic") {
        panic!("asked for by a request");
    }
    if name.ends_with(b"/crash-by-fault") {
        let _ = context.hypervisor.domain_info(FAULT);
    }
}

/// The hypervisor of a test's image faults when it is asked about this domain.
#[cfg(feature = "boot-test")]
pub const FAULT: crate::store::domain::DomId = crate::store::domain::DomId(0x7ffe);

/// The request whose handler has begun and not ended.
#[must_use]
pub fn current() -> Option<InFlight> {
    let connection = ConnectionId(CONNECTION.load(Relaxed).checked_sub(1)?);
    let header = Header {
        kind: KIND.load(Relaxed),
        request_id: REQUEST.load(Relaxed),
        transaction_id: TRANSACTION.load(Relaxed),
        payload_bytes: PAYLOAD_BYTES.load(Relaxed),
    };
    Some(InFlight { connection, header, payload: PAYLOAD.load(Relaxed) })
}
