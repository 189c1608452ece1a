//! Announcements that take more than one turn.
//!
//! The engine applies a request's changes at once. It queues events until the request's steps are used up or a receiver
//! has no room, and postpones the rest. The connection is held back until all events are queued. So no event is lost,
//! nothing grows meanwhile, and the events of one connection keep their order. The engine checks permissions when it
//! queues an event. The present nodes decide, besides the node before the change: a right revoked meanwhile no longer
//! counts.
//!
//! Postponed announcements continue in turn, the longest-waiting first. An announcement that waits for a receiver's
//! room costs nothing until the receiver has read ([`crate::limits::ROOM_STEP_BYTES`]).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, TryReserveError, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::connection::output::{EventCause, Origin};
use crate::engine::events::removal::{Removal, Step};
use crate::engine::events::{Change, Readable, Stopped};
use crate::engine::turn::{Cause, Turn};
use crate::limits;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::transaction::{Before, CommitEvent};
use crate::store::watch::ConnectionId;

/// The rest of one request's changes, whose events are not all queued.
#[derive(Debug)]
pub(in crate::engine) struct Announcement {
    /// The connection that is held back until the end; `None` for the server's own changes.
    pub(in crate::engine) connection: Option<ConnectionId>,
    pub(in crate::engine) cause: EventCause,
    /// The changes. Some receivers may already have the events of the first one.
    pub(in crate::engine) changes: Changes,
    /// The last connection that was handled for the first change.
    pub(in crate::engine) after: Option<ConnectionId>,
    /// Bytes that the announcement takes.
    pub(in crate::engine) bytes: usize,
}

/// The changes of an announcement.
#[derive(Debug)]
pub(in crate::engine) enum Changes {
    /// These changes, in order.
    Listed(VecDeque<CommitEvent>),
    /// The removal of a node and its descendants.
    Removal(Box<Removal>),
}

impl Changes {
    /// Returns the present position, to detect progress.
    fn place(&self) -> (usize, bool) {
        match self {
            Self::Listed(events) => (events.len(), false),
            Self::Removal(removal) => removal.place(),
        }
    }
}

/// The postponed announcements. The key is the receiver whose room an announcement waits for (`None` if it can
/// continue), and its position in the queue.
#[derive(Debug, Default)]
pub(in crate::engine) struct Announcements {
    postponed: BTreeMap<(Option<ConnectionId>, u64), Announcement>,
    next_position: u64,
    /// The number of announcements that hold back no connection, such as those of removed domains.
    unattended: usize,
}

impl Announcements {
    /// Returns whether a postponed announcement holds back no connection.
    pub(in crate::engine) const fn has_unattended(&self) -> bool {
        self.unattended > 0
    }

    const fn take_position(&mut self) -> u64 {
        self.next_position = self.next_position.saturating_add(1);
        self.next_position
    }

    /// Returns whether an announcement can continue now.
    pub(in crate::engine) fn has_runnable(&self) -> bool {
        self.postponed.first_key_value().is_some_and(|((receiver, _), _)| receiver.is_none())
    }

    /// Takes the longest-waiting announcement that can continue, with its position.
    fn take_runnable(&mut self) -> Option<(u64, Announcement)> {
        if !self.has_runnable() {
            return None;
        }
        let ((_, position), announcement) = self.postponed.pop_first()?;
        if announcement.connection.is_none() {
            self.unattended = self.unattended.saturating_sub(1);
        }
        Some((position, announcement))
    }

    /// Lets the announcements continue that wait for a receiver.
    fn release(&mut self, receiver: ConnectionId) {
        let waiting = (Some(receiver), 0)..=(Some(receiver), u64::MAX);
        while let Some((key, _)) = self.postponed.range(waiting.clone()).next() {
            let key = *key;
            if let Some(announcement) = self.postponed.remove(&key) {
                self.postponed.insert((None, key.1), announcement);
            }
        }
    }

    /// Returns all announcements, in no particular order.
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &Announcement> {
        self.postponed.values()
    }

    /// Returns all announcements, in the order of the queue.
    ///
    /// # Errors
    /// Fails if there is no memory for the list.
    pub(in crate::engine) fn in_order(&self) -> Result<Vec<(u64, &Announcement)>, TryReserveError> {
        let mut all = Vec::new();
        all.try_reserve_exact(self.postponed.len())?;
        all.extend(self.postponed.iter().map(|((_, position), announcement)| (*position, announcement)));
        all.sort_unstable_by_key(|(position, _)| *position);
        Ok(all)
    }
}

