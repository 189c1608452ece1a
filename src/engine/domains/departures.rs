//! Departures: domains that are gone and whose nodes are not all removed yet.
//!
//! A release takes a domain's connection and watches at once, and announces the release. The server then removes the
//! domain's nodes one by one, each with its descendants. It pauses when the steps of a turn are used up or the control
//! domain has no room for the events. The domain's record stays until the end. So the counts remain right, and a domain
//! that acts for it (SET_TARGET) sees the events. A request that would give something to a new domain of the same
//! number is held back.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::engine::report::trace::Switches;
use crate::engine::requests::parse_domid;
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{Engine, work};
use crate::store::domain::DomId;
use crate::store::path::{Path, PathBuf};
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;
use crate::wire::header::MessageType;

/// The removal of one domain's nodes and rights, first from the tree, then from open transactions.
#[derive(Debug)]
struct Departure {
    /// The domain's former connection, for its share of the readers' queues.
    originator: Option<ConnectionId>,
    /// The client of the control domain that has to read before the departure can continue.
    receiver: Option<ConnectionId>,
    progress: Progress,
}

/// The progress of a departure.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    /// The next node to remove; `None` to start at the first one found.
    Nodes(Option<PathBuf>),
    /// The last connection whose transactions are done; `None` before the first.
    Transactions(Option<ConnectionId>),
    Done,
}

impl Departure {
    const fn new(originator: Option<ConnectionId>) -> Self {
        Self { originator, receiver: None, progress: Progress::Nodes(None) }
    }
}

/// All domains whose nodes are being removed.
#[derive(Debug, Default)]
pub(in crate::engine) struct Departures {
    by_domain: BTreeMap<DomId, Departure>,
    /// Connections whose request names a departing domain.
    held: Vec<ConnectionId>,
}

impl Departures {
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }

    pub(in crate::engine) fn contains(&self, domid: DomId) -> bool {
        self.by_domain.contains_key(&domid)
    }

    /// Returns the departing domains.
    pub(in crate::engine) fn domains(&self) -> impl ExactSizeIterator<Item = DomId> {
        self.by_domain.keys().copied()
    }

    /// Returns whether a departure can continue now.
    pub(in crate::engine) fn has_runnable(&self) -> bool {
        self.by_domain.values().any(|departure| departure.receiver.is_none())
    }

    /// Lets the departures continue that wait for a receiver.
    pub(in crate::engine) fn release(&mut self, receiver: ConnectionId) {
        let waiting = self.by_domain.values_mut().filter(|departure| departure.receiver == Some(receiver));
        waiting.for_each(|departure| departure.receiver = None);
    }
}

/// Returns whether a request gives something to the domains that it names, so that they must be checked first. A quota
/// or features need the check only while a domain departs.
pub(in crate::engine) const fn must_check_named(kind: MessageType, any_departs: bool) -> bool {
    match kind {
        MessageType::Introduce | MessageType::SetPerms => true,
        MessageType::SetFeature | MessageType::SetQuota => any_departs,
        _ => false,
    }
}

