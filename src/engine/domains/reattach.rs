//! Reattachment: a restored engine gets its rings and ports.

use alloc::vec::Vec;

use crate::engine::connection::{Peer, ProtocolError};
use crate::engine::hypervisor::{DomainState, Hypervisor, Port};
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{Engine, NextSession};
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;

/// A restored connection that waits for reattachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The connection's number.
    pub id: ConnectionId,
    /// Its domain.
    pub domid: DomId,
    /// The predecessor's port of its event channel.
    pub port: Option<Port>,
}

impl Engine {
    /// Returns the connections without a ring, in the order in which they were made.
    #[must_use]
    pub fn restored_connections(&self) -> Vec<Restored> {
        let waiting = self.connections.iter().filter(|(_, connection)| !connection.is_mapped);
        let restored = waiting.filter_map(|(id, connection)| match connection.peer {
            Peer::Domain { domid, port } => Some(Restored { id, domid, port }),
            Peer::Socket => None,
        });
        restored.collect()
    }

    /// Checks whether the domain that is known by this number still exists; always true for the control domain.
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

    /// Shuts a restored connection that cannot be reattached. Its domain stays introduced.
    pub fn handle_not_reattached(&mut self, id: ConnectionId, work: &mut Work) {
        if self.connections.get(id).is_some_and(|connection| connection.error().is_none()) {
            self.shut(id, ProtocolError::Communication, work);
        }
    }

    /// Shuts a restored connection that cannot be reattached, until an INTRODUCE. Its domain keeps its nodes, rights,
    /// features and quotas. Its watches and transactions are gone.
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

    /// Queues the connections of all domains, including those without a port: the ring page of a shut one has to show
    /// the error.
    pub fn wake_all(&mut self) {
        let domains = self.connections.iter().filter(|(_, connection)| connection.peer != Peer::Socket);
        let all: Vec<ConnectionId> = domains.map(|(id, _)| id).collect();
        for id in all {
            self.connections.wake(id);
        }
    }
}
