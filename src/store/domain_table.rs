//! The domains that the store knows: introduced domains, and domains that permissions name.
//!
//! A domain becomes known at a generation. A right that a node gave before that generation is not this domain's: it
//! belonged to an earlier domain with the same number (see [`crate::store::permission`]).

use alloc::collections::BTreeMap;
use core::ops::Bound;

use crate::limits;
use crate::log_throttle::LogThrottle;
use crate::store::connection_id::ConnectionId;
use crate::store::domain::DomId;
#[cfg(doc)]
use crate::store::node::Node;
use crate::store::permission::{Identity, Permissions};
use crate::store::quota::{Peaks, Quota, Quotas};
use crate::store::unknown_quotas::UnknownQuotas;
use crate::wire::feature::Features;

/// The record of a domain, and its counts.
#[derive(Clone, Debug)]
pub struct Domain {
    /// The generation at which it became known.
    pub born: u64,
    /// The hypervisor's unique id, which a later domain of the same domid does not have. `None` if the hypervisor gives
    /// no such ids.
    pub unique_id: Option<u64>,
    /// The connection, from introduction to release.
    pub connection: Option<ConnectionId>,
    /// Whether its shutdown has been reported.
    pub shutdown: bool,
    /// The domain whose rights this one has too (SET_TARGET).
    pub target: Option<Identity>,
    /// The features offered from the introduction on.
    pub features: Features,
    /// Number of owned nodes.
    pub nodes: u64,
    /// Bytes of these nodes, as [`Node::memory_bytes`] counts.
    pub node_bytes: u64,
    /// Number of watches.
    pub watches: usize,
    /// Bytes of the watches' paths and tokens.
    pub watch_bytes: usize,
    /// Limits the log lines about its use of memory.
    pub memory_logged: LogThrottle,
    /// Limits the log lines about its protocol errors.
    pub error_logged: LogThrottle,
    /// The quotas; see [`Domains::set_quota`].
    quotas: Quotas,
    /// The quotas that were set for this domain alone, as bits.
    own_quotas: u16,
    /// Unknown quotas that were set for this domain, for other servers.
    pub unknown_quotas: UnknownQuotas,
    /// The maxima of its counts.
    pub peaks: Peaks,
}

impl Domain {
    /// Returns the bytes of memory above which the log has a warning: the lower one of the two memory quotas.
    #[must_use]
    pub fn memory_warned_from(&self) -> usize {
        self.quotas.limit(Quota::MemorySoft).min(self.quotas.limit(Quota::MemoryHard))
    }
}

/// A change of the counts of a domain's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCount {
    /// Number of nodes.
    pub nodes: i64,
    /// Bytes, as [`Node::memory_bytes`] counts.
    pub bytes: i64,
}

