//! One request, one change set.
//!
//! The engine has no input or output and no clock. Its methods are of three kinds:
//!
//! - `handle_*` take inputs: a domain at boot ([`Engine::handle_boot_domain`]), a client of the hosted server
//!   ([`Engine::handle_connected`]), a domain's port ([`Engine::handle_port`]), received bytes
//!   ([`Engine::handle_received`]), sent bytes ([`Engine::handle_sent`]), a fault, the news of a domain's end, and time.
//! - `poll_*` give outputs. After any input, take connections from [`Engine::poll_ready`] until there is none; for each,
//!   send [`output::Output::bytes`] and fill [`input::Input::space`] as long as [`Engine::may_receive`] says so. Then take
//!   what [`Engine::poll_action`] gives, and wait until an input or [`Engine::poll_timeout`].
//! - All others only look.
//!
//! The same inputs give the same outputs, to the byte.

mod apply;
pub mod change_set;
pub mod config;
pub mod conflict;
pub mod connection;
pub mod crash;
mod domains;
mod events;
mod fairness;
pub mod hypervisor;
pub mod in_hand;
pub mod input;
pub mod memory;
pub mod needs;
pub mod output;
mod queue;
pub mod rate;
pub mod report;
pub mod requests;
pub mod snapshot;
mod spares;
pub mod take_over;
pub mod trace;
pub mod view;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use crate::engine::change_set::{ChangeSet, Effect, UpdateCommand};
use crate::engine::config::{Config, StreamLimit};
use crate::engine::connection::{Connection, Fault, Peer, Session};
use crate::engine::fairness::Fairness;
use crate::engine::hypervisor::{Hypervisor, Port};
use crate::engine::memory::Budget;
use crate::engine::output::Origin;
use crate::engine::requests::{Call, Reply, Row, replay};
use crate::engine::spares::Spares;
use crate::engine::trace::{Switches, Trace};
use crate::engine::view::View;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::permission::Requester;
use crate::store::quota::{Peaks, Quota};
use crate::store::record::Record;
use crate::store::state::State;
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::header::{HEADER_BYTES, Header, MessageType};

/// What the engine asks its host to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Log how much memory is in use, and how many rings and ports: a check was asked for.
    ReportMemory,
    /// Do what CONTROL's `live-update` says, and answer by [`Engine::answer`].
    Update {
        /// Who asked.
        asked: Deferred,
        /// For what.
        command: UpdateCommand,
    },
}

/// A request that is answered later. Its connection goes on meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// Whose request it is.
    pub connection: ConnectionId,
    header: Header,
    origin: Option<Origin>,
    number: u64,
}

impl Deferred {
    /// The whole message that answers the request, for a successor to send.
    #[must_use]
    pub fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
        output::message(Header { payload_bytes, ..self.header }, payload)
    }
}

/// What becomes of a connection whose session is dropped.
#[derive(Clone, Copy)]
enum RestartPhase {
    Fresh,
    Faulted(Fault),
}

/// The engine: all state, and all connections.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    state: State,
    connections: BTreeMap<ConnectionId, Connection>,
    ports: BTreeMap<Port, ConnectionId>,
    next_connection: u64,
    /// Connections that may have something to do.
    ready: VecDeque<ConnectionId>,
    /// When the first event of which connection may be over; at most one entry for each connection.
    deadlines: BTreeSet<(u64, ConnectionId)>,
    fairness: Fairness,
    actions: VecDeque<Action>,
    /// Connections whose ring has to be reset before anything else is said to anybody.
    starting: Vec<ConnectionId>,
    /// The number of the newest request that counts as outstanding.
    next_ticket: u64,
    /// The number of the newest request that is answered later.
    next_deferred: u64,
    /// The request that is being handled, for what it causes.
    origin: Option<Origin>,
    /// Kept between requests for its room.
    changes: ChangeSet,
    /// The same for replies.
    spares: Spares,
    /// The most that any guest has had of what is limited.
    peaks: Peaks,
    /// What is told in the log.
    trace: Trace,
    /// What was said of the newest version of the stream.
    stream_limit: StreamLimit,
    /// Bytes of memory that are left for the events of what is being handled.
    free_for_events: usize,
}

