//! The conditions that hold after each step: the global oracles G1 to G7 of `docs/security.md`. The comparison of each
//! message checks the rest of them.

use std::collections::{BTreeMap, BTreeSet};

use xenstore::engine::connection::Connection;
use xenstore::store::domain::DomId;
use xenstore::wire::ring::{Field, RingPage};

use crate::others::limit_of_memory;
use crate::rules::quota;
use crate::runner::Runner;
use crate::support::machine::DOM0;

/// Bytes of a short reply with its header, which is sent with any quota of memory.
const SMALL_REPLY_BYTES: usize = 32;

impl Runner {
    /// Checks everything that is cheap to check.
    pub fn check(&mut self) -> Result<(), String> {
        self.check_served()?;
        self.check_counts()?;
        self.check_rings()
    }

    /// Checks G1: dom0 is served at once, and so is every other domain without a known obstacle.
    fn check_served(&mut self) -> Result<(), String> {
        let (mut many, mut full, mut held) = (0, 0, 0);
        let engine = self.server.engine();
        for (domid, connection) in &self.model.connections {
            let Some(client) = self.clients.get(domid) else { continue };
            let is_able = connection.error.is_none() && connection.is_mapped && connection.has_port;
            let is_current = self.machine.mapped.get(&DomId(*domid)).is_some_and(|page| client.has(page));
            if !is_able || !is_current || client.is_wild || client.is_unheard || client.unread() == 0 {
                continue;
            }
            let id = engine.state().domains.connection(DomId(*domid)).ok_or("it is connected")?;
            let quotas = self.model.known[domid].quotas;
            let limit = quotas[quota("outstanding")] as usize;
            let has_many = limit > 0 && engine.connection(id).is_some_and(|of| of.outstanding() >= limit);
            let is_full = limit_of_memory(&quotas).is_some_and(|limit| engine.memory_of(DomId(*domid)) >= limit);
            let is_held_back = engine.is_held_back(id);
            if *domid == 0 || !(has_many || is_full || is_held_back) {
                return Err(format!("G1: domain {domid} is not served"));
            }
            many += u64::from(has_many);
            full += u64::from(is_full);
            held += u64::from(is_held_back);
        }
        self.counts.add("steps at which a guest has too much outstanding", many);
        self.counts.add("steps at which a guest has to read first", full);
        self.counts.add("steps at which a guest is held back", held);
        Ok(())
    }

    /// Checks G4, G5 and G6: the known domains, and the counts of each.
    fn check_counts(&self) -> Result<(), String> {
        let engine = self.server.engine();
        let domains = &engine.state().domains;
        let known: Vec<u16> = domains.iter().map(|(domid, _)| domid.0).collect();
        let expected: Vec<u16> = self.model.known.keys().copied().collect();
        same("G5: the known domains", &known, &expected)?;
        let nodes = self.model.store.counts();
        let is_foreign = |owner: &u16| *owner != crate::nodes::ANY && !self.model.known.contains_key(owner);
        if let Some(owner) = nodes.keys().find(|owner| is_foreign(owner)) {
            return Err(format!("G5: domain {owner} owns nodes and is not known"));
        }
        for (domid, domain) in domains.iter() {
            let of = |what: &str| format!("{what} of domain {domid}");
            let (count, bytes) = nodes.get(&domid.0).copied().unwrap_or_default();
            same(&of("G5: nodes"), &domain.nodes, &count)?;
            same(&of("G5: bytes of nodes"), &(domain.node_bytes as usize), &bytes)?;
            let connection = self.model.connections.get(&domid.0);
            same(&of("G5: connection"), &domain.connection.is_some(), &connection.is_some())?;
            let watches = connection.map_or(&[][..], |connection| &connection.watches);
            same(&of("G5: watches"), &domain.watches, &watches.len())?;
            let watch_bytes: usize = watches.iter().map(|watch| watch.path.len() + watch.token.len()).sum();
            same(&of("G5: bytes of watches"), &domain.watch_bytes, &watch_bytes)?;
            let session = domain.connection.and_then(|id| engine.connection(id)).and_then(Connection::session);
            let Some((session, connection)) = session.zip(connection) else { continue };
            same(&of("G5: transactions"), &session.open_transactions(), &connection.transactions.len())?;
            if let Some(queued) = connection.queue.bytes() {
                same(&of("G6: bytes to be sent"), &session.output.queued_bytes(), &queued)?;
                if connection.transactions.is_empty() {
                    same(&of("G6: memory"), &engine.memory_of(domid), &(bytes + watch_bytes + queued))?;
                }
            }
            self.check_memory(domid.0)?;
        }
        Ok(())
    }

