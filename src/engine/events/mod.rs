//! The choice of the watches that get an event, and the queueing of these events.
//!
//! An event goes to a watch on the changed path or above, if its connection may read the node, or its parent, or could
//! read the node before (`docs/misc/xenstore.txt`, "Watches"). No other connection gets the event.

pub(super) mod announcements;
pub(super) mod drops;
pub(super) mod postponed;
pub(super) mod removal;

use alloc::rc::Rc;
use alloc::string::String;

use crate::engine::connection::Peer;
use crate::engine::connection::output::EventCause;
use crate::engine::events::removal::Removed;
use crate::engine::turn::Turn;
use crate::engine::{Engine, work};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Access, Permissions, Requester};
use crate::store::special::{Special, SpecialNode};
use crate::store::transaction::{Before, CommitEvent};
use crate::store::watch::{ConnectionId, News, Scope, Watch};
use crate::wire::feature::Features;

/// Permissions, and the generation that wrote them.
#[derive(Clone, Copy)]
pub(super) struct Readable<'a> {
    permissions: &'a Permissions,
    generation: u64,
}

impl<'a> Readable<'a> {
    pub(super) fn node(node: &'a Node) -> Self {
        Self { permissions: node.permissions(), generation: node.generation() }
    }

    pub(super) const fn special(node: &'a SpecialNode) -> Self {
        Self { permissions: &node.permissions, generation: node.generation }
    }

    pub(super) const fn before(before: &'a Before) -> Self {
        Self { permissions: &before.permissions, generation: before.generation }
    }

    pub(super) fn to_owned(self) -> Before {
        Before { permissions: self.permissions.clone(), generation: self.generation }
    }

    fn by(self, requester: &Requester) -> bool {
        requester.access(self.permissions, self.generation).contains(Access::READ)
    }
}

/// The nodes of a change. A client that may read any of them gets the event.
#[derive(Clone, Copy, Default)]
pub(super) struct Readables<'a> {
    /// The node.
    pub(super) node: Option<Readable<'a>>,
    /// Its parent; counts only while the node exists.
    pub(super) parent: Option<Readable<'a>>,
    /// The node as it was before.
    pub(super) before: Option<Readable<'a>>,
    /// The parent of a node that was removed, as it was before.
    pub(super) above: Option<Readable<'a>>,
}

impl Readables<'_> {
    fn by(&self, requester: &Requester) -> bool {
        let readable = |readable: Option<Readable<'_>>| readable.is_some_and(|readable| readable.by(requester));
        readable(self.before)
            || readable(self.above)
            || self.node.is_some() && (readable(self.node) || readable(self.parent))
    }
}

/// A change of a node to announce.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) path: Path<'a>,
    pub(super) scope: Scope,
    /// The node as it was before.
    pub(super) before: Option<Readable<'a>>,
    /// The parent of a node that was removed, as it was before.
    pub(super) above: Option<Readable<'a>>,
}

impl<'a> Change<'a> {
    /// Creates a change that concerns watches on the node and above.
    pub(super) const fn of(path: Path<'a>, before: Option<Readable<'a>>) -> Self {
        Self { path, scope: Scope::Subtree, before, above: None }
    }

    /// Creates the change that a commit made.
    pub(super) fn committed(event: &'a CommitEvent) -> Self {
        Self {
            path: event.path.as_path(),
            scope: event.scope,
            before: event.before.as_ref().map(Readable::before),
            above: event.above.as_ref().map(Readable::before),
        }
    }

    /// Creates the change of a removed node.
    pub(super) fn removed(removed: &'a Removed) -> Self {
        Self {
            path: removed.path.as_path(),
            scope: removed.scope,
            before: Some(Readable::node(&removed.node)),
            above: removed.above.as_ref().map(Readable::before),
        }
    }

    pub(super) fn to_owned(self) -> CommitEvent {
        CommitEvent {
            path: self.path.to_owned(),
            scope: self.scope,
            before: self.before.map(Readable::to_owned),
            above: self.above.map(Readable::to_owned),
        }
    }
}

/// The point at which the announcement of a change stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    /// The last connection that was handled.
    pub(super) after: Option<ConnectionId>,
    /// The receiver that has no room, if that is the reason.
    pub(super) receiver: Option<ConnectionId>,
}

/// A receiver of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    pub(super) id: ConnectionId,
    /// Its domain; a client of the hosted server has none.
    domain: Option<DomId>,
    /// The same, if that is a guest.
    pub(super) guest: Option<DomId>,
}

/// Whether an announcement may stop midway and continue later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Stops when the steps are used up, or when a client of the control domain has no room for an event.
    Bounded,
    /// Does not stop. Only special nodes use it: the cost of their events is bounded otherwise.
    AtOnce,
}

/// An announcement to the watches, and its parameters.
#[derive(Clone, Copy)]
struct Delivery<'a> {
    news: News<'a>,
    /// The path or special name in the events.
    path: &'a str,
    cause: EventCause,
    pace: Pace,
    /// The connection after which to begin.
    after: Option<ConnectionId>,
}

