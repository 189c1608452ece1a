//! The whole stored state: tree, special nodes, domains and watches, with the generation that orders its changes.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::store::domain::DomId;
use crate::store::domain_table::{Domains, NodeCount};
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Permissions, Requester};
use crate::store::quota::Quotas;
use crate::store::special::{Special, Specials};
use crate::store::transaction::{Before, CommitEvent, Transaction};
use crate::store::tree::Tree;
use crate::store::value::Value;
use crate::store::watch::Watches;

/// The store's committed state.
#[derive(Debug)]
pub struct State {
    /// The nodes.
    pub tree: Tree,
    /// The special nodes.
    pub specials: Specials,
    /// The known domains.
    pub domains: Domains,
    /// The watches.
    pub watches: Watches,
    /// The generation of the newest change.
    generation: u64,
    /// The control domain.
    privileged: DomId,
}

/// An inconsistency of the state, for CONTROL `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// A domain's count of nodes differs from the tree.
    NodeCount {
        /// The domain.
        domid: DomId,
        /// The maintained count.
        counted: NodeCount,
        /// The count of the tree's nodes.
        found: NodeCount,
    },
    /// A node's owner is not a known domain.
    UnknownOwner(DomId),
    /// The indexes of watches differ.
    Watches,
}

impl State {
    /// Creates a new store: `/`, `/tool` and `/tool/xenstored`, which belong to the privileged domain.
    #[must_use]
    pub fn new(privileged: DomId, quotas: Quotas) -> Self {
        let mut state = Self {
            tree: Tree::new(Node::new(Value::default(), Permissions::private(privileged), 1)),
            specials: Specials::new(privileged, 1),
            domains: Domains::new(quotas),
            watches: Watches::default(),
            generation: 1,
            privileged,
        };
        state.domains.learn(privileged, 0);
        for path in [Path::TOOL, Path::TOOL_XENSTORED] {
            let generation = state.next_generation();
            state.tree.create(path, Node::new(Value::default(), Permissions::private(privileged), generation));
        }
        for path in [Path::ROOT, Path::TOOL, Path::TOOL_XENSTORED] {
            state.domains.charge_nodes(privileged, NodeCount::one(Node::memory_bytes(path, 1, 0)));
        }
        state
    }

    /// Creates a store with nothing but a root, for a restore. The root is not counted yet, because another node may
    /// replace it.
    #[must_use]
    pub fn bare(privileged: DomId, quotas: Quotas) -> Self {
        let mut state = Self {
            tree: Tree::new(Node::new(Value::default(), Permissions::private(privileged), 1)),
            specials: Specials::new(privileged, 1),
            domains: Domains::new(quotas),
            watches: Watches::default(),
            generation: 1,
            privileged,
        };
        state.domains.learn(privileged, 0);
        state
    }

    /// Takes the tree, and leaves a bare root until the caller puts the tree back.
    pub fn take_tree(&mut self) -> Tree {
        let bare = Node::new(Value::default(), Permissions::private(self.privileged), self.generation);
        core::mem::replace(&mut self.tree, Tree::new(bare))
    }

    /// Counts the root of a [`State::bare`] store for its owner.
    pub fn charge_root(&mut self) {
        self.domains.charge_nodes(self.privileged, NodeCount::one(Node::memory_bytes(Path::ROOT, 1, 0)));
    }

    /// Returns the control domain.
    #[must_use]
    pub const fn privileged(&self) -> DomId {
        self.privileged
    }

