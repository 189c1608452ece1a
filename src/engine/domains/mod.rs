//! Introduction, release and death of domains.
//!
//! The signal for a domain's death names no domain, and the domid may be in use again when it arrives. Each check
//! therefore covers all known domains, and compares the hypervisor's unique IDs. Another ID means that the known domain
//! died. INTRODUCE and SET_PERMS could mistake a new domain for the old one. The domains that they name are checked
//! before (`Engine::check_named_domains`).

pub(super) mod departures;
pub mod introduce;
pub mod reattach;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::engine::connection::input::Input;
use crate::engine::connection::output::EventCause;
use crate::engine::connection::{Connection, Peer, Phase, ProtocolError, RingStart};
use crate::engine::hypervisor::{DomainInfo, DomainState, Hypervisor};
use crate::engine::requests::parse_domid;
use crate::engine::turn::{Cause, Turn};
use crate::engine::work::Work;
use crate::engine::{Engine, NextSession, work};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::path::Path;
use crate::store::special::{Special, SpecialNode};
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;
use crate::wire::header::MessageType;
use crate::wire::ring::Ring;

impl Engine {
    /// Checks all known domains, after the hypervisor signalled that one of them shut down or died.
    pub fn handle_domain_exception(&mut self, turn: &mut Turn<'_>) {
        let known: Vec<DomId> = self.state.domains.iter().map(|(domid, _)| domid).collect();
        let mut shut_down = None;
        // One allowance for all domains: later turns remove the rest of their nodes.
        turn.work.begin_postponed();
        for domid in known.into_iter().filter(|domid| !self.departures.contains(*domid)).collect::<Vec<_>>() {
            turn.note_free_memory();
            let Some(domain) = self.state.domains.get(domid) else { continue };
            let (is_introduced, was_shutdown) = (domain.connection.is_some(), domain.shutdown);
            let info = turn.hypervisor.domain_info(domid);
            match self.state_of_known(domid, info) {
                DomainState::Running => {}
                _ if domid == self.config.privileged => {}
                DomainState::Shutdown => {
                    if is_introduced && !was_shutdown {
                        shut_down = Some(domid);
                        if let Some(domain) = self.state.domains.get_mut(domid) {
                            domain.shutdown = true;
                        }
                        self.announce_special_domain(Special::ReleaseDomain, domid, turn);
                    }
                }
                DomainState::Dying if !is_introduced => {}
                DomainState::Dying | DomainState::Absent => {
                    self.release(domid, turn);
                    if is_introduced {
                        shut_down = None;
                    }
                }
            }
        }
        if let Some(domid) = shut_down {
            self.announce_special(Special::ReleaseDomain, domid, turn);
        }
        self.note_growth(turn);
    }

    /// Returns the state of a known domain. It is absent if another domain has its number.
    pub(super) fn state_of_known(&mut self, domid: DomId, info: DomainInfo) -> DomainState {
        let Some(domain) = self.state.domains.get_mut(domid) else { return info.state };
        match (domain.unique_id, info.unique_id) {
            (Some(known), Some(found)) if known != found => return DomainState::Absent,
            // The domain became known while the hypervisor reported no unique ID.
            (None, Some(_)) => domain.unique_id = info.unique_id,
            _ => {}
        }
        info.state
    }

