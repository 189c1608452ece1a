//! Warm restart: the state is saved for the same program after it crashed while a request was handled.

use alloc::vec::Vec;

use crate::engine::report::crash::Crash;
use crate::engine::requests::in_hand::InHand;
use crate::engine::snapshot::SaveOptions;
use crate::server::update::payload;
use crate::server::{Platform, Server};
use crate::store::domain::DomId;
use crate::stream::writer::{Sink, WriteError};
use crate::wire::errno::Errno;
use crate::wire::header::{Header, MessageType};

/// What commands are answered that were not done when the server crashed.
const NOT_DONE: &str =
    "The server was started anew after a crash: this was not done, and an update has to be prepared again.";

impl Server {
    /// Whose request it is; the control domain's for clients of the hosted server.
    #[must_use]
    pub fn domain_in_hand(&self, request: &InHand) -> DomId {
        self.engine.domid_of(request.connection)
    }

    /// Writes the state as it was before a request whose handler never ended. The control domain is answered EIO; nobody
    /// else gets an answer, as [`Engine::handle_crash`](crate::engine::Engine::handle_crash) shuts his connection. Commands
    /// that wait for their answer are answered as well: who comes after knows nothing of them.
    ///
    /// # Errors
    /// As [`Server::save_to`].
    pub fn save_after_crash(&self, request: &InHand, sink: &mut dyn Sink, now_ms: u64) -> Result<(), WriteError> {
        let engine = &self.engine;
        let is_control = self.domain_in_hand(request) == engine.privileged();
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

    /// Gives up a request whose handler never ended, to go on with this very server: for
    /// [`handle_crash`](Self::handle_crash), if there is no memory to save the state and to restore it beside.
    pub fn abandon_request(&mut self, request: &InHand) {
        self.engine.abandon_request(request);
        self.wake_all();
    }

    /// Goes on after a crash, once everything was taken over.
    pub fn handle_crash<P: Platform>(&mut self, crash: &Crash<'_>, platform: &mut P, now_ms: u64) {
        self.engine.handle_crash(crash, platform, now_ms);
        // A turn has ended before it told whoever it concerns. If it has filled a ring, nothing that could be told of is sent
        // any more, and a domain that was not told does not read.
        for port in self.engine.ports() {
            platform.notify(port);
        }
    }
}

/// The whole message that refuses a request.
fn error_reply(request: Header, errno: Errno) -> Vec<u8> {
    let name = errno.name().as_bytes();
    let payload_bytes = u32::try_from(name.len().saturating_add(1)).unwrap_or(0);
    let header = Header { kind: MessageType::Error.to_wire(), payload_bytes, ..request };
    [&header.emit()[..], name, &[0]].concat()
}