impl Engine {
    /// Announces changes that were just applied, and postpones the rest if necessary.
    pub(in crate::engine) fn announce_all(&mut self, events: VecDeque<CommitEvent>, turn: &mut Turn<'_>) {
        let bytes = events.iter().map(CommitEvent::bytes).fold(0, usize::saturating_add);
        let Cause { connection, event: cause } = turn.cause;
        let changes = Changes::Listed(events);
        self.begin_announcement(Announcement { connection, cause, changes, after: None, bytes }, turn);
    }

    /// Announces the change of one node that was just applied.
    pub(in crate::engine) fn announce_one(
        &mut self,
        change: Change<'_>,
        Cause { connection, event: cause }: Cause,
        turn: &mut Turn<'_>,
    ) {
        if let Err(Stopped { after, receiver }) = self.announce(change, cause, None, turn) {
            let event = change.to_owned();
            let bytes = event.bytes();
            let changes = Changes::Listed([event].into());
            self.postpone(Announcement { connection, cause, changes, after, bytes }, receiver);
        }
    }

    /// Announces the removal of a node that was at `top`, and of its descendants. Together they took `bytes`.
    pub(in crate::engine) fn announce_removal(
        &mut self,
        top: Path<'_>,
        (node, above): (Rc<Node>, Option<Before>),
        Cause { connection, event: cause }: Cause,
        bytes: usize,
        turn: &mut Turn<'_>,
    ) {
        if node.children().is_empty() || !self.state.watches.any_below(top) {
            let above = above.as_ref().map(Readable::before);
            let change = Change { above, ..Change::of(top, Some(Readable::node(&node))) };
            return self.announce_one(change, Cause { connection, event: cause }, turn);
        }
        let changes = Changes::Removal(Box::new(Removal::new(top, node, above)));
        self.begin_announcement(Announcement { connection, cause, changes, after: None, bytes }, turn);
    }

    fn begin_announcement(&mut self, mut announcement: Announcement, turn: &mut Turn<'_>) {
        if let Err(stopped) = self.continue_announcement(&mut announcement, turn) {
            self.postpone(announcement, stopped.receiver);
        }
    }

    /// Queues events until all changes are announced, the steps are used up, or a receiver has no room.
    fn continue_announcement(&mut self, announcement: &mut Announcement, turn: &mut Turn<'_>) -> Result<(), Stopped> {
        let Announcement { cause, changes, after, .. } = announcement;
        match changes {
            Changes::Listed(events) => self.continue_list(events, *cause, after, turn),
            Changes::Removal(removal) => self.continue_removal(removal, *cause, after, turn),
        }
    }

    fn continue_list(
        &mut self,
        events: &mut VecDeque<CommitEvent>,
        cause: EventCause,
        after: &mut Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        while let Some(event) = events.front() {
            if let Err(stopped) = self.announce(Change::committed(event), cause, *after, turn) {
                *after = stopped.after;
                return Err(stopped);
            }
            *after = None;
            events.pop_front();
            if turn.work.is_over() && !events.is_empty() {
                return Err(Stopped { after: None, receiver: None });
            }
        }
        Ok(())
    }

    fn continue_removal(
        &mut self,
        removal: &mut Removal,
        cause: EventCause,
        after: &mut Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        loop {
            turn.work.spend(1);
            match removal.step(&self.state.watches) {
                Step::Node(removed) => {
                    if let Err(stopped) = self.announce(Change::removed(&removed), cause, *after, turn) {
                        removal.put_back(removed);
                        *after = stopped.after;
                        return Err(stopped);
                    }
                    *after = None;
                }
                Step::Nothing => {}
                Step::End => return Ok(()),
            }
            if turn.work.is_over() {
                return Err(Stopped { after: None, receiver: None });
            }
        }
    }

    /// Postpones an announcement, and holds back the connection that sent the request.
    pub(in crate::engine) fn postpone(&mut self, announcement: Announcement, receiver: Option<ConnectionId>) {
        if let Some(connection) = announcement.connection.and_then(|id| self.connections.get_mut(id)) {
            connection.announced_bytes = Some(announcement.bytes);
        }
        if let Some(Origin { connection, ticket }) = announcement.cause.origin
            && let Some(sender) = self.connections.get_mut(connection)
        {
            sender.extend_ticket(ticket);
        }
        let position = self.announcements.take_position();
        self.put_back(position, announcement, receiver);
    }

