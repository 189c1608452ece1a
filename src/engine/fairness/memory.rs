//! How much memory each domain makes the server keep, and what happens at its limit (`docs/architecture.md`, "Memory").
//!
//! Counted are its nodes, its watches, its open transactions, its kept lists, its pending output, and its postponed
//! announcement. The server refuses a request that would exceed the requester's quota. It never refuses one that only
//! frees memory.

use crate::engine::Engine;
use crate::engine::connection::output::Output;
use crate::engine::connection::{Connection, Session};
use crate::engine::events::Receiver;
use crate::engine::requests::lists::KeptList;
use crate::engine::turn::Turn;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::domain_table::Domain;
use crate::store::quota::Quota;
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;

/// The memory that a request may still take, computed before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Bytes that the client's domain takes, including those that the request has added so far.
    used: usize,
    /// Bytes that the domain may take.
    limit: usize,
    /// Bytes of the heap that the server as a whole can still afford for this client.
    affordable: usize,
    /// Whether the client's domain may hold at most as much as remains affordable; true for guests.
    is_shared: bool,
    /// Bytes reserved for the reply, in addition to `affordable`.
    kept_for_reply: usize,
}

impl Budget {
    /// No limit, for the server's own work.
    pub const UNLIMITED: Self =
        Self { used: 0, limit: usize::MAX, affordable: usize::MAX, is_shared: false, kept_for_reply: 0 };

    /// Takes `bytes` out of the budget. A guest may hold at most as much as is left of the heap (see
    /// `Engine::has_room_for_event`). Zero bytes are always granted, even to a domain over its quota. That happens if
    /// the quota was lowered or the control domain gave it nodes.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] if the budget is smaller; it then stays unchanged.
    pub fn take(&mut self, bytes: usize) -> Result<(), Errno> {
        if bytes == 0 {
            return Ok(());
        }
        let used = self.used.saturating_add(bytes);
        let heap = heap_bytes(bytes);
        let Some(left) = self.affordable.checked_sub(heap) else { return Err(Errno::NoSpc) };
        if used > self.limit || self.is_shared && used > left {
            return Err(Errno::NoSpc);
        }
        self.used = used;
        self.affordable = left;
        Ok(())
    }

    /// Takes from the server's memory as much as `copy` took. The domain's account stays unchanged.
    pub fn spend_like(&mut self, copy: &Self) {
        self.affordable = copy.affordable;
    }

    /// Opens the reserve for the reply. The control domain's reply may use it, so that it can list the nodes that it
    /// wants to remove.
    pub fn admit_reply(&mut self) {
        self.affordable = self.affordable.saturating_add(core::mem::take(&mut self.kept_for_reply));
    }

    /// Returns the bytes that the client's domain takes, including those that the request has added.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }
}

/// Returns the most heap bytes that an object takes whose counted size is `bytes`.
const fn heap_bytes(bytes: usize) -> usize {
    bytes.saturating_mul(limits::HEAP_BYTES_PER_COUNTED_BYTE).saturating_add(limits::HEAP_BYTES_PER_OBJECT)
}

/// Returns the counted bytes of an event, with the overhead of a message.
const fn with_overhead(payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(limits::MESSAGE_OVERHEAD_BYTES)
}

/// Returns whether the queue of a client of the control domain has room for an event of `bytes` of payload.
fn has_room_for_control(output: &Output, bytes: usize, originator: Option<ConnectionId>) -> bool {
    let bytes = with_overhead(bytes);
    match originator {
        Some(by) => {
            let room = limits::GUESTS_EVENTS_BYTES.saturating_sub(output.bytes_by_guests());
            output.bytes_by(by).saturating_add(bytes) <= room
        }
        None => {
            let own = output.queued_bytes().saturating_sub(output.bytes_by_guests());
            own.saturating_add(bytes) <= limits::PRIVILEGED_QUEUE_BYTES
        }
    }
}

/// Returns the bytes that a domain and its connection take.
fn bytes_of(domain: &Domain, connection: Option<&Connection>) -> usize {
    let nodes = usize::try_from(domain.node_bytes).unwrap_or(usize::MAX);
    let announced = connection.and_then(|connection| connection.announced_bytes).unwrap_or(0);
    let session = connection.and_then(Connection::session).map_or(0, |session| {
        let transactions = session.transactions.values().map(|transaction| transaction.bytes());
        let lists = session.lists.iter().map(KeptList::bytes);
        transactions.chain(lists).fold(session.output.queued_bytes(), usize::saturating_add)
    });
    nodes.saturating_add(domain.watch_bytes).saturating_add(session).saturating_add(announced)
}

