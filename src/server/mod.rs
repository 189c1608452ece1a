//! Moves bytes between rings and the engine. This is the body of the main loop, shared by the kernel, the hosted server
//! and the simulator.
//!
//! The host calls [`Server::handle_event`] for each port that fired. It calls [`Server::handle_domain_exception`] when
//! the hypervisor reports that a domain shut down or died. It then calls [`Server::poll`] until the server is no longer
//! busy. Each call of `poll` does a bounded amount of work. Each connection's turn in it is bounded too
//! ([`crate::limits::REQUESTS_PER_TURN`], [`crate::limits::TURN_STEPS`]). One domain's flood therefore does not delay
//! another.

mod auto_introduce;
pub mod reattach;
mod restart;
pub mod stream;
pub mod update;
mod update_report;

use alloc::collections::VecDeque;

pub use crate::engine::Engine;
use crate::engine::connection::{Connection, Peer, ProtocolError, RingStart};
use crate::engine::hypervisor::{Hypervisor, Port};
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{self, config::Config};
use crate::limits;
use crate::server::update::Updates;
use crate::store::domain::DomId;
pub use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::ring::{Field, ImpossibleIndex, Ring, RingPage};

/// The host's services for the server, in addition to [`Hypervisor`]: the mapped pages, and notifications.
pub trait Platform: Hypervisor {
    /// A mapped ring page.
    type Page: RingPage;

    /// Returns the ring page that [`Hypervisor::map_ring`] mapped for `domid`; `None` if it is not mapped.
    fn page(&self, domid: DomId) -> Option<&Self::Page>;

    /// Estimates what a live update with a stream of `_stream_bytes` bytes needs. Returns `None` on a host without live
    /// update.
    fn update_figures(&self, _stream_bytes: usize) -> Option<UpdateFigures> {
        None
    }

    /// Signals the other end of `port`.
    fn notify(&mut self, port: Port);
}

/// The estimated needs of a live update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateFigures {
    /// Bytes of memory needed in addition to what is in use.
    pub needed_bytes: usize,
    /// Bytes of free memory.
    pub free_bytes: usize,
    /// Estimated pause in milliseconds, in which no domain is served.
    pub pause_ms: u64,
}

/// The outcome of [`Server::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Whether work is left: call again before sleeping.
    pub busy: bool,
    /// Time of the next call if nothing happens before, in milliseconds of the same clock.
    pub deadline_ms: Option<u64>,
}

/// A request of the server to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Log the memory in use, and the numbers of rings and ports, as CONTROL `check` requires.
    ReportMemory,
    /// Start the successor that [`Server::take_successor`] hands out.
    StartUpdate,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    /// The work meter of all turns.
    work: Work,
    updates: Updates,
    actions: VecDeque<Action>,
    /// Whether the hypervisor has reported that a domain shut down or died, since the last turn.
    has_exception: bool,
    /// Clients of the hosted server that may have work.
    sockets: VecDeque<ConnectionId>,
    /// Number of requests executed.
    requests: u64,
}

/// Whether the ring's error word of a shut connection changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The reason was written just now.
    News,
    /// The reason was there already, or the domain is not offered the error word.
    Before,
}

/// The outcome of one ring's turn.
#[derive(Default)]
struct RingTurn {
    /// Bytes were moved, and the other end needs a notification.
    moved: bool,
    /// The turn ended before the ring was empty.
    unfinished: bool,
}

