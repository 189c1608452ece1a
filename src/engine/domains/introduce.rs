//! Introduction of domains: at boot, by INTRODUCE, and a repeated one.
//!
//! An introduction is prepared before anything is applied: the ring is mapped and the port bound. The preparation is
//! undone if it fails, and also after a crash in it ([`Engine::undo_preparation`]).

use crate::engine::connection::{Connection, Peer, ProtocolError, RingStart};
use crate::engine::hypervisor::{Hypervisor, Port};
use crate::engine::requests::change_set::{Effect, Introduction};
use crate::engine::turn::Turn;
use crate::engine::{Engine, NextSession};
use crate::store::domain::DomId;
use crate::store::special::Special;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;

/// A preparation that is not applied yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Preparation {
    domid: DomId,
    /// The bound port; `None` until there is one.
    port: Option<Port>,
}

impl Engine {
    /// Connects a domain that exists before the server: maps its ring, binds its port, and adopts the state of the
    /// ring.
    ///
    /// # Errors
    /// The hypervisor's error if the ring cannot be mapped or the port cannot be bound; nothing has changed then.
    pub fn handle_boot_domain(
        &mut self,
        domid: DomId,
        remote_port: u32,
        hypervisor: &mut dyn Hypervisor,
    ) -> Result<(), Errno> {
        if self.state.domains.is_introduced(domid) {
            return Err(Errno::Exist);
        }
        let port = self.map_and_bind(domid, hypervisor, |_| remote_port)?;
        let id = self.connect_domain(domid, port, RingStart::Adopt, hypervisor);
        self.connections.wake(id);
        Ok(())
    }

    /// Prepares the introduction that a request contains, if any. The change set then holds the effect.
    ///
    /// # Errors
    /// The hypervisor's error if the ring cannot be mapped or the port cannot be bound; nothing has changed then.
    pub(in crate::engine) fn prepare(&mut self, turn: &mut Turn<'_>) -> Result<(), Errno> {
        let Some(Introduction { domid, remote_port }) = self.changes.introduction.take() else { return Ok(()) };
        let port =
            self.map_and_bind(domid, turn.hypervisor, |in_ring| if in_ring == 0 { remote_port } else { in_ring })?;
        self.changes.effect = Some(Effect::Introduce { domid, port });
        Ok(())
    }

    /// Maps a domain's ring and binds the port that `choose` takes, given the one that the ring page names. Stays
    /// recorded as a preparation until [`Engine::connect_domain`].
    fn map_and_bind(
        &mut self,
        domid: DomId,
        hypervisor: &mut dyn Hypervisor,
        choose: impl FnOnce(u32) -> u32,
    ) -> Result<Port, Errno> {
        // The ring may belong to a connection, whose mapping must not be undone.
        hypervisor.map_ring(domid)?;
        self.preparation = Some(Preparation { domid, port: None });
        match hypervisor.bind_port(domid, choose(hypervisor.port_in_ring(domid))) {
            Ok(port) => {
                self.preparation = Some(Preparation { domid, port: Some(port) });
                Ok(port)
            }
            Err(errno) => {
                self.undo_preparation(hypervisor);
                Err(errno)
            }
        }
    }

    /// Undoes a preparation that was not applied: closes the port and unmaps the ring. For use after a crash with a
    /// request in flight, before the state is saved. Does nothing if there is no such preparation.
    pub fn undo_preparation(&mut self, hypervisor: &mut dyn Hypervisor) {
        let Some(Preparation { domid, port }) = self.preparation.take() else { return };
        if let Some(port) = port {
            hypervisor.close_port(port);
        }
        hypervisor.unmap_ring(domid);
    }

    /// Creates a connection for a domain whose ring is mapped and whose port is bound.
    fn connect_domain(
        &mut self,
        domid: DomId,
        port: Port,
        start: RingStart,
        hypervisor: &mut dyn Hypervisor,
    ) -> ConnectionId {
        self.preparation = None;
        let id = self.add_connection(Connection::new(Peer::Domain { domid, port: Some(port) }, Some(start)));
        let known = self.state.domains.get(domid).map(|domain| domain.born);
        let born = known.unwrap_or_else(|| self.state.next_generation());
        self.learn_domain(domid, born, hypervisor);
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.connection = Some(id);
            domain.shutdown = false;
        }
        self.open_account(domid);
        id
    }

    pub(in crate::engine) fn introduce(&mut self, domid: DomId, port: Port, turn: &mut Turn<'_>) {
        let id = self.connect_domain(domid, port, RingStart::Reset, turn.hypervisor);
        self.connections.add_starting(id);
        log::debug!("domain {domid} introduced");
        self.announce_special(Special::IntroduceDomain, domid, turn);
        self.announce_special_domain(Special::IntroduceDomain, domid, turn);
        self.connections.wake(id);
    }

    /// Introduces a connected domain again: another port, and a connection as if new.
    pub(in crate::engine) fn rebind(&mut self, domid: DomId, remote_port: u32, turn: &mut Turn<'_>) {
        let Some(id) = self.state.domains.connection(domid) else { return };
        self.drop_session(id, NextSession::Reset, turn.work);
        self.forget_outstanding(id);
        self.connections.add_starting(id);
        if let Some(old) = self.connections.set_port(id, None) {
            turn.hypervisor.close_port(old);
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.ring_start = Some(RingStart::Reset);
        connection.is_shut_out = false;
        // A ring that could not be mapped at the reattachment may exist now.
        connection.is_mapped = connection.is_mapped || turn.hypervisor.map_ring(domid).is_ok();
        let bound =
            if connection.is_mapped { turn.hypervisor.bind_port(domid, remote_port) } else { Err(Errno::Inval) };
        match bound {
            Ok(new) => {
                self.connections.set_port(id, Some(new));
            }
            Err(errno) => {
                log::warn!("domain {domid}: port {remote_port} cannot be bound: {}", errno.name());
                self.shut(id, ProtocolError::Communication, turn.work);
            }
        }
        self.connections.wake(id);
    }

    /// Forgets a connection's outstanding requests. Their messages may still be pending somewhere, but no later request
    /// gets the same ticket.
    fn forget_outstanding(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.forget_tickets();
        }
    }
}
