//! Announcements of changes that are not done with in one go.
//!
//! A request's changes are applied at once, and its events are queued at once as far as its steps go and its receivers have
//! room. The rest is postponed: its connection is held back until all is queued, so that nothing of it is lost, nothing
//! grows meanwhile, and the events of one connection keep their order. Whoever may know of a change is decided when it is
//! told, by the nodes of then: what was revoked meanwhile is not told any more.
//!
//! Each is continued in turn, the one that waited longest first. One that waits for a receiver's room costs nothing until
//! the receiver has read ([`crate::limits::ROOM_STEP_BYTES`]).

use alloc::collections::{BTreeMap, TryReserveError, VecDeque};
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::events::{Readable, Stopped};
use crate::engine::output::{EventCause, Origin};
use crate::limits;
use crate::store::path::Path;
use crate::store::transaction::CommitEvent;
use crate::store::watch::{ConnectionId, Scope};

/// What is left to be told of one request's changes.
#[derive(Debug)]
pub(super) struct Announcement {
    /// The connection that is held back meanwhile; `None` for the server's own requests.
    pub(super) connection: Option<ConnectionId>,
    pub(super) cause: EventCause,
    /// The changes. The first one may have been told to some.
    pub(super) events: VecDeque<CommitEvent>,
    /// The last connection that was told of the first one.
    pub(super) after: Option<ConnectionId>,
}

/// The postponed announcements: by the receiver whose room each waits for (`None` for those that can be continued), and the
/// turn in which it was postponed last.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    postponed: BTreeMap<(Option<ConnectionId>, u64), Announcement>,
    next_turn: u64,
}

impl Announcements {
    const fn take_turn(&mut self) -> u64 {
        self.next_turn = self.next_turn.saturating_add(1);
        self.next_turn
    }

    /// Whether one can be continued now.
    pub(super) fn has_runnable(&self) -> bool {
        self.postponed.first_key_value().is_some_and(|((receiver, _), _)| receiver.is_none())
    }

    /// The one that can be continued and waited longest, with its turn.
    fn take_runnable(&mut self) -> Option<(u64, Announcement)> {
        if !self.has_runnable() {
            return None;
        }
        self.postponed.pop_first().map(|((_, turn), announcement)| (turn, announcement))
    }

    /// Lets those go on that wait for a receiver.
    fn release(&mut self, receiver: ConnectionId) {
        let waiting = (Some(receiver), 0)..=(Some(receiver), u64::MAX);
        while let Some((key, _)) = self.postponed.range(waiting.clone()).next() {
            let key = *key;
            if let Some(announcement) = self.postponed.remove(&key) {
                self.postponed.insert((None, key.1), announcement);
            }
        }
    }

    /// All, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Announcement> {
        self.postponed.values()
    }

    /// All, in the order of their turns.
    ///
    /// # Errors
    /// If there is no memory for a list of them.
    pub(super) fn in_order(&self) -> Result<Vec<(u64, &Announcement)>, TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(self.postponed.len())?;
        all.extend(self.postponed.iter().map(|((_, turn), announcement)| (*turn, announcement)));
        all.sort_unstable_by_key(|(turn, _)| *turn);
        Ok(all)
    }
}

impl Announcement {
    /// Bytes that it counts for.
    fn bytes(&self) -> usize {
        self.events.iter().map(CommitEvent::bytes).fold(0, usize::saturating_add)
    }
}

impl Engine {
    /// Announces changes that were just applied: at once, as far as that goes.
    pub(super) fn announce_all(&mut self, events: VecDeque<CommitEvent>, now_ms: u64) {
        let (connection, cause) = (self.cause.connection, self.cause.event);
        let mut announcement = Announcement { connection, cause, events, after: None };
        if let Err(stopped) = self.continue_announcement(&mut announcement, now_ms) {
            self.postpone(announcement, stopped.receiver);
        }
    }

    /// Announces the change of one node that was just applied.
    pub(super) fn announce_one(&mut self, change: (Path<'_>, Scope, Option<Readable<'_>>), now_ms: u64) {
        let (connection, cause) = (self.cause.connection, self.cause.event);
        if let Err(Stopped { after, receiver }) = self.announce(change, cause, None, now_ms) {
            let (path, scope, before) = change;
            let event = CommitEvent { path: path.to_owned(), scope, before: before.map(Readable::to_owned) };
            self.postpone(Announcement { connection, cause, events: [event].into(), after }, receiver);
        }
    }

    /// Queues events until all changes are told, or it has to stop.
    fn continue_announcement(&mut self, announcement: &mut Announcement, now_ms: u64) -> Result<(), Stopped> {
        while let Some(event) = announcement.events.front() {
            let change = (event.path.as_path(), event.scope, event.before.as_ref().map(Readable::before));
            let outcome = self.announce(change, announcement.cause, announcement.after, now_ms);
            if let Err(stopped) = outcome {
                announcement.after = stopped.after;
                return Err(stopped);
            }
            announcement.after = None;
            announcement.events.pop_front();
            if self.work.is_over() && !announcement.events.is_empty() {
                return Err(Stopped { after: None, receiver: None });
            }
        }
        Ok(())
    }