impl Server {
    /// Creates a server with a new store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_engine(Engine::new(config))
    }

    fn with_engine(engine: Engine) -> Self {
        Self {
            engine,
            work: Work::default(),
            updates: Updates::default(),
            actions: VecDeque::new(),
            has_exception: false,
            sockets: VecDeque::new(),
            requests: 0,
        }
    }

    /// Returns the engine, read-only.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the number of requests executed. A successor and a warm restart start at zero.
    #[must_use]
    pub const fn requests_handled(&self) -> u64 {
        self.requests
    }

    /// Returns the elementary steps of work since the start ([`crate::engine::work`]).
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.work.steps()
    }

    /// Connects a domain that exists before the server, as [`Engine::handle_boot_domain`].
    ///
    /// # Errors
    /// Fails with the hypervisor's error if the ring cannot be mapped or the port cannot be bound.
    pub fn handle_boot_domain<P: Platform>(
        &mut self,
        domid: DomId,
        remote_port: u32,
        platform: &mut P,
    ) -> Result<(), Errno> {
        self.engine.handle_boot_domain(domid, remote_port, platform)
    }

    /// Notes that one of the server's ports fired.
    pub fn handle_event(&mut self, port: Port) {
        self.engine.handle_port(port);
    }

    /// Notes that the hypervisor has reported the shutdown or death of a domain.
    pub fn handle_domain_exception(&mut self) {
        self.has_exception = true;
    }

    /// Adds a client of the hosted server.
    pub fn handle_connected(&mut self) -> ConnectionId {
        self.engine.handle_connected()
    }

    /// Removes a client of the hosted server.
    pub fn handle_disconnected(&mut self, id: ConnectionId) {
        self.engine.handle_disconnected(id, &mut self.work);
    }

    /// Takes bytes that a client of the hosted server sent, and executes up to [`limits::REQUESTS_PER_TURN`] requests.
    /// Returns the number of bytes taken. The caller offers the rest again later.
    pub fn handle_received<P: Platform>(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        platform: &mut P,
        now_ms: u64,
    ) -> usize {
        let mut rest = bytes;
        let mut requests = 0;
        self.work.begin_turn();
        while (!rest.is_empty() || self.engine.has_complete_request(id))
            && requests < limits::REQUESTS_PER_TURN
            && !self.work.is_turn_over()
            && self.engine.may_receive(id)
        {
            let Some((session, _)) = self.engine.connection_mut(id).and_then(Connection::session_mut) else { break };
            let space = session.input.space();
            let count = space.len().min(rest.len());
            let (Some(to), Some((from, behind))) = (space.get_mut(..count), rest.split_at_checked(count)) else {
                break;
            };
            to.copy_from_slice(from);
            rest = behind;
            if self.engine.handle_received(id, count, &mut Turn::new(platform, now_ms, &mut self.work)) {
                requests = requests.saturating_add(1);
                self.requests = self.requests.saturating_add(1);
                self.start_introduced(platform);
            }
        }
        bytes.len().saturating_sub(rest.len())
    }

    /// Returns the bytes to send to a client of the hosted server, message by message.
    pub fn poll_transmit(&self, id: ConnectionId) -> impl Iterator<Item = &[u8]> {
        let session = self.engine.connection(id).and_then(Connection::session);
        session.into_iter().flat_map(|session| session.output.pieces())
    }

    /// Returns whether there are bytes to send to a client of the hosted server.
    #[must_use]
    pub fn has_to_transmit(&self, id: ConnectionId) -> bool {
        let session = self.engine.connection(id).and_then(Connection::session);
        session.is_some_and(|session| !session.output.is_empty())
    }

    /// Notes that the first `count` of the bytes of [`Server::poll_transmit`] were sent.
    pub fn handle_transmitted(&mut self, id: ConnectionId, mut count: usize) {
        while count > 0 {
            let first = self.poll_transmit(id).next().map_or(0, <[u8]>::len);
            if first == 0 {
                return;
            }
            let sent = first.min(count);
            self.engine.handle_sent(id, sent);
            count = count.saturating_sub(sent);
        }
    }

    /// Returns whether a connection exists and has not been shut for a protocol error.
    #[must_use]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.engine.connection(id).is_some_and(|connection| connection.error().is_none())
    }

    /// Treats all connections and domains as if they had signalled. For use after a time in which signals were lost.
    pub fn wake_all(&mut self) {
        self.engine.wake_all();
        self.has_exception = true;
    }

    /// Returns the next action for the host.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns whether work is pending.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.engine.has_ready() || self.engine.has_postponed()
    }

    /// Executes the engine's actions: handles updates itself and queues the rest for the host.
    fn act<P: Platform>(&mut self, platform: &P, now_ms: u64) {
        self.updates.drop_abandoned(now_ms);
        while let Some(action) = self.engine.poll_action() {
            match action {
                engine::Action::ReportMemory => self.actions.push_back(Action::ReportMemory),
                engine::Action::Update { asked, command } => self.handle_update(asked, command, platform, now_ms),
            }
        }
        self.go_on_with_update(now_ms);
    }

    /// Does a turn of work: serves each ring with pending work once.
    ///
    /// The cost is bounded in steps of the meter ([`crate::engine::work`]). A ring with pending work costs at most
    /// [`limits::TURN_STEPS`] and the excess of its last request ([`limits::REQUEST_STEPS_MOST`]). Each of the three
    /// kinds of postponed work costs at most [`limits::POSTPONED_STEPS`] and the excess of its last piece. A ring
    /// without work costs nothing.
    pub fn poll<P: Platform>(&mut self, platform: &mut P, now_ms: u64) -> Poll {
        if core::mem::take(&mut self.has_exception) {
            self.engine.handle_domain_exception(&mut Turn::new(platform, now_ms, &mut self.work));
        }
        self.engine.handle_timeout(&mut Turn::new(platform, now_ms, &mut self.work));
        for _ in 0..self.engine.ready_len() {
            let Some(id) = self.engine.poll_ready() else { break };
            self.serve(id, platform, now_ms);
        }
        self.engine.handle_postponed(&mut Turn::new(platform, now_ms, &mut self.work));
        self.act(platform, now_ms);
        let deadlines = [self.engine.poll_timeout(), self.updates.deadline_ms()];
        Poll { busy: self.is_busy(), deadline_ms: deadlines.into_iter().flatten().min() }
    }

    /// Returns a client of the hosted server that has bytes to send, or whose input may be read again.
    pub fn poll_socket(&mut self) -> Option<ConnectionId> {
        self.sockets.pop_front()
    }

    /// Gives one connection its turn. The host serves sockets.
    fn serve<P: Platform>(&mut self, id: ConnectionId, platform: &mut P, now_ms: u64) {
        let domid = match self.engine.connection(id).map(|connection| connection.peer) {
            Some(Peer::Domain { domid, .. }) => domid,
            Some(Peer::Socket) => return self.sockets.push_back(id),
            None => return,
        };
        self.look_for_reconnection(id, domid, platform);
        if let Some(told) = self.report_error(id, domid, platform) {
            // A crash or a restart shut the connection since its last turn. The domain may sleep until a reply
            // arrives, and needs a notification.
            let port = self.port_of(id).filter(|_| told == Told::News);
            return port.into_iter().for_each(|port| platform.notify(port));
        }
        let outcome = self.serve_ring(id, domid, platform, now_ms);
        if outcome.is_err() {
            // The domain may have erased its ring during the turn.
            if self.look_for_reconnection(id, domid, platform) {
                return self.engine.wake(id);
            }
            let mut turn = Turn::new(platform, now_ms, &mut self.work);
            self.engine.handle_protocol_error(id, ProtocolError::RingIndex, &mut turn);
        }
        // A request on this very ring may have introduced the domain again, with a different port.
        let port = self.port_of(id);
        let is_shut = self.report_error(id, domid, platform).is_some();
        let turn = outcome.unwrap_or_default();
        if turn.unfinished {
            self.engine.wake(id);
        }
        if let Some(port) = port
            && (turn.moved || is_shut)
        {
            platform.notify(port);
            if self.has_more(id, domid, platform) {
                self.engine.wake(id);
            }
        }
    }

    /// Returns the server's port of a domain's connection.
    fn port_of(&self, id: ConnectionId) -> Option<Port> {
        match self.engine.connection(id)?.peer {
            Peer::Domain { port, .. } => port,
            Peer::Socket => None,
        }
    }

    /// Returns whether the ring has new work since its turn. A domain signals only if its queue state would block the
    /// server. It may have checked just before the server changed the ring, and then sends no further signal.
    fn has_more<P: Platform>(&self, id: ConnectionId, domid: DomId, platform: &P) -> bool {
        let (Some(connection), Some(page)) = (self.engine.connection(id), platform.page(domid)) else { return false };
        let Some(session) = connection.session() else { return false };
        page.fence();
        let has_room = || connection.ring.writable(page).is_ok_and(|bytes| bytes > 0);
        let has_requests = || connection.ring.readable(page).is_ok_and(|bytes| bytes > 0);
        !session.output.is_empty() && has_room() || self.engine.may_receive(id) && has_requests()
    }

    /// Writes the reason why a connection was shut into the ring's error word, if the domain is offered that feature.
    /// Returns `None` if the connection was not shut.
    fn report_error<P: Platform>(&self, id: ConnectionId, domid: DomId, platform: &P) -> Option<Told> {
        let error = self.engine.connection(id).and_then(Connection::error)?;
        let page = platform.page(domid).filter(|_| self.engine.features(id).contains(Features::ERROR));
        let Some(page) = page.filter(|page| page.load(Field::Error) != error as u32) else { return Some(Told::Before) };
        page.store(Field::Error, error as u32);
        Some(Told::News)
    }

    /// Resets the connection if the domain requests it (`docs/misc/xenstore-ring.txt`, "The ring reconnection
    /// feature").
    ///
    /// A domain may also erase its ring without such a request, as firmware does before it starts a kernel. The C
    /// server reads its own indices from the page, and does not notice. Returns whether the ring was erased.
    fn look_for_reconnection<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P) -> bool {
        let Some(page) = platform.page(domid) else { return false };
        if self.engine.features(id).contains(Features::RECONNECTION)
            && page.load(Field::Connection) == CONNECTION_REQUESTED
        {
            self.engine.handle_reconnect(id, &mut self.work);
            return false;
        }
        let session = self.engine.connection_mut(id).and_then(Connection::session_mut);
        let is_erased = session.is_some_and(|(_, ring)| ring.is_erased(page));
        if is_erased {
            self.engine.handle_erased_ring(id);
        }
        is_erased
    }

    /// Sends pending output, executes requests, and sends their replies.
    fn serve_ring<P: Platform>(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        platform: &mut P,
        now_ms: u64,
    ) -> Result<RingTurn, ImpossibleIndex> {
        let mut turn = RingTurn::default();
        self.work.begin_turn();
        self.start_ring(id, domid, platform, &mut turn);
        self.send(id, domid, platform, &mut turn)?;
        let mut requests = 0;
        loop {
            if requests == limits::REQUESTS_PER_TURN || self.work.is_turn_over() {
                turn.unfinished = true;
                break;
            }
            let count = self.receive(id, domid, platform)?;
            if count == 0 && !self.engine.has_complete_request(id) {
                break;
            }
            turn.moved |= count > 0;
            if self.engine.handle_received(id, count, &mut Turn::new(platform, now_ms, &mut self.work)) {
                requests = requests.saturating_add(1);
                self.requests = self.requests.saturating_add(1);
                self.start_introduced(platform);
                self.send(id, domid, platform, &mut turn)?;
            }
        }
        Ok(turn)
    }

    /// Starts the rings of domains that the last request introduced, before its reply is sent. These domains may use
    /// their rings from then on. The reply may also be what lets them run.
    fn start_introduced<P: Platform>(&mut self, platform: &mut P) {
        while let Some(id) = self.engine.poll_starting() {
            let Some(Connection { peer: Peer::Domain { domid, port }, .. }) = self.engine.connection(id) else {
                continue;
            };
            let (domid, port) = (*domid, *port);
            let mut turn = RingTurn::default();
            self.start_ring(id, domid, platform, &mut turn);
            if let Some(port) = port
                && turn.moved
            {
                platform.notify(port);
            }
        }
    }

    /// Starts a ring at introduction.
    fn start_ring<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P, turn: &mut RingTurn) {
        let features = self.engine.features(id);
        let (Some(connection), Some(page)) = (self.engine.connection_mut(id), platform.page(domid)) else { return };
        let Some(start) = connection.ring_start.take() else { return };
        // Written before anything is consumed or produced, so that the domain can rely on it.
        page.store(Field::Features, features.bits());
        if features.contains(Features::ERROR) {
            page.store(Field::Error, NO_ERROR);
        }
        let is_asked = page.load(Field::Connection) == CONNECTION_REQUESTED;
        if start == RingStart::Adopt && !is_asked {
            connection.ring = Ring::adopt(page);
            turn.moved = true;
            return;
        }
        connection.ring = Ring::reset(page);
        if is_asked {
            // The requester waits only for this word, so it is written last.
            page.store(Field::Connection, CONNECTION_ESTABLISHED);
            turn.moved = true;
        }
    }

    /// Copies pending output into the ring, up to the free room.
    fn send<P: Platform>(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        platform: &P,
        turn: &mut RingTurn,
    ) -> Result<(), ImpossibleIndex> {
        loop {
            let Some(page) = platform.page(domid) else { return Ok(()) };
            let connection = self.engine.connection_mut(id);
            let Some((session, ring)) = connection.and_then(Connection::session_mut) else { return Ok(()) };
            let bytes = session.output.bytes();
            if bytes.is_empty() {
                return Ok(());
            }
            let count = ring.write(page, bytes)?;
            if count == 0 {
                return Ok(());
            }
            turn.moved = true;
            self.engine.handle_sent(id, count);
        }
    }

    /// Copies bytes of the next request out of the ring. Returns the number of bytes.
    fn receive<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P) -> Result<usize, ImpossibleIndex> {
        if !self.engine.may_receive(id) {
            return Ok(0);
        }
        let Some(page) = platform.page(domid) else { return Ok(0) };
        let connection = self.engine.connection_mut(id);
        let Some((session, ring)) = connection.and_then(Connection::session_mut) else { return Ok(0) };
        // Bytes that a predecessor received come first.
        match session.input.take_backlog() {
            0 => ring.read(page, session.input.space()),
            count => Ok(count),
        }
    }
}

/// The ring's connection word: the domain requests a reconnection (`docs/misc/xenstore-ring.txt`).
const CONNECTION_REQUESTED: u32 = 1;
/// The ring's error word: no error.
const NO_ERROR: u32 = 0;
/// The ring's connection word: connected.
const CONNECTION_ESTABLISHED: u32 = 0;