    /// Checks whether the domains that a request introduces or gives rights to are the known ones, and forgets those
    /// that are not. This reflects a change in the hypervisor, not the request: it remains in force if the request is
    /// refused.
    pub(super) fn check_named_domains(
        &mut self,
        id: ConnectionId,
        kind: MessageType,
        payload: &[u8],
        turn: &mut Turn<'_>,
    ) {
        // INTRODUCE names one domid; in SET_PERMS, a domid follows each entry's letter.
        let (strings, skipped, letters) = match kind {
            MessageType::Introduce => (1, 0, 0),
            MessageType::SetPerms => (limits::PERMISSIONS_LOOKED_AT, 1, 1),
            _ => return,
        };
        let all = payload.split(|byte| *byte == 0).skip(skipped).take(strings);
        let named = all.filter_map(|string| parse_domid(string.get(letters..)?).ok());
        for domid in named {
            let is_known_by_id = self.state.domains.get(domid).is_some_and(|domain| domain.unique_id.is_some());
            let is_departing = self.departures.contains(domid);
            if !is_known_by_id
                || is_departing
                || domid == self.config.privileged
                || Some(domid) == self.connections.domain_of(id)
            {
                continue;
            }
            let info = turn.hypervisor.domain_info(domid);
            // The death signal handles a domain that is merely absent.
            if info.unique_id.is_some() && self.state_of_known(domid, info) == DomainState::Absent {
                self.release(domid, turn);
            }
        }
    }

    /// Makes a domain known, and records its unique ID.
    pub(super) fn learn_domain(&mut self, domid: DomId, born: u64, hypervisor: &mut dyn Hypervisor) {
        let domain = self.state.domains.learn(domid, born);
        if domain.unique_id.is_none() {
            domain.unique_id = hypervisor.domain_info(domid).unique_id;
        }
    }

