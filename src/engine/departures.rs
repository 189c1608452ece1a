//! Domains that are gone and whose nodes are not all removed yet.
//!
//! A domain ends at once: its connection and its watches are gone, and its end is announced. What it owned is
//! removed node by node, with all below each, as far as the steps of a turn go and as the control domain has room for the
//! events. Until that is done its record stays, so that all is counted and a domain that acts for it (SET_TARGET) sees
//! the events. A request that would give something to a new domain of its number is held back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::engine::Engine;
use crate::engine::requests::parse_domid;
use crate::engine::trace::Switches;
use crate::engine::work;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;
use crate::wire::header::MessageType;

/// The removal of one domain's nodes.
#[derive(Debug)]
struct Departure {
    /// The connection that it had: its share of the readers' queues.
    originator: Option<ConnectionId>,
    /// The client of the control domain that has to read before it goes on.
    receiver: Option<ConnectionId>,
    /// How far its rights were taken out of open transactions.
    transactions: Progress,
}

/// How far a pass over all connections has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Up to this connection; `None` at the beginning.
    After(Option<ConnectionId>),
    Done,
}

impl Departure {
    const fn new(originator: Option<ConnectionId>) -> Self {
        Self { originator, receiver: None, transactions: Progress::After(None) }
    }
}

/// All domains whose nodes are being removed.
#[derive(Debug, Default)]
pub(super) struct Departures {
    by_domain: BTreeMap<DomId, Departure>,
    /// Connections whose request names one of them.
    held: Vec<ConnectionId>,
}

impl Departures {
    pub(super) fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }

    pub(super) fn contains(&self, domid: DomId) -> bool {
        self.by_domain.contains_key(&domid)
    }

    /// The domains.
    pub(super) fn domains(&self) -> impl ExactSizeIterator<Item = DomId> {
        self.by_domain.keys().copied()
    }

    /// Whether one can be continued now.
    pub(super) fn has_runnable(&self) -> bool {
        self.by_domain.values().any(|departure| departure.receiver.is_none())
    }

    /// Lets those go on that wait for a receiver.
    pub(super) fn release(&mut self, receiver: ConnectionId) {
        let waiting = self.by_domain.values_mut().filter(|departure| departure.receiver == Some(receiver));
        waiting.for_each(|departure| departure.receiver = None);
    }
}

/// Whether a request gives something to domains that it names.
pub(super) const fn names_domains(kind: MessageType) -> bool {
    matches!(kind, MessageType::Introduce | MessageType::SetFeature | MessageType::SetQuota | MessageType::SetPerms)
}

impl Engine {
    /// Begins to remove what a domain owned that is gone; `originator` is the connection that it had. Small estates are
    /// done with at once.
    pub(super) fn begin_departure(&mut self, domid: DomId, originator: Option<ConnectionId>, now_ms: u64) {
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.connection = None;
            domain.target = None;
        }
        self.departures.by_domain.insert(domid, Departure::new(originator));
        self.continue_departure(domid, now_ms);
    }

    /// Takes over the removal of a domain's nodes from a predecessor.
    pub(super) fn restore_departure(&mut self, domid: DomId) {
        self.departures.by_domain.insert(domid, Departure::new(None));
    }

    /// Takes a domain's rights out of open transactions, connection by connection. Returns whether all are done.
    fn forget_in_transactions(&mut self, domid: DomId) -> bool {
        while let Some(Departure { transactions: Progress::After(done), .. }) = self.departures.by_domain.get(&domid) {
            let behind = (done.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let next = self.connections.range_mut(behind).next();
            let progress = next.as_ref().map_or(Progress::Done, |(id, _)| Progress::After(Some(**id)));
            if let Some((session, _)) = next.and_then(|(_, connection)| connection.session_mut()) {
                for transaction in session.transactions.values_mut() {
                    self.work.spend(transaction.len() as u64);
                    transaction.forget_domain(domid);
                }
            }
            self.work.spend(1);
            if let Some(departure) = self.departures.by_domain.get_mut(&domid) {
                departure.transactions = progress;
            }
            if self.work.is_over() {
                return progress == Progress::Done;
            }
        }
        true
    }

    /// Removes nodes until all are gone, the steps are used up, or a reader has to read first.
    fn continue_departure(&mut self, domid: DomId, now_ms: u64) {
        if !self.forget_in_transactions(domid) {
            return;
        }
        let Some(originator) = self.departures.by_domain.get(&domid).map(|departure| departure.originator) else {
            return;
        };
        // From the first one again: what was found before may be gone.
        let below_owned = self.config.keep_orphans;
        let mut steps = 0;
        let mut next = self.state.tree.next_naming(domid, None, below_owned, &mut steps);
        self.work.spend(core::mem::take(&mut steps));
        while let Some(path) = next {
            if let Some(receiver) = self.crowded_reader(originator) {
                self.await_reading(receiver, now_ms);
                if let Some(departure) = self.departures.by_domain.get_mut(&domid) {
                    departure.receiver = Some(receiver);
                }
                return;
            }
            // Before this one goes: then nobody could say what was after it.
            next = self.state.tree.next_naming(domid, Some(path.as_path()), below_owned, &mut steps);
            // The node is removed or changed from the root on.
            self.work.spend(core::mem::take(&mut steps).saturating_add(work::of_path(path.as_path().as_str().len())));
            self.remove_node_or_rights(path.as_path(), domid, originator, now_ms);
            // After one at least: to find the first one may take all steps of a turn.
            if self.work.is_over() && next.is_some() {
                return;
            }
        }
        self.end_departure(domid);
    }

    fn end_departure(&mut self, domid: DomId) {
        self.departures.by_domain.remove(&domid);
        self.state.domains.forget(domid);
        self.drops.forget_originator(domid);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: domain {domid} is forgotten");
        }
        for id in core::mem::take(&mut self.departures.held) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.waits_for_departure = false;
            }
            self.wake(id);
        }
    }

    /// Continues all departures until the steps are used up.
    pub(super) fn run_departures(&mut self, now_ms: u64) {
        let runnable = self.departures.by_domain.iter().filter(|(_, departure)| departure.receiver.is_none());
        let runnable: Vec<DomId> = runnable.map(|(domid, _)| *domid).collect();
        for domid in runnable {
            if self.work.is_over() {
                return;
            }
            self.continue_departure(domid, now_ms);
        }
    }

    /// Holds a connection back if its request would give something to a domain whose number is not free yet. Returns
    /// whether it did.
    pub(super) fn hold_for_departure(&mut self, id: ConnectionId, kind: MessageType, payload: &[u8]) -> bool {
        if self.departures.is_empty() || !self.names_departing(kind, payload) {
            return false;
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.waits_for_departure = true;
            self.departures.held.push(id);
        }
        true
    }

    fn names_departing(&self, kind: MessageType, payload: &[u8]) -> bool {
        // Of permissions the domid is behind each entry's letter.
        let (skipped, strings, letters) =
            if kind == MessageType::SetPerms { (1, limits::PERMISSIONS_LOOKED_AT, 1) } else { (0, 1, 0) };
        let named = payload.split(|byte| *byte == 0).skip(skipped).take(strings);
        let mut domids = named.filter_map(|string| parse_domid(string.get(letters..)?).ok());
        domids.any(|domid| self.departures.contains(domid))
    }
}
