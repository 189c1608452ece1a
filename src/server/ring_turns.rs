//! The turns of the rings: each turn moves bytes between one ring page and the engine, a bounded amount at a time.

use crate::engine::connection::{Connection, Peer, ProtocolError, RingStart};
use crate::engine::hypervisor::Port;
use crate::engine::turn::Turn;
use crate::limits;
use crate::server::{ConnectionId, Platform, Server};
use crate::store::domain::DomId;
use crate::wire::feature::Features;
use crate::wire::ring::{Field, ImpossibleIndex, Ring, RingPage};

/// The ring's connection word: the domain requests a reconnection (`docs/misc/xenstore-ring.txt`).
const CONNECTION_REQUESTED: u32 = 1;
/// The ring's error word: no error.
const NO_ERROR: u32 = 0;
/// The ring's connection word: connected.
const CONNECTION_ESTABLISHED: u32 = 0;

/// The state of the error word in the ring of a shut connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ErrorWord {
    /// The server has just written the reason.
    Written,
    /// The word has the reason already, or the domain is not offered the word.
    Unchanged,
}

/// The outcome of one ring's turn.
#[derive(Default)]
struct RingTurn {
    /// Whether bytes were moved, so that the other end needs a notification.
    moved: bool,
    /// Whether the turn ended before the ring was empty.
    unfinished: bool,
}

impl Server {
    /// Gives one connection its turn. The host serves sockets.
    pub(super) fn serve<P: Platform>(&mut self, id: ConnectionId, platform: &mut P, now_ms: u64) {
        let domid = match self.engine.connection(id).map(|connection| connection.peer) {
            Some(Peer::Domain { domid, .. }) => domid,
            Some(Peer::Socket) => return self.sockets.push_back(id),
            None => return,
        };
        self.check_for_reset(id, domid, platform);
        if let Some(error_word) = self.report_error(id, domid, platform) {
            // A crash or a restart shut the connection since its last turn. The domain may sleep until a reply
            // arrives, and needs a notification.
            let port = self.port_of(id).filter(|_| error_word == ErrorWord::Written);
            return port.into_iter().for_each(|port| platform.notify(port));
        }
        let outcome = self.serve_ring(id, domid, platform, now_ms);
        if outcome.is_err() {
            // The domain may have erased its ring during the turn.
            if self.check_for_reset(id, domid, platform) {
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
    fn report_error<P: Platform>(&self, id: ConnectionId, domid: DomId, platform: &P) -> Option<ErrorWord> {
        let error = self.engine.connection(id).and_then(Connection::error)?;
        let page = platform.page(domid).filter(|_| self.engine.features(id).contains(Features::ERROR));
        let Some(page) = page.filter(|page| page.load(Field::Error) != error as u32) else {
            return Some(ErrorWord::Unchanged);
        };
        page.store(Field::Error, error as u32);
        Some(ErrorWord::Written)
    }

    /// Resets the connection if the domain requests it (`docs/misc/xenstore-ring.txt`, "The ring reconnection
    /// feature").
    ///
    /// A domain may also erase its ring without such a request, as firmware does before it starts a kernel. The C
    /// server reads its own indices from the page, and does not notice. Returns whether the ring was erased.
    fn check_for_reset<P: Platform>(&mut self, id: ConnectionId, domid: DomId, platform: &P) -> bool {
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
    pub(super) fn start_introduced<P: Platform>(&mut self, platform: &mut P) {
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
        let is_requested = page.load(Field::Connection) == CONNECTION_REQUESTED;
        if start == RingStart::Adopt && !is_requested {
            connection.ring = Ring::adopt(page);
            turn.moved = true;
            return;
        }
        connection.ring = Ring::reset(page);
        if is_requested {
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