impl Engine {
    /// Returns the bytes that a domain makes the server keep.
    #[must_use]
    pub fn memory_of(&self, domid: DomId) -> usize {
        let Some(domain) = self.state.domains.get(domid) else { return 0 };
        bytes_of(domain, domain.connection.and_then(|id| self.connections.get(id)))
    }

    /// Computes the budget of a client's request. `transaction` is the request's own, which the session does not hold
    /// now. `free` is the number of free bytes of memory.
    pub(in crate::engine) fn budget(
        &self,
        connection: &Connection,
        transaction: Option<&Transaction>,
        free: usize,
    ) -> Budget {
        let domid = connection.domid();
        let guest = domid.filter(|domid| *domid != self.config.privileged);
        let reserve = if guest.is_some() { limits::GUEST_RESERVE_BYTES } else { limits::PRIVILEGED_RESERVE_BYTES };
        let domain = domid.and_then(|domid| self.state.domains.get(domid));
        let used = domain.map_or(0, |domain| bytes_of(domain, Some(connection)));
        let kept_for_reply = free.min(reserve).saturating_sub(limits::PRIVILEGED_WORK_BYTES);
        Budget {
            used: used.saturating_add(transaction.map_or(0, Transaction::bytes)),
            limit: guest.map_or(usize::MAX, |_| self.state.domains.quotas_of(domain).limit(Quota::MemoryHard)),
            affordable: free.saturating_sub(reserve),
            is_shared: guest.is_some(),
            kept_for_reply: if guest.is_some() { 0 } else { kept_for_reply },
        }
    }

    /// Returns whether there is room for an event of `bytes` of payload in a connection's queue.
    ///
    /// One rule holds wherever domains share a resource: a domain may take at most as much as remains after that. The
    /// originator shares the receiver's room this way, and the receiver shares the heap. So some room always remains
    /// for domains that take little, however many domains take their maximum.
    pub(in crate::engine) fn has_room_for_event(
        &self,
        to: Receiver,
        bytes: usize,
        originator: Option<ConnectionId>,
        turn: &Turn<'_>,
    ) -> bool {
        let Some(session) = self.connections.session(to.id) else { return true };
        let output = &session.output;
        let Some(domid) = to.guest else {
            // One event always fits into an empty queue: the reserve covers it.
            let affordable = turn.free_bytes.saturating_sub(limits::PRIVILEGED_WORK_BYTES);
            let is_affordable = output.is_empty() || heap_bytes(with_overhead(bytes)) <= affordable;
            return is_affordable && has_room_for_control(output, bytes, originator);
        };
        let bytes = with_overhead(bytes);
        let share = originator.map_or(0, |by| output.bytes_by(by)).saturating_add(bytes);
        let has = self.memory_of(domid);
        let room = self.state.domains.quotas(domid).limit(Quota::MemoryHard).saturating_sub(has);
        let affordable = turn.free_bytes.saturating_sub(limits::GUEST_EVENT_RESERVE_BYTES);
        share <= room && bytes <= room && heap_bytes(bytes) <= affordable && has.saturating_add(bytes) <= affordable
    }

    /// Finds a client of the control domain whose queue has no room for events of `originator`. The free heap is not
    /// considered: the control domain's watches bound the events to queue.
    pub(in crate::engine) fn crowded_reader(&self, originator: Option<ConnectionId>) -> Option<ConnectionId> {
        let control = self.state.domains.connection(self.config.privileged);
        let mut readers = control.into_iter().chain(self.connections.sockets());
        readers.find(|id| {
            let session = self.connections.session(*id);
            let has_room = |session: &Session| has_room_for_control(&session.output, limits::PAYLOAD_BYTES, originator);
            !self.is_given_up(*id) && !session.is_none_or(has_room)
        })
    }

    /// Notes that an event with `bytes` of payload was queued.
    pub(in crate::engine) fn note_event(bytes: usize, turn: &mut Turn<'_>) {
        turn.free_bytes = turn.free_bytes.saturating_sub(heap_bytes(with_overhead(bytes)));
    }