impl Engine {
    /// An engine with a new store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            state: State::new(config.privileged, config.quotas.clone()),
            trace: config.trace,
            config,
            connections: BTreeMap::new(),
            ports: BTreeMap::new(),
            next_connection: 0,
            ready: VecDeque::new(),
            deadlines: BTreeSet::new(),
            fairness: Fairness::default(),
            actions: VecDeque::new(),
            starting: Vec::new(),
            next_ticket: 0,
            next_deferred: 0,
            origin: None,
            changes: ChangeSet::default(),
            spares: Spares::default(),
            peaks: Peaks::default(),
            stream_limit: StreamLimit::default(),
            free_for_events: usize::MAX,
        }
    }

    /// The stored state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The control domain.
    #[must_use]
    pub const fn privileged(&self) -> DomId {
        self.config.privileged
    }

    /// A connection.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    /// A connection, to fill its input or to empty its output.
    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// Adds a client of the hosted server.
    pub fn handle_connected(&mut self) -> ConnectionId {
        self.add_connection(Connection::new(Peer::Socket, None))
    }

    /// Removes a client of the hosted server.
    pub fn handle_disconnected(&mut self, id: ConnectionId) {
        if self.connections.get(&id).is_some_and(|connection| connection.peer == Peer::Socket) {
            self.drop_session(id, RestartPhase::Fresh);
            self.connections.remove(&id);
        }
    }

    /// Notes that a domain signalled its port.
    pub fn handle_port(&mut self, port: Port) {
        if let Some(id) = self.ports.get(&port) {
            self.wake(*id);
        }
    }

    /// Puts a connection into the queue of those that have something to do.
    pub fn wake(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.is_queued
        {
            connection.is_queued = true;
            self.ready.push_back(id);
        }
    }

    /// The next connection that may have something to do.
    pub fn poll_ready(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.is_queued = false;
                return Some(id);
            }
        }
        None
    }

    /// How many connections may have something to do.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Whether any connection may have something to do.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A connection whose ring has to be started now: as soon as the one who introduced the domain has his reply, the
    /// domain may use it.
    pub fn poll_starting(&mut self) -> Option<ConnectionId> {
        self.starting.pop()
    }

    /// What the host is to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Engine::handle_timeout`] has something to do, in milliseconds of the same clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let events_ms = self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms);
        [events_ms, self.next_fairness_ms()].into_iter().flatten().min()
    }

    /// Drops events that were not read in time, and lets guests go on that were held back for long enough.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.advance_fairness(now_ms);
        while let Some((deadline_ms, id)) = self.deadlines.first().copied() {
            if deadline_ms > now_ms {
                return;
            }
            self.deadlines.pop_first();
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.deadline_ms = None;
            }
            let Some(session) = self.session_mut(id) else { continue };
            let before = session.output.queued_bytes();
            let causes = session.output.expire(now_ms);
            let was_dropped = session.output.queued_bytes() != before;
            let next = session.output.next_deadline_ms();
            for cause in causes {
                self.settle(cause);
            }
            if was_dropped {
                // There may be room again for requests of its own.
                self.wake(id);
            }
            if let Some(next_ms) = next {
                self.note_deadline(id, next_ms);
            }
        }
    }

    /// Whether bytes may be received for a connection now. A domain with too many outstanding requests has to read their
    /// replies first, and others the events that they caused. One that is in others' way has to wait. One for which more
    /// waits than it may have has to read first.
    #[must_use]
    pub fn may_receive(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(&id).filter(|connection| connection.fault().is_none()) else {
            return false;
        };
        let is_privileged = self.requester_of(id).is_none_or(|requester| requester.is_privileged());
        let limit = self.state.domains.quotas(self.domid_of(id)).limit(Quota::Outstanding);
        let is_free = is_privileged || !self.is_held_back(id) && connection.outstanding() < limit;
        is_free && connection.session().is_some_and(|session| !self.has_to_read_first(id, session))
    }

    /// Notes that `count` bytes were put into a connection's [`input::Input::space`], and handles the request if that
    /// completed it. Returns whether it did.
    pub fn handle_received(
        &mut self,
        id: ConnectionId,
        count: usize,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) -> bool {
        let has_room = self.has_room_for_input(id, hypervisor);
        let Some(session) = self.session_mut(id) else { return false };
        if session.input.advance(count, has_room).is_err() {
            self.handle_fault(id, Fault::Protocol);
            return false;
        }
        if !session.input.is_complete() {
            return false;
        }
        let (header, payload) = session.input.take();
        self.handle_request(id, header, payload.as_deref(), hypervisor, now_ms);
        if let (Some(session), Some(payload)) = (self.session_mut(id), payload) {
            session.input.recycle(payload);
        }
        true
    }

    /// Notes that `count` bytes of a connection's [`output::Output::bytes`] were sent.
    pub fn handle_sent(&mut self, id: ConnectionId, count: usize) {
        if let Some((cause, buffer)) = self.session_mut(id).and_then(|session| session.output.advance(count)) {
            self.spares.give(buffer);
            if let Some(cause) = cause {
                self.settle(cause);
            }
        }
    }

    /// Handles one request: exactly one reply is queued, whatever it says. One without payload had one for which there was no
    /// memory.
    fn handle_request(
        &mut self,
        id: ConnectionId,
        header: Header,
        payload: Option<&[u8]>,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) {
        self.free_for_events = hypervisor.free_memory();
        if let (Some(kind), Some(payload)) = (MessageType::from_wire(header.kind), payload) {
            self.look_at_named(id, kind, payload, hypervisor, now_ms);
        }
        let Some(requester) = self.requester_of(id) else { return };
        self.origin = match &requester {
            Requester::Privileged => None,
            Requester::Domain { .. } => {
                // Never used again, not even by a later session of the same connection: messages that an earlier one
                // caused may still wait somewhere.
                self.next_ticket = self.next_ticket.wrapping_add(1);
                let ticket = self.next_ticket;
                self.connections
                    .get_mut(&id)
                    .map(|connection| connection.issue_ticket(ticket))
                    .map(|()| Origin { connection: id, ticket })
            }
        };
        if self.trace.wants(Switches::IO) {
            let kind = MessageType::from_wire(header.kind);
            log::info!("io: {} asks {kind:?}, {header:?}", self.name(id));
        }
        let mut reply = Reply::new();
        let outcome = match payload {
            Some(payload) => self.run(id, requester, header, payload, &mut reply, hypervisor, now_ms),
            None => Err(Errno::NoSpc),
        };
        if self.trace.wants(Switches::IO) {
            log::info!("io: {} gets {:?}", self.name(id), outcome.as_ref().map(|_| reply.len()));
        }
        if self.trace.wants(Switches::ACC)
            && let Some(domain) = self.state.domains.get(self.domid_of(id))
        {
            log::info!("acc: {} has {} nodes and {} watches", self.name(id), domain.nodes, domain.watches);
        }
        let origin = self.origin.take();
        if let Ok(Some(Effect::Update(command))) = outcome {
            return self.defer(id, header, origin, command);
        }
        self.queue_reply(id, header, outcome.as_ref().map(|_| reply.as_slice()).map_err(|errno| *errno), origin);
        if let Ok(Some(Effect::Watch { path, token, .. })) = outcome {
            self.announce_watch(id, &path, &token, now_ms);
        }
    }

    /// Finds the handler, runs it, and makes its changes true or drops them. Returns the effect that took place.
    #[expect(clippy::too_many_arguments, reason = "one request's circumstances, used once")]
    fn run(
        &mut self,
        id: ConnectionId,
        requester: Requester,
        header: Header,
        payload: &[u8],
        reply: &mut Reply,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) -> Result<Option<Effect>, Errno> {
        let row = MessageType::from_wire(header.kind).and_then(requests::row).ok_or(Errno::NoSys)?;
        if row.is_privileged && !requester.is_privileged() {
            return Err(Errno::Acces);
        }
        let mut transaction = self.take_transaction(id, row, header.transaction_id)?;
        let open_transactions = self.connections.get(&id).and_then(Connection::session);
        let open_transactions = open_transactions.map_or(0, Session::open_transactions);
        let budget = self.budget(id, transaction.as_ref(), hypervisor);
        self.changes.clear();
        let mut call = Call {
            view: View {
                state: &self.state,
                config: &self.config,
                requester,
                transaction: transaction.as_mut(),
                budget,
            },
            connection: id,
            domid: self.domid_of(id),
            open_transactions,
            trace: self.trace,
            was_refused_memory: false,
            payload,
            hypervisor,
            changes: &mut self.changes,
            reply,
        };
        in_hand::begin(id, header, payload);
        #[cfg(feature = "boot-test")]
        in_hand::crash_if_asked(&mut call);
        let mut outcome = (row.handler)(&mut call);
        in_hand::end();
        if outcome.is_ok() && call.reply.len() > limits::SMALL_REPLY_BYTES {
            outcome = call.grow_reply();
        }
        let (was_refused, used, mut budget) = (call.was_refused_memory, call.view.budget.used(), call.view.budget);
        if let (Some(transaction), Some(kind)) = (&mut transaction, MessageType::from_wire(header.kind)) {
            self.record(transaction, kind, requester, payload, outcome.map(|()| reply.as_slice()), &mut budget);
        }
        let outcome = self.finish(id, header, outcome, transaction, reply, hypervisor, now_ms);
        self.warn_of_memory(id, used, was_refused, now_ms);
        outcome
    }

    /// Keeps a request with its transaction, so that it can be replayed; one that did something else as well is not. Without
    /// memory for it there will be no replay.
    fn record(
        &self,
        transaction: &mut Transaction,
        kind: MessageType,
        requester: Requester,
        payload: &[u8],
        reply: Result<&[u8], Errno>,
        budget: &mut Budget,
    ) {
        if !self.config.replay || !replay::is_recorded(kind) || self.changes.effect.is_some() {
            return;
        }
        let record = transaction.record_mut();
        if record.requests().is_none() {
            return;
        }
        match budget.take(Record::bytes_of(payload, reply)) {
            Ok(()) => record.push(kind, payload, reply, replay::record_limits(requester.is_privileged())),
            Err(_) => *record = Record::dropped(),
        }
    }

    /// Makes the changes true, or drops them, and puts the transaction back unless it is over.
    #[expect(clippy::too_many_arguments, reason = "one request's circumstances, used once")]
    fn finish(
        &mut self,
        id: ConnectionId,
        header: Header,
        outcome: Result<(), Errno>,
        mut transaction: Option<Transaction>,
        reply: &mut Reply,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) -> Result<Option<Effect>, Errno> {
        // Before the transaction counts as over: with the last one of all it is forgotten who wrote what.
        let in_the_way = core::mem::take(&mut self.changes.in_the_way);
        self.blame(id, &in_the_way, now_ms);
        if outcome.is_err() {
            self.changes.peaks.clear();
        }
        self.note_peaks(id, transaction.as_ref().map(Transaction::len));
        let mut effect = None;
        if outcome.is_ok() {
            self.learn_domains(hypervisor);
            match &mut transaction {
                Some(transaction) => self.apply_in_transaction(transaction),
                None if self.changes.nodes.is_empty() => {}
                None => {
                    let before = self.state.generation();
                    let written = self.apply_nodes(now_ms);
                    self.account_write(id, before, written, now_ms);
                }
            }
            effect = self.changes.effect.take();
        }
        let mut ended = None;
        if let Some(transaction) = transaction {
            if self.changes.ends_transaction {
                ended = Some(transaction);
                self.note_closed(id, 1);
            } else if let Some(session) = self.session_mut(id) {
                session.transactions.insert(header.transaction_id, transaction);
            }
        }
        self.changes.clear();
        outcome?;
        match effect {
            Some(Effect::StartTransaction) => {
                self.start_transaction(id, reply, now_ms);
                Ok(None)
            }
            Some(Effect::Watch { path, token, relative, depth }) => {
                self.add_watch(id, &path, &token, relative, depth);
                Ok(Some(Effect::Watch { path, token, relative, depth }))
            }
            Some(Effect::Report(report)) => {
                self.report(report, reply);
                Ok(None)
            }
            Some(Effect::Update(command)) => Ok(Some(Effect::Update(command))),
            Some(effect) => {
                self.apply_effect(id, effect, ended, hypervisor, now_ms);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Notes how much a request's client has had, now that the request is granted or refused.
    fn note_peaks(&mut self, id: ConnectionId, transaction_nodes: Option<usize>) {
        let Some(domid) = self.domain_of(id) else { return };
        let outstanding = self.connections.get(&id).map_or(0, Connection::outstanding);
        self.changes.peaks.note(Quota::TransactionNodes, transaction_nodes.unwrap_or(0));
        self.changes.peaks.note(Quota::Outstanding, outstanding);
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.peaks.merge(&self.changes.peaks);
        }
        if domid != self.config.privileged {
            self.peaks.merge(&self.changes.peaks);
        }
    }

    /// All open connections.
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.connections.values().filter_map(Connection::session)
    }

    /// Opens a transaction and answers its number.
    fn start_transaction(&mut self, id: ConnectionId, reply: &mut Reply, now_ms: u64) {
        let Some(session) = self.session_mut(id) else { return };
        let transaction = session.free_transaction_id();
        session.transactions.insert(transaction, Transaction::started(now_ms));
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} opens transaction {transaction}", self.name(id));
        }
        self.note_opened(id);
        reply.clear();
        // Ten digits and a NUL always fit.
        let _ = requests::text(reply, format_args!("{transaction}\0"));
    }

    /// The transaction that a request names, taken out while the request is handled.
    fn take_transaction(&mut self, id: ConnectionId, row: Row, number: u32) -> Result<Option<Transaction>, Errno> {
        if number == 0 || row.ignores_transaction {
            return Ok(None);
        }
        let session = self.session_mut(id).ok_or(Errno::NoEnt)?;
        session.transactions.remove(&number).map(Some).ok_or(Errno::NoEnt)
    }

    fn queue_reply(
        &mut self,
        id: ConnectionId,
        request: Header,
        outcome: Result<&[u8], Errno>,
        origin: Option<Origin>,
    ) {
        let mut error = heapless::Vec::<u8, 16>::new();
        let (kind, payload) = match outcome {
            Ok(payload) => (request.kind, payload),
            Err(errno) => {
                // The longest name is ENOTEMPTY.
                let _ = error.extend_from_slice(errno.name().as_bytes());
                let _ = error.push(0);
                (MessageType::Error.to_wire(), error.as_slice())
            }
        };
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
        let header = Header { kind, payload_bytes, ..request };
        let bytes = HEADER_BYTES.saturating_add(payload.len());
        let Self { connections, spares, .. } = self;
        if let Some((session, _)) = connections.get_mut(&id).and_then(Connection::session_mut) {
            // What is not sent at once gets no more room than it needs.
            let is_next = session.output.is_empty();
            let buffer = if is_next { spares.take(bytes) } else { Vec::with_capacity(bytes) };
            session.output.push_reply(buffer, header, payload, origin);
            self.wake(id);
        } else if let Some(origin) = origin {
            self.settle(origin);
        }
    }

    /// Leaves a request to the host, which answers it later.
    fn defer(&mut self, id: ConnectionId, header: Header, origin: Option<Origin>, command: UpdateCommand) {
        self.next_deferred = self.next_deferred.saturating_add(1);
        let number = self.next_deferred;
        let Some(session) = self.session_mut(id) else { return };
        session.deferred.push(number);
        let asked = Deferred { connection: id, header, origin, number };
        self.actions.push_back(Action::Update { asked, command });
    }

    /// Answers a request that was left to the host. Nothing happens if its connection is gone or has begun anew since.
    pub fn answer(&mut self, asked: Deferred, outcome: Result<&[u8], Errno>) {
        let Deferred { connection, header, origin, number } = asked;
        let Some(session) = self.session_mut(connection) else { return };
        if let Some(at) = session.deferred.iter().position(|waiting| *waiting == number) {
            session.deferred.swap_remove(at);
            self.queue_reply(connection, header, outcome, origin);
        }
    }

    /// Puts another answer in the place of the last one to a request, if nothing of that was sent.
    pub fn replace_last_reply(&mut self, asked: &Deferred, payload: &[u8]) {
        if let Some(session) = self.session_mut(asked.connection) {
            session.output.replace_last_reply(&asked.header, payload);
        }
    }

    /// Whether a request still waits for its answer.
    #[must_use]
    pub fn waits_for_answer(&self, asked: &Deferred) -> bool {
        let session = self.connections.get(&asked.connection).and_then(Connection::session);
        session.is_some_and(|session| session.deferred.contains(&asked.number))
    }

    /// Notes that one message that a request caused was delivered or dropped, and lets its sender go on.
    fn settle(&mut self, cause: Origin) {
        if let Some(sender) = self.connections.get_mut(&cause.connection) {
            sender.settle_ticket(cause.ticket);
            self.wake(cause.connection);
        }
    }

    /// Sees to it that a connection's events are looked at when the first one's time is over. One entry is enough: later
    /// events have later times.
    fn note_deadline(&mut self, id: ConnectionId, deadline_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.deadline_ms.is_none()
        {
            connection.deadline_ms = Some(deadline_ms);
            self.deadlines.insert((deadline_ms, id));
        }
    }

    fn add_connection(&mut self, connection: Connection) -> ConnectionId {
        self.next_connection = self.next_connection.saturating_add(1);
        let id = ConnectionId(self.next_connection);
        self.connections.insert(id, connection);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} is connected", self.name(id));
        }
        id
    }

    fn session_mut(&mut self, id: ConnectionId) -> Option<&mut Session> {
        Some(self.connections.get_mut(&id)?.session_mut()?.0)
    }

    /// The domain of a connection; sockets have none.
    fn domain_of(&self, id: ConnectionId) -> Option<DomId> {
        match self.connections.get(&id)?.peer {
            Peer::Socket => None,
            Peer::Domain { domid, .. } => Some(domid),
        }
    }

    /// What a connection is called in the log.
    fn name(&self, id: ConnectionId) -> String {
        match self.domain_of(id) {
            Some(domid) => alloc::format!("domain {domid}"),
            None => alloc::format!("client {}", id.0),
        }
    }

    /// The newest version of the stream that a live update may write; `None` for what is needed.
    #[must_use]
    pub fn stream_limit(&self) -> Option<u32> {
        self.stream_limit.or(self.config.stream_version)
    }

    /// Limits the version from now on, whatever the boot option says.
    pub fn limit_stream(&mut self, limit: Option<u32>) {
        self.stream_limit = limit.map_or(StreamLimit::Auto, StreamLimit::Version);
    }

    /// The domain to which a connection's relative paths belong.
    #[must_use]
    pub fn domid_of(&self, id: ConnectionId) -> DomId {
        self.domain_of(id).unwrap_or(DomId::DOM0)
    }

    /// How many rings and ports are in use.
    #[must_use]
    pub fn rings_and_ports(&self) -> (usize, usize) {
        let rings = self.connections.values().filter(|connection| connection.peer != Peer::Socket).count();
        (rings, self.ports.len())
    }
}
