//! One request, one change set.
//!
//! The engine does no input or output, and has no clock. Inputs that may execute requests or queue events take a
//! [`Turn`]: the host lends the engine its hypervisor, the present time, and the work meter. The methods are of three
//! kinds:
//!
//! - `handle_*` take an input. [`Engine::handle_boot_domain`] connects a domain at boot, and
//!   [`Engine::handle_connected`] a client of the hosted server. [`Engine::handle_port`] takes a signal.
//!   [`Engine::handle_received`] and [`Engine::handle_sent`] take counts of bytes. Others take a protocol error, a
//!   change of the domains, or time.
//! - `poll_*` give output. [`Engine::poll_ready`], [`Engine::poll_starting`] and [`Engine::poll_action`] take the next
//!   entry of a queue. [`Engine::poll_timeout`] only reads.
//! - Of all others, those with `&self` only read. Those with `&mut self` change what their names say. For example,
//!   [`Engine::wake`] queues a connection, and [`Engine::connection_mut`] lends one for its bytes. [`Engine::answer`]
//!   replies to a deferred request, and [`Engine::limit_stream`] limits the stream's version.
//!
//! After each input, the host takes connections from [`Engine::poll_ready`] until the queue is empty. For each one, it
//! sends [`Output::bytes`](connection::output::Output::bytes), and fills
//! [`Input::space`](connection::input::Input::space) while [`Engine::may_receive`] allows it. The host then executes
//! the actions from [`Engine::poll_action`]. It waits until the next input, or until [`Engine::poll_timeout`].
//!
//! The same inputs give the same outputs, to the byte.
//!
//! The folders, by subject:
//!
//! - [`connection`]: one connection with its input, output queue, tickets and open transactions; replies and their
//!   buffers.
//! - [`requests`]: the command table and its handlers; the view and the change set of one request; how a change set is
//!   applied.
//! - `events`: which watches a change concerns, announcements that take several turns, and counts of dropped events.
//! - [`domains`]: introduction, release, the removal of a dead domain's nodes, and reattachment after an update.
//! - [`fairness`]: write credits, conflict credits, and shares of memory.
//! - [`report`]: answers to CONTROL, trace lines, and the record of a crash.
//! - [`snapshot`]: the state as a sequence of items, for a successor.

pub mod config;
pub mod connection;
pub mod domains;
mod events;
pub mod fairness;
pub mod hypervisor;
pub mod report;
pub mod requests;
pub mod snapshot;
pub mod turn;
pub mod work;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use crate::engine::config::{Config, StreamLimit};
use crate::engine::connection::buffer_pool::BufferPool;
use crate::engine::connection::connections::Connections;
use crate::engine::connection::output::{Dropped, Origin};
use crate::engine::connection::{Connection, Peer, ProtocolError};
use crate::engine::domains::departures::{Departures, must_check_named};
use crate::engine::domains::introduce::Preparation;
use crate::engine::events::announcements::Announcements;
use crate::engine::events::drops::Drops;
use crate::engine::events::postponed::Discarded;
use crate::engine::fairness::Fairness;
use crate::engine::hypervisor::Port;
use crate::engine::report::trace::{Switches, Trace};
use crate::engine::requests::change_set::{ChangeSet, UpdateCommand};
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::quota::{Peaks, Quota};
use crate::store::state::State;
use crate::store::watch::{ConnectionId, Watch};
use crate::wire::header::{Header, MessageType};

/// A task of the engine for its host.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Log the memory, rings and ports in use, for a memory report or a check.
    ReportMemory,
    /// Execute a command of CONTROL's `live-update`, and reply by [`Engine::answer`].
    Update {
        /// The request to answer.
        asked: Deferred,
        /// The command of that request.
        command: UpdateCommand,
    },
}

/// A request that is answered later. Its connection is read meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// The connection that sent the request.
    pub connection: ConnectionId,
    header: Header,
    origin: Option<Origin>,
    number: u64,
}

impl Deferred {
    /// Returns the whole message that answers the request, for a successor to send.
    #[must_use]
    pub fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(0);
        connection::output::message(Header { payload_bytes, ..self.header }, payload)
    }
}

/// The state of a connection after its session was dropped.
#[derive(Clone, Copy)]
enum NextSession {
    Reset,
    Failed(ProtocolError),
}

/// The engine: all state, and all connections.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    state: State,
    connections: Connections,
    fairness: Fairness,
    actions: VecDeque<Action>,
    /// The number of the newest request that counts as outstanding.
    next_ticket: u64,
    /// The number of the newest request that is answered later.
    next_deferred: u64,
    /// Announcements that take more than one turn.
    announcements: Announcements,
    /// Domains that are gone and whose nodes are being removed.
    departures: Departures,
    /// Queues and transactions of reset connections.
    discarded: Discarded,
    /// Counts of dropped events.
    drops: Drops,
    /// The time of the latest [`Engine::handle_timeout`].
    now_ms: u64,
    /// Found watches; kept empty between events for its capacity.
    found_watches: Vec<Rc<Watch>>,
    /// The change set of the request in flight; kept empty between requests for its capacity.
    changes: ChangeSet,
    /// The introduction that is prepared and not applied.
    preparation: Option<Preparation>,
    /// Buffers kept for the next replies.
    buffer_pool: BufferPool,
    /// The maxima of all limited resources, over all guests.
    peaks: Peaks,
    /// The trace lines to log.
    trace: Trace,
    /// The limit that CONTROL's `stream-version` set.
    stream_limit: StreamLimit,
}

