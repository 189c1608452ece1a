//! The consequences of a crash with a request in flight. The server starts again with the state before the request.
//!
//! The connection that sent the request is shut. The control domain's stays open, because the host depends on it: the
//! server answers its request with EIO before it saves the state.

use crate::engine::Engine;
use crate::engine::connection::ProtocolError;
use crate::engine::connection::output::Origin;
use crate::engine::hypervisor::Port;
use crate::engine::requests::handling::Request;
use crate::engine::requests::in_flight::InFlight;
use crate::engine::requests::{self, Reply};
use crate::engine::turn::Turn;
use crate::store::domain::DomId;
use crate::store::permission::Requester;
use crate::wire::errno::Errno;
use crate::wire::header::{Header, MessageType};

/// A crash, as its predecessor reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash<'a> {
    /// The domain that sent the request.
    pub domid: DomId,
    /// Whether a request of the same domain caused a crash shortly before. The domain is then shut out.
    pub is_repeated: bool,
    /// The text for the node: the cause of the crash.
    pub report: &'a str,
    /// The path of the node that gets the report.
    pub node: &'a str,
}

impl Engine {
    /// Abandons a request whose handler never ends, in the engine that executed it: there is no memory for a second
    /// engine. The control domain is answered EIO. A guest gets no answer, as [`Engine::handle_crash`] shuts its
    /// connection. The request's transaction is lost.
    pub fn abandon_request(&mut self, request: &InFlight) {
        // The handler was filling in the change set, so its contents may be invalid. It is leaked instead of dropped.
        core::mem::forget(core::mem::take(&mut self.changes));
        let InFlight { connection, header, .. } = *request;
        let spec = MessageType::from_wire(header.kind).and_then(requests::command_spec);
        if header.transaction_id != 0 && spec.is_some_and(|spec| !spec.ignores_transaction) {
            self.note_lost(connection);
        }
        // The request in flight has the newest ticket.
        let origin = self.guest_of(connection).map(|_| Origin { connection, ticket: self.next_ticket });
        if self.domid_of(connection) == self.config.privileged {
            self.queue_reply(connection, header, Err(Errno::Io), origin);
        } else if let Some(origin) = origin {
            self.settle(origin);
        }
    }

    /// Returns all ports of connections.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.connections.ports()
    }

    /// Shuts the connection whose request crashed, and writes the report into a node. The node inherits its parent's
    /// permissions: below `/tool/xenstored`, only the control domain may read it. If the path is invalid, only the
    /// console has the report.
    pub fn handle_crash(&mut self, crash: &Crash<'_>, turn: &mut Turn<'_>) {
        if crash.domid != self.config.privileged
            && let Some(id) = self.state.domains.connection(crash.domid)
        {
            self.shut(id, ProtocolError::Communication, turn.work);
            if let Some(connection) = self.connections.get_mut(id) {
                connection.is_shut_out = crash.is_repeated;
            }
            self.connections.wake(id);
        }
        let Some(control) = self.state.domains.connection(self.config.privileged) else { return };
        let payload = [crash.node.as_bytes(), b"\0", crash.report.as_bytes()].concat();
        let header = Header {
            kind: MessageType::Write.to_wire(),
            request_id: 0,
            transaction_id: 0,
            payload_bytes: u32::try_from(payload.len()).unwrap_or(0),
        };
        let request = Request { connection: control, requester: Requester::Privileged, header, payload: &payload };
        let outcome = self.run(request, &mut Reply::new(), turn);
        if let Err(errno) = outcome {
            log::warn!("crash report: node {} cannot be written: {}", crash.node, errno.name());
        }
    }
}
