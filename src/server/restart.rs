//! Warm restart: saves the state for the same program after a crash with a request in flight.

use alloc::vec::Vec;

use crate::engine::report::crash::Crash;
use crate::engine::requests::in_flight::InFlight;
use crate::engine::snapshot::SaveOptions;
use crate::engine::turn::Turn;
use crate::server::update::payload;
use crate::server::{Platform, Server};
use crate::store::domain::DomId;
use crate::stream::writer::{Sink, WriteError};
use crate::wire::errno::Errno;
use crate::wire::header::{Header, MessageType};

/// The answer to commands that were not completed when the server crashed.
const NOT_DONE: &str = "The server restarted after a crash: the command was not executed. Prepare the update again.";

impl Server {
    /// Returns the domain whose request is in flight; the control domain for clients of the hosted server.
    #[must_use]
    pub fn domain_in_flight(&self, request: &InFlight) -> DomId {
        self.engine.domid_of(request.connection)
    }

    /// Writes the state as it was before a request whose handler never ended. If the control domain sent the request,
    /// it receives EIO. Any other requester gets no reply:
    /// [`Engine::handle_crash`](crate::engine::Engine::handle_crash) shuts its connection. Commands that wait for their
    /// answer are answered as well, because the restarted server does not know them.
    ///
    /// # Errors
    /// As [`Server::save_to`].
    pub fn save_after_crash(&self, request: &InFlight, sink: &mut dyn Sink, now_ms: u64) -> Result<(), WriteError> {
        let engine = &self.engine;
        let is_control = self.domain_in_flight(request) == engine.privileged();
        let control = engine.state().domains.connection(engine.privileged());
        let mut replies = Vec::new();
        if is_control {
            replies.append(&mut error_reply(request.header, Errno::Io));
        }
        let whom = if is_control { Some(request.connection) } else { control };
        let waiting = self.updates.waiting().into_iter().chain(engine.deferred());
        for asked in waiting.filter(|asked| Some(asked.connection) == whom && engine.waits_for_answer(asked)) {
            replies.append(&mut asked.reply(&payload(NOT_DONE)));
        }
        let options = SaveOptions { now_ms, reply: whom.map(|whom| (whom, replies.as_slice())) };
        self.save_to(sink, self.lossless_version(), &options)
    }

    /// Undoes what a request in flight had prepared, as [`Engine::undo_preparation`](crate::engine::Engine::undo_preparation).
    pub fn undo_preparation<P: Platform>(&mut self, platform: &mut P) {
        self.engine.undo_preparation(platform);
    }

    /// Abandons a request whose handler never ended, so that this server can resume in place. To be followed by
    /// [`handle_crash`](Self::handle_crash). For use if there is no memory to save and restore the state.
    pub fn abandon_request(&mut self, request: &InFlight) {
        self.engine.abandon_request(request);
        self.wake_all();
    }

    /// Resumes after a crash, once all connections are reattached.
    pub fn handle_crash<P: Platform>(&mut self, crash: &Crash<'_>, platform: &mut P, now_ms: u64) {
        self.engine.handle_crash(crash, &mut Turn::new(platform, now_ms, &mut self.work));
        // The crash ended a turn before its notifications were sent. If that turn filled a ring, the server can send
        // nothing more, and a domain without a notification does not read.
        for port in self.engine.ports() {
            platform.notify(port);
        }
    }
}

/// Returns a whole ERROR message for a request.
fn error_reply(request: Header, errno: Errno) -> Vec<u8> {
    let name = errno.name().as_bytes();
    let payload_bytes = u32::try_from(name.len().saturating_add(1)).unwrap_or(0);
    let header = Header { kind: MessageType::Error.to_wire(), payload_bytes, ..request };
    [&header.emit()[..], name, &[0]].concat()
}
