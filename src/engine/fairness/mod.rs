//! Two limits on guests: write credits ([`write_credit`]) and conflict credits ([`conflict_credit`]). A guest in debt
//! for its writes is held back, and so is one that made too many commits fail. The server does not read from it for a
//! while, but still sends it replies and events. The control domain and clients of the hosted server are never held
//! back.

pub mod accesses;
pub mod conflict_credit;
pub mod memory;
pub mod write_credit;

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::fairness::accesses::Accesses;
use crate::engine::fairness::conflict_credit::{ConflictCredits, History};
use crate::engine::fairness::write_credit::WriteCredits;
use crate::engine::report::trace::Switches;
use crate::engine::turn::Turn;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;

/// The accounts of writes and conflicts.
#[derive(Debug, Default)]
pub(in crate::engine) struct Fairness {
    pub(super) writes: WriteCredits,
    pub(super) conflicts: ConflictCredits,
    pub(super) history: History,
    /// The paths that open transactions have accessed.
    pub(super) accesses: Accesses,
    /// Open transactions of all connections.
    open_transactions: usize,
    /// Open transactions of the control domain and of sockets.
    open_privileged: usize,
    /// The time at which a guest last got into debt; `None` if that is long ago.
    last_debt_ms: Option<u64>,
}

impl Engine {
    /// Returns whether a guest is held back for its writes or for the conflicts that it caused.
    #[must_use]
    pub fn is_held_back(&self, id: ConnectionId) -> bool {
        self.guest_of(id)
            .is_some_and(|domid| self.fairness.writes.is_in_debt(domid) || self.fairness.conflicts.is_paused(domid))
    }

    /// Returns the write credits of all domains.
    #[must_use]
    pub const fn write_credits(&self) -> &WriteCredits {
        &self.fairness.writes
    }

    /// Returns the conflict credits of all domains.
    #[must_use]
    pub const fn conflict_credits(&self) -> &ConflictCredits {
        &self.fairness.conflicts
    }

    /// Returns the number of open transactions: the running count, and the number counted now.
    #[must_use]
    pub fn open_transactions(&self) -> (usize, usize) {
        let sessions = self.connections.sessions();
        (self.fairness.open_transactions, sessions.map(|session| session.open_transactions()).sum())
    }

    /// Opens the account of an introduced domain.
    pub(super) fn open_account(&mut self, domid: DomId) {
        self.fairness.writes.add(domid);
    }

    /// Closes the account of a domain that is gone.
    pub(super) fn close_account(&mut self, domid: DomId, turn: &Turn<'_>) {
        self.fairness.writes.remove(domid, turn.now_ms);
        self.fairness.conflicts.remove(domid);
        self.fairness.history.remove(domid);
        self.wake_recovered();
    }

    /// Notes that a connection opened a transaction.
    pub(super) fn note_opened(&mut self, id: ConnectionId) {
        let is_guests = self.guest_of(id).is_some();
        let fairness = &mut self.fairness;
        fairness.open_transactions = fairness.open_transactions.saturating_add(1);
        fairness.open_privileged = fairness.open_privileged.saturating_add(usize::from(!is_guests));
    }

    /// Notes that a connection's transaction has ended.
    pub(super) fn note_closed(&mut self, id: ConnectionId, transaction: &Transaction) {
        self.fairness.accesses.forget(transaction);
        self.count_closed(id, 1);
    }

    /// Notes that a connection's transaction is lost, together with the list of its paths.
    pub(super) fn note_lost(&mut self, id: ConnectionId) {
        // The new count leaves the discarded transactions out.
        self.discarded.transactions.clear();
        self.fairness.accesses.recount(|path| {
            let transactions = self.connections.sessions().flat_map(|session| session.transactions.values());
            transactions.filter(|transaction| transaction.seen(path.as_path()).is_some()).count()
        });
        self.count_closed(id, 1);
    }

    /// Counts transactions that have ended. After the last open one, the history of writes is no longer needed.
    pub(super) fn count_closed(&mut self, id: ConnectionId, count: usize) {
        let privileged = if self.guest_of(id).is_some() { 0 } else { count };
        let fairness = &mut self.fairness;
        fairness.open_transactions = fairness.open_transactions.saturating_sub(count);
        fairness.open_privileged = fairness.open_privileged.saturating_sub(privileged);
        if fairness.open_transactions == 0 {
            fairness.history.clear();
        }
    }