impl Engine {
    /// Queues the events of an applied change for the connections after `after`. The permissions of the present node
    /// and of the node before the change count.
    ///
    /// # Errors
    /// [`Stopped`] if the steps are used up, or a client of the control domain has no room.
    pub(super) fn announce(
        &mut self,
        Change { path, scope, before, above }: Change<'_>,
        cause: EventCause,
        after: Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        // A clone costs nothing, and can be read while events are queued.
        let tree = self.state.tree.clone();
        let delivery = Delivery { after, ..Delivery::of_change(path, scope, cause, Pace::Bounded) };
        self.deliver_change(
            delivery,
            || {
                let node = tree.get(path);
                let parent = path.parent().and_then(|parent| tree.get(parent)).or(node);
                Readables {
                    node: node.map(|node| Readable::node(node)),
                    parent: parent.map(|parent| Readable::node(parent)),
                    before,
                    above,
                }
            },
            turn,
        )
    }

    /// Reports a change of a node to the clients that may know of it. Most changes concern no watch: `readables` runs
    /// only if one does.
    fn deliver_change<'a>(
        &mut self,
        delivery: Delivery<'_>,
        readables: impl Fn() -> Readables<'a>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        let mut known = None;
        self.deliver(
            delivery,
            &mut |engine: &Self, id| {
                // The control domain may read everything, including nodes that are removed by now.
                let requester = engine.requester_of(id);
                requester.is_some_and(|requester| {
                    requester.is_privileged() || known.get_or_insert_with(&readables).by(&requester)
                })
            },
            turn,
        )
    }

    /// Reports a special event without its domain. The domain only distinguishes duplicates.
    pub(super) fn announce_special(&mut self, special: Special, subject: DomId, turn: &mut Turn<'_>) {
        let name = special.name();
        let cause = EventCause { subject: Some(subject), ..EventCause::default() };
        let delivery = Delivery { news: News::Special(name), path: name, cause, pace: Pace::AtOnce, after: None };
        let _ = self.deliver(delivery, &mut |engine: &Self, id| engine.may_know(id, special), turn);
    }

    /// Reports a special event with its domain, to the clients with the feature for it.
    pub(super) fn announce_special_domain(&mut self, special: Special, domid: DomId, turn: &mut Turn<'_>) {
        let mut of_domain = String::from(special.name());
        of_domain.push('/');
        of_domain.push_str(itoa::Buffer::new().format(domid.0));
        let news = News::SpecialDomain { name: special.name(), of_domain: &of_domain };
        let cause = EventCause { subject: Some(domid), ..EventCause::default() };
        let delivery = Delivery { news, path: &of_domain, cause, pace: Pace::AtOnce, after: None };
        let _ = self.deliver(
            delivery,
            &mut |engine: &Self, id| {
                engine.features(id).contains(Features::WATCH_DEPTH) && engine.may_know(id, special)
            },
            turn,
        );
    }

    /// Reports new permissions of a special node to its watches whose clients could read it before or can now.
    pub(super) fn announce_special_change(&mut self, special: Special, before: Readable<'_>, turn: &mut Turn<'_>) {
        let name = special.name();
        let (news, cause) = (News::SpecialChange(name), turn.cause.event);
        let delivery = Delivery { news, path: name, cause, pace: Pace::AtOnce, after: None };
        let _ = self.deliver(
            delivery,
            &mut |engine: &Self, id| {
                engine.requester_of(id).is_some_and(|requester| before.by(&requester)) || engine.may_know(id, special)
            },
            turn,
        );
    }

    /// Returns whether a client may read a special node.
    fn may_know(&self, id: ConnectionId, special: Special) -> bool {
        let readable = Readable::special(self.state.specials.get(special));
        self.requester_of(id).is_some_and(|requester| readable.by(&requester))
    }

    /// Queues an event for each watch that `delivery` concerns and whose client may know. `may_know` runs once per
    /// client.
    fn deliver(
        &mut self,
        delivery: Delivery<'_>,
        may_know: &mut dyn FnMut(&Self, ConnectionId) -> bool,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        let Delivery { news, path, cause, pace, .. } = delivery;
        let levels = if matches!(news, News::Change(_, Scope::Subtree)) { work::of_path(path.len()) } else { 1 };
        let (mut found, mut done) = (core::mem::take(&mut self.found_watches), delivery.after);
        let outcome = loop {
            turn.work.spend(levels);
            let next = self.state.watches.told(news, done, &mut found);
            let groups = found.chunk_by(|one, other| one.connection == other.connection);
            let mut stopped = None;
            let count = groups.clone().count();
            for (at, group) in groups.enumerate() {
                let Some(id) = group.first().map(|watch| watch.connection) else { continue };
                turn.work.spend(1);
                if may_know(self, id) {
                    let to = self.receiver(id);
                    if pace == Pace::Bounded && !self.can_take(to, group, path, cause, turn) {
                        stopped = Some(Stopped { after: done, receiver: Some(id) });
                        break;
                    }
                    group.iter().for_each(|watch| self.queue_event(to, watch, path, cause, turn));
                }
                done = Some(id);
                let is_last = at.saturating_add(1) == count && next.is_none();
                if pace == Pace::Bounded && turn.work.is_over() && !is_last {
                    stopped = Some(Stopped { after: done, receiver: None });
                    break;
                }
            }
            found.clear();
            if let Some(stopped) = stopped {
                break Err(stopped);
            }
            if next.is_none() {
                break Ok(());
            }
            done = next;
        };
        self.found_watches = found;
        outcome
    }

    /// Returns whether a client can take the events for its watches. A guest always can: events that do not fit are
    /// dropped. A client of the control domain needs room, unless the events are pending already. The check is for one
    /// event only: a client that watches the same path with many tokens gets all of them.
    fn can_take(
        &mut self,
        to: Receiver,
        group: &[Rc<Watch>],
        path: &str,
        cause: EventCause,
        turn: &mut Turn<'_>,
    ) -> bool {
        if to.guest.is_some() {
            return true;
        }
        let tokens = group.iter().map(|watch| watch.token.len()).max().unwrap_or(0);
        let bytes = path.len().saturating_add(tokens).saturating_add(2).min(limits::PAYLOAD_BYTES);
        if self.has_room_for_event(to, bytes, cause.originator, turn)
            || self.is_given_up(to.id)
            || group.iter().all(|watch| self.is_pending(watch, path, cause))
        {
            return true;
        }
        self.await_reading(to.id, turn);
        false
    }

    /// Returns whether the event for a watch is pending already, or can never be sent.
    fn is_pending(&mut self, watch: &Watch, path: &str, cause: EventCause) -> bool {
        let mut payload = Payload::new();
        if !write_payload(&mut payload, watch, path) {
            return true;
        }
        let key = self.config.hash_key;
        let session = self.connections.session_mut(watch.connection);
        session.is_none_or(|session| session.output.has_event(&payload, cause.subject, key))
    }

    /// Returns the receiver of events for a connection's watches.
    pub(super) fn receiver(&self, id: ConnectionId) -> Receiver {
        let domain = self.connections.domain_of(id);
        Receiver { id, domain, guest: domain.filter(|domid| *domid != self.config.privileged) }
    }

    /// Queues an event for a watch, unless an identical one is pending. An event too long for a message is dropped.
    pub(super) fn queue_event(
        &mut self,
        to: Receiver,
        watch: &Watch,
        path: &str,
        cause: EventCause,
        turn: &mut Turn<'_>,
    ) {
        let mut payload = Payload::new();
        if !write_payload(&mut payload, watch, path) {
            return;
        }
        turn.work.spend(work::EVENT_STEPS.saturating_add(work::of_bytes(payload.len())));
        let is_special = path.starts_with('@');
        let key = self.config.hash_key;
        // The first event of a watch on a special node has no subject. Each new watch gets one.
        let may_collapse = !is_special || cause.subject.is_some();
        let Some(connection) = self.connections.get_mut(to.id) else { return };
        // A client of the control domain has room, unless it was given up.
        let may_be_full = to.guest.is_some() || !is_special && connection.reading.is_given_up;
        let Some((session, _)) = connection.session_mut() else { return };
        if may_collapse && session.output.has_event(&payload, cause.subject, key) {
            return;
        }
        if may_be_full && !self.has_room_for_event(to, payload.len(), cause.originator, turn) {
            return self.note_dropped(cause.originator, to.id, turn);
        }
        let timeout_ms = self.config.event_timeout_ms;
        let deadline_ms = (timeout_ms > 0 && to.guest.is_some()).then(|| turn.now_ms.saturating_add(timeout_ms));
        let Some(session) = self.connections.session_woken(to.id) else { return };
        session.output.push_event(&payload, cause, deadline_ms);
        Self::note_event(payload.len(), turn);
        if let Some(domid) = to.domain {
            self.state.domains.note_grown(domid);
        }
        if let Some(origin) = cause.origin
            && let Some(sender) = self.connections.get_mut(origin.connection)
        {
            sender.extend_ticket(origin.ticket);
        }
        if let Some(deadline_ms) = deadline_ms {
            self.connections.note_deadline(to.id, deadline_ms);
        }
    }

    /// Returns the identities whose rights a connection's client has; `None` if the connection is gone.
    pub(super) fn requester_of(&self, id: ConnectionId) -> Option<Requester> {
        Some(match self.connections.get(id)?.peer {
            Peer::Socket => Requester::Privileged,
            Peer::Domain { domid, .. } => self.state.requester(domid),
        })
    }
}

/// Room for the payload of an event.
type Payload = heapless::Vec<u8, { limits::PAYLOAD_BYTES }>;

/// Writes the payload of an event. Returns whether it fits into a message.
fn write_payload(payload: &mut Payload, watch: &Watch, path: &str) -> bool {
    let parts = [watch.reported(path).as_bytes(), b"\0", &watch.token, b"\0"];
    parts.into_iter().all(|part| payload.extend_from_slice(part).is_ok())
}

impl<'a> Delivery<'a> {
    const fn of_change(path: Path<'a>, scope: Scope, cause: EventCause, pace: Pace) -> Self {
        Self { news: News::Change(path, scope), path: path.as_str(), cause, pace, after: None }
    }
}
