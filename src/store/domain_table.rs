//! The domains that the store knows: those that have been introduced, and those that are named in permissions.
//!
//! A domain becomes known at a generation. A right that a node gave before that generation is not this domain's: it
//! belonged to another that had the same number (see [`crate::store::permission`]).

use alloc::collections::BTreeMap;
use core::ops::Bound;

use crate::limits;
use crate::store::domain::DomId;
#[cfg(doc)]
use crate::store::node::Node;
use crate::store::permission::{Identity, Permissions};
use crate::store::quota::{Peaks, Quota, Quotas};
use crate::store::unknown_quotas::UnknownQuotas;
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;

/// When something was last said in the log that a domain could have said without end.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastSaid(Option<u64>);

impl LastSaid {
    /// Whether it is time to say it again, `interval_ms` after the last time; from then on it counts as said.
    pub const fn is_due(&mut self, interval_ms: u64, now_ms: u64) -> bool {
        if let Self(Some(said_ms)) = *self
            && now_ms.saturating_sub(said_ms) < interval_ms
        {
            return false;
        }
        *self = Self(Some(now_ms));
        true
    }
}

/// What is known of a domain, and what is counted for it.
#[derive(Clone, Debug)]
pub struct Domain {
    /// The generation at which it became known.
    pub born: u64,
    /// The hypervisor's number of it, which a later domain of the same domid does not have; `None` where the hypervisor
    /// gives no such numbers.
    pub unique_id: Option<u64>,
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
    /// Bytes of them, as [`Node::memory_bytes`] counts.
    pub node_bytes: u64,
    /// Watches that it has set.
    pub watches: usize,
    /// Bytes of their paths and tokens.
    pub watch_bytes: usize,
    /// When it was last said that it takes much memory.
    pub memory_logged: LastSaid,
    /// When it was last said that it broke the rules of its ring.
    pub fault_logged: LastSaid,
    /// What it may have; see [`Domains::set_quota`].
    quotas: Quotas,
    /// The quotas that were set for it alone, as bits.
    own_quotas: u16,
    /// Quotas of other servers that were set for it.
    pub unknown_quotas: UnknownQuotas,
    /// The most that it has had.
    pub peaks: Peaks,
}

impl Domain {
    /// Bytes of memory above which the log has a warning: the lower one of the two quotas of memory.
    #[must_use]
    pub fn memory_warned_from(&self) -> usize {
        self.quotas.limit(Quota::MemorySoft).min(self.quotas.limit(Quota::MemoryHard))
    }
}

/// A change of what is counted of a domain's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCount {
    /// Nodes.
    pub nodes: i64,
    /// Bytes, as [`Node::memory_bytes`] counts.
    pub bytes: i64,
}

impl NodeCount {
    /// One node more.
    #[must_use]
    pub fn one(bytes: usize) -> Self {
        Self { nodes: 1, bytes: i64::try_from(bytes).unwrap_or(i64::MAX) }
    }

    /// The contrary.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self { nodes: self.nodes.saturating_neg(), bytes: self.bytes.saturating_neg() }
    }

    /// Both together.
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
    /// Quotas of other servers that were set for all domains. A new domain gets no copy: it has nothing to limit.
    pub unknown_quotas: UnknownQuotas,
    /// Those that were set for the server as a whole.
    pub unknown_global_quotas: UnknownQuotas,
}

impl Domains {
    /// No domain, and the quotas of those to come.
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

    /// The record of `domid`.
    #[must_use]
    pub fn get(&self, domid: DomId) -> Option<&Domain> {
        self.records.get(&domid)
    }

    /// The record of `domid`, to be changed.
    pub fn get_mut(&mut self, domid: DomId) -> Option<&mut Domain> {
        self.records.get_mut(&domid)
    }

    /// Makes a record, unless there is one.
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
            memory_logged: LastSaid::default(),
            fault_logged: LastSaid::default(),
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

    /// Changes what is counted of the nodes of `domid`.
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

    /// Whether a domain has grown since the last [`Domains::take_grown`].
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

    /// All records, by domid.
    pub fn iter(&self) -> impl Iterator<Item = (DomId, &Domain)> {
        self.records.iter().map(|(domid, domain)| (*domid, domain))
    }

    /// All records, by domid, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (DomId, &mut Domain)> {
        self.records.iter_mut().map(|(domid, domain)| (*domid, domain))
    }

    /// The quotas of domains that become known from now on.
    #[must_use]
    pub const fn default_quotas(&self) -> &Quotas {
        &self.defaults
    }

    /// The quotas of `domid`.
    #[must_use]
    pub fn quotas(&self, domid: DomId) -> &Quotas {
        self.quotas_of(self.get(domid))
    }

    /// The quotas of a domain that was looked up already.
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

    /// Which quotas were set for `domid` alone, as bits of [`Quota`]'s numbers.
    #[must_use]
    pub fn own_quotas(&self, domid: DomId) -> u16 {
        self.get(domid).map_or(0, |domain| domain.own_quotas)
    }

    /// Says which quotas were set for `domid` alone, when it is restored.
    pub fn restore_own_quotas(&mut self, domid: DomId, bits: u16) {
        if let Some(domain) = self.get_mut(domid) {
            domain.own_quotas = bits;
        }
    }

    /// Sets a quota for all domains but those that have a value of their own (CONTROL, where it always meant that).
    pub fn set_quota_everywhere(&mut self, quota: Quota, value: u32) {
        self.defaults.set(quota, value);
        for domain in self.records.values_mut().filter(|domain| domain.own_quotas & (1 << quota as u16) == 0) {
            domain.quotas.set(quota, value);
        }
    }

    /// Forgets what domains have had at most.
    pub fn clear_peaks(&mut self) {
        self.records.values_mut().for_each(|domain| domain.peaks.clear());
    }
}
