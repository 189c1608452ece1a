//! Who is told of a change.
//!
//! An event goes to a watch on the changed path or above, if its connection may read the node, or its parent, or could
//! read the node before (`docs/misc/xenstore.txt`, "Watches"). What is not allowed is not said.

use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::connection::Peer;
use crate::engine::output::Origin;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Access, Permissions, Requester};
use crate::store::special::{Special, SpecialNode};
use crate::store::transaction::Before;
use crate::store::watch::{ConnectionId, News, Scope, Watch};
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

    pub(super) const fn special(node: &'a SpecialNode) -> Self {
        Self { permissions: &node.permissions, generation: node.generation }
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

impl Engine {
    /// Tells of a change of a node that is still there (or was never), after the change. The node as it was before counts
    /// too.
    pub(super) fn announce(&mut self, path: Path<'_>, scope: Scope, before: Option<Readable<'_>>, now_ms: u64) {
        // A version of its own, which costs nothing: events are queued while it is looked at.
        let tree = self.state.tree.clone();
        self.tell_change(path, scope, now_ms, || {
            let node = tree.get(path);
            let parent = path.parent().and_then(|parent| tree.get(parent)).or(node);
            Readables {
                node: node.map(|node| Readable::node(node)),
                parent: parent.map(|parent| Readable::node(parent)),
                before,
            }
        });
    }

    /// Tells of a node that is being removed, while it is still there, and of everything below it, children first. Those
    /// below are told only to watches on exactly them.
    pub(super) fn announce_removal(&mut self, top: Path<'_>, now_ms: u64) {
        let above = top.parent().and_then(|parent| self.state.tree.get(parent)).cloned();
        // Each event is queued as the visit comes by: a list of all would be as long as the paths that guests watch.
        let tree = self.state.tree.clone();
        tree.visit_children_first(top, &mut |visit| {
            let scope = if visit.parent.is_some() { Scope::Exact } else { Scope::Subtree };
            let parent = visit.parent.or(above.as_deref());
            self.tell_change(visit.path, scope, now_ms, || Readables {
                node: Some(Readable::node(visit.node)),
                parent: parent.map(Readable::node),
                before: None,
            });
        });
    }

    /// Tells of a change of a node those who may know of it. Most changes concern nobody; only otherwise it is asked who may
    /// read.
    fn tell_change<'a>(&mut self, path: Path<'_>, scope: Scope, now_ms: u64, readables: impl Fn() -> Readables<'a>) {
        let mut known = None;
        let mut may_know = |engine: &Self, watch: &Watch| {
            let readables = known.get_or_insert_with(&readables);
            engine.requester_of(watch.connection).is_some_and(|who| readables.by(&who))
        };
        self.tell(News::Change(path, scope), path.as_str(), self.origin, now_ms, &mut may_know);
    }

    /// Tells of a special event, without saying which domain it is about.
    pub(super) fn announce_special(&mut self, special: Special, now_ms: u64) {
        let mut may_know = |engine: &Self, watch: &Watch| engine.may_know(watch, special);
        self.tell(News::Special(special.name()), special.name(), None, now_ms, &mut may_know);
    }

    /// Tells of a special event about a domain those who asked to know which.
    pub(super) fn announce_special_domain(&mut self, special: Special, domid: DomId, now_ms: u64) {
        let of_domain = alloc::format!("{}/{domid}", special.name());
        let mut may_know = |engine: &Self, watch: &Watch| {
            engine.features(watch.connection).contains(Features::WATCH_DEPTH) && engine.may_know(watch, special)
        };
        let news = News::SpecialDomain { name: special.name(), of_domain: &of_domain };
        self.tell(news, &of_domain, None, now_ms, &mut may_know);
    }

    /// Reports that a special node has other permissions, to the watches on it whose clients could read it or can now.
    pub(super) fn announce_special_change(&mut self, special: Special, before: Readable<'_>, now_ms: u64) {
        let mut may_know = |engine: &Self, watch: &Watch| {
            engine.requester_of(watch.connection).is_some_and(|who| before.by(&who)) || engine.may_know(watch, special)
        };
        self.tell(News::SpecialChange(special.name()), special.name(), self.origin, now_ms, &mut may_know);
    }

    /// Whether a watch's client may read a special node.
    fn may_know(&self, watch: &Watch, special: Special) -> bool {
        let readable = Readable::special(self.state.specials.get(special));
        self.requester_of(watch.connection).is_some_and(|who| readable.by(&who))
    }

    /// Queues an event for `path` for all watches that are told of something and whose clients may know it.
    fn tell(
        &mut self,
        news: News<'_>,
        path: &str,
        origin: Option<Origin>,
        now_ms: u64,
        may_know: &mut dyn FnMut(&Self, &Watch) -> bool,
    ) {
        let (mut found, mut behind) = (Vec::new(), None);
        loop {
            behind = self.state.watches.told(news, behind, &mut found);
            for watch in found.drain(..) {
                if may_know(self, &watch) {
                    self.queue_event(&watch, path, origin, now_ms);
                }
            }
            if behind.is_none() {
                return;
            }
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
            if let Some(domid) = self.domain_of(watch.connection) {
                self.state.domains.note_grown(domid);
            }
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
