//! A request in flight: one that a handler executes. The report of a crash names it, and its connection pays for the
//! crash.
//!
//! A handler changes nothing. Its change set is applied afterwards, in a step that cannot fail. If a request is in
//! flight after a panic, the state is therefore as the previous request left it. The host keeps the record
//! ([`Hypervisor::request_begins`](crate::engine::hypervisor::Hypervisor::request_begins)).

use crate::store::watch::ConnectionId;
use crate::wire::header::Header;

/// A request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The connection that sent it.
    pub connection: ConnectionId,
    /// Its header.
    pub header: Header,
    /// The address of its payload, which stays there until the handler ends.
    pub payload: usize,
}