    /// Resets a connection at its domain's request: drops the old session and empties the ring. A shut connection is
    /// reopened, except in two cases. One that was shut out stays shut. So does one without a port, which the server
    /// could not serve. Only a new INTRODUCE by the control domain opens these.
    pub fn handle_reconnect(&mut self, id: ConnectionId, work: &mut Work) {
        let has_no_port = |connection: &Connection| matches!(connection.peer, Peer::Domain { port: None, .. });
        if self.connections.get(id).is_some_and(|connection| connection.is_shut_out || has_no_port(connection)) {
            return;
        }
        self.drop_session(id, NextSession::Reset, work);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.ring_start = Some(RingStart::Reset);
        }
    }

    /// Handles a ring that its domain has erased. The ring starts at index 0 again, and neither side may see half a
    /// message. A partial request is forgotten, and a partly sent message is sent again as a whole. All else stays, so
    /// that a domain cannot drop outstanding requests, watches or transactions this way.
    pub fn handle_erased_ring(&mut self, id: ConnectionId) {
        let Some((session, ring)) = self.connections.get_mut(id).and_then(Connection::session_mut) else { return };
        *ring = Ring::default();
        session.input = Input::default();
        let dropped = session.output.restart_first();
        let next_ms = session.output.next_deadline_ms();
        if let Some(cause) = dropped {
            self.settle(cause);
        }
        self.note_reading(id, 0);
        // The event was partly sent until now, and had no deadline.
        if let Some(next_ms) = next_ms {
            self.connections.note_deadline(id, next_ms);
        }
    }

    /// Returns the features that are offered to a connection's domain; all features for sockets.
    #[must_use]
    pub fn features(&self, id: ConnectionId) -> Features {
        self.connections.domain_of(id).map_or(Features::all(), |domid| self.state.domains.features(domid))
    }

    /// Forgets a domain: its connection, what it owns, its rights, and its record.
    pub(super) fn release(&mut self, domid: DomId, turn: &mut Turn<'_>) {
        let connection = self.state.domains.connection(domid);
        if let Some(id) = connection {
            self.drop_session(id, NextSession::Reset, turn.work);
            if let Some(port) = self.connections.set_port(id, None) {
                turn.hypervisor.close_port(port);
            }
            if self.connections.remove(id).is_some_and(|connection| connection.is_mapped) {
                turn.hypervisor.unmap_ring(domid);
            }
            self.forget_reader(id);
        }
        self.forget_rights(domid);
        self.begin_departure(domid, connection, turn);
        // The release is announced now: the events of all its nodes may take many turns.
        if connection.is_some() {
            self.close_account(domid, turn);
            log::debug!("domain {domid} released");
            self.announce_special(Special::ReleaseDomain, domid, turn);
            self.announce_special_domain(Special::ReleaseDomain, domid, turn);
        }
    }

    /// Takes a domain's rights out of the special nodes. The control domain becomes the owner of those that it owned.
    fn forget_rights(&mut self, domid: DomId) {
        let privileged = self.config.privileged;
        for special in Special::ALL {
            let is_owner = self.state.specials.get(special).permissions.owner() == domid;
            // As with nodes, only a new owner conflicts with transactions.
            let generation = if is_owner { Some(self.state.next_generation()) } else { None };
            let node = self.state.specials.get_mut(special);
            if let Some(generation) = generation {
                *node = SpecialNode { permissions: node.permissions.owned_by(privileged), generation };
            }
            node.permissions = node.permissions.without(domid);
        }
    }

    /// Removes a node that a domain owns, or hands it to the control domain; or its entries in the node's permissions.
    pub(super) fn remove_node_or_rights(
        &mut self,
        path: Path<'_>,
        domid: DomId,
        originator: Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) {
        let Some(node) = self.state.tree.get(path) else { return };
        let (permissions, generation) = (node.permissions(), node.generation());
        if permissions.owner() != domid {
            // This grants no new right, so no transaction can conflict with it.
            let permissions = permissions.without(domid);
            self.state.set_permissions(path, permissions, generation);
        } else if self.config.keep_orphans || path.is_root() {
            // Another owner is a change: a transaction that has seen the node would give it back to the dead.
            let permissions = permissions.owned_by(self.config.privileged).without(domid);
            let generation = self.state.next_generation();
            self.state.set_permissions(path, permissions, generation);
        } else {
            let event = EventCause { originator, ..EventCause::default() };
            self.remove_subtree(path, Cause { connection: None, event }, turn);
        }
    }

    /// Shuts a connection after a protocol error.
    pub fn handle_protocol_error(&mut self, id: ConnectionId, error: ProtocolError, turn: &mut Turn<'_>) {
        let domain = self.connections.domain_of(id).and_then(|domid| self.state.domains.get_mut(domid));
        if domain.is_none_or(|domain| domain.error_logged.is_due(limits::ERROR_LOG_INTERVAL_MS, turn.now_ms)) {
            self.shut(id, error, turn.work);
        } else {
            self.drop_session(id, NextSession::Failed(error), turn.work);
        }
    }

    /// Shuts a connection. The domain stays known until it is released or dies.
    pub fn shut(&mut self, id: ConnectionId, error: ProtocolError, work: &mut Work) {
        log::warn!("{}: connection shut: {error}", self.name(id));
        self.drop_session(id, NextSession::Failed(error), work);
    }

    /// Drops a connection's session, and opens a fresh one or shuts the connection.
    pub(super) fn drop_session(&mut self, id: ConnectionId, phase: NextSession, work: &mut Work) {
        self.reset_watches_and_transactions(id, work);
        if let Some(output) = self.connections.session_mut(id).map(|session| core::mem::take(&mut session.output)) {
            self.discard(output, work);
            self.release_waiting(id);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.phase = match phase {
                NextSession::Reset => Phase::Open(Box::default()),
                NextSession::Failed(error) => Phase::Failed(error),
            };
        }
    }

    /// Withdraws all watches and transactions of a connection.
    pub(super) fn reset_watches_and_transactions(&mut self, id: ConnectionId, work: &mut Work) {
        let removed = self.state.watches.remove_connection(id) as u64;
        work.spend(removed.saturating_mul(work::EVENT_STEPS));
        if let Some(domid) = self.connections.domain_of(id)
            && let Some(domain) = self.state.domains.get_mut(domid)
        {
            domain.watches = 0;
            domain.watch_bytes = 0;
        }
        if let Some(session) = self.connections.session_mut(id).filter(|session| !session.transactions.is_empty()) {
            let open = core::mem::take(&mut session.transactions);
            self.discard_transactions(id, open.into_values(), work);
        }
    }
}
