//! Announcements of changes that are not done with in one go.
//!
//! A request's changes are applied at once, and its events are queued at once as far as its steps go and its receivers have
//! room. The rest is postponed: its connection is held back until all is queued, so that nothing of it is lost, nothing
//! grows meanwhile, and the events of one connection keep their order. Whoever may know of a change is decided when it is
//! told, by the nodes of then: what was revoked meanwhile is not told any more.
//!
//! Each is continued in turn, the one that waited longest first. One that waits for a receiver's room costs nothing until
//! the receiver has read ([`crate::limits::ROOM_STEP_BYTES`]).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, TryReserveError, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::events::{Change, Readable, Stopped};
use crate::engine::output::{EventCause, Origin};
use crate::engine::removal::{Removal, Step};
use crate::engine::{Cause, Engine};
use crate::limits;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::transaction::CommitEvent;
use crate::store::watch::ConnectionId;

/// What is left to be told of one request's changes.
#[derive(Debug)]
pub(super) struct Announcement {
    /// The connection that is held back meanwhile; `None` for the server's own requests.
    pub(super) connection: Option<ConnectionId>,
    pub(super) cause: EventCause,
    /// The changes. The first one may have been told to some.
    pub(super) changes: Changes,
    /// The last connection that was told of the first one.
    pub(super) after: Option<ConnectionId>,
    /// Bytes that it takes.
    pub(super) bytes: usize,
}

/// What is to be told.
#[derive(Debug)]
pub(super) enum Changes {
    /// These changes, in order.
    Listed(VecDeque<CommitEvent>),
    /// The removal of a node with all below.
    Removal(Box<Removal>),
}

impl Changes {
    /// Where it is, to tell whether it has come further.
    fn place(&self) -> (usize, bool) {
        match self {
            Self::Listed(events) => (events.len(), false),
            Self::Removal(removal) => removal.place(),
        }
    }
}

/// The postponed announcements: by the receiver whose room each waits for (`None` for those that can be continued), and the
/// turn in which it was postponed last.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    postponed: BTreeMap<(Option<ConnectionId>, u64), Announcement>,
    next_turn: u64,
    /// How many are nobody's request: those of domains that are gone.
    unattended: usize,
}

impl Announcements {
    /// Whether one is postponed that holds back no connection.
    pub(super) const fn has_unattended(&self) -> bool {
        self.unattended > 0
    }

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
        let ((_, turn), announcement) = self.postponed.pop_first()?;
        if announcement.connection.is_none() {
            self.unattended = self.unattended.saturating_sub(1);
        }
        Some((turn, announcement))
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

impl Engine {
    /// Announces changes that were just applied: at once, as far as that goes.
    pub(super) fn announce_all(&mut self, events: VecDeque<CommitEvent>, now_ms: u64) {
        let bytes = events.iter().map(CommitEvent::bytes).fold(0, usize::saturating_add);
        let Cause { connection, event: cause } = self.cause;
        let changes = Changes::Listed(events);
        self.begin_announcement(Announcement { connection, cause, changes, after: None, bytes }, now_ms);
    }

    /// Announces the change of one node that was just applied.
    pub(super) fn announce_one(&mut self, change: Change<'_>, Cause { connection, event: cause }: Cause, now_ms: u64) {
        if let Err(Stopped { after, receiver }) = self.announce(change, cause, None, now_ms) {
            let event = change.to_owned();
            let bytes = event.bytes();
            let changes = Changes::Listed([event].into());
            self.postpone(Announcement { connection, cause, changes, after, bytes }, receiver);
        }
    }

    /// Announces the removal of a node that was at `top`, with all below it, which takes `bytes`.
    pub(super) fn announce_removal(
        &mut self,
        top: Path<'_>,
        (node, above): (Rc<Node>, Option<Rc<Node>>),
        Cause { connection, event: cause }: Cause,
        bytes: usize,
        now_ms: u64,
    ) {
        if node.children().is_empty() || !self.state.watches.any_below(top) {
            let above = above.as_deref().map(Readable::node);
            let change = Change { above, ..Change::of(top, Some(Readable::node(&node))) };
            return self.announce_one(change, Cause { connection, event: cause }, now_ms);
        }
        let changes = Changes::Removal(Box::new(Removal::new(top, node, above)));
        self.begin_announcement(Announcement { connection, cause, changes, after: None, bytes }, now_ms);
    }

    fn begin_announcement(&mut self, mut announcement: Announcement, now_ms: u64) {
        if let Err(stopped) = self.continue_announcement(&mut announcement, now_ms) {
            self.postpone(announcement, stopped.receiver);
        }
    }

    /// Queues events until all changes are told, or it has to stop.
    fn continue_announcement(&mut self, announcement: &mut Announcement, now_ms: u64) -> Result<(), Stopped> {
        let Announcement { cause, changes, after, .. } = announcement;
        match changes {
            Changes::Listed(events) => self.continue_list(events, *cause, after, now_ms),
            Changes::Removal(removal) => self.continue_removal(removal, *cause, after, now_ms),
        }
    }

    fn continue_list(
        &mut self,
        events: &mut VecDeque<CommitEvent>,
        cause: EventCause,
        after: &mut Option<ConnectionId>,
        now_ms: u64,
    ) -> Result<(), Stopped> {
        while let Some(event) = events.front() {
            if let Err(stopped) = self.announce(Change::committed(event), cause, *after, now_ms) {
                *after = stopped.after;
                return Err(stopped);
            }
            *after = None;
            events.pop_front();
            if self.work.is_over() && !events.is_empty() {
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
        now_ms: u64,
    ) -> Result<(), Stopped> {
        loop {
            self.work.spend(1);
            match removal.step(&self.state.watches) {
                Step::Node(removed) => {
                    if let Err(stopped) = self.announce(Change::removed(&removed), cause, *after, now_ms) {
                        removal.put_back(removed);
                        *after = stopped.after;
                        return Err(stopped);
                    }
                    *after = None;
                }
                Step::Nothing => {}
                Step::End => return Ok(()),
            }
            if self.work.is_over() {
                return Err(Stopped { after: None, receiver: None });
            }
        }
    }

    /// Postpones an announcement, and holds back the connection whose request it is.
    pub(super) fn postpone(&mut self, announcement: Announcement, receiver: Option<ConnectionId>) {
        if let Some(connection) = announcement.connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.announced_bytes = Some(announcement.bytes);
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
        if announcement.connection.is_none() {
            self.announcements.unattended = self.announcements.unattended.saturating_add(1);
        }
        self.announcements.postponed.insert((receiver, turn), announcement);
    }

    /// Continues postponed announcements until the steps are used up.
    pub(super) fn run_announcements(&mut self, now_ms: u64) {
        while !self.work.is_over()
            && let Some((turn, mut announcement)) = self.announcements.take_runnable()
        {
            let before = (announcement.changes.place(), announcement.after);
            let outcome = self.continue_announcement(&mut announcement, now_ms);
            let Err(stopped) = outcome else {
                self.end_announcement(&announcement);
                continue;
            };
            // One that got further comes after all that wait; one that did not keeps its place.
            let is_further = stopped.receiver.is_none() || before != (announcement.changes.place(), announcement.after);
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
