//! The domains that the store knows: those that have been introduced, and those that are named in permissions.
//!
//! A domain becomes known at a generation. A right that a node gave before that generation is not this domain's: it
//! belonged to another that had the same number (see [`crate::store::permission`]).

use alloc::collections::BTreeMap;

use crate::store::domain::DomId;
use crate::store::permission::{Identity, Permissions};
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;

/// What is known of a domain, and what is counted for it.
#[derive(Clone, Debug)]
pub struct Domain {
    /// The generation at which it became known.
    pub born: u64,
    /// Its connection, from introduction to release.
    pub connection: Option<ConnectionId>,
    /// Whether its shutdown has been reported.
    pub shutdown: bool,
    /// The domain whose rights it has too (SET_TARGET).
    pub target: Option<Identity>,
    /// What it is offered from its introduction on.
    pub features: Features,
    /// Nodes that it owns.
    pub nodes: u64,
    /// Watches that it has set.
    pub watches: usize,
}

/// All known domains.
#[derive(Clone, Debug, Default)]
pub struct Domains(BTreeMap<DomId, Domain>);

impl Domains {
    /// The record of `domid`.
    #[must_use]
    pub fn get(&self, domid: DomId) -> Option<&Domain> {
        self.0.get(&domid)
    }

    /// The record of `domid`, to be changed.
    pub fn get_mut(&mut self, domid: DomId) -> Option<&mut Domain> {
        self.0.get_mut(&domid)
    }

    /// Makes a record, unless there is one.
    pub fn learn(&mut self, domid: DomId, born: u64) -> &mut Domain {
        self.0.entry(domid).or_insert(Domain {
            born,
            connection: None,
            shutdown: false,
            target: None,
            features: Features::all(),
            nodes: 0,
            watches: 0,
        })
    }

    /// Removes a record.
    pub fn forget(&mut self, domid: DomId) -> Option<Domain> {
        self.0.remove(&domid)
    }

    /// Whether `domid` is introduced.
    #[must_use]
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.connection(domid).is_some()
    }

    /// The connection of `domid`.
    #[must_use]
    pub fn connection(&self, domid: DomId) -> Option<ConnectionId> {
        self.get(domid)?.connection
    }

    /// What `domid` is offered: everything, unless it is known and was given less.
    #[must_use]
    pub fn features(&self, domid: DomId) -> Features {
        self.get(domid).map_or(Features::all(), |domain| domain.features)
    }

    /// Who `domid` is now.
    #[must_use]
    pub fn identity(&self, domid: DomId) -> Option<Identity> {
        Some(Identity { domid, born: self.get(domid)?.born })
    }

    /// Whether `identity` is still the domain of its number.
    #[must_use]
    pub fn is_current(&self, identity: Identity) -> bool {
        self.identity(identity.domid) == Some(identity)
    }

    /// Permissions that were written at `generation`, with entries marked that name no domain of that time.
    #[must_use]
    pub fn adjusted(&self, permissions: &Permissions, generation: u64) -> Permissions {
        let is_stale = |domid| domid != DomId::ANY && self.get(domid).is_none_or(|domain| domain.born >= generation);
        if permissions.entries().iter().skip(1).any(|entry| !entry.stale && is_stale(entry.domid)) {
            permissions.marked(is_stale)
        } else {
            permissions.clone()
        }
    }

    /// Changes the count of nodes of `domid`.
    pub fn charge_nodes(&mut self, domid: DomId, by: i64) {
        if let Some(domain) = self.get_mut(domid) {
            domain.nodes = domain.nodes.saturating_add_signed(by);
        }
    }

    /// All records, by domid.
    pub fn iter(&self) -> impl Iterator<Item = (DomId, &Domain)> {
        self.0.iter().map(|(domid, domain)| (*domid, domain))
    }
}
