//! One connection: its input, its output queue, its open transactions, and the server's side of the ring.

pub(super) mod buffer_pool;
pub(super) mod connections;
pub mod input;
pub mod output;
pub(super) mod queue;
pub(super) mod replies;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;

use crate::engine::connection::input::Input;
use crate::engine::connection::output::Output;
use crate::engine::hypervisor::Port;
use crate::engine::requests::lists::KeptList;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::transaction::Transaction;
use crate::wire::ring::Ring;

/// The client at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client of the hosted server; counts as the control domain.
    Socket,
    /// A domain, over its ring.
    Domain {
        /// The domain's number.
        domid: DomId,
        /// The server's port of its event channel; `None` if it could not be bound again.
        port: Option<Port>,
    },
}

/// The protocol error for which a connection was shut. The values are those of the ring's error word
/// (`docs/misc/xenstore-ring.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The event channel cannot be used.
    Communication = 1,
    /// An index of the ring is impossible.
    RingIndex = 2,
    /// A message is longer than the protocol allows.
    Protocol = 3,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Communication => f.write_str("communication failed"),
            Self::RingIndex => f.write_str("ring index out of range"),
            Self::Protocol => write!(f, "message longer than {} bytes", limits::PAYLOAD_BYTES),
        }
    }
}

/// The preparation of a ring page before its first use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingStart {
    /// The server adopts its indices.
    Adopt,
    /// The server sets its indices to zero.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The client at the other end.
    pub peer: Peer,
    /// The server's side of the ring; unused for a socket.
    pub ring: Ring,
    /// The pending preparation of the ring page.
    pub ring_start: Option<RingStart>,
    /// Whether the ring is mapped. False for sockets, and for a restored connection until it is reattached.
    pub(super) is_mapped: bool,
    /// Whether its domain may not reopen it: only the control domain can, by INTRODUCE.
    pub(super) is_shut_out: bool,
    /// Whether the connection is in the queue of those with pending work.
    pub(super) is_queued: bool,
    /// The next time at which its events are checked for expiry: not after the first one's deadline. For a client of
    /// the control domain, the next time at which the server checks whether it reads.
    pub(super) deadline_ms: Option<u64>,
    /// Bytes of the postponed announcement of its last request. It is held back until that is queued.
    pub(super) announced_bytes: Option<usize>,
    /// Whether its request is held back until a departed domain's nodes are removed.
    pub(super) waits_for_departure: bool,
    /// Whether a client of the control domain reads.
    pub(super) reading: Reading,
    /// The next time at which its kept lists are checked for age: not after the first one's time.
    pub(super) lists_deadline_ms: Option<u64>,
    /// Requests that count as outstanding, with the number of messages that they still wait for. They outlive the
    /// session: a client that resets its connection still answers for the events that it caused.
    tickets: VecDeque<(u64, usize)>,
    pub(super) phase: Phase,
}

/// Whether a client of the control domain reads what is pending for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    /// The time of its last read, or of the wait's begin if later; `None` if no work waits for room in its queue.
    pub(super) unread_since_ms: Option<u64>,
    /// Bytes that it has read since this wait began.
    pub(super) bytes: usize,
    /// Whether it read nothing for so long that no work waits for it any longer.
    pub(super) is_given_up: bool,
}

impl Reading {
    /// Returns whether a read of the client has an effect.
    pub(super) const fn is_noted(&self) -> bool {
        self.unread_since_ms.is_some() || self.is_given_up
    }
}

/// The state of a connection: open, or shut by a protocol error. A shut one has nothing to receive or to send.
#[derive(Debug)]
pub(super) enum Phase {
    Open(Box<Session>),
    Failed(ProtocolError),
}

/// The session of an open connection.
#[derive(Debug, Default)]
pub struct Session {
    /// The request that is being received.
    pub input: Input,
    /// Messages to send.
    pub output: Output,
    pub(super) transactions: BTreeMap<u32, Box<Transaction>>,
    /// Lists that are read in parts, the oldest first.
    pub(super) lists: Vec<KeptList>,
    /// Requests that are answered later.
    pub(super) deferred: Vec<u64>,
    pub(super) next_transaction: u32,
}

