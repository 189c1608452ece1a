//! Who is told of a change.
//!
//! An event goes to a watch on the changed path or above, if its connection may read the node, or its parent, or could
//! read the node before (`docs/misc/xenstore.txt`, "Watches"). What is not allowed is not said.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::connection::Peer;
use crate::engine::output::Origin;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Access, Permissions, Requester};
use crate::store::special::Special;
use crate::store::state::State;
use crate::store::transaction::Before;
use crate::store::watch::{ConnectionId, Scope, Watch};
use crate::wire::feature::Features;

/// Permissions and when they were written.
#[derive(Clone, Copy)]
pub(super) struct Readable<'a> {
    permissions: &'a Permissions,
    generation: u64,
}

impl<'a> Readable<'a> {
    pub(super) fn node(node: &'a Node) -> Self {
        Self { permissions: node.permissions(), generation: node.generation() }
    }

    pub(super) const fn before(before: &'a Before) -> Self {
        Self { permissions: &before.permissions, generation: before.generation }
    }

    fn by(self, requester: &Requester) -> bool {
        requester.access(self.permissions, self.generation).contains(Access::READ)
    }
}

/// Reading any of these gives a right to the event.
#[derive(Clone, Copy, Default)]
pub(super) struct Readables<'a> {
    /// The node.
    pub(super) node: Option<Readable<'a>>,
    /// Its parent; counts only while the node is there.
    pub(super) parent: Option<Readable<'a>>,
    /// The node as it was before.
    pub(super) before: Option<Readable<'a>>,
}

impl Readables<'_> {
    fn by(&self, requester: &Requester) -> bool {
        let readable = |readable: Option<Readable<'_>>| readable.is_some_and(|readable| readable.by(requester));
        readable(self.before) || self.node.is_some() && (readable(self.node) || readable(self.parent))
    }
}

/// An event for one watch, decided and not yet queued.
pub(super) struct Delivery {
    watch: Rc<Watch>,
}

/// The watches that are told of a change of `path`. Most changes concern none; only otherwise it is asked who may read.
pub(super) fn deliveries<'a>(
    state: &State,
    requester_of: impl Fn(ConnectionId) -> Option<Requester>,
    path: Path<'_>,
    scope: Scope,
    readables: impl FnOnce() -> Readables<'a>,
) -> Vec<Delivery> {
    let mut concerned = Vec::new();
    state.watches.concerned(path, scope, &mut concerned);
    if concerned.is_empty() {
        return Vec::new();
    }
    let readables = readables();
    let may_know = |watch: &Rc<Watch>| requester_of(watch.connection).is_some_and(|who| readables.by(&who));
    concerned.into_iter().filter(may_know).map(|watch| Delivery { watch }).collect()
}

impl Engine {
    /// Tells of a change of a node that is still there (or was never), after the change. The node as it was before counts
    /// too.
    pub(super) fn announce(&mut self, path: Path<'_>, scope: Scope, before: Option<Readable<'_>>, now_ms: u64) {
        let readables = || {
            let node = self.state.tree.get(path);
            let parent = path.parent().and_then(|parent| self.state.tree.get(parent)).or(node);
            Readables {
                node: node.map(|node| Readable::node(node)),
                parent: parent.map(|parent| Readable::node(parent)),
                before,
            }
        };
        let deliveries = deliveries(&self.state, |id| self.requester_of(id), path, scope, readables);
        self.deliver(path, deliveries, now_ms);
    }

    /// Tells of a node that is being removed, while it is still there, and of everything below it, children first. Those
    /// below are told only to watches on exactly them.
    pub(super) fn announce_removal(&mut self, top: Path<'_>, now_ms: u64) {
        let above = top.parent().and_then(|parent| self.state.tree.get(parent)).cloned();
        // Each is queued as the visit comes by: a list of all of them would be as long as the paths that guests watch. The
        // tree that is visited stands still meanwhile.
        let tree = self.state.tree.clone();
        tree.visit_children_first(top, |visit| {
            let scope = if visit.parent.is_some() { Scope::Exact } else { Scope::Subtree };
            let parent = visit.parent.or(above.as_deref());
            let readables = || Readables {
                node: Some(Readable::node(visit.node)),
                parent: parent.map(Readable::node),
                before: None,
            };
            let found = deliveries(&self.state, |id| self.requester_of(id), visit.path, scope, readables);
            self.deliver(visit.path, found, now_ms);
        });
    }

    /// Tells of a special event, without saying which domain it is about.
    pub(super) fn announce_special(&mut self, special: Special, now_ms: u64) {
        for watch in self.state.watches.concerned_special(special.name()) {
            if self.may_know(&watch, special) {
                self.queue_event(&watch, special.name(), None, now_ms);
            }
        }
    }

    /// Tells of a special event about a domain those who asked to know which.
    pub(super) fn announce_special_domain(&mut self, special: Special, domid: DomId, now_ms: u64) {
        let name = alloc::format!("{}/{domid}", special.name());
        for watch in self.state.watches.concerned_special_domain(special.name(), &name) {
            if self.features(watch.connection).contains(Features::WATCH_DEPTH) && self.may_know(&watch, special) {
                self.queue_event(&watch, &name, None, now_ms);
            }
        }
    }

    /// Whether a watch's client may read a special node.
    fn may_know(&self, watch: &Watch, special: Special) -> bool {
        let node = self.state.specials.get(special);
        let readable = Readable { permissions: &node.permissions, generation: node.generation };
        self.requester_of(watch.connection).is_some_and(|who| readable.by(&who))
    }

    fn deliver(&mut self, path: Path<'_>, deliveries: Vec<Delivery>, now_ms: u64) {
        let origin = self.origin;
        for delivery in deliveries {
            self.queue_event(&delivery.watch, path.as_str(), origin, now_ms);
        }
    }

    /// Queues an event for a watch. One that is too long for a message is dropped.
    pub(super) fn queue_event(&mut self, watch: &Watch, path: &str, origin: Option<Origin>, now_ms: u64) {
        let mut payload = heapless::Vec::<u8, { limits::PAYLOAD_BYTES }>::new();
        let path = watch.reported(path);
        for part in [path.as_bytes(), b"\0", &watch.token, b"\0"] {
            if payload.extend_from_slice(part).is_err() {
                return;
            }
        }
        if !self.can_queue_event(watch.connection, payload.len()) {
            log::debug!("an event for {} is dropped: it has too much to read already", self.name(watch.connection));
            return;
        }
        let timeout_ms = self.config.event_timeout_ms;
        let is_privileged = self.requester_of(watch.connection).is_none_or(|who| who.is_privileged());
        let deadline_ms = (timeout_ms > 0 && !is_privileged).then(|| now_ms.saturating_add(timeout_ms));
        let Some(session) = self.session_mut(watch.connection) else { return };
        let was_queued = session.output.push_event(&payload, !path.starts_with('@'), origin, deadline_ms);
        if was_queued {
            self.note_event(payload.len());
            if let Some(origin) = origin
                && let Some(sender) = self.connections.get_mut(&origin.connection)
            {
                sender.extend_ticket(origin.ticket);
            }
            if let Some(deadline_ms) = deadline_ms {
                self.note_deadline(watch.connection, deadline_ms);
            }
            self.wake(watch.connection);
        }
    }

    /// Who the client of a connection is, for permissions.
    pub(super) fn requester_of(&self, id: ConnectionId) -> Option<Requester> {
        Some(match self.connections.get(&id)?.peer {
            Peer::Socket => Requester::Privileged,
            Peer::Domain { domid, .. } => self.state.requester(domid),
        })
    }
}
