//! The work meter, which counts elementary steps to bound the work of any request.
//!
//! One step is any of these:
//!
//! - eight bytes of a path that is walked (a level of the tree has at least two),
//! - 128 bytes of a path that is looked up in a transaction,
//! - a connection that is considered for an event,
//! - a node that is visited,
//! - 64 bytes that are copied.
//!
//! A queued event takes several ([`EVENT_STEPS`]). `docs/performance.md` has the time of a step. The same inputs take
//! the same steps.

use crate::limits;
use crate::store::transaction::Transaction;

/// Steps of one queued event: allocation, search for a duplicate, and insertion into the queue.
pub const EVENT_STEPS: u64 = 8;
/// Steps of one request besides its handler's: message, command table, reply.
pub const REQUEST_STEPS: u64 = 8;
/// Steps of one removed node: a visit for its events, a visit for its owner's count, and the release of its memory.
pub const REMOVAL_STEPS: u64 = 6;
/// Steps of one path of a transaction besides its bytes: a look-up among all its paths.
pub const ACCESS_STEPS: u64 = 4;
/// Bytes that are copied in one step.
const BYTES_PER_STEP: usize = 64;
/// Bytes of a path that are walked in one step.
const PATH_BYTES_PER_STEP: usize = 8;
/// Bytes of a path per step of a look-up in a transaction, which compares the path several times.
const ACCESS_BYTES_PER_STEP: usize = 128;

/// Returns the steps of a copy.
#[must_use]
pub const fn of_bytes(bytes: usize) -> u64 {
    (bytes / BYTES_PER_STEP) as u64
}

/// Returns the steps of a walk from the root to a node whose path has `bytes` bytes. The number of levels would be more
/// exact, but costs a pass over the path.
#[must_use]
pub const fn of_path(bytes: usize) -> u64 {
    (bytes / PATH_BYTES_PER_STEP).saturating_add(1) as u64
}

/// Returns the steps to look up `paths` paths in a transaction. Together they have `bytes` bytes.
#[must_use]
pub const fn of_accesses(paths: usize, bytes: usize) -> u64 {
    (paths as u64).saturating_mul(ACCESS_STEPS).saturating_add((bytes / ACCESS_BYTES_PER_STEP) as u64)
}

/// Returns the steps of a pass over all paths that a transaction has seen.
#[must_use]
pub fn of_transaction(transaction: &Transaction) -> u64 {
    of_accesses(transaction.len(), transaction.bytes())
}

/// The work meter of the engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Steps since the start.
    steps: u64,
    /// The step count at which the present turn ends.
    turn_end: u64,
    /// The step count at which the present piece of work has to stop.
    stop_at: u64,
}

impl Work {
    /// Returns the steps since the start.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Counts steps.
    pub const fn spend(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// Begins a connection's turn.
    pub const fn begin_turn(&mut self) {
        self.turn_end = self.steps.saturating_add(limits::TURN_STEPS);
    }

    /// Returns whether the turn has used up its steps.
    #[must_use]
    pub const fn is_turn_over(&self) -> bool {
        self.steps >= self.turn_end
    }

    /// Begins a request.
    pub const fn begin_request(&mut self) {
        self.spend(REQUEST_STEPS);
    }

    /// Begins the events of a request. They may take the rest of the turn, and at least
    /// [`limits::REQUEST_EVENT_STEPS`]: so a request that concerns few watches queues its events at once.
    pub fn begin_events(&mut self) {
        self.stop_at = self.turn_end.max(self.steps.saturating_add(limits::REQUEST_EVENT_STEPS));
    }

    /// Begins a piece of postponed work.
    pub const fn begin_postponed(&mut self) {
        self.stop_at = self.steps.saturating_add(limits::POSTPONED_STEPS);
    }

    /// Returns whether the present piece of work has used up its steps.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.steps >= self.stop_at
    }
}

/// Steps of a pass over a guest's largest transaction with the default quotas `transaction-nodes` and `memory`.
const TRANSACTION_STEPS_MOST: u64 = of_accesses(1024, 2_621_440);

/// Steps of the events for one client, which are queued without a pause: 128 watches (the quota `watches`), the longest
/// messages, and the search for them.
const CLIENT_STEPS_MOST: u64 = 128_u64
    .saturating_mul(EVENT_STEPS.saturating_add(of_bytes(limits::PAYLOAD_BYTES)))
    .saturating_add(of_path(limits::ABSOLUTE_PATH_BYTES))
    .saturating_add(1);

/// Steps of a replay: those for nodes, and those for each request.
const REPLAY_STEPS_MOST: u64 =
    (limits::REPLAY_LOOK_STEPS as u64).saturating_add(REQUEST_STEPS.saturating_mul(limits::REPLAY_REQUESTS as u64));

// A commit by a replay passes over its transaction six times. One pass is at the end of the transaction, one is the
// search for conflicts, two come before the replay, and two are the commit of the result. A failed replay executes one
// request again, to find the write that caused the conflict.
const _: () = assert!(
    limits::REQUEST_STEPS_MOST
        >= TRANSACTION_STEPS_MOST
            .saturating_mul(6)
            .saturating_add(REPLAY_STEPS_MOST.saturating_mul(2))
            .saturating_add(CLIENT_STEPS_MOST)
            .saturating_add(REQUEST_STEPS)
);
// The events of a request may use up its turn and exceed it by those for one client. DIRECTORY_PART reads a list and
// keeps it. A request descends to its path a few times.
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
