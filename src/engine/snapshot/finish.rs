//! The end of a restore: steps that need all items, and counts.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::engine::connection::Connection;
use crate::engine::fairness::conflict_credit::{ConflictCredits, History};
use crate::engine::fairness::write_credit::WriteCredits;
use crate::engine::snapshot::restore::Restorer;
use crate::engine::snapshot::{RestoreError, extension, pending};
use crate::engine::work::Work;
use crate::engine::{Engine, NextSession};
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;

impl Restorer {
    /// Returns the engine, after the last item.
    ///
    /// # Errors
    /// [`RestoreError`] if the items contradict each other.
    pub fn finish(mut self) -> Result<Engine, RestoreError> {
        self.settle_tree();
        if !self.has_root {
            self.engine.state.charge_root();
        }
        for (id, error) in core::mem::take(&mut self.errors) {
            self.engine.drop_session(id, NextSession::Failed(error), &mut Work::default());
        }
        for ((connection, id), nodes) in core::mem::take(&mut self.pending) {
            nodes
                .iter()
                .filter_map(|(_, node)| node.permissions.as_ref())
                .for_each(|permissions| self.learn(permissions));
            let specials = self.pending_specials.remove(&(connection, id)).unwrap_or_default();
            specials
                .iter()
                .filter_map(|(_, node)| node.permissions.as_ref())
                .for_each(|permissions| self.learn(permissions));
            let mut transaction = pending::rebuild(&nodes, &mut self.engine.state, self.now_ms);
            pending::rebuild_specials(&specials, &mut transaction, &mut self.engine.state);
            self.open(connection, id, transaction);
        }
        if !self.generations.is_empty() {
            log::warn!("restore: the stream has generations for more nodes than it has");
        }
        let domains = &mut self.engine.state.domains;
        for (domid, target) in core::mem::take(&mut self.targets) {
            let target = domains.identity(target);
            if let Some(domain) = domains.get_mut(domid) {
                domain.target = target;
            }
        }
        self.outdate_unfit_transactions();
        self.restore_tickets();
        self.restore_postponed();
        self.restore_deadlines();
        self.restore_fairness();
        self.note_figures();
        self.engine.state.check().map_err(RestoreError::Inconsistent)?;
        Ok(self.engine)
    }

    /// Sets the maxima that the stream lacks (as another server's does) to the domains' present figures.
    fn note_figures(&mut self) {
        let known: Vec<DomId> = self.engine.state.domains.iter().map(|(domid, _)| domid).collect();
        for domid in known.into_iter().filter(|domid| !self.with_peaks.contains(domid)).collect::<Vec<_>>() {
            self.engine.note_figures(domid);
        }
        self.engine.state.domains.take_grown();
    }

    /// Prevents the commit of transactions that do not fit the tree.
    fn outdate_unfit_transactions(&mut self) {
        let tree = &self.engine.state.tree;
        for (_, connection) in self.engine.connections.iter_mut() {
            let Some((session, _)) = connection.session_mut() else { continue };
            let unfit = session.transactions.values_mut().filter(|transaction| !transaction.fits(tree));
            unfit.for_each(|transaction| transaction.fail());
        }
    }

    /// Restores the outstanding requests: those that caused pending messages.
    fn restore_tickets(&mut self) {
        let connections = &mut self.engine.connections;
        let known: Vec<ConnectionId> = connections.iter().map(|(id, _)| id).collect();
        let mut waiting: BTreeMap<ConnectionId, BTreeMap<u64, usize>> = BTreeMap::new();
        let newest = self.engine.next_ticket;
        for (_, connection) in connections.iter_mut() {
            let Some((session, _)) = connection.session_mut() else { continue };
            session.output.map_origins(|origin| {
                if known.binary_search(&origin.connection).is_err() || origin.ticket > newest {
                    return None;
                }
                if origin.ticket == 0 {
                    return Some(origin);
                }
                let messages = waiting.entry(origin.connection).or_default().entry(origin.ticket).or_default();
                *messages = messages.saturating_add(1);
                Some(origin)
            });
        }
        for (id, tickets) in waiting {
            if let Some(connection) = connections.get_mut(id) {
                connection.restore_tickets(VecDeque::from_iter(tickets));
            }
        }
    }

    /// Sets the expiry checks of connections whose extension lacks a time.
    fn restore_deadlines(&mut self) {
        let ids: Vec<ConnectionId> = self.engine.connections.iter().map(|(id, _)| id).collect();
        for id in ids {
            let next_ms = self.engine.connection(id).and_then(Connection::session);
            if let Some(next_ms) = next_ms.and_then(|session| session.output.next_deadline_ms()) {
                self.engine.connections.note_deadline(id, next_ms);
            }
        }
    }

    /// Restores write credits and conflict credits. A domain without an entry begins like a new one.
    fn restore_fairness(&mut self) {
        let fairness = self.read_fairness();
        if fairness.is_none() && !self.fairness.is_empty() {
            log::warn!("restore: write credits and conflict credits cannot be read: all domains begin with new ones");
        }
        if let Some((writes, conflicts, history)) = fairness {
            self.engine.fairness.writes = writes;
            self.engine.fairness.conflicts = conflicts;
            if self.engine.open_transactions().1 > 0 {
                self.engine.fairness.history = history;
            }
        }
        let introduced = self.engine.state.domains.iter().filter(|(_, domain)| domain.connection.is_some());
        let without: Vec<DomId> = introduced
            .map(|(domid, _)| domid)
            .filter(|domid| self.engine.fairness.writes.credit(*domid).is_none())
            .collect();
        for domid in without {
            self.engine.open_account(domid);
        }
    }

    fn read_fairness(&self) -> Option<(WriteCredits, ConflictCredits, History)> {
        let is_introduced = |domid| self.engine.state.domains.is_introduced(domid);
        let mut body = extension::read(&self.fairness)?;
        let writes = WriteCredits::restore(&mut body, self.now_ms, is_introduced)?;
        let conflicts = ConflictCredits::restore(&mut body, self.now_ms, is_introduced)?;
        let history = History::restore(&mut body, self.engine.state.generation())?;
        Some((writes, conflicts, history))
    }
}