impl Engine {
    /// Creates an engine with a new store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            state: State::new(config.privileged, config.quotas.clone()),
            trace: config.trace,
            config,
            connections: Connections::default(),
            fairness: Fairness::default(),
            actions: VecDeque::new(),
            next_ticket: 0,
            next_deferred: 0,
            announcements: Announcements::default(),
            departures: Departures::default(),
            discarded: Discarded::default(),
            drops: Drops::default(),
            now_ms: 0,
            found_watches: Vec::new(),
            changes: ChangeSet::default(),
            preparation: None,
            buffer_pool: BufferPool::default(),
            peaks: Peaks::default(),
            stream_limit: StreamLimit::default(),
        }
    }

    /// Returns the stored state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Returns the control domain.
    #[must_use]
    pub const fn privileged(&self) -> DomId {
        self.config.privileged
    }

    /// Returns a connection.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(id)
    }

    /// Returns a connection, to fill its input or to empty its output.
    pub fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id)
    }

    /// Adds a client of the hosted server.
    pub fn handle_connected(&mut self) -> ConnectionId {
        self.add_connection(Connection::new(Peer::Socket, None))
    }

    /// Removes a client of the hosted server.
    pub fn handle_disconnected(&mut self, id: ConnectionId, work: &mut Work) {
        if self.connections.get(id).is_some_and(|connection| connection.peer == Peer::Socket) {
            self.drop_session(id, NextSession::Reset, work);
            self.connections.remove(id);
            self.forget_reader(id);
        }
    }

    /// Queues the connection whose domain signalled this port.
    pub fn handle_port(&mut self, port: Port) {
        if let Some(id) = self.connections.with_port(port) {
            self.connections.wake(id);
        }
    }

    /// Queues a connection for a turn.
    pub fn wake(&mut self, id: ConnectionId) {
        self.connections.wake(id);
    }

    /// Takes the next connection that may have pending work.
    pub fn poll_ready(&mut self) -> Option<ConnectionId> {
        self.connections.pop_ready()
    }

    /// Returns the number of connections that may have pending work.
    #[must_use]
    pub fn ready_len(&self) -> usize {
        self.connections.ready_len()
    }

    /// Returns whether any connection may have pending work.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.connections.ready_len() > 0
    }

    /// Takes a connection whose ring the host must start before it sends the introduction's reply. The domain may use
    /// the ring as soon as the toolstack has that reply.
    pub fn poll_starting(&mut self) -> Option<ConnectionId> {
        self.connections.pop_starting()
    }

    /// Takes the next task for the host.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the time at which [`Engine::handle_timeout`] has something to do, in milliseconds of the host's clock.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let all_ms = [self.connections.next_deadline_ms(), self.next_fairness_ms(), self.next_drop_log_ms()];
        all_ms.into_iter().flatten().min()
    }

    /// Drops events that were not read in time, and resumes guests that were held back for long enough. If events
    /// remain after [`limits::EXPIRED_AT_ONCE`] drops, the next timeout is due at once.
    pub fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        self.now_ms = turn.now_ms;
        self.advance_fairness(turn);
        self.drop_old_lists(turn);
        self.log_drops(turn);
        let mut left = limits::EXPIRED_AT_ONCE;
        while left > 0
            && let Some(id) = self.connections.pop_expired(turn.now_ms)
        {
            if self.guest_of(id).is_none() {
                self.give_up_reader(id, turn);
                continue;
            }
            let Some(session) = self.connections.session_mut(id) else { continue };
            let dropped = session.output.expire(turn.now_ms, left);
            let next = session.output.next_deadline_ms();
            // A connection with nothing to drop costs a check, too.
            left = left.saturating_sub(dropped.len().max(1));
            for Dropped { origin, originator } in &dropped {
                turn.work.spend(1);
                self.note_dropped(*originator, id, turn);
                if let Some(origin) = origin {
                    self.settle(*origin);
                }
            }
            if !dropped.is_empty() {
                // There may be room again for the receiver's own requests.
                self.connections.wake(id);
            }
            if let Some(next_ms) = next {
                self.connections.note_deadline(id, next_ms);
            }
        }
    }

    /// Returns whether bytes may be received for a connection now. Not if the connection is held back for its writes or
    /// conflicts, or has too many outstanding requests. Not while an announcement or a departing domain delays it. Not
    /// if more output is pending than its client may leave unread.
    #[must_use]
    pub fn may_receive(&self, id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(id).filter(|connection| connection.error().is_none()) else {
            return false;
        };
        let is_privileged = self.requester_of(id).is_none_or(|requester| requester.is_privileged());
        let limit = self.state.domains.quotas(self.domid_of(id)).limit(Quota::Outstanding);
        let is_waiting = connection.waits_for_departure || connection.announced_bytes.is_some();
        let is_free = is_privileged || !self.is_held_back(id) && connection.outstanding() < limit;
        is_free && !is_waiting && connection.session().is_some_and(|session| !self.has_to_read_first(id, session))
    }

    /// Returns whether a complete request that was held back may be executed now.
    #[must_use]
    pub fn has_complete_request(&self, id: ConnectionId) -> bool {
        let session = self.connections.session(id);
        session.is_some_and(|session| session.input.is_complete()) && self.may_receive(id)
    }

    /// Returns whether the complete request has to wait because it names a departing domain.
    fn is_held_for_departure(&mut self, id: ConnectionId, kind: MessageType, turn: &mut Turn<'_>) -> bool {
        let payload = self.connections.session_mut(id).and_then(|session| session.input.take_payload());
        let Some(payload) = payload else { return false };
        self.check_named_domains(id, kind, &payload, turn);
        turn.note_free_memory();
        let is_held = self.hold_for_departure(id, kind, &payload);
        if let Some(session) = self.connections.session_mut(id) {
            session.input.put_payload_back(payload);
        }
        is_held
    }

    /// Notes that `count` bytes were put into a connection's [`Input::space`](connection::input::Input::space), and
    /// handles the request if it is complete. Returns whether it did.
    pub fn handle_received(&mut self, id: ConnectionId, count: usize, turn: &mut Turn<'_>) -> bool {
        let any_departs = !self.departures.is_empty();
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let is_guest = connection.domid().is_some_and(|domid| domid != self.config.privileged);
        let has_room = !is_guest || turn.free_bytes >= limits::GUEST_INPUT_RESERVE_BYTES;
        let Some((session, _)) = connection.session_mut() else { return false };
        if session.input.advance(count, has_room).is_err() {
            self.handle_protocol_error(id, ProtocolError::Protocol, turn);
            return false;
        }
        if !session.input.is_complete() {
            return false;
        }
        let kind = MessageType::from_wire(session.input.header().kind);
        let (header, payload) = if let Some(kind) = kind.filter(|kind| must_check_named(*kind, any_departs)) {
            if self.is_held_for_departure(id, kind, turn) {
                return false;
            }
            let Some(session) = self.connections.session_mut(id) else { return false };
            session.input.take()
        } else {
            session.input.take()
        };
        self.handle_request(id, header, payload.as_deref(), turn);
        self.note_growth(turn);
        if let (Some(session), Some(payload)) = (self.connections.session_mut(id), payload) {
            session.input.recycle(payload);
        }
        true
    }

    /// Notes that `count` bytes of a connection's [`Output::bytes`](connection::output::Output::bytes) were sent.
    pub fn handle_sent(&mut self, id: ConnectionId, count: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_awaited = connection.reading.is_noted();
        let sent = connection.session_mut().and_then(|(session, _)| session.output.advance(count));
        if let Some((cause, buffer)) = sent {
            self.buffer_pool.give(buffer);
            if let Some(cause) = cause {
                self.settle(cause);
            }
        }
        if is_awaited {
            self.note_reading(id, count);
        }
    }

    /// Forgets a connection that is gone as a receiver of events.
    fn forget_reader(&mut self, id: ConnectionId) {
        self.release_waiting(id);
        self.drops.forget_receiver(id);
    }

    /// Notes that one message of a request was delivered or dropped, and queues the connection that sent the request.
    fn settle(&mut self, cause: Origin) {
        if let Some(sender) = self.connections.get_woken(cause.connection) {
            sender.settle_ticket(cause.ticket);
        }
    }

    fn add_connection(&mut self, connection: Connection) -> ConnectionId {
        let id = self.connections.add(connection);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} is connected", self.name(id));
        }
        id
    }

    /// Returns the name of a connection's client in log lines.
    fn name(&self, id: ConnectionId) -> String {
        match self.connections.domain_of(id) {
            Some(domid) => alloc::format!("domain {domid}"),
            None => alloc::format!("client {}", id.0),
        }
    }

    /// Returns the newest version of the stream that a live update may write; `None` for the version that the state
    /// requires.
    #[must_use]
    pub fn stream_limit(&self) -> Option<u32> {
        self.stream_limit.or(self.config.stream_version)
    }

    /// Limits the version from now on, and overrides the boot option. `None` removes the limit.
    pub fn limit_stream(&mut self, limit: Option<u32>) {
        self.stream_limit = limit.map_or(StreamLimit::Auto, StreamLimit::Version);
    }

    /// Returns the domain to which a connection's relative paths belong.
    #[must_use]
    pub fn domid_of(&self, id: ConnectionId) -> DomId {
        self.connections.domain_of(id).unwrap_or(DomId::DOM0)
    }

    /// Returns the numbers of rings and ports in use.
    #[must_use]
    pub fn rings_and_ports(&self) -> (usize, usize) {
        let rings = self.connections.iter().filter(|(_, connection)| connection.peer != Peer::Socket).count();
        (rings, self.connections.ports().len())
    }
}
