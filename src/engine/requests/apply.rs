//! Applies a change set. Nothing here can fail: the handler, or the preparation of an introduction, has checked
//! everything that could.

use alloc::boxed::Box;
use alloc::rc::Rc;

use crate::engine::Engine;
use crate::engine::connection::output::EventCause;
use crate::engine::events::{Change, Readable};
use crate::engine::report::trace::Switches;
use crate::engine::requests::Reply;
use crate::engine::requests::change_set::Replayed;
use crate::engine::requests::change_set::{Effect, QuotaScope};
use crate::engine::requests::handling::Completion;
use crate::engine::turn::{Cause, Turn};
use crate::engine::work::{self, REMOVAL_STEPS};
use crate::store::domain_table::NodeCount;
use crate::store::path::{Path, PathBuf};
use crate::store::special::SpecialNode;
use crate::store::transaction::{NodeChange, Transaction};
use crate::store::watch::ConnectionId;

impl Engine {
    /// Makes the domains known that permissions name.
    pub(in crate::engine) fn learn_domains(&mut self, turn: &mut Turn<'_>) {
        for domid in core::mem::take(&mut self.changes.domains) {
            let born = self.state.next_generation();
            self.learn_domain(domid, born, turn.hypervisor);
        }
    }

    /// Applies changes of nodes inside a transaction.
    pub(in crate::engine) fn apply_in_transaction(&mut self, transaction: &mut Transaction) {
        for change in self.changes.nodes.drain(..) {
            let generation = self.state.take_generations(change.generations());
            transaction.apply(change, generation);
        }
    }

    /// Applies changes of nodes and announces them. Returns the number of written nodes, including the parents of
    /// created and removed nodes. Returns 0 if no open transaction has accessed any of them.
    pub(in crate::engine) fn apply_nodes(&mut self, turn: &mut Turn<'_>) -> usize {
        let mut written = 0_usize;
        let mut is_in_the_way = false;
        // Taken out while in use, and put back for its capacity.
        let mut changes = core::mem::take(&mut self.changes.nodes);
        for change in changes.drain(..) {
            if self.trace.wants(Switches::TDB) {
                Self::trace_change(&change);
            }
            is_in_the_way = is_in_the_way || self.fairness.accesses.concern(&change);
            let nodes = match change {
                NodeChange::Write { path, value } => {
                    if let Some(node) = self.state.tree.get(path.as_path()) {
                        let change = NodeCount::one(value.len()).plus(NodeCount::one(node.value().len()).negated());
                        self.state.domains.charge_nodes(node.permissions().owner(), change);
                    }
                    let generation = self.state.next_generation();
                    self.state.tree.write(path.as_path(), value, generation);
                    self.announce_one(Change::of(path.as_path(), None), turn.cause, turn);
                    1
                }
                NodeChange::Create { path, levels, value, permissions } => {
                    turn.work.spend(levels as u64);
                    self.state.create(path.as_path(), levels, value, permissions);
                    self.announce_one(Change::of(path.as_path(), None), turn.cause, turn);
                    levels.saturating_add(1)
                }
                NodeChange::SetPermissions { path, permissions } => {
                    let Some(node) = self.state.tree.get(path.as_path()) else { continue };
                    let before = Readable::node(node).to_owned();
                    let generation = self.state.next_generation();
                    self.state.set_permissions(path.as_path(), permissions, generation);
                    self.announce_one(Change::of(path.as_path(), Some(Readable::before(&before))), turn.cause, turn);
                    1
                }
                NodeChange::SetSpecial { special, permissions } => {
                    let generation = self.state.next_generation();
                    let node = SpecialNode { permissions, generation };
                    let before = core::mem::replace(self.state.specials.get_mut(special), node);
                    self.announce_special_change(special, Readable::special(&before), turn);
                    1
                }
                NodeChange::Remove { path } => self.remove_subtree(path.as_path(), turn.cause, turn).saturating_add(1),
            };
            written = written.saturating_add(nodes);
        }
        self.changes.nodes = changes;
        if is_in_the_way { written } else { 0 }
    }

