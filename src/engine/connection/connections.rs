//! All connections, with what finds them: ports, the queue of those with pending work, and deadlines.

use alloc::collections::btree_map::{BTreeMap, RangeMut};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::RangeBounds;

use crate::engine::connection::{Connection, Peer, Phase, Session};
use crate::engine::hypervisor::Port;
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;

/// All connections.
///
/// Guarantees: a connection is at most once in the queue of those with pending work, and has at most one entry among
/// the deadlines of each kind. Entries of removed connections may remain in the queue and among the deadlines.
#[derive(Debug, Default)]
pub(in crate::engine) struct Connections {
    by_id: BTreeMap<ConnectionId, Connection>,
    ports: BTreeMap<Port, ConnectionId>,
    /// The number of the newest connection.
    newest: u64,
    /// Connections that may have pending work.
    ready: VecDeque<ConnectionId>,
    /// When the first event of a connection expires.
    deadlines: BTreeSet<(u64, ConnectionId)>,
    /// When the first kept list of a connection is dropped.
    list_deadlines: BTreeSet<(u64, ConnectionId)>,
    /// Connections whose ring the host has to start before any reply is sent.
    starting: Vec<ConnectionId>,
    /// Clients of the hosted server.
    sockets: BTreeSet<ConnectionId>,
}

