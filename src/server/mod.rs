//! Moves bytes between rings and the engine: the body of the main loop, shared by the kernel, the hosted server and the
//! simulator.
//!
//! The host calls [`Server::handle_event`] for each port that fired, [`Server::handle_domain_exception`] when the
//! hypervisor says that a domain shut down or died, and then [`Server::poll`] until it is not busy any more. Each call of
//! `poll` does a bounded amount of work, and each connection's turn in it is bounded
//! ([`crate::limits::REQUESTS_PER_TURN`], [`crate::limits::TURN_STEPS`]), so that no domain's flood delays another.

mod existing;
mod restart;
pub mod stream;
pub mod take_over;
pub mod update;
mod update_report;

use alloc::collections::VecDeque;

pub use crate::engine::Engine;
use crate::engine::connection::{Connection, Fault, Peer, RingStart};
use crate::engine::hypervisor::{Hypervisor, Port};
use crate::engine::{self, config::Config};
use crate::limits;
use crate::server::update::Updates;
use crate::store::domain::DomId;
pub use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::ring::{Field, ImpossibleIndex, Ring, RingPage};

/// What the server needs beside the engine's questions: the mapped pages, and a way to wake their owners.
pub trait Platform: Hypervisor {
    /// A mapped ring page.
    type Page: RingPage;

    /// The ring page that [`Hypervisor::map_ring`] mapped for `domid`, while it is mapped.
    fn page(&self, domid: DomId) -> Option<&Self::Page>;

    /// What a live update with a stream of so many bytes needs; `None` where there is none.
    fn update_figures(&self, _stream_bytes: usize) -> Option<UpdateFigures> {
        None
    }

    /// Signals the other end of `port`.
    fn notify(&mut self, port: Port);
}

/// What a live update would need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateFigures {
    /// Bytes of memory beside what is in use.
    pub needed_bytes: usize,
    /// Bytes that are free.
    pub free_bytes: usize,
    /// For how long nobody would be served, in milliseconds, as far as can be said.
    pub pause_ms: u64,
}

/// What [`Server::poll`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// There is more to do: call again before sleeping.
    pub busy: bool,
    /// When to call again if nothing happens before, in milliseconds of the same clock.
    pub deadline_ms: Option<u64>,
}

/// What the server asks its host to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Log how much memory is in use, and how many rings and ports: a check was asked for.
    ReportMemory,
    /// Start the successor that [`Server::take_successor`] hands out.
    StartUpdate,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    updates: Updates,
    actions: VecDeque<Action>,
    /// The hypervisor said that a domain shut down or died.
    has_exception: bool,
    /// Clients of the hosted server that may have something to do.
    sockets: VecDeque<ConnectionId>,
    /// Requests that were handled.
    requests: u64,
}

/// What a domain whose connection is shut was told now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Why, in the ring's error word.
    News,
    /// Nothing that does not stand there already.
    Before,
}

/// What happened to a ring in one turn.
#[derive(Default)]
struct Turn {
    /// Bytes were moved: the other end has to know.
    moved: bool,
    /// The turn ended before the ring was empty.
    unfinished: bool,
}