    /// Logs a change of a node.
    #[cold]
    #[inline(never)]
    fn trace_change(change: &NodeChange) {
        let (what, path) = match change {
            NodeChange::Write { path, .. } => ("writes", path.as_path().as_str()),
            NodeChange::Create { path, levels, .. } => {
                path.as_path().lowest(*levels).for_each(|made| log::info!("tdb: makes {}", made.as_str()));
                return;
            }
            NodeChange::SetPermissions { path, .. } => ("sets the permissions of", path.as_path().as_str()),
            NodeChange::SetSpecial { special, .. } => ("sets the permissions of", special.name()),
            NodeChange::Remove { path, .. } => ("removes", path.as_path().as_str()),
        };
        log::info!("tdb: {what} {path}");
    }

    /// Removes a node and its descendants, adjusts the owners' counts, and announces the removal. Returns the number of
    /// removed nodes.
    pub(in crate::engine) fn remove_subtree(&mut self, path: Path<'_>, cause: Cause, turn: &mut Turn<'_>) -> usize {
        let generation = self.state.next_generation();
        let (tree, domains, accesses) = (&self.state.tree, &mut self.state.domains, &mut self.fairness.accesses);
        let was_accessed = accesses.has_within(path);
        let (mut removed, mut bytes) = (0_usize, 0_usize);
        tree.visit_children_first(path, &mut |visit| {
            let memory = visit.node.memory(visit.path);
            domains.charge_nodes(visit.node.permissions().owner(), NodeCount::one(memory).negated());
            removed = removed.saturating_add(1);
            bytes = bytes.saturating_add(memory);
            if was_accessed {
                accesses.note_removal(visit.path, generation);
            }
        });
        turn.work.spend((removed as u64).saturating_mul(REMOVAL_STEPS));
        let parent = path.parent().and_then(|parent| self.state.tree.get(parent));
        // A second owner of the parent would make its change copy the list of its children.
        let above = parent.map(|parent| Readable::node(parent).to_owned());
        if cause.connection.is_some() {
            turn.work.begin_events();
        }
        if let Some(node) = self.state.tree.remove(path, generation) {
            self.announce_removal(path, (node, above), cause, bytes, turn);
        }
        removed
    }

    /// Commits a transaction that has been checked, and announces its changes. A commit costs its client a single write
    /// credit, whatever it changes. It is free if no other open transaction has accessed the changed nodes.
    pub(in crate::engine) fn commit(
        &mut self,
        id: ConnectionId,
        mut transaction: Box<Transaction>,
        turn: &mut Turn<'_>,
    ) {
        if transaction.has_seen_nothing() {
            return;
        }
        let before = self.state.generation();
        // Each path takes a look-up in the index of accessed paths, and a write.
        turn.work.spend(work::of_transaction(&transaction).saturating_mul(2));
        let is_in_the_way = self.fairness.accesses.note_commit(&transaction, before.saturating_add(1));
        let specials = self.state.commit_specials(&mut transaction);
        let events = self.state.commit(*transaction);
        if self.trace.wants(Switches::TDB) {
            events.iter().for_each(|event| log::info!("tdb: commits {}", event.path.as_path().as_str()));
        }
        turn.work.begin_events();
        self.announce_all(events.into(), turn);
        for (special, before) in specials.iter().flatten() {
            self.announce_special_change(*special, Readable::before(before), turn);
        }
        self.account_write(id, before, is_in_the_way.into(), turn);
    }

    /// Commits the result of a replay.
    fn commit_replayed(&mut self, id: ConnectionId, replayed: Replayed, turn: &mut Turn<'_>) {
        for (domid, born) in replayed.domains {
            self.learn_domain(domid, born, turn.hypervisor);
        }
        self.state.skip_generations(replayed.generation);
        self.commit(id, Box::new(replayed.transaction), turn);
    }