    /// Returns whether a client must read before it may send another request. A client of the control domain must if it
    /// leaves too much unread, events of guests excluded. A guest must if it is at its hard quota.
    pub(in crate::engine) fn has_to_read_first(&self, id: ConnectionId, session: &Session) -> bool {
        let output = &session.output;
        match self.guest_of(id) {
            Some(domid) => {
                let limit = self.state.domains.quotas(domid).limit(Quota::MemoryHard);
                !output.is_empty() && self.memory_of(domid) >= limit
            }
            None => output.queued_bytes().saturating_sub(output.bytes_by_guests()) >= limits::PRIVILEGED_QUEUE_BYTES,
        }
    }

    /// Raises the maxima of the domains that have grown, and logs those over a memory quota. The request that made them
    /// grow does not matter.
    pub(in crate::engine) fn note_growth(&mut self, turn: &Turn<'_>) {
        if !self.state.domains.has_grown() {
            return;
        }
        let grown = self.state.domains.take_grown();
        let mut next = self.state.domains.next_grown(&grown, None);
        while let Some(domid) = next {
            let (used, is_over) = self.note_figures(domid);
            if is_over {
                self.warn_of_memory(domid, used, turn);
            }
            next = self.state.domains.next_grown(&grown, Some(domid));
        }
    }

    /// Raises a domain's maxima, and those of all guests, to its present figures. Returns the bytes that it takes, and
    /// whether they exceed its warning level.
    pub(in crate::engine) fn note_figures(&mut self, domid: DomId) -> (usize, bool) {
        let privileged = self.config.privileged;
        let Self { state, connections, peaks: of_all, .. } = self;
        let Some(domain) = state.domains.get_mut(domid) else { return (0, false) };
        let connection = domain.connection.and_then(|id| connections.get(id));
        let session = connection.and_then(Connection::session);
        let used = bytes_of(domain, connection);
        let nodes = usize::try_from(domain.nodes).unwrap_or(usize::MAX);
        let figures = [
            (Quota::Nodes, nodes),
            (Quota::Watches, domain.watches),
            (Quota::Transactions, session.map_or(0, Session::open_transactions)),
            (Quota::MemoryHard, used),
        ];
        for (quota, value) in figures {
            domain.peaks.note(quota, value);
            if domid != privileged {
                of_all.note(quota, value);
            }
        }
        (used, used > domain.memory_warned_from())
    }

    /// Logs a guest over one of its memory quotas, at most once per [`limits::MEMORY_LOG_INTERVAL_MS`].
    fn warn_of_memory(&mut self, domid: DomId, used: usize, turn: &Turn<'_>) {
        let quotas = self.state.domains.quotas(domid);
        let over = [(Quota::MemoryHard, "hard"), (Quota::MemorySoft, "soft")]
            .map(|(quota, name)| (quotas.limit(quota), name))
            .into_iter()
            .find(|(limit, _)| used > *limit);
        if let Some((limit, name)) = over
            && self.may_log_memory(domid, turn)
        {
            log::warn!("memory: domain {domid} takes {used} bytes, over its {name} quota of {limit}");
        }
    }

    /// Logs a guest that was refused memory, at most once per [`limits::MEMORY_LOG_INTERVAL_MS`].
    pub(in crate::engine) fn warn_of_refusal(&mut self, id: ConnectionId, used: usize, turn: &Turn<'_>) {
        if let Some(domid) = self.connections.domain_of(id)
            && self.may_log_memory(domid, turn)
        {
            let limit = self.state.domains.quotas(domid).get(Quota::MemoryHard);
            log::warn!("memory: domain {domid}: more memory refused, {used} of {limit} bytes (hard quota) in use");
        }
    }

    /// Returns whether it is time to log a guest's memory.
    fn may_log_memory(&mut self, domid: DomId, turn: &Turn<'_>) -> bool {
        let is_guest = domid != self.config.privileged;
        let domain = self.state.domains.get_mut(domid).filter(|_| is_guest);
        domain.is_some_and(|domain| domain.memory_logged.is_due(limits::MEMORY_LOG_INTERVAL_MS, turn.now_ms))
    }
}
