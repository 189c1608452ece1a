//! The record of the request in flight, for the panic handler, which can only look at statics. A kernel has one engine.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use xenstore::engine::requests::in_flight::InFlight;
use xenstore::server::ConnectionId;
use xenstore::wire::header::Header;

/// The number of the connection that sent the request, plus one; 0 for none.
static CONNECTION: AtomicU64 = AtomicU64::new(0);
static KIND: AtomicU32 = AtomicU32::new(0);
static REQUEST: AtomicU32 = AtomicU32::new(0);
static TRANSACTION: AtomicU32 = AtomicU32::new(0);
static PAYLOAD: AtomicUsize = AtomicUsize::new(0);
static PAYLOAD_BYTES: AtomicU32 = AtomicU32::new(0);

/// Records a request. Its payload stays where it is until [`end`].
pub(super) fn begin(connection: ConnectionId, header: Header, payload: &[u8]) {
    KIND.store(header.kind, Relaxed);
    REQUEST.store(header.request_id, Relaxed);
    TRANSACTION.store(header.transaction_id, Relaxed);
    PAYLOAD.store(payload.as_ptr().expose_provenance(), Relaxed);
    PAYLOAD_BYTES.store(header.payload_bytes, Relaxed);
    CONNECTION.store(connection.0.saturating_add(1), Relaxed);
    #[cfg(feature = "boot-test")]
    crash_if_requested(payload);
}

/// Removes the record.
pub(super) fn end() {
    CONNECTION.store(0, Relaxed);
}

/// Returns the request in flight.
pub(super) fn current() -> Option<InFlight> {
    let connection = ConnectionId(CONNECTION.load(Relaxed).checked_sub(1)?);
    let header = Header {
        kind: KIND.load(Relaxed),
        request_id: REQUEST.load(Relaxed),
        transaction_id: TRANSACTION.load(Relaxed),
        payload_bytes: PAYLOAD_BYTES.load(Relaxed),
    };
    Some(InFlight { connection, header, payload: PAYLOAD.load(Relaxed) })
}

/// Crashes if a request names a node `crash-by-panic` or `crash-by-fault`. Only in test images.
#[cfg(feature = "boot-test")]
fn crash_if_requested(payload: &[u8]) {
    let name = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    if name.ends_with(b"/crash-by-panic") {
        panic!("requested by a test");
    }
    if name.ends_with(b"/crash-by-fault") {
        super::update_test::fault();
    }
}