impl Connections {
    /// Returns a connection.
    pub(in crate::engine) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.by_id.get(&id)
    }

    /// Returns a connection.
    pub(in crate::engine) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.by_id.get_mut(&id)
    }

    /// Returns the session of an open connection.
    pub(in crate::engine) fn session(&self, id: ConnectionId) -> Option<&Session> {
        self.by_id.get(&id)?.session()
    }

    /// Returns the session of an open connection.
    pub(in crate::engine) fn session_mut(&mut self, id: ConnectionId) -> Option<&mut Session> {
        Some(self.by_id.get_mut(&id)?.session_mut()?.0)
    }

    /// Returns the domain of a connection; `None` for a client of the hosted server.
    pub(in crate::engine) fn domain_of(&self, id: ConnectionId) -> Option<DomId> {
        self.by_id.get(&id)?.domid()
    }

    /// Returns all connections in the order in which they were made.
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> + Clone {
        self.by_id.iter().map(|(id, connection)| (*id, connection))
    }

    /// Returns all connections in the order in which they were made.
    pub(in crate::engine) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionId, &mut Connection)> {
        self.by_id.iter_mut().map(|(id, connection)| (*id, connection))
    }

    /// Returns the connections in a range, in the order in which they were made.
    pub(in crate::engine) fn range_mut(
        &mut self,
        range: impl RangeBounds<ConnectionId>,
    ) -> RangeMut<'_, ConnectionId, Connection> {
        self.by_id.range_mut(range)
    }

    /// Returns the sessions of all open connections.
    pub(in crate::engine) fn sessions(&self) -> impl Iterator<Item = &Session> + Clone {
        self.by_id.values().filter_map(Connection::session)
    }

    /// Returns the number of connections.
    pub(in crate::engine) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a connection with the next number.
    pub(in crate::engine) fn add(&mut self, connection: Connection) -> ConnectionId {
        let id = ConnectionId(self.newest.saturating_add(1));
        if connection.peer == Peer::Socket {
            self.sockets.insert(id);
        }
        self.restore(id, connection);
        id
    }

    /// Adds a domain's connection of a predecessor, which has a number.
    pub(in crate::engine) fn restore(&mut self, id: ConnectionId, connection: Connection) {
        self.ports.extend(connection.port().map(|port| (port, id)));
        self.newest = self.newest.max(id.0);
        self.by_id.insert(id, connection);
    }

    /// Removes a connection.
    pub(in crate::engine) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.set_port(id, None);
        self.sockets.remove(&id);
        self.by_id.remove(&id)
    }

    /// Sets the port of a domain's connection. Returns the port that it had.
    pub(in crate::engine) fn set_port(&mut self, id: ConnectionId, new: Option<Port>) -> Option<Port> {
        let Some(Peer::Domain { port, .. }) = self.by_id.get_mut(&id).map(|connection| &mut connection.peer) else {
            return None;
        };
        let old = core::mem::replace(port, new);
        // During reattachment, another connection may have the port by now.
        if let Some(old) = old.filter(|old| self.ports.get(old) == Some(&id)) {
            self.ports.remove(&old);
        }
        self.ports.extend(new.map(|port| (port, id)));
        old
    }

    /// Returns the clients of the hosted server.
    pub(in crate::engine) fn sockets(&self) -> impl Iterator<Item = ConnectionId> {
        self.sockets.iter().copied()
    }

    /// Returns whether the connection is a client of the hosted server.
    pub(in crate::engine) fn is_socket(&self, id: ConnectionId) -> bool {
        self.sockets.contains(&id)
    }

    /// Returns the connection with a port.
    pub(in crate::engine) fn with_port(&self, port: Port) -> Option<ConnectionId> {
        self.ports.get(&port).copied()
    }

    /// Returns all ports of connections.
    pub(in crate::engine) fn ports(&self) -> impl ExactSizeIterator<Item = Port> {
        self.ports.keys().copied()
    }

    /// Queues a connection for a turn.
    pub(in crate::engine) fn wake(&mut self, id: ConnectionId) {
        self.get_woken(id);
    }

    /// Queues a connection for a turn and returns it.
    pub(in crate::engine) fn get_woken(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.by_id.get_mut(&id)?;
        if !core::mem::replace(&mut connection.is_queued, true) {
            self.ready.push_back(id);
        }
        Some(connection)
    }

    /// Queues an open connection for a turn and returns its session.
    pub(in crate::engine) fn session_woken(&mut self, id: ConnectionId) -> Option<&mut Session> {
        let connection = self.by_id.get_mut(&id)?;
        let Phase::Open(session) = &mut connection.phase else { return None };
        if !core::mem::replace(&mut connection.is_queued, true) {
            self.ready.push_back(id);
        }
        Some(session)
    }

    /// Takes the next connection from the queue.
    pub(in crate::engine) fn pop_ready(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(connection) = self.by_id.get_mut(&id) {
                connection.is_queued = false;
                return Some(id);
            }
        }
        None
    }

    /// Returns the length of the queue.
    pub(in crate::engine) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Notes that the host has to start a connection's ring before any reply is sent.
    pub(in crate::engine) fn add_starting(&mut self, id: ConnectionId) {
        self.starting.push(id);
    }

    /// Takes a connection whose ring has to be started.
    pub(in crate::engine) fn pop_starting(&mut self) -> Option<ConnectionId> {
        self.starting.pop()
    }

    /// Notes when a connection's first event expires. One entry is enough: later events expire later.
    pub(in crate::engine) fn note_deadline(&mut self, id: ConnectionId, deadline_ms: u64) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && connection.deadline_ms.is_none()
        {
            connection.deadline_ms = Some(deadline_ms);
            self.deadlines.insert((deadline_ms, id));
        }
    }

    /// Notes when a connection's first list is dropped. One entry is enough: later lists are dropped later.
    pub(in crate::engine) fn note_list_deadline(&mut self, id: ConnectionId, deadline_ms: u64) {
        if let Some(connection) = self.by_id.get_mut(&id)
            && connection.lists_deadline_ms.is_none()
        {
            connection.lists_deadline_ms = Some(deadline_ms);
            self.list_deadlines.insert((deadline_ms, id));
        }
    }

    /// Returns the time of the first deadline of either kind.
    pub(in crate::engine) fn next_deadline_ms(&self) -> Option<u64> {
        let first = |deadlines: &BTreeSet<(u64, ConnectionId)>| deadlines.first().map(|(deadline_ms, _)| *deadline_ms);
        [first(&self.deadlines), first(&self.list_deadlines)].into_iter().flatten().min()
    }

    /// Takes a connection whose first event has expired.
    pub(in crate::engine) fn pop_expired(&mut self, now_ms: u64) -> Option<ConnectionId> {
        let id = pop_due(&mut self.deadlines, now_ms)?;
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.deadline_ms = None;
        }
        Some(id)
    }

    /// Takes a connection whose first list is to be dropped.
    pub(in crate::engine) fn pop_list_expired(&mut self, now_ms: u64) -> Option<ConnectionId> {
        let id = pop_due(&mut self.list_deadlines, now_ms)?;
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.lists_deadline_ms = None;
        }
        Some(id)
    }
}

/// Takes the first entry if it is due.
fn pop_due(deadlines: &mut BTreeSet<(u64, ConnectionId)>, now_ms: u64) -> Option<ConnectionId> {
    deadlines.first().filter(|(deadline_ms, _)| *deadline_ms <= now_ms)?;
    deadlines.pop_first().map(|(_, id)| id)
}
