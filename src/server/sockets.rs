//! The clients of the hosted server. The host reads and writes their sockets.

use crate::engine::connection::Connection;
use crate::engine::turn::Turn;
use crate::limits;
use crate::server::{ConnectionId, Platform, Server};

impl Server {
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

    /// Returns a client of the hosted server that has bytes to send, or whose input may be read again.
    pub fn poll_socket(&mut self) -> Option<ConnectionId> {
        self.sockets.pop_front()
    }
}