    /// Returns the generation of the newest change.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns a generation for a new change. The number does not wrap: with a change each nanosecond it would take 584
    /// years.
    pub const fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.saturating_add(1);
        self.generation
    }

    /// Takes `count` generations, and returns the last one.
    pub const fn take_generations(&mut self, count: usize) -> u64 {
        self.generation = self.generation.saturating_add(count as u64);
        self.generation
    }

    /// Marks all generations up to `generation` as used.
    pub fn skip_generations(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Returns `domid` as a requester, with its target.
    #[must_use]
    pub fn requester(&self, domid: DomId) -> Requester {
        if domid == self.privileged {
            return Requester::Privileged;
        }
        let Some(own) = self.domains.identity(domid) else { return Requester::nobody(domid) };
        let target = self.domains.get(domid).and_then(|domain| domain.target);
        Requester::Domain { own, target: target.filter(|target| self.domains.is_current(*target)) }
    }

    /// Makes a node and the missing nodes above it: `levels` nodes in all. All of them get `permissions` and the same
    /// generation (see [`crate::store::transaction::NodeChange::generations`]).
    pub fn create(&mut self, path: Path<'_>, levels: usize, value: Value, permissions: Permissions) {
        let (owner, entries) = (permissions.owner(), permissions.entries().len());
        let bytes = |(above, made)| Node::memory_bytes(made, entries, if above == 0 { value.len() } else { 0 });
        let counts = path.and_ancestors().take(levels).enumerate().map(bytes).map(NodeCount::one);
        self.domains.charge_nodes(owner, counts.fold(NodeCount::default(), NodeCount::plus));
        let generation = self.take_generations(levels);
        self.tree.create_levels(path, levels, Node::new(value, permissions, generation));
    }

    /// Sets a node's permissions, and with them perhaps another owner.
    pub fn set_permissions(&mut self, path: Path<'_>, permissions: Permissions, generation: u64) {
        let Some(node) = self.tree.get(path) else { return };
        let (owner, before) = (node.permissions().owner(), NodeCount::one(node.memory(path)));
        let after = Node::memory_bytes(path, permissions.entries().len(), node.value().len());
        let after = NodeCount::one(after);
        if owner == permissions.owner() {
            // As one change: only growth updates the maxima.
            self.domains.charge_nodes(owner, after.plus(before.negated()));
        } else {
            self.domains.charge_nodes(owner, before.negated());
            self.domains.charge_nodes(permissions.owner(), after);
        }
        self.tree.set_permissions(path, permissions, generation);
    }

    /// Applies the changes of a transaction that does not conflict, and returns its events.
    pub fn commit(&mut self, transaction: Transaction) -> Vec<CommitEvent> {
        let Self { tree, domains, generation, .. } = self;
        transaction.charge_owners(tree, |domid, count| domains.charge_nodes(domid, count));
        let adjust = |permissions: &Permissions, written| domains.adjusted(permissions, written);
        transaction.commit(tree, adjust, || {
            *generation = generation.saturating_add(1);
            *generation
        })
    }

    /// Applies a transaction's changes of special nodes, and returns the nodes' states before. The transaction does not
    /// conflict.
    pub fn commit_specials(
        &mut self,
        transaction: &mut Transaction,
    ) -> [Option<(Special, Before)>; Special::ALL.len()] {
        let Self { specials, domains, generation, .. } = self;
        transaction.commit_specials(
            specials,
            |permissions, written| domains.adjusted(permissions, written),
            || {
                *generation = generation.saturating_add(1);
                *generation
            },
        )
    }

    /// Counts the nodes of each domain. Nodes that all domains own count for none.
    #[must_use]
    pub fn count_nodes(&self) -> BTreeMap<DomId, NodeCount> {
        let mut found = BTreeMap::<DomId, NodeCount>::new();
        let mut add = |owner, count: NodeCount| {
            if count.nodes == 0 {
                return;
            }
            let sum = found.entry(owner).or_default();
            *sum = sum.plus(count);
        };
        // Nodes of one owner are mostly adjacent.
        let (mut owner, mut count) = (self.privileged, NodeCount::default());
        self.tree.visit_memory(|node, bytes| {
            let next = node.permissions().owner();
            if next != owner {
                add(core::mem::replace(&mut owner, next), core::mem::take(&mut count));
            }
            count = count.plus(NodeCount::one(bytes));
        });
        add(owner, count);
        found.remove(&DomId::ANY);
        found
    }

    /// Counts all nodes, and compares the result with the maintained counts.
    ///
    /// # Errors
    /// Fails with the first inconsistency.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let mut found = self.count_nodes();
        for (domid, domain) in self.domains.iter() {
            let found = found.remove(&domid).unwrap_or_default();
            let counted = NodeCount { nodes: domain.nodes.cast_signed(), bytes: domain.node_bytes.cast_signed() };
            if found != counted {
                return Err(Inconsistency::NodeCount { domid, counted, found });
            }
        }
        match found.pop_first() {
            Some((domid, _)) => Err(Inconsistency::UnknownOwner(domid)),
            None if !self.watches.agree() => Err(Inconsistency::Watches),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_is_consistent_and_private() {
        let state = State::new(DomId(0), Quotas::default());
        assert_eq!(state.check(), Ok(()));
        assert_eq!(state.domains.get(DomId(0)).unwrap().nodes, 3);
        let root = state.tree.get(Path::ROOT).unwrap();
        assert!(state.requester(DomId(3)).access(root.permissions(), root.generation()).is_empty());
    }

    #[test]
    fn a_check_finds_a_wrong_count() {
        let mut state = State::new(DomId(0), Quotas::default());
        state.domains.charge_nodes(DomId(0), NodeCount::one(0));
        let found = NodeCount { nodes: 3, bytes: 109 };
        let counted = NodeCount { nodes: 4, ..found };
        assert_eq!(state.check(), Err(Inconsistency::NodeCount { domid: DomId(0), counted, found }));
    }
}