impl NodeCount {
    /// Counts one more node of `bytes` bytes.
    #[must_use]
    pub fn one(bytes: usize) -> Self {
        Self { nodes: 1, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    /// Returns the opposite change.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self { nodes: self.nodes.saturating_neg(), bytes: self.bytes.saturating_neg() }
    }

    /// Returns the sum of two changes.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { nodes: self.nodes.saturating_add(other.nodes), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// The domains that have grown in a limited resource since the last [`Domains::take_grown`].
#[derive(Clone, Debug, Default)]
pub struct Grown {
    listed: heapless::Vec<DomId, { limits::GROWN_DOMAINS }>,
    /// Whether more domains have grown than the list holds.
    is_full: bool,
}

impl Grown {
    const NONE: Self = Self { listed: heapless::Vec::new(), is_full: false };

    fn note(&mut self, domid: DomId) {
        if !self.is_full && !self.listed.contains(&domid) {
            self.is_full = self.listed.push(domid).is_err();
        }
    }
}

/// All known domains.
#[derive(Clone, Debug, Default)]
pub struct Domains {
    records: BTreeMap<DomId, Domain>,
    grown: Grown,
    /// The quotas of domains that become known from now on.
    defaults: Quotas,
    /// Unknown quotas that were set for all domains, for other servers. New domains get no copy, because these quotas
    /// limit nothing.
    pub unknown_quotas: UnknownQuotas,
    /// Unknown quotas that were set for the server as a whole.
    pub unknown_global_quotas: UnknownQuotas,
}

impl Domains {
    /// Creates an empty table with the quotas of future domains.
    #[must_use]
    pub const fn new(defaults: Quotas) -> Self {
        Self {
            records: BTreeMap::new(),
            grown: Grown::NONE,
            defaults,
            unknown_quotas: UnknownQuotas::new(),
            unknown_global_quotas: UnknownQuotas::new(),
        }
    }

    /// Returns the record of `domid`.
    #[must_use]
    pub fn get(&self, domid: DomId) -> Option<&Domain> {
        self.records.get(&domid)
    }

    /// Returns the record of `domid`, to be changed.
    pub fn get_mut(&mut self, domid: DomId) -> Option<&mut Domain> {
        self.records.get_mut(&domid)
    }

    /// Makes a record, unless there is one. Returns the record.
    pub fn learn(&mut self, domid: DomId, born: u64) -> &mut Domain {
        self.records.entry(domid).or_insert_with(|| Domain {
            born,
            unique_id: None,
            connection: None,
            shutdown: false,
            target: None,
            features: Features::all(),
            nodes: 0,
            node_bytes: 0,
            watches: 0,
            watch_bytes: 0,
            memory_logged: LogThrottle::default(),
            error_logged: LogThrottle::default(),
            quotas: self.defaults.clone(),
            own_quotas: 0,
            unknown_quotas: UnknownQuotas::default(),
            peaks: Peaks::default(),
        })
    }

    /// Removes a record.
    pub fn forget(&mut self, domid: DomId) -> Option<Domain> {
        self.records.remove(&domid)
    }

    /// Returns whether `domid` is introduced.
    #[must_use]
    pub fn is_introduced(&self, domid: DomId) -> bool {
        self.connection(domid).is_some()
    }

    /// Returns the connection of `domid`.
    #[must_use]
    pub fn connection(&self, domid: DomId) -> Option<ConnectionId> {
        self.get(domid)?.connection
    }

    /// Returns the features offered to `domid`: all features, unless the domain is known and has fewer.
    #[must_use]
    pub fn features(&self, domid: DomId) -> Features {
        self.get(domid).map_or(Features::all(), |domain| domain.features)
    }

    /// Returns the present identity of `domid`.
    #[must_use]
    pub fn identity(&self, domid: DomId) -> Option<Identity> {
        Some(Identity { domid, born: self.get(domid)?.born })
    }

    /// Returns whether `identity` is still the domain with its number.
    #[must_use]
    pub fn is_current(&self, identity: Identity) -> bool {
        self.identity(identity.domid) == Some(identity)
    }

    /// Returns permissions written at `generation`. Marks the entries that name no domain of that time.
    #[must_use]
    pub fn adjusted(&self, permissions: &Permissions, generation: u64) -> Permissions {
        let is_stale = |domid| domid != DomId::ANY && self.get(domid).is_none_or(|domain| domain.born >= generation);
        if permissions.entries().iter().skip(1).any(|entry| !entry.stale && is_stale(entry.domid)) {
            permissions.marked(is_stale)
        } else {
            permissions.clone()
        }
    }

    /// Changes the counts of the nodes of `domid`.
    pub fn charge_nodes(&mut self, domid: DomId, by: NodeCount) {
        if let Some(domain) = self.get_mut(domid) {
            domain.nodes = domain.nodes.saturating_add_signed(by.nodes);
            domain.node_bytes = domain.node_bytes.saturating_add_signed(by.bytes);
            if by.nodes > 0 || by.bytes > 0 {
                self.note_grown(domid);
            }
        }
    }

    /// Notes that `domid` has grown in a limited resource.
    pub fn note_grown(&mut self, domid: DomId) {
        self.grown.note(domid);
    }

    /// Returns whether a domain has grown since the last [`Domains::take_grown`].
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.grown.is_full || !self.grown.listed.is_empty()
    }

    /// Takes the domains that have grown.
    pub fn take_grown(&mut self) -> Grown {
        core::mem::replace(&mut self.grown, Grown::NONE)
    }

    /// Returns the first of these domains after `behind`; if the list was too short, the first known domain after it.
    #[must_use]
    pub fn next_grown(&self, grown: &Grown, behind: Option<DomId>) -> Option<DomId> {
        if grown.is_full {
            let from = behind.map_or(Bound::Unbounded, Bound::Excluded);
            return self.records.range((from, Bound::Unbounded)).next().map(|(domid, _)| *domid);
        }
        grown.listed.iter().copied().filter(|domid| Some(*domid) > behind).min()
    }

    /// Returns all records, by domid.
    pub fn iter(&self) -> impl Iterator<Item = (DomId, &Domain)> {
        self.records.iter().map(|(domid, domain)| (*domid, domain))
    }

    /// Returns all records, by domid, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (DomId, &mut Domain)> {
        self.records.iter_mut().map(|(domid, domain)| (*domid, domain))
    }

    /// Returns the quotas of domains that become known from now on.
    #[must_use]
    pub const fn default_quotas(&self) -> &Quotas {
        &self.defaults
    }

    /// Returns the quotas of `domid`.
    #[must_use]
    pub fn quotas(&self, domid: DomId) -> &Quotas {
        self.quotas_of(self.get(domid))
    }

    /// Returns the quotas of a record that was looked up already.
    #[must_use]
    pub fn quotas_of<'a>(&'a self, domain: Option<&'a Domain>) -> &'a Quotas {
        domain.map_or(&self.defaults, |domain| &domain.quotas)
    }

    /// Sets a quota for domains that become known from now on (SET_QUOTA without a domid).
    pub fn set_default_quota(&mut self, quota: Quota, value: u32) {
        self.defaults.set(quota, value);
    }

    /// Sets a quota for one domain.
    pub fn set_quota(&mut self, domid: DomId, quota: Quota, value: u32) {
        if let Some(domain) = self.get_mut(domid) {
            domain.quotas.set(quota, value);
            domain.own_quotas |= 1 << quota as u16;
        }
    }

    /// Returns the quotas that were set for `domid` alone, as bits of [`Quota`]'s numbers.
    #[must_use]
    pub fn own_quotas(&self, domid: DomId) -> u16 {
        self.get(domid).map_or(0, |domain| domain.own_quotas)
    }

    /// Restores which quotas were set for `domid` alone.
    pub fn restore_own_quotas(&mut self, domid: DomId, bits: u16) {
        if let Some(domain) = self.get_mut(domid) {
            domain.own_quotas = bits;
        }
    }

    /// Sets a quota for all domains except those with a value of their own, as CONTROL does.
    pub fn set_quota_everywhere(&mut self, quota: Quota, value: u32) {
        self.defaults.set(quota, value);
        for domain in self.records.values_mut().filter(|domain| domain.own_quotas & (1 << quota as u16) == 0) {
            domain.quotas.set(quota, value);
        }
    }

    /// Clears the maxima of all domains.
    pub fn clear_peaks(&mut self) {
        self.records.values_mut().for_each(|domain| domain.peaks.clear());
    }
}
