//! Replies, sent at once or later by the host.

use alloc::vec::Vec;

use crate::engine::connection::output::Origin;
use crate::engine::requests::change_set::UpdateCommand;
use crate::engine::{Action, Deferred, Engine};
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::header::{HEADER_BYTES, Header, MessageType};

impl Engine {
    pub(in crate::engine) fn queue_reply(
        &mut self,
        id: ConnectionId,
        request: Header,
        outcome: Result<&[u8], Errno>,
        origin: Option<Origin>,
    ) {
        let mut error = heapless::Vec::<u8, 16>::new();
        let (kind, payload) = match outcome {
            Ok(payload) => (request.kind, payload),
            Err(errno) => {
                // The longest name is ENOTEMPTY.
                let _ = error.extend_from_slice(errno.name().as_bytes());
                let _ = error.push(0);
                (MessageType::Error.to_wire(), error.as_slice())
            }
        };
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
        let header = Header { kind, payload_bytes, ..request };
        let bytes = HEADER_BYTES.saturating_add(payload.len());
        let Self { connections, buffer_pool, .. } = self;
        if let Some(session) = connections.session_woken(id) {
            // A reply that is not sent at once gets no larger buffer than it needs.
            let is_next = session.output.is_empty();
            let buffer = if is_next { buffer_pool.take(bytes) } else { Vec::with_capacity(bytes) };
            session.output.push_reply(buffer, header, payload, origin);
        } else if let Some(origin) = origin {
            self.settle(origin);
        }
    }

    /// Leaves a request to the host, which answers it later.
    pub(in crate::engine) fn defer(
        &mut self,
        id: ConnectionId,
        header: Header,
        origin: Option<Origin>,
        command: UpdateCommand,
    ) {
        self.next_deferred = self.next_deferred.saturating_add(1);
        let number = self.next_deferred;
        let Some(session) = self.connections.session_mut(id) else { return };
        session.deferred.push(number);
        let asked = Deferred { connection: id, header, origin, number };
        self.actions.push_back(Action::Update { asked, command });
    }

    /// Answers a deferred request. Does nothing if its connection is gone or was reset since.
    pub fn answer(&mut self, asked: Deferred, outcome: Result<&[u8], Errno>) {
        let Deferred { connection, header, origin, number } = asked;
        let Some(session) = self.connections.session_mut(connection) else { return };
        if let Some(at) = session.deferred.iter().position(|waiting| *waiting == number) {
            session.deferred.swap_remove(at);
            self.queue_reply(connection, header, outcome, origin);
        }
    }

    /// Replaces the last reply to a request, unless a part of it was sent. `id` is the connection's number in this
    /// engine. A predecessor may have made `asked`, with another number.
    pub fn replace_last_reply(&mut self, id: ConnectionId, asked: &Deferred, payload: &[u8]) {
        if let Some(session) = self.connections.session_mut(id) {
            session.output.replace_last_reply(&asked.header, payload);
        }
    }

    /// Returns the deferred requests that the host has not taken yet ([`Engine::poll_action`]).
    pub fn deferred(&self) -> impl Iterator<Item = &Deferred> {
        self.actions.iter().filter_map(|action| match action {
            Action::Update { asked, .. } => Some(asked),
            Action::ReportMemory => None,
        })
    }

    /// Returns whether a request still waits for its answer.
    #[must_use]
    pub fn waits_for_answer(&self, asked: &Deferred) -> bool {
        let session = self.connections.session(asked.connection);
        session.is_some_and(|session| session.deferred.contains(&asked.number))
    }
}
