//! A restored engine gets what it was restored without: rings and ports.

use alloc::vec::Vec;

use crate::engine::connection::{Peer, ProtocolError};
use crate::engine::hypervisor::{DomainState, Hypervisor, Port};
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{Engine, NextSession};
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;

/// A connection that waits to be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Which one.
    pub id: ConnectionId,
    /// Whose.
    pub domid: DomId,
    /// The predecessor's port of it.
    pub port: Option<Port>,
}

impl Engine {
    /// The connections that have no ring, in the order in which they were made.
    #[must_use]
    pub fn restored_connections(&self) -> Vec<Restored> {
        let waiting = self.connections.iter().filter(|(_, connection)| !connection.is_mapped);
        let restored = waiting.filter_map(|(id, connection)| match connection.peer {
            Peer::Domain { domid, port } => Some(Restored { id, domid, port }),
            Peer::Socket => None,
        });
        restored.collect()
    }

    /// Whether the domain that is known by this number is still there; always, for the control domain.
    pub fn is_still_there(&mut self, domid: DomId, hypervisor: &mut dyn Hypervisor) -> bool {
        let info = hypervisor.domain_info(domid);
        let state = self.state_of_known(domid, info);
        domid == self.config.privileged || matches!(state, DomainState::Running | DomainState::Shutdown)
    }

    /// Notes the server's port of a restored connection; `None` for none.
    pub fn handle_port_adopted(&mut self, id: ConnectionId, new: Option<Port>) {
        self.connections.set_port(id, new);
    }

    /// Notes whether the ring of a restored connection is mapped.
    pub fn handle_ring_mapped(&mut self, id: ConnectionId, is_mapped: bool) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.is_mapped = is_mapped && connection.peer != Peer::Socket;
        }
    }

    /// A restored connection can't be taken over. It is shut, and its domain stays introduced.
    pub fn handle_not_taken_over(&mut self, id: ConnectionId, work: &mut Work) {
        if self.connections.get(id).is_some_and(|connection| connection.error().is_none()) {
            self.shut(id, ProtocolError::Communication, work);
        }
    }

    /// Handles a restored connection that cannot be reattached. Its domain keeps its nodes, rights, features and quotas, and
    /// waits for an INTRODUCE; its watches and transactions are gone.
    pub fn handle_left_waiting(&mut self, id: ConnectionId, turn: &mut Turn<'_>) {
        let Some(domid) = self.connections.domain_of(id) else { return };
        self.handle_port_adopted(id, None);
        self.drop_session(id, NextSession::Reset, turn.work);
        self.connections.remove(id);
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.connection = None;
            domain.target = None;
        }
        self.close_account(domid, turn);
    }

    /// Lets the connection of every domain be looked at, also one without a port: its ring has to say that it was shut.
    pub fn wake_all(&mut self) {
        let domains = self.connections.iter().filter(|(_, connection)| connection.peer != Peer::Socket);
        let all: Vec<ConnectionId> = domains.map(|(id, _)| id).collect();
        for id in all {
            self.connections.wake(id);
        }
    }
}
