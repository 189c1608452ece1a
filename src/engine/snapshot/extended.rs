//! Restores extensions. Each adds to the records before it. An extension that cannot be read, or does not fit them, is
//! skipped.

use crate::engine::connection::Reading;
use crate::engine::events::drops::Drops;
use crate::engine::snapshot::extension::{self, ConnectionState, DomainState, GenerationReader, ServerState};
use crate::engine::snapshot::restore::Restorer;
use crate::engine::snapshot::{ConnectionNumber, Extension, pending};
use crate::limits;
use crate::store::watch::ConnectionId;

impl Restorer {
    /// Restores an extension of this server; skips all others.
    pub(super) fn extension(&mut self, item: &Extension<'_>) {
        let body = &*item.body.to_block();
        let taken = match item.kind {
            extension::SERVER => self.server_extension(body),
            extension::CONNECTION => self.connection_extension(body),
            extension::DOMAIN => self.domain_extension(body),
            extension::NAMED_DOMAIN => extension::read_named_domain(body).and_then(|item| self.domain(&item).ok()),
            extension::GENERATIONS => GenerationReader::new(body).map(|reader| self.generations = reader),
            extension::TRANSACTION => self.transaction_extension(body),
            extension::FAIRNESS => {
                self.fairness = body.into();
                Some(())
            }
            extension::POSTPONED => {
                self.postponed = body.into();
                Some(())
            }
            extension::DROPS => self.drops_extension(body),
            _ => None,
        };
        if taken.is_none() {
            log::warn!("restore: extension {:#x} of {} bytes skipped", item.kind, item.body.len());
        }
    }

    fn server_extension(&mut self, body: &[u8]) -> Option<()> {
        let server = ServerState::read(body).filter(|server| server.generation <= limits::RESTORED_GENERATION)?;
        let engine = &mut self.engine;
        engine.state.skip_generations(server.generation);
        engine.next_ticket = server.next_ticket;
        engine.trace = server.trace;
        engine.peaks = server.peaks;
        engine.stream_limit = server.stream_limit;
        Some(())
    }

    fn connection_extension(&mut self, body: &[u8]) -> Option<()> {
        let (state, messages) = ConnectionState::read(body)?;
        let id = ConnectionId(state.number.0.into());
        let connection = self.engine.connections.get_mut(id)?;
        if self.extended.contains(&state.number) {
            return None;
        }
        let privileged = self.engine.config.privileged;
        let domains = &self.engine.state.domains;
        let control = domains.connection(privileged);
        let (session, ring) = connection.session_mut()?;
        let now_ms = self.now_ms;
        let absolute = |remaining_ms: u64| now_ms.saturating_add(remaining_ms);
        let details = messages.into_iter().map(|mut details| {
            details.deadline_ms = details.deadline_ms.map(absolute);
            details
        });
        if session.output.len() != details.len() {
            return None;
        }
        // The partly sent message needs its beginning first: its details depend on its kind.
        session.output.restore_sent(state.sent);
        session.output.restore_details(details, |id| Some(id) != control);
        let first_ms = session.output.next_deadline_ms();
        session.next_transaction = state.next_transaction;
        *ring = state.ring;
        connection.ring_start = state.ring_start;
        connection.is_shut_out = state.is_shut_out;
        connection.reading = Reading {
            unread_since_ms: state.reading.unread_since_ms.map(|elapsed_ms| now_ms.saturating_sub(elapsed_ms)),
            ..state.reading
        };
        let deadlines_ms = [state.deadline_ms.map(absolute), first_ms];
        self.errors.extend(state.error.map(|error| (id, error)));
        self.extended.insert(state.number);
        if let Some(deadline_ms) = deadlines_ms.into_iter().flatten().min() {
            self.engine.connections.note_deadline(id, deadline_ms);
        }
        Some(())
    }

    fn drops_extension(&mut self, body: &[u8]) -> Option<()> {
        self.engine.drops = Drops::restore(&mut extension::read(body)?, self.now_ms)?;
        Some(())
    }

    fn domain_extension(&mut self, body: &[u8]) -> Option<()> {
        let state = DomainState::read(body)?;
        if !self.described.contains(&state.domid) || state.born > self.engine.state.generation() {
            return None;
        }
        let domains = &mut self.engine.state.domains;
        domains.restore_own_quotas(state.domid, state.own_quotas);
        let domain = domains.get_mut(state.domid)?;
        domain.born = state.born;
        domain.shutdown = state.shutdown;
        domain.peaks = state.peaks;
        self.with_peaks.insert(state.domid);
        domain.unique_id = domain.unique_id.or(state.unique_id.filter(|id| *id != 0));
        self.targets.extend(state.target.map(|target| (state.domid, target)));
        Some(())
    }

    fn transaction_extension(&mut self, body: &[u8]) -> Option<()> {
        let ((connection, id), body) = pending::read_name(body)?;
        let name = (ConnectionNumber(connection), id);
        self.settle_tree();
        let nodes = self.pending.get(&name)?;
        let transaction = pending::read(body, nodes, &self.engine.state, self.now_ms)?;
        self.pending.remove(&name);
        self.open(name.0, id, transaction);
        Some(())
    }
}