    /// Applies a change of the state besides nodes. `ended` is the transaction that the request ended.
    pub(in crate::engine) fn apply_effect(
        &mut self,
        id: ConnectionId,
        effect: Effect,
        ended: Option<Box<Transaction>>,
        reply: &mut Reply,
        turn: &mut Turn<'_>,
    ) -> Completion {
        match effect {
            Effect::Watch { path, token, relative, depth } => {
                self.add_watch(id, &path, &token, relative, depth);
                return Completion::FirstEvent { path, token };
            }
            Effect::StartTransaction => self.start_transaction(id, reply, turn),
            Effect::Unwatch { path, token } => {
                self.state.watches.remove(id, &path, &token);
                let bytes = path.len().saturating_add(token.len());
                self.charge_watches(id, -1, 0_isize.saturating_sub_unsigned(bytes));
                if self.trace.wants(Switches::OBJ) {
                    log::info!("obj: {} no longer watches {path}", self.name(id));
                }
            }
            Effect::Reset => self.reset_watches_and_transactions(id, turn.work),
            Effect::Commit => {
                if let Some(transaction) = ended {
                    self.commit(id, transaction, turn);
                }
            }
            Effect::CommitReplayed(replayed) => self.commit_replayed(id, *replayed, turn),
            Effect::Introduce { domid, port } => self.introduce(domid, port, turn),
            Effect::Rebind { domid, remote_port } => self.rebind(domid, remote_port, turn),
            Effect::Release(domid) => self.release(domid, turn),
            Effect::Resume(domid) => {
                if let Some(domain) = self.state.domains.get_mut(domid) {
                    domain.shutdown = false;
                }
            }
            Effect::SetTarget { domid, target } => {
                let target = self.state.domains.identity(target);
                if let Some(domain) = self.state.domains.get_mut(domid) {
                    domain.target = target;
                }
            }
            Effect::SetFeatures { domid, features } => {
                if let Some(domain) = self.state.domains.get_mut(domid) {
                    domain.features = features;
                }
            }
            Effect::SetQuota { scope, quota, value } => {
                match scope {
                    QuotaScope::Domain(domid) => self.state.domains.set_quota(domid, quota, value),
                    QuotaScope::NewDomains => self.state.domains.set_default_quota(quota, value),
                    QuotaScope::AllDomains => self.state.domains.set_quota_everywhere(quota, value),
                }
                // A client that the old value held back may be read now.
                self.wake_all();
            }
            Effect::SetTrace(trace) => self.trace = trace,
            Effect::Print(text) => log::info!("control: {text}"),
        }
        Completion::Reply
    }

    pub(in crate::engine) fn add_watch(
        &mut self,
        id: ConnectionId,
        path: &str,
        token: &[u8],
        relative: bool,
        depth: Option<u32>,
    ) {
        let relative_bytes =
            if relative { PathBuf::of_domain(self.domid_of(id)).as_path().as_str().len().saturating_add(1) } else { 0 };
        self.state.watches.add(id, path, token, relative_bytes, depth);
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} watches {path}", self.name(id));
        }
        self.charge_watches(id, 1, 0_isize.saturating_add_unsigned(path.len().saturating_add(token.len())));
    }

    /// Queues the first event of a watch. It comes at once, whatever the permissions.
    pub(in crate::engine) fn announce_watch(
        &mut self,
        id: ConnectionId,
        path: &str,
        token: &[u8],
        originator: Option<ConnectionId>,
        turn: &mut Turn<'_>,
    ) {
        let cause = EventCause { originator, ..EventCause::default() };
        if let Some(watch) = self.state.watches.find(id, path, token).map(Rc::clone) {
            self.queue_event(self.receiver(id), &watch, path, cause, turn);
        }
    }

    /// Changes a domain's count of watches and of their bytes. Sockets are not counted.
    pub(in crate::engine) fn charge_watches(&mut self, id: ConnectionId, by: isize, bytes: isize) {
        if let Some(domid) = self.connections.domain_of(id)
            && let Some(domain) = self.state.domains.get_mut(domid)
        {
            domain.watches = domain.watches.saturating_add_signed(by);
            domain.watch_bytes = domain.watch_bytes.saturating_add_signed(bytes);
        }
    }
}
