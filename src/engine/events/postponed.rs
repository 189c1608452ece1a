//! Work that does not fit into one turn, of three kinds:
//!
//! - the rest of announcements ([`crate::engine::events::announcements`]),
//! - the nodes of domains that are gone ([`crate::engine::domains::departures`]),
//! - the queues and transactions of connections that were reset.

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use crate::engine::connection::output::Output;
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{Engine, work};
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;

/// The number of messages dropped at once; later turns drop the rest of a longer queue.
const DROPPED_AT_ONCE: usize = 64;

/// Queues and transactions of reset connections, dropped over several turns.
#[derive(Debug, Default)]
pub(in crate::engine) struct Discarded {
    /// Output queues. Dropping a message settles the request that caused it.
    pub(in crate::engine) outputs: VecDeque<Output>,
    /// Transactions, whose paths are still in the index of all accesses.
    pub(in crate::engine) transactions: VecDeque<Box<Transaction>>,
}

impl Discarded {
    fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.transactions.is_empty()
    }
}

impl Engine {
    /// Returns whether postponed work can continue.
    #[must_use]
    pub fn has_postponed(&self) -> bool {
        let departs = self.departures.has_runnable() && !self.announcements.has_unattended();
        departs || !self.discarded.is_empty() || self.announcements.has_runnable()
    }

    /// Continues postponed work. Each of the three kinds gets [`crate::limits::POSTPONED_STEPS`] steps; its last piece
    /// may exceed them.
    pub fn handle_postponed(&mut self, turn: &mut Turn<'_>) {
        if !self.has_postponed() {
            return;
        }
        turn.note_free_memory();
        // Each kind has its own steps, so that no kind delays another.
        turn.work.begin_postponed();
        self.run_discarded(turn.work);
        turn.work.begin_postponed();
        self.run_announcements(turn);
        turn.work.begin_postponed();
        self.run_departures(turn);
        self.note_growth(turn);
    }

    /// Drops a queue, and settles the requests that caused its messages.
    pub(in crate::engine) fn discard(&mut self, mut output: Output, work: &mut Work) {
        let count = output.len();
        for _ in 0..count.min(DROPPED_AT_ONCE) {
            self.discard_first(&mut output, work);
        }
        if !output.is_empty() {
            self.discarded.outputs.push_back(output);
        }
    }

    /// Drops a connection's transactions. They count as ended at once.
    pub(in crate::engine) fn discard_transactions(
        &mut self,
        id: ConnectionId,
        transactions: impl ExactSizeIterator<Item = Box<Transaction>>,
        work: &mut Work,
    ) {
        self.count_closed(id, transactions.len());
        self.discarded.transactions.extend(transactions);
        self.run_discarded_transactions(work);
    }

    fn run_discarded_transactions(&mut self, work: &mut Work) {
        while !work.is_over()
            && let Some(transaction) = self.discarded.transactions.pop_front()
        {
            work.spend(work::of_transaction(&transaction));
            self.fairness.accesses.forget(&transaction);
        }
    }

    fn run_discarded(&mut self, work: &mut Work) {
        self.run_discarded_transactions(work);
        while !work.is_over()
            && let Some(mut output) = self.discarded.outputs.pop_front()
        {
            while !work.is_over() && !output.is_empty() {
                self.discard_first(&mut output, work);
            }
            if !output.is_empty() {
                self.discarded.outputs.push_front(output);
            }
        }
    }

    fn discard_first(&mut self, output: &mut Output, work: &mut Work) {
        work.spend(1);
        if let Some((Some(origin), _)) = output.discard_first() {
            self.settle(origin);
        }
    }
}
