//! The state that a version 1 stream cannot hold for other servers to read (`docs/designs/xenstore-migration.md`).
//!
//! Version 1 has no ring features and no depth of watches, and its readers skip open transactions.

use core::fmt;

use crate::engine::Engine;
use crate::engine::connection::{Connection, Peer, Session};
use crate::engine::snapshot::has_record;
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;

/// The requirements of one domain, or of all clients of the hosted server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRequirement {
    /// The domain; `None` for clients of the hosted server.
    pub domid: Option<DomId>,
    /// The domain's features, if they are not all features.
    pub features: Option<Features>,
    /// Watches with a depth.
    pub depth_watches: usize,
    /// The number of open transactions.
    pub transactions: usize,
    /// The age of the oldest of them, in milliseconds.
    pub oldest_ms: u64,
}

impl fmt::Display for StreamRequirement {
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
        if self.transactions > 0 {
            write!(f, " {} open transactions, the oldest for {} s", self.transactions, self.oldest_ms / 1000)?;
        }
        Ok(())
    }
}

impl Engine {
    /// Returns the state that only version 2 holds, by domain. The cost is a pass over all domains and watches. It
    /// allocates nothing, as memory may be short.
    pub fn version_2_requirements(&self, now_ms: u64) -> impl Iterator<Item = StreamRequirement> {
        let domains = self.state.domains.iter().map(move |(domid, domain)| {
            // For a domain without a record, an extension of either version holds the features.
            let features = Some(domain.features).filter(|bits| *bits != Features::all() && has_record(domain));
            let mut requirement =
                StreamRequirement { domid: Some(domid), features, depth_watches: 0, transactions: 0, oldest_ms: 0 };
            if let Some((id, connection)) = domain.connection.and_then(|id| Some((id, self.connections.get(id)?))) {
                self.add_requirements(&mut requirement, id, connection, now_ms);
            }
            requirement
        });
        let clients = core::iter::once_with(move || {
            let mut requirement =
                StreamRequirement { domid: None, features: None, depth_watches: 0, transactions: 0, oldest_ms: 0 };
            for (id, connection) in self.connections.iter().filter(|(_, connection)| connection.peer == Peer::Socket) {
                self.add_requirements(&mut requirement, id, connection, now_ms);
            }
            requirement
        });
        let is_there = |requirement: &StreamRequirement| {
            requirement.features.is_some() || requirement.depth_watches > 0 || requirement.transactions > 0
        };
        domains.chain(clients).filter(is_there)
    }

    /// Returns whether anything is in use that only version 2 holds.
    #[must_use]
    pub fn requires_version_2(&self) -> bool {
        self.version_2_requirements(0).next().is_some()
    }

    fn add_requirements(
        &self,
        requirement: &mut StreamRequirement,
        id: ConnectionId,
        connection: &Connection,
        now_ms: u64,
    ) {
        let depth = self.state.watches.of_connection(id).iter().filter(|watch| watch.depth.is_some()).count();
        requirement.depth_watches = requirement.depth_watches.saturating_add(depth);
        for start_ms in connection.session().into_iter().flat_map(Session::transaction_starts_ms) {
            requirement.transactions = requirement.transactions.saturating_add(1);
            requirement.oldest_ms = requirement.oldest_ms.max(now_ms.saturating_sub(start_ms));
        }
    }
}
