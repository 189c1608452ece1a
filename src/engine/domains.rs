//! Introduction, release and death of domains.

use alloc::vec::Vec;

use crate::engine::connection::{Connection, Fault, Peer, Phase, RingStart};
use crate::engine::hypervisor::{DomainState, Hypervisor, Port};
use crate::engine::trace::Switches;
use crate::engine::{Engine, RestartPhase};
use crate::store::domain::DomId;
use crate::store::special::Special;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;

impl Engine {
    /// Connects a domain that was there before us: its ring is mapped and its port bound, and what its ring says is
    /// taken over.
    ///
    /// # Errors
    /// What the hypervisor says when ring or port can't be had; nothing has changed then.
    pub fn handle_boot_domain(
        &mut self,
        domid: DomId,
        remote_port: u32,
        hypervisor: &mut dyn Hypervisor,
    ) -> Result<(), Errno> {
        if self.state.domains.is_introduced(domid) {
            return Err(Errno::Exist);
        }
        hypervisor.map_ring(domid)?;
        let port = match hypervisor.bind_port(domid, remote_port) {
            Ok(port) => port,
            Err(errno) => {
                hypervisor.unmap_ring(domid);
                return Err(errno);
            }
        };
        let id = self.connect_domain(domid, port, RingStart::Adopt);
        self.wake(id);
        Ok(())
    }

    /// Looks at all known domains, after the hypervisor said that one of them shut down or died.
    pub fn handle_domain_exception(&mut self, hypervisor: &mut dyn Hypervisor, now_ms: u64) {
        let known: Vec<DomId> = self.state.domains.iter().map(|(domid, _)| domid).collect();
        let mut has_shut_down = false;
        for domid in known {
            let Some(domain) = self.state.domains.get(domid) else { continue };
            let (is_introduced, was_shutdown) = (domain.connection.is_some(), domain.shutdown);
            match hypervisor.domain_state(domid) {
                DomainState::Running => {}
                _ if domid == self.config.privileged => {}
                DomainState::Shutdown => {
                    if is_introduced && !was_shutdown {
                        has_shut_down = true;
                        if let Some(domain) = self.state.domains.get_mut(domid) {
                            domain.shutdown = true;
                        }
                        self.announce_special_domain(Special::ReleaseDomain, domid, now_ms);
                    }
                }
                DomainState::Dying if !is_introduced => {}
                DomainState::Dying | DomainState::Absent => {
                    self.release(domid, hypervisor, now_ms);
                    if is_introduced {
                        has_shut_down = false;
                    }
                }
            }
        }
        if has_shut_down {
            self.announce_special(Special::ReleaseDomain, now_ms);
        }
    }