impl Engine {
    /// Begins to remove the nodes of a domain that is gone. `originator` is its former connection. Few nodes are
    /// removed at once.
    pub(in crate::engine) fn begin_departure(
        &mut self,
        domid: DomId,
        originator: Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) {
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.connection = None;
            domain.target = None;
        }
        self.departures.by_domain.insert(domid, Departure::new(originator));
        self.continue_departure(domid, turn);
    }

    /// Restores the removal of a domain's nodes that a predecessor began.
    pub(in crate::engine) fn restore_departure(&mut self, domid: DomId) {
        self.departures.by_domain.insert(domid, Departure::new(None));
    }

    fn set_progress(&mut self, domid: DomId, progress: Progress) {
        if let Some(departure) = self.departures.by_domain.get_mut(&domid) {
            departure.progress = progress;
        }
    }

    /// Continues a departure until it ends, the steps are used up, or a reader has to read first.
    fn continue_departure(&mut self, domid: DomId, turn: &mut Turn<'_>) {
        while !turn.work.is_over()
            && let Some(departure) = self.departures.by_domain.get(&domid)
        {
            let originator = departure.originator;
            match departure.progress.clone() {
                Progress::Nodes(next) => {
                    if !self.remove_nodes_and_rights(domid, next, originator, turn) {
                        return;
                    }
                    self.set_progress(domid, Progress::Transactions(None));
                }
                Progress::Transactions(done) => self.forget_in_connections(domid, done, turn.work),
                Progress::Done => return self.end_departure(domid),
            }
        }
    }

    /// Removes nodes and rights from `next` on. Returns whether all are removed.
    fn remove_nodes_and_rights(
        &mut self,
        domid: DomId,
        next: Option<PathBuf>,
        originator: Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) -> bool {
        // The node may have been removed since the last turn, or no longer name the domain.
        let still = next.filter(|path| self.state.tree.get(path.as_path()).is_some_and(|node| node.names(domid)));
        let mut is_whole = still.is_none();
        let mut next = still.or_else(|| self.next_naming(domid, None, turn.work));
        loop {
            let Some(path) = next else {
                if is_whole {
                    return true;
                }
                // Search again from the start: nodes before the one where this turn began may have changed.
                is_whole = true;
                next = self.next_naming(domid, None, turn.work);
                if next.is_none() {
                    return true;
                }
                continue;
            };
            let receiver = self.crowded_reader(originator);
            if let Some(receiver) = receiver {
                self.await_reading(receiver, turn);
                if let Some(departure) = self.departures.by_domain.get_mut(&domid) {
                    departure.receiver = Some(receiver);
                }
            }
            if receiver.is_some() || self.announcements.has_unattended() || turn.work.is_over() {
                self.set_progress(domid, Progress::Nodes(Some(path)));
                return false;
            }
            // The search for the next node needs this one, which is about to be removed.
            next = self.next_naming(domid, Some(path.as_path()), turn.work);
            turn.work.spend(work::of_path(path.as_path().as_str().len()));
            self.remove_node_or_rights(path.as_path(), domid, originator, turn);
        }
    }

    fn next_naming(&mut self, domid: DomId, behind: Option<Path<'_>>, work: &mut Work) -> Option<PathBuf> {
        let mut steps = 0;
        let next = self.state.tree.next_naming(domid, behind, self.config.keep_orphans, &mut steps);
        work.spend(steps);
        next
    }

    /// Takes a domain's rights out of the transactions of the connections after `done`, until the steps are used up.
    /// Transactions opened meanwhile no longer see these rights.
    fn forget_in_connections(&mut self, domid: DomId, done: Option<ConnectionId>, work: &mut Work) {
        let behind = (done.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut progress = Progress::Done;
        let mut done = done;
        for (id, connection) in self.connections.range_mut(behind) {
            if work.is_over() {
                progress = Progress::Transactions(done);
                break;
            }
            work.spend(1);
            let transactions = connection.session_mut().map(|(session, _)| &mut session.transactions);
            for transaction in transactions.into_iter().flat_map(|transactions| transactions.values_mut()) {
                work.spend(transaction.len() as u64);
                transaction.forget_domain(domid);
            }
            done = Some(*id);
        }
        self.set_progress(domid, progress);
    }

    /// Takes the rights of all departing domains out of a transaction before its commit, which must not bring removed
    /// rights back.
    pub(in crate::engine) fn forget_departing(&mut self, transaction: &mut Transaction, work: &mut Work) {
        for domid in self.departures.by_domain.keys() {
            work.spend(transaction.len() as u64);
            transaction.forget_domain(*domid);
        }
    }

    fn end_departure(&mut self, domid: DomId) {
        self.departures.by_domain.remove(&domid);
        self.state.domains.forget(domid);
        self.drops.forget_originator(domid);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: domain {domid} is forgotten");
        }
        for id in core::mem::take(&mut self.departures.held) {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.waits_for_departure = false;
            }
            self.connections.wake(id);
        }
    }

    /// Continues all departures until the steps are used up.
    pub(in crate::engine) fn run_departures(&mut self, turn: &mut Turn<'_>) {
        let runnable = self.departures.by_domain.iter().filter(|(_, departure)| departure.receiver.is_none());
        let runnable: Vec<DomId> = runnable.map(|(domid, _)| *domid).collect();
        for domid in runnable {
            if turn.work.is_over() {
                return;
            }
            self.continue_departure(domid, turn);
        }
    }

    /// Holds a connection back if its request would give something to a domain whose number is not free yet. Returns
    /// whether the connection is held back.
    pub(in crate::engine) fn hold_for_departure(
        &mut self,
        id: ConnectionId,
        kind: MessageType,
        payload: &[u8],
    ) -> bool {
        if self.departures.is_empty() || !self.names_departing(kind, payload) {
            return false;
        }
        if let Some(connection) = self.connections.get_mut(id) {
            connection.waits_for_departure = true;
            self.departures.held.push(id);
        }
        true
    }

    fn names_departing(&self, kind: MessageType, payload: &[u8]) -> bool {
        // In a permission entry, the domid follows the letter.
        let (skipped, strings, letters) = if kind == MessageType::SetPerms { (1, usize::MAX, 1) } else { (0, 1, 0) };
        let named = payload.split(|byte| *byte == 0).skip(skipped).take(strings);
        let mut domids = named.filter_map(|string| parse_domid(string.get(letters..)?).ok());
        domids.any(|domid| self.departures.contains(domid))
    }
}