    /// Checks G6: no domain gets more memory by its own requests than it may have.
    fn check_memory(&self, domid: u16) -> Result<(), String> {
        let limit = limit_of_memory(&self.model.known[&domid].quotas);
        let Some(limit) = limit.filter(|_| domid != 0 && self.active.iter().all(|active| *active == domid)) else {
            return Ok(());
        };
        let has = self.server.engine().memory_of(DomId(domid));
        let before = self.memory_before.get(&domid).copied().unwrap_or(0);
        let allowed = limit.max(before) + self.active.len() * SMALL_REPLY_BYTES;
        if has <= allowed {
            Ok(())
        } else {
            Err(format!("G6: domain {domid} takes {has} bytes and may take {allowed}"))
        }
    }

    /// Returns the memory that each domain is charged for now.
    pub fn note_memory(&mut self) {
        let engine = self.server.engine();
        self.memory_before = self.model.known.keys().map(|of| (*of, engine.memory_of(DomId(*of)))).collect();
    }

    /// Checks that connected domains have mapped rings and bound ports, and that shut connections have their error
    /// word.
    fn check_rings(&self) -> Result<(), String> {
        let connections = &self.model.connections;
        let mapped: BTreeSet<u16> = self.machine.mapped.keys().map(|domid| domid.0).collect();
        let expected: BTreeSet<u16> =
            connections.iter().filter(|(_, of)| of.is_mapped).map(|(domid, _)| *domid).collect();
        same("G5: mapped rings", &mapped, &expected)?;
        let bound: BTreeSet<u16> = self.machine.bound.values().map(|domid| domid.0).collect();
        let expected: BTreeSet<u16> =
            connections.iter().filter(|(_, of)| of.has_port).map(|(domid, _)| *domid).collect();
        same("G5: bound ports", &bound, &expected)?;
        for (domid, connection) in connections {
            let page = self.machine.mapped.get(&DomId(*domid)).filter(|_| self.model.features(*domid) & 2 != 0);
            if let (Some(page), Some(error)) = (page, connection.error) {
                same(&format!("error word of domain {domid}"), &page.load(Field::Error), &error)?;
            }
        }
        Ok(())
    }

    /// Checks G5 and G6: when all guests are gone, nothing of them remains.
    pub fn check_nothing_is_left(&mut self) -> Result<(), String> {
        let engine = self.server.engine();
        engine.state().check().map_err(|wrong| format!("G5: {wrong:?}"))?;
        let known: BTreeMap<DomId, u64> = engine.state().domains.iter().map(|(domid, of)| (domid, of.nodes)).collect();
        same("G5: domains that are left", &known, &[(DOM0, self.model.store.ordinary().count() as u64)].into())?;
        same("G5: rings and ports that are left", &engine.rings_and_ports(), &(1, 1))?;
        let (counted, found) = engine.open_transactions();
        same("G5: open transactions", &counted, &found)?;
        let watches = self.model.connections[&0].watches.len();
        same("G5: watches that are left", &engine.state().watches.len(), &watches)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, have: &T, expected: &T) -> Result<(), String> {
    if have == expected { Ok(()) } else { Err(format!("{what}: {have:?} instead of {expected:?}")) }
}