impl Server {
    /// A server with a new store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_engine(Engine::new(config))
    }

    fn with_engine(engine: Engine) -> Self {
        Self {
            engine,
            updates: Updates::default(),
            actions: VecDeque::new(),
            has_exception: false,
            sockets: VecDeque::new(),
            requests: 0,
        }
    }

    /// The engine, to look at.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How many requests were handled; a successor or a restart counts from zero.
    #[must_use]
    pub const fn requests_handled(&self) -> u64 {
        self.requests
    }

    /// Connects the domain that was there before us, as [`Engine::handle_boot_domain`].
    ///
    /// # Errors
    /// What the hypervisor says when ring or port can't be had.
    pub fn handle_boot_domain<P: Platform>(
        &mut self,
        domid: DomId,
        remote_port: u32,
        platform: &mut P,
    ) -> Result<(), Errno> {
        self.engine.handle_boot_domain(domid, remote_port, platform)
    }

    /// Notes that a port of ours fired.
    pub fn handle_event(&mut self, port: Port) {
        self.engine.handle_port(port);
    }

    /// Notes that the hypervisor says that a domain shut down or died.
    pub fn handle_domain_exception(&mut self) {
        self.has_exception = true;
    }

    /// Adds a client of the hosted server.
    pub fn handle_connected(&mut self) -> ConnectionId {
        self.engine.handle_connected()
    }

    /// Removes a client of the hosted server.
    pub fn handle_disconnected(&mut self, id: ConnectionId) {
        self.engine.handle_disconnected(id);
    }

    /// Takes bytes that a client of the hosted server sent, up to [`limits::REQUESTS_PER_TURN`] requests, and handles
    /// them. Returns how many bytes were taken; offer the rest again later.
    pub fn handle_received<P: Platform>(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        platform: &mut P,
        now_ms: u64,
    ) -> usize {
        let mut rest = bytes;
        let mut requests = 0;
        self.engine.begin_turn();
        while (!rest.is_empty() || self.engine.has_complete_request(id))
            && requests < limits::REQUESTS_PER_TURN
            && !self.engine.is_turn_over()
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
            if self.engine.handle_received(id, count, platform, now_ms) {
                requests = requests.saturating_add(1);
                self.requests = self.requests.saturating_add(1);
                self.start_introduced(platform);
            }
        }
        bytes.len().saturating_sub(rest.len())
    }

    /// The bytes to send to a client of the hosted server, message by message; nothing when there are none.
    pub fn poll_transmit(&self, id: ConnectionId) -> impl Iterator<Item = &[u8]> {
        let session = self.engine.connection(id).and_then(Connection::session);
        session.into_iter().flat_map(|session| session.output.pieces())
    }

    /// Whether there is something to send to a client of the hosted server.
    #[must_use]
    pub fn has_to_transmit(&self, id: ConnectionId) -> bool {
        let session = self.engine.connection(id).and_then(Connection::session);
        session.is_some_and(|session| !session.output.is_empty())
    }

    /// Notes that `count` of those bytes were sent, the first ones.
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

    /// Whether a connection is there and has not been shut for breaking the rules.
    #[must_use]
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.engine.connection(id).is_some_and(|connection| connection.fault().is_none())
    }

    /// Looks at every connection and every domain, as if all had signalled: after a time in which signals were lost.
    pub fn wake_all(&mut self) {
        self.engine.wake_all();
        self.has_exception = true;
    }

    /// What the host is to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether there is something to do at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.engine.has_ready() || self.engine.has_postponed()
    }

    /// Does what the engine asks its host for, as far as that is not for ours.
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

    /// Does a turn of work: each ring that has something to do is served once.
    ///
    /// The cost is bounded in steps of the meter ([`crate::engine::work`]). Each ring that has something to do costs at most
    /// [`limits::TURN_STEPS`] and the excess of its last request ([`limits::REQUEST_STEPS_MOST`]). Each of the three kinds of
    /// postponed work costs at most [`limits::POSTPONED_STEPS`] and the excess of its last piece. A ring with nothing to do
    /// costs nothing.
    pub fn poll<P: Platform>(&mut self, platform: &mut P, now_ms: u64) -> Poll {
        if core::mem::take(&mut self.has_exception) {
            self.engine.handle_domain_exception(platform, now_ms);
        }
        self.engine.handle_timeout(now_ms);
        for _ in 0..self.engine.ready_len() {
            let Some(id) = self.engine.poll_ready() else { break };
            self.serve(id, platform, now_ms);
        }
        self.engine.handle_postponed(platform.free_memory(), now_ms);
        self.act(platform, now_ms);
        let deadlines = [self.engine.poll_timeout(), self.updates.deadline_ms()];
        Poll { busy: self.is_busy(), deadline_ms: deadlines.into_iter().flatten().min() }
    }

    /// A client of the hosted server for which there is something to send, or from which more may be received now.
    pub fn poll_socket(&mut self) -> Option<ConnectionId> {
        self.sockets.pop_front()
    }

    /// Gives one connection its turn. Sockets are served by their host.
    fn serve<P: Platform>(&mut self, id: ConnectionId, platform: &mut P, now_ms: u64) {
        let domid = match self.engine.connection(id).map(|connection| connection.peer) {
            Some(Peer::Domain { domid, .. }) => domid,
            Some(Peer::Socket) => return self.sockets.push_back(id),
            None => return,
        };
        self.look_for_reconnection(id, domid, platform);
        if let Some(told) = self.tell_of_fault(id, domid, platform) {
            // Shut since its last turn, by a crash or a restart: a domain that sleeps for a reply has to look.
            let port = self.port_of(id).filter(|_| told == Told::News);
            return port.into_iter().for_each(|port| platform.notify(port));
        }
        let outcome = self.serve_ring(id, domid, platform, now_ms);
        if outcome.is_err() {
            // The domain may have erased its ring during the turn.
            if self.look_for_reconnection(id, domid, platform) {
                return self.engine.wake(id);
            }
            self.engine.handle_broken_rule(id, Fault::RingIndex, now_ms);
        }
        // A request on this very ring may have introduced the domain again, with another port.
        let port = self.port_of(id);
        let is_shut = self.tell_of_fault(id, domid, platform).is_some();
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

    /// Our port of a domain's connection.
    fn port_of(&self, id: ConnectionId) -> Option<Port> {
        match self.engine.connection(id)?.peer {
            Peer::Domain { port, .. } => port,
            Peer::Socket => None,
        }
    }

    /// Whether the ring has moved on since it was served. A domain signals only if it finds the ring as full, or as empty, as
    /// would keep us from going on; it may have looked just before we changed that, and then nobody would signal any more.
    fn has_more<P: Platform>(&self, id: ConnectionId, domid: DomId, platform: &P) -> bool {
        let (Some(connection), Some(page)) = (self.engine.connection(id), platform.page(domid)) else { return false };
        let Some(session) = connection.session() else { return false };
        page.fence();
        let has_room = || connection.ring.writable(page).is_ok_and(|bytes| bytes > 0);
        let has_requests = || connection.ring.readable(page).is_ok_and(|bytes| bytes > 0);
        !session.output.is_empty() && has_room() || self.engine.may_receive(id) && has_requests()
    }

    /// Whether a connection was shut. The ring's error word says why, if the domain was offered that.
    fn tell_of_fault<P: Platform>(&self, id: ConnectionId, domid: DomId, platform: &P) -> Option<Told> {
        let fault = self.engine.connection(id).and_then(Connection::fault)?;
        let page = platform.page(domid).filter(|_| self.engine.features(id).contains(Features::ERROR));
        let Some(page) = page.filter(|page| page.load(Field::Error) != fault as u32) else { return Some(Told::Before) };
        page.store(Field::Error, fault as u32);
        Some(Told::News)
    }

    /// Resets the connection if the domain requests it (`docs/misc/xenstore-ring.txt`, "The ring reconnection feature").
    ///
    /// A domain may also erase its ring without such a request, as firmware does before it starts a kernel. The C server reads
    /// its own indices from the page, and does not notice. Returns whether the ring was erased.
    fn look_for_reconnection<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P) -> bool {
        let Some(page) = platform.page(domid) else { return false };
        if self.engine.features(id).contains(Features::RECONNECTION)
            && page.load(Field::Connection) == CONNECTION_REQUESTED
        {
            self.engine.handle_reconnect(id);
            return false;
        }
        let session = self.engine.connection_mut(id).and_then(Connection::session_mut);
        let is_erased = session.is_some_and(|(_, ring)| ring.is_erased(page));
        if is_erased {
            self.engine.handle_erased_ring(id);
        }
        is_erased
    }

    /// Sends what waits, handles requests, and sends what that caused.
    fn serve_ring<P: Platform>(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        platform: &mut P,
        now_ms: u64,
    ) -> Result<Turn, ImpossibleIndex> {
        let mut turn = Turn::default();
        self.engine.begin_turn();
        self.start_ring(id, domid, platform, &mut turn);
        self.send(id, domid, platform, &mut turn)?;
        let mut requests = 0;
        loop {
            if requests == limits::REQUESTS_PER_TURN || self.engine.is_turn_over() {
                turn.unfinished = true;
                break;
            }
            let count = self.receive(id, domid, platform)?;
            if count == 0 && !self.engine.has_complete_request(id) {
                break;
            }
            turn.moved |= count > 0;
            if self.engine.handle_received(id, count, platform, now_ms) {
                requests = requests.saturating_add(1);
                self.requests = self.requests.saturating_add(1);
                self.start_introduced(platform);
                self.send(id, domid, platform, &mut turn)?;
            }
        }
        Ok(turn)
    }

    /// Starts the rings of domains that the last request introduced, before its reply is sent: from then on these domains
    /// may use them. The reply may also be what lets them run.
    fn start_introduced<P: Platform>(&mut self, platform: &mut P) {
        while let Some(id) = self.engine.poll_starting() {
            let Some(Connection { peer: Peer::Domain { domid, port }, .. }) = self.engine.connection(id) else {
                continue;
            };
            let (domid, port) = (*domid, *port);
            let mut turn = Turn::default();
            self.start_ring(id, domid, platform, &mut turn);
            if let Some(port) = port
                && turn.moved
            {
                platform.notify(port);
            }
        }
    }

    /// Takes a ring into use, at introduction.
    fn start_ring<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P, turn: &mut Turn) {
        let features = self.engine.features(id);
        let (Some(connection), Some(page)) = (self.engine.connection_mut(id), platform.page(domid)) else { return };
        let Some(start) = connection.ring_start.take() else { return };
        // Said before anything is consumed or produced, so that the domain can rely on it.
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
            // Whoever asked waits for this word alone, so that it comes last.
            page.store(Field::Connection, CONNECTION_ESTABLISHED);
            turn.moved = true;
        }
    }

    /// Copies what waits into the ring, as far as it fits.
    fn send<P: Platform>(
        &mut self,
        id: ConnectionId,
        domid: DomId,
        platform: &P,
        turn: &mut Turn,
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

    /// Copies bytes of the next request out of the ring, and returns how many.
    fn receive<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P) -> Result<usize, ImpossibleIndex> {
        if !self.engine.may_receive(id) {
            return Ok(0);
        }
        let Some(page) = platform.page(domid) else { return Ok(0) };
        let connection = self.engine.connection_mut(id);
        let Some((session, ring)) = connection.and_then(Connection::session_mut) else { return Ok(0) };
        // What a predecessor received comes first.
        match session.input.take_backlog() {
            0 => ring.read(page, session.input.space()),
            count => Ok(count),
        }
    }
}

/// The ring's connection word: the domain asks for a connection (`docs/misc/xenstore-ring.txt`).
const CONNECTION_REQUESTED: u32 = 1;
/// The ring's error word: nothing is wrong.
const NO_ERROR: u32 = 0;
/// The ring's connection word: the connection stands.
const CONNECTION_ESTABLISHED: u32 = 0;