    /// Restores an announcement of a predecessor.
    pub(in crate::engine) fn restore_announcement(&mut self, announcement: Announcement) {
        if let Some(origin) = announcement.cause.origin
            && let Some(sender) = self.connections.get_mut(origin.connection)
            && !sender.has_ticket(origin.ticket)
            && origin.ticket != 0
        {
            // The ticket must exist before `postpone` extends it; `settle` then takes the extra count off.
            sender.issue_ticket(origin.ticket);
            self.postpone(announcement, None);
            return self.settle(origin);
        }
        self.postpone(announcement, None);
    }

    fn put_back(&mut self, position: u64, announcement: Announcement, receiver: Option<ConnectionId>) {
        if announcement.connection.is_none() {
            self.announcements.unattended = self.announcements.unattended.saturating_add(1);
        }
        self.announcements.postponed.insert((receiver, position), announcement);
    }

    /// Continues postponed announcements until the steps are used up.
    pub(in crate::engine) fn run_announcements(&mut self, turn: &mut Turn<'_>) {
        while !turn.work.is_over()
            && let Some((position, mut announcement)) = self.announcements.take_runnable()
        {
            let before = (announcement.changes.place(), announcement.after);
            let outcome = self.continue_announcement(&mut announcement, turn);
            let Err(stopped) = outcome else {
                self.end_announcement(&announcement);
                continue;
            };
            // An announcement that made progress goes to the end of the queue; any other keeps its turn.
            let is_further = stopped.receiver.is_none() || before != (announcement.changes.place(), announcement.after);
            let position = if is_further { self.announcements.take_position() } else { position };
            self.put_back(position, announcement, stopped.receiver);
        }
    }

    fn end_announcement(&mut self, announcement: &Announcement) {
        if let Some(origin) = announcement.cause.origin {
            self.settle(origin);
        }
        if let Some(id) = announcement.connection {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.announced_bytes = None;
            }
            self.connections.wake(id);
        }
    }

    /// Lets the work continue that waits for a receiver's room: the receiver has read, is gone, or was given up.
    pub(in crate::engine) fn release_waiting(&mut self, receiver: ConnectionId) {
        self.announcements.release(receiver);
        self.departures.release(receiver);
        if let Some(connection) = self.connections.get_mut(receiver) {
            connection.reading.unread_since_ms = None;
            connection.reading.bytes = 0;
        }
    }

    /// Notes that work waits for a client of the control domain to read.
    pub(in crate::engine) fn await_reading(&mut self, id: ConnectionId, turn: &Turn<'_>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.reading.unread_since_ms.is_none() {
            connection.reading.unread_since_ms = Some(turn.now_ms);
            connection.reading.bytes = 0;
            self.connections.note_deadline(id, turn.now_ms.saturating_add(limits::PRIVILEGED_UNREAD_MS));
        }
    }

    /// Notes that a client read `bytes`. Waiting work continues once the queue is empty or the client has read enough.
    pub(in crate::engine) fn note_reading(&mut self, id: ConnectionId, bytes: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if bytes > 0 && core::mem::take(&mut connection.reading.is_given_up) {
            log::info!("{}: reads again", self.name(id));
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
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

    /// Gives up a client of the control domain that has read nothing for [`limits::PRIVILEGED_UNREAD_MS`]. Work no
    /// longer waits for its room.
    pub(in crate::engine) fn give_up_reader(&mut self, id: ConnectionId, turn: &Turn<'_>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(since_ms) = connection.reading.unread_since_ms else { return };
        let due_ms = since_ms.saturating_add(limits::PRIVILEGED_UNREAD_MS);
        if due_ms > turn.now_ms {
            return self.connections.note_deadline(id, due_ms);
        }
        connection.reading.is_given_up = true;
        let queued = connection.session().map_or(0, |session| session.output.queued_bytes());
        log::warn!(
            "{}: nothing read for {} ms, {queued} bytes pending: events without room are dropped",
            self.name(id),
            turn.now_ms.saturating_sub(since_ms)
        );
        self.release_waiting(id);
    }

    /// Returns whether a client of the control domain was given up ([`Engine::give_up_reader`]).
    pub(in crate::engine) fn is_given_up(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.reading.is_given_up)
    }
}