impl Connection {
    pub(super) fn new(peer: Peer, ring_start: Option<RingStart>) -> Self {
        Self {
            peer,
            ring: Ring::default(),
            ring_start,
            is_mapped: peer != Peer::Socket,
            is_shut_out: false,
            is_queued: false,
            deadline_ms: None,
            announced_bytes: None,
            waits_for_departure: false,
            reading: Reading::default(),
            lists_deadline_ms: None,
            tickets: VecDeque::new(),
            phase: Phase::Open(Box::default()),
        }
    }

    /// Returns its domain; `None` for a socket.
    pub(super) const fn domid(&self) -> Option<DomId> {
        match self.peer {
            Peer::Socket => None,
            Peer::Domain { domid, .. } => Some(domid),
        }
    }

    /// Returns the server's port of a domain's connection.
    pub(super) const fn port(&self) -> Option<Port> {
        match self.peer {
            Peer::Socket => None,
            Peer::Domain { port, .. } => port,
        }
    }

    /// Returns the session; `None` if the connection was shut.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::Open(session) => Some(session),
            Phase::Failed(_) => None,
        }
    }

    /// Returns the session and the server's side of the ring, to change them; `None` if the connection was shut.
    pub fn session_mut(&mut self) -> Option<(&mut Session, &mut Ring)> {
        match &mut self.phase {
            Phase::Open(session) => Some((session, &mut self.ring)),
            Phase::Failed(_) => None,
        }
    }

    /// Returns the protocol error for which it was shut.
    #[must_use]
    pub const fn error(&self) -> Option<ProtocolError> {
        match &self.phase {
            Phase::Open(_) => None,
            Phase::Failed(error) => Some(*error),
        }
    }

    /// Counts a request as outstanding, as one message: its reply.
    pub(super) fn issue_ticket(&mut self, ticket: u64) {
        self.tickets.push_back((ticket, 1));
    }

    /// Makes an outstanding request wait for one more message.
    pub(super) fn extend_ticket(&mut self, ticket: u64) {
        if let Some((_, messages)) = self.tickets.iter_mut().rev().find(|(have, _)| *have == ticket) {
            *messages = messages.saturating_add(1);
        }
    }

    /// Notes that one message of an outstanding request was delivered or dropped.
    pub(super) fn settle_ticket(&mut self, ticket: u64) {
        if let Some(at) = self.tickets.iter().position(|(have, _)| *have == ticket)
            && let Some((_, messages)) = self.tickets.get_mut(at)
        {
            *messages = messages.saturating_sub(1);
            if *messages == 0 {
                self.tickets.remove(at);
            }
        }
    }

    /// Returns the number of outstanding requests.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.tickets.len()
    }

    /// Returns whether a request is outstanding.
    pub(super) fn has_ticket(&self, ticket: u64) -> bool {
        self.tickets.iter().any(|(have, _)| *have == ticket)
    }

    /// Sets the outstanding requests: their tickets, and the number of messages that each waits for.
    pub(super) fn restore_tickets(&mut self, tickets: VecDeque<(u64, usize)>) {
        self.tickets = tickets;
    }

    /// Forgets all outstanding requests: the control domain resets the connection.
    pub(super) fn forget_tickets(&mut self) {
        self.tickets.clear();
    }
}

impl Session {
    /// Returns a number for a new transaction: not 0 and not in use.
    pub(super) fn free_transaction_id(&mut self) -> u32 {
        loop {
            self.next_transaction = self.next_transaction.wrapping_add(1);
            let id = self.next_transaction;
            if id != 0 && !self.transactions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Returns the time at which each open transaction was started, in milliseconds of the host's clock.
    pub(super) fn transaction_starts_ms(&self) -> impl Iterator<Item = u64> {
        self.transactions.values().map(|transaction| transaction.started_ms())
    }

    /// Returns the number of open transactions.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }
}
