//! What is in use that a version 1 stream can't hold as other servers read it (`docs/designs/xenstore-migration.md`).
//!
//! Version 1 has no ring features and no depth of watches, and its readers skip open transactions.

use core::fmt;

use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::connection::Connection;
use crate::store::domain::DomId;
use crate::wire::feature::Features;

/// What one domain, or all clients of the hosted server, use of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which domain; `None` for clients of the hosted server.
    pub domid: Option<DomId>,
    /// What it is offered, if that is not what every domain is offered that nothing was said about.
    pub features: Option<Features>,
    /// Watches with a depth.
    pub depth_watches: usize,
    /// For how long each of its transactions has been open, in milliseconds, the longest first.
    pub transaction_ages_ms: Vec<u64>,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.domid {
            Some(domid) => write!(f, "domain {domid}:")?,
            None => f.write_str("clients:")?,
        }
        if let Some(features) = self.features {
            write!(f, " features {:#x}", features.bits())?;
        }
        if self.depth_watches > 0 {
            write!(f, " {} watches with a depth", self.depth_watches)?;
        }
        if let Some(age_ms) = self.transaction_ages_ms.first() {
            let count = self.transaction_ages_ms.len();
            write!(f, " {count} open transactions, the oldest for {} s", age_ms / 1000)?;
        }
        Ok(())
    }
}

impl Engine {
    /// What is in use that only version 2 holds, by domain. Costs a look at all domains and watches.
    #[must_use]
    pub fn version_2_needs(&self, now_ms: u64) -> Vec<Need> {
        let mut needs = Vec::new();
        for (domid, domain) in self.state.domains.iter() {
            let connection = domain.connection.and_then(|id| Some((id, self.connections.get(&id)?)));
            let features = Some(domain.features).filter(|features| *features != Features::all());
            let mut need = Need { domid: Some(domid), features, depth_watches: 0, transaction_ages_ms: Vec::new() };
            if let Some((id, connection)) = connection {
                let watches = self.state.watches.of_connection(id);
                need.depth_watches = watches.iter().filter(|watch| watch.depth.is_some()).count();
                need.add_transactions(connection, now_ms);
            }
            needs.push(need);
        }
        let mut clients = Need { domid: None, features: None, depth_watches: 0, transaction_ages_ms: Vec::new() };
        for (id, connection) in self.connections.iter().filter(|(id, _)| self.domain_of(**id).is_none()) {
            let depth = self.state.watches.of_connection(*id).iter().filter(|watch| watch.depth.is_some()).count();
            clients.depth_watches = clients.depth_watches.saturating_add(depth);
            clients.add_transactions(connection, now_ms);
        }
        needs.push(clients);
        needs.retain(|need| need.features.is_some() || need.depth_watches > 0 || !need.transaction_ages_ms.is_empty());
        needs
    }
}

impl Need {
    fn add_transactions(&mut self, connection: &Connection, now_ms: u64) {
        let Some(session) = connection.session() else { return };
        self.transaction_ages_ms
            .extend(session.transaction_starts_ms().map(|start_ms| now_ms.saturating_sub(start_ms)));
        self.transaction_ages_ms.sort_unstable_by(|one, other| other.cmp(one));
    }
}