    /// Postpones an announcement, and holds back the connection whose request it is.
    pub(super) fn postpone(&mut self, announcement: Announcement, receiver: Option<ConnectionId>) {
        if let Some(connection) = announcement.connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.announced_bytes = Some(announcement.bytes());
        }
        if let Some(Origin { connection, ticket }) = announcement.cause.origin
            && let Some(sender) = self.connections.get_mut(&connection)
        {
            sender.extend_ticket(ticket);
        }
        let turn = self.announcements.take_turn();
        self.put_back(turn, announcement, receiver);
    }

    /// Takes over an announcement of a predecessor.
    pub(super) fn restore_announcement(&mut self, announcement: Announcement) {
        if let Some(origin) = announcement.cause.origin
            && let Some(sender) = self.connections.get_mut(&origin.connection)
            && !sender.has_ticket(origin.ticket)
            && origin.ticket != 0
        {
            // Postponing counts one more.
            sender.issue_ticket(origin.ticket);
            self.postpone(announcement, None);
            return self.settle(origin);
        }
        self.postpone(announcement, None);
    }

    fn put_back(&mut self, turn: u64, announcement: Announcement, receiver: Option<ConnectionId>) {
        self.announcements.postponed.insert((receiver, turn), announcement);
    }

    /// Continues postponed announcements until the steps are used up.
    pub(super) fn run_announcements(&mut self, now_ms: u64) {
        while !self.work.is_over()
            && let Some((turn, mut announcement)) = self.announcements.take_runnable()
        {
            let before = (announcement.events.len(), announcement.after);
            let outcome = self.continue_announcement(&mut announcement, now_ms);
            let Err(stopped) = outcome else {
                self.end_announcement(&announcement);
                continue;
            };
            // One that got further comes after all that wait; one that did not keeps its place.
            let is_further = before != (announcement.events.len(), announcement.after);
            let turn = if is_further { self.announcements.take_turn() } else { turn };
            self.put_back(turn, announcement, stopped.receiver);
        }
    }

    fn end_announcement(&mut self, announcement: &Announcement) {
        if let Some(origin) = announcement.cause.origin {
            self.settle(origin);
        }
        if let Some(id) = announcement.connection {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.announced_bytes = None;
            }
            self.wake(id);
        }
    }

    /// Lets what waits for a receiver's room go on: it has read, it is gone, or it reads no more.
    pub(super) fn release_waiting(&mut self, receiver: ConnectionId) {
        self.announcements.release(receiver);
        self.departures.release(receiver);
        if let Some(connection) = self.connections.get_mut(&receiver) {
            connection.reading.unread_since_ms = None;
            connection.reading.bytes = 0;
        }
    }

    /// Notes that something waits for a client of the control domain to read.
    pub(super) fn await_reading(&mut self, id: ConnectionId, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.reading.unread_since_ms.is_none() {
            connection.reading.unread_since_ms = Some(now_ms);
            connection.reading.bytes = 0;
            self.note_deadline(id, now_ms.saturating_add(limits::PRIVILEGED_UNREAD_MS));
        }
    }

    /// Notes that a client read `bytes`. What waits for its room goes on when that makes a difference.
    pub(super) fn note_reading(&mut self, id: ConnectionId, bytes: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if bytes > 0 && core::mem::take(&mut connection.reading.is_given_up) {
            log::info!("{} reads again", self.name(id));
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.reading.unread_since_ms.is_none() {
            return;
        }
        connection.reading.bytes = connection.reading.bytes.saturating_add(bytes);
        connection.reading.unread_since_ms = Some(self.now_ms);
        let is_empty = connection.session().is_none_or(|session| session.output.is_empty());
        if is_empty || connection.reading.bytes >= limits::ROOM_STEP_BYTES {
            self.release_waiting(id);
        }
    }

    /// Gives a client of the control domain up that has read nothing for long: it holds nobody back from now on.
    pub(super) fn give_up_reader(&mut self, id: ConnectionId, now_ms: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(since_ms) = connection.reading.unread_since_ms else { return };
        let due_ms = since_ms.saturating_add(limits::PRIVILEGED_UNREAD_MS);
        if due_ms > now_ms {
            return self.note_deadline(id, due_ms);
        }
        connection.reading.is_given_up = true;
        let queued = connection.session().map_or(0, |session| session.output.queued_bytes());
        log::warn!(
            "{} has not read for {} ms, {queued} bytes are pending: its events are dropped",
            self.name(id),
            now_ms.saturating_sub(since_ms)
        );
        self.release_waiting(id);
    }

    /// Whether a client of the control domain was given up: it has read nothing for long.
    pub(super) fn is_given_up(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| connection.reading.is_given_up)
    }
}