    /// Returns whether the index of accessed paths matches the open transactions. The cost is a look-up for each path
    /// and transaction.
    #[must_use]
    pub fn accesses_agree(&self) -> bool {
        let sessions = self.connections.sessions();
        self.fairness.accesses.agree(sessions.flat_map(|session| session.transactions.values().map(Box::as_ref)))
    }

    /// Charges a connection `nodes` write credits for a request or commit that wrote nodes accessed by an open
    /// transaction. The generations of the writes are those after `before`. With `nodes` 0, no transaction can fail and
    /// the write is free.
    ///
    /// A request pays for all nodes that it writes if any of them was accessed. A count of only the accessed nodes
    /// would take a look-up per removed node, and would make the removal of a large directory as cheap as a single
    /// write.
    pub(super) fn account_write(&mut self, id: ConnectionId, before: u64, nodes: usize, turn: &Turn<'_>) {
        let Some(domid) = self.guest_of(id).filter(|_| nodes > 0) else { return };
        if self.trace.wants(Switches::WRL) {
            log::info!("wrl: domain {domid} pays {nodes}");
        }
        self.fairness.history.note(domid, before, self.state.generation());
        let is_new_debt = self.fairness.writes.debit(domid, nodes, turn.now_ms);
        if is_new_debt && self.fairness.last_debt_ms.replace(turn.now_ms).is_none() {
            log::info!("write rate limit: domain {domid} is held back; further domains are not logged");
        }
        self.wake_recovered();
    }

    /// Charges the writers that made a commit of `committer` fail. `writes` are the generations of their writes.
    pub(super) fn blame(&mut self, committer: ConnectionId, writes: &[u64], turn: &Turn<'_>) {
        if writes.is_empty() {
            return;
        }
        let own = self.guest_of(committer);
        let mut writers: Vec<DomId> = Vec::new();
        let mut is_guests_doing = false;
        for generation in writes {
            let Some(blame) = self.fairness.history.blame(*generation, own) else { continue };
            is_guests_doing = true;
            if !blame.was_paid && !writers.contains(&blame.domid) {
                writers.push(blame.domid);
            }
        }
        for domid in writers {
            if self.fairness.conflicts.charge(domid, turn.now_ms) {
                log::debug!("domain {domid}: held back, 0 of {} conflict credits left", limits::CONFLICT_CREDITS);
            }
        }
        if is_guests_doing && own.is_none() {
            self.fairness.conflicts.restart(turn.now_ms);
        }
    }

    /// Returns the time at which the next held-back guest may be read again.
    pub(super) fn next_fairness_ms(&self) -> Option<u64> {
        let conflicts = self.fairness.conflicts.next_ms(self.fairness.open_privileged > 0);
        [self.fairness.writes.next_ms(), conflicts].into_iter().flatten().min()
    }

    /// Resumes the guests that have waited long enough.
    pub(super) fn advance_fairness(&mut self, turn: &Turn<'_>) {
        let fairness = &mut self.fairness;
        fairness.writes.advance_if_due(turn.now_ms);
        let recovered = fairness.conflicts.advance(turn.now_ms, fairness.open_privileged > 0);
        if fairness
            .last_debt_ms
            .is_some_and(|last_ms| turn.now_ms.saturating_sub(last_ms) >= limits::WRITE_LOG_QUIET_MS)
        {
            fairness.last_debt_ms = None;
            log::info!("write rate limit: no domain was held back for {} s", limits::WRITE_LOG_QUIET_MS / 1000);
        }
        for domid in recovered {
            self.wake_domain(domid);
        }
        self.wake_recovered();
    }

    fn wake_recovered(&mut self) {
        for domid in self.fairness.writes.take_recovered() {
            self.wake_domain(domid);
        }
    }

    fn wake_domain(&mut self, domid: DomId) {
        if let Some(id) = self.state.domains.connection(domid) {
            self.connections.wake(id);
        }
    }

    /// Returns the domain of a connection if it can be held back.
    pub(super) fn guest_of(&self, id: ConnectionId) -> Option<DomId> {
        self.connections.domain_of(id).filter(|domid| *domid != self.config.privileged)
    }
}