    /// Makes a connection for a domain whose ring is mapped and whose port is bound.
    fn connect_domain(&mut self, domid: DomId, port: Port, start: RingStart) -> ConnectionId {
        let id = self.add_connection(Connection::new(Peer::Domain { domid, port: Some(port) }, Some(start)));
        self.ports.insert(port, id);
        if self.state.domains.get(domid).is_none() {
            let born = self.state.next_generation();
            self.state.domains.learn(domid, born);
        }
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.connection = Some(id);
            domain.shutdown = false;
        }
        self.open_account(domid);
        id
    }

    pub(super) fn introduce(&mut self, domid: DomId, port: Port, now_ms: u64) {
        let id = self.connect_domain(domid, port, RingStart::Reset);
        self.starting.push(id);
        log::debug!("domain {domid} introduced");
        self.announce_special(Special::IntroduceDomain, now_ms);
        self.announce_special_domain(Special::IntroduceDomain, domid, now_ms);
        self.wake(id);
    }

    /// Introduces a connected domain again: another port, and a connection as if new.
    pub(super) fn rebind(&mut self, domid: DomId, remote_port: u32, hypervisor: &mut dyn Hypervisor) {
        let Some(id) = self.state.domains.connection(domid) else { return };
        self.drop_session(id, RestartPhase::Fresh);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.forget_tickets();
        connection.ring_start = Some(RingStart::Reset);
        let Peer::Domain { port, .. } = &mut connection.peer else { return };
        self.starting.push(id);
        if let Some(old) = port.take() {
            self.ports.remove(&old);
            hypervisor.close_port(old);
        }
        match hypervisor.bind_port(domid, remote_port) {
            Ok(new) => {
                *port = Some(new);
                self.ports.insert(new, id);
            }
            Err(errno) => {
                log::warn!("domain {domid}: port {remote_port} can't be bound: {}", errno.name());
                self.handle_fault(id, Fault::Communication);
            }
        }
        self.wake(id);
    }

    /// A domain asked for a fresh connection: all that the old one had going on is dropped, and its ring is emptied.
    /// Also a connection that was shut is open again.
    pub fn handle_reconnect(&mut self, id: ConnectionId) {
        self.drop_session(id, RestartPhase::Fresh);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ring_start = Some(RingStart::Reset);
        }
    }

    /// What the domain of a connection is offered; everything for sockets.
    #[must_use]
    pub fn features(&self, id: ConnectionId) -> Features {
        self.domain_of(id).map_or(Features::all(), |domid| self.state.domains.features(domid))
    }

    /// Forgets a domain: its connection, what it owns, its rights, and its record.
    pub(super) fn release(&mut self, domid: DomId, hypervisor: &mut dyn Hypervisor, now_ms: u64) {
        let connection = self.state.domains.connection(domid);
        if let Some(id) = connection {
            self.drop_session(id, RestartPhase::Fresh);
            if let Some(Connection { peer: Peer::Domain { port, .. }, .. }) = self.connections.remove(&id) {
                if let Some(port) = port {
                    self.ports.remove(&port);
                    hypervisor.close_port(port);
                }
                hypervisor.unmap_ring(domid);
            }
        }
        self.remove_nodes_and_rights(domid, now_ms);
        self.state.domains.forget(domid);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: domain {domid} is forgotten");
        }
        if connection.is_some() {
            self.close_account(domid, now_ms);
            log::debug!("domain {domid} released");
            self.announce_special(Special::ReleaseDomain, now_ms);
            self.announce_special_domain(Special::ReleaseDomain, domid, now_ms);
        }
    }

    /// Removes the nodes that a domain owns with everything below (or hands them to the control domain, as always the
    /// root), and its entries in the permissions of all others.
    fn remove_nodes_and_rights(&mut self, domid: DomId, now_ms: u64) {
        let privileged = self.config.privileged;
        for path in self.state.tree.nodes_naming(domid, self.config.keep_orphans) {
            let Some(node) = self.state.tree.get(path.as_path()) else { continue };
            let (permissions, generation) = (node.permissions(), node.generation());
            if permissions.owner() != domid {
                // Nobody gets another right by this, so that it is no change that a transaction could conflict with.
                let permissions = permissions.without(domid);
                self.state.set_permissions(path.as_path(), permissions, generation);
            } else if self.config.keep_orphans || path.as_path().is_root() {
                // Another owner is a change: a transaction that has seen the node would give it back to the dead.
                let permissions = permissions.owned_by(privileged).without(domid);
                let generation = self.state.next_generation();
                self.state.set_permissions(path.as_path(), permissions, generation);
            } else {
                self.remove_subtree(path.as_path(), now_ms);
            }
        }
        for connection in self.connections.values_mut() {
            if let Some((session, _)) = connection.session_mut() {
                session.transactions.values_mut().for_each(|transaction| transaction.forget_domain(domid));
            }
        }
        for special in Special::ALL {
            let node = self.state.specials.get_mut(special);
            let owned = if node.permissions.owner() == domid {
                node.permissions.owned_by(privileged)
            } else {
                node.permissions.clone()
            };
            node.permissions = owned.without(domid);
        }
    }

    /// Shuts a connection whose peer broke the rules. The domain stays known until it is released or dies.
    pub fn handle_fault(&mut self, id: ConnectionId, fault: Fault) {
        log::warn!("connection of {:?} shut: {fault:?}", self.connections.get(&id).map(|connection| connection.peer));
        self.drop_session(id, RestartPhase::Faulted(fault));
    }

    /// Drops all that a connection has going on, and either opens or shuts it.
    pub(super) fn drop_session(&mut self, id: ConnectionId, phase: RestartPhase) {
        self.reset_watches_and_transactions(id);
        let causes = self.session_mut(id).map(|session| session.output.clear()).unwrap_or_default();
        for cause in causes {
            self.settle(cause);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.phase = match phase {
                RestartPhase::Fresh => Phase::Open(alloc::boxed::Box::default()),
                RestartPhase::Faulted(fault) => Phase::Faulted(fault),
            };
        }
    }

    /// Withdraws all watches and transactions of a connection.
    pub(super) fn reset_watches_and_transactions(&mut self, id: ConnectionId) {
        self.state.watches.remove_connection(id);
        if let Some(domid) = self.domain_of(id)
            && let Some(domain) = self.state.domains.get_mut(domid)
        {
            domain.watches = 0;
            domain.watch_bytes = 0;
        }
        let open = self.session_mut(id).map_or(0, |session| core::mem::take(&mut session.transactions).len());
        self.note_closed(id, open);
    }
}
