//! Everything that is stored: tree, special nodes, domains and watches, with the generation that orders its changes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::store::domain::DomId;
use crate::store::domain_table::Domains;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Permissions, Requester};
use crate::store::quota::Quotas;
use crate::store::special::Specials;
use crate::store::transaction::{CommitEvent, Transaction};
use crate::store::tree::Tree;
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
    /// The number of the newest change.
    generation: u64,
    /// The control domain.
    privileged: DomId,
}

/// What is wrong with the state, for `CONTROL check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inconsistency {
    /// A domain's count of nodes is not what the tree holds.
    NodeCount {
        /// Whose count.
        domid: DomId,
        /// What was counted along the way.
        counted: u64,
        /// What the tree holds.
        found: u64,
    },
    /// A node belongs to a domain that is not known.
    UnknownOwner(DomId),
    /// The indexes of watches differ.
    Watches,
}

impl State {
    /// A new store: `/`, `/tool` and `/tool/xenstored`, which belong to the privileged domain.
    #[must_use]
    pub fn new(privileged: DomId, quotas: Quotas) -> Self {
        let mut state = Self {
            tree: Tree::new(Node::new(Box::default(), Permissions::private(privileged), 1)),
            specials: Specials::new(privileged, 1),
            domains: Domains::new(quotas),
            watches: Watches::default(),
            generation: 1,
            privileged,
        };
        state.domains.learn(privileged, 0).nodes = 1;
        for path in [Path::TOOL, Path::TOOL_XENSTORED] {
            let generation = state.next_generation();
            state.tree.create(path, Node::new(Box::default(), Permissions::private(privileged), generation));
            state.domains.charge_nodes(privileged, 1);
        }
        state
    }

    /// The control domain.
    #[must_use]
    pub const fn privileged(&self) -> DomId {
        self.privileged
    }

    /// The number of the newest change.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// A number for a new change. It does not wrap: at a change each nanosecond it would take 584 years.
    pub const fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.saturating_add(1);
        self.generation
    }

    /// Takes all numbers up to `generation` as used.
    pub fn skip_generations(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Who asks, when `domid` does.
    #[must_use]
    pub fn requester(&self, domid: DomId) -> Requester {
        if domid == self.privileged {
            return Requester::Privileged;
        }
        let Some(own) = self.domains.identity(domid) else { return Requester::nobody(domid) };
        let target = self.domains.get(domid).and_then(|domain| domain.target);
        Requester::Domain { own, target: target.filter(|target| self.domains.is_current(*target)) }
    }

    /// Makes the changes of a transaction that does not conflict, and returns its events.
    pub fn commit(&mut self, transaction: Transaction) -> Vec<CommitEvent> {
        let Self { tree, domains, generation, .. } = self;
        for (domid, count) in transaction.counts() {
            domains.charge_nodes(domid, count);
        }
        let adjust = |permissions: &Permissions, written| domains.adjusted(permissions, written);
        transaction.commit(tree, adjust, || {
            *generation = generation.saturating_add(1);
            *generation
        })
    }

    /// Counts everything again and compares.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let mut found = alloc::collections::BTreeMap::<DomId, u64>::new();
        self.tree.visit_children_first(Path::ROOT, |visit| {
            let count = found.entry(visit.node.permissions().owner()).or_default();
            *count = count.saturating_add(1);
        });
        for (domid, domain) in self.domains.iter() {
            let found = found.remove(&domid).unwrap_or(0);
            if found != domain.nodes {
                return Err(Inconsistency::NodeCount { domid, counted: domain.nodes, found });
            }
        }
        // A node of all domains counts for none.
        found.remove(&DomId::ANY);
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
        state.domains.charge_nodes(DomId(0), 1);
        assert_eq!(state.check(), Err(Inconsistency::NodeCount { domid: DomId(0), counted: 4, found: 3 }));
    }
}
