//! The work meter: elementary steps, so that work is bounded whatever is asked for.
//!
//! A step is eight bytes of a path that is walked (a level of the tree has at least two), 128 bytes of one that is looked up in
//! a transaction, a connection that is considered for an event, a node that is visited, or 64 bytes that are copied; a queued
//! event is a few ([`EVENT_STEPS`]). `docs/performance.md` has the time of a step. The same inputs take the same steps.

use crate::limits;
use crate::store::transaction::Transaction;

/// Steps of one queued event: its memory, the look for an identical one, and its place in the queue.
pub const EVENT_STEPS: u64 = 8;
/// Steps of one request beside what its handler walks: the message, the table, the reply.
pub const REQUEST_STEPS: u64 = 8;
/// Steps of a node that is removed: it is visited for its events and for its owner's count, and its memory is freed.
pub const REMOVAL_STEPS: u64 = 6;
/// Steps of one path of a transaction beside its bytes: a look-up among all its paths.
pub const ACCESS_STEPS: u64 = 4;
/// Bytes whose copy is a step.
const BYTES_PER_STEP: usize = 64;
/// Bytes of a path that are walked in a step.
const PATH_BYTES_PER_STEP: usize = 8;
/// Bytes of a path that are compared in a step, as often as a look-up among a transaction's paths does.
const ACCESS_BYTES_PER_STEP: usize = 128;

/// Steps of a copy.
#[must_use]
pub const fn of_bytes(bytes: usize) -> u64 {
    (bytes / BYTES_PER_STEP) as u64
}

/// Steps of a walk from the root to a node whose path has so many bytes. The number of its levels would be better, and would
/// cost a pass over the path.
#[must_use]
pub const fn of_path(bytes: usize) -> u64 {
    (bytes / PATH_BYTES_PER_STEP).saturating_add(1) as u64
}

/// Steps of a look-up of so many paths in a transaction, which have so many bytes together.
#[must_use]
pub const fn of_accesses(paths: usize, bytes: usize) -> u64 {
    (paths as u64).saturating_mul(ACCESS_STEPS).saturating_add((bytes / ACCESS_BYTES_PER_STEP) as u64)
}

/// Steps of a look at all paths that a transaction has seen.
#[must_use]
pub fn of_transaction(transaction: &Transaction) -> u64 {
    of_accesses(transaction.len(), transaction.bytes())
}

/// The meter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Steps since the start.
    steps: u64,
    /// Where the present turn ends.
    turn_end: u64,
    /// Where the present piece of work is to stop.
    stop_at: u64,
}

impl Work {
    /// Steps since the start.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Counts steps.
    pub const fn spend(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// A connection's turn begins.
    pub const fn begin_turn(&mut self) {
        self.turn_end = self.steps.saturating_add(limits::TURN_STEPS);
    }

    /// Whether the turn has used up its steps.
    #[must_use]
    pub const fn is_turn_over(&self) -> bool {
        self.steps >= self.turn_end
    }

    /// A request begins.
    pub const fn begin_request(&mut self) {
        self.spend(REQUEST_STEPS);
    }

    /// The events of a request begin. They may take what is left of the turn, and a few steps in any case, so that a request
    /// that concerns few watches is done with at once.
    pub fn begin_events(&mut self) {
        self.stop_at = self.turn_end.max(self.steps.saturating_add(limits::REQUEST_EVENT_STEPS));
    }

    /// A piece of postponed work begins.
    pub const fn begin_postponed(&mut self) {
        self.stop_at = self.steps.saturating_add(limits::POSTPONED_STEPS);
    }

    /// Whether the present piece of work has used up its steps.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.steps >= self.stop_at
    }
}

/// Steps of a pass over the largest transaction that a guest may have by the default quotas `transaction-nodes` and `memory`.
const TRANSACTION_STEPS_MOST: u64 = of_accesses(1024, 2_621_440);

/// Steps of the events for one client, which are queued in one go: 128 watches (the quota `watches`), the longest messages,
/// and the way to them.
const CLIENT_STEPS_MOST: u64 = 128_u64
    .saturating_mul(EVENT_STEPS.saturating_add(of_bytes(limits::PAYLOAD_BYTES)))
    .saturating_add(of_path(limits::ABSOLUTE_PATH_BYTES))
    .saturating_add(1);

/// Steps of a replay: looks at nodes, and each request.
const REPLAY_STEPS_MOST: u64 =
    (limits::REPLAY_LOOK_STEPS as u64).saturating_add(REQUEST_STEPS.saturating_mul(limits::REPLAY_REQUESTS as u64));

// A commit by a replay passes over its transaction when that ends, when conflicts are looked for, twice before the replay, and
// twice when what it made is committed. A replay that fails makes one of its requests again, to find the write that is in the
// way.
const _: () = assert!(
    limits::REQUEST_STEPS_MOST
        >= TRANSACTION_STEPS_MOST
            .saturating_mul(6)
            .saturating_add(REPLAY_STEPS_MOST.saturating_mul(2))
            .saturating_add(CLIENT_STEPS_MOST)
            .saturating_add(REQUEST_STEPS)
);
// The events of a request may use up its turn, and end with those for one client. DIRECTORY_PART reads a list and keeps it.
// A request descends to its path a few times.
const _: () = assert!(
    limits::PLAIN_REQUEST_STEPS_MOST
        >= limits::TURN_STEPS
            .saturating_add(CLIENT_STEPS_MOST)
            .saturating_add(of_path(limits::LIST_BYTES))
            .saturating_add(of_bytes(limits::LIST_BYTES))
            .saturating_add(of_path(limits::ABSOLUTE_PATH_BYTES).saturating_mul(8))
            .saturating_add(REQUEST_STEPS)
);
const _: () = assert!(limits::PLAIN_REQUEST_STEPS_MOST >= TRANSACTION_STEPS_MOST.saturating_add(REQUEST_STEPS));
const _: () = assert!(limits::REQUEST_STEPS_MOST >= limits::PLAIN_REQUEST_STEPS_MOST);
