//! A request's view of the nodes, through its transaction if it has one, and restricted to the requester's rights.

use alloc::rc::Rc;
use core::cmp::Ordering;

use crate::engine::config::Config;
use crate::engine::fairness::accesses::Accesses;
use crate::engine::fairness::memory::Budget;
use crate::engine::work;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Access, Requester};
use crate::store::quota::Quota;
use crate::store::special::{Special, SpecialNode};
use crate::store::state::State;
use crate::store::transaction::Transaction;
use crate::store::tree::Tree;
use crate::wire::errno::Errno;

/// A request's view of the nodes. A transaction notes each node that is read in it.
#[derive(Debug)]
pub struct View<'a> {
    pub(in crate::engine) state: &'a State,
    pub(in crate::engine) config: &'a Config,
    pub(in crate::engine) requester: Requester,
    pub(in crate::engine) transaction: Option<&'a mut Transaction>,
    /// The index of the paths that open transactions access; `None` in a replay.
    pub(in crate::engine) accesses: Option<&'a mut Accesses>,
    /// The memory that the request may still take.
    pub(in crate::engine) budget: Budget,
    /// Steps of work so far ([`work`]).
    pub(in crate::engine) steps: u64,
}

impl View<'_> {
    /// Returns the node at `path`.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] if the transaction reaches its quota of paths or memory. It cannot be committed then.
    pub fn read(&mut self, path: Path<'_>) -> Result<Option<Rc<Node>>, Errno> {
        self.look(path, work::of_path(path.as_str().len()), |tree| tree.get(path).cloned())
    }

    /// Counts steps of work.
    pub(in crate::engine) const fn spend(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// Returns the node at `path`. `find` finds it in the tree and takes `steps`. It does not run if the transaction
    /// has seen the path.
    ///
    /// # Errors
    /// As [`View::read`].
    pub(in crate::engine) fn look(
        &mut self,
        path: Path<'_>,
        steps: u64,
        find: impl FnOnce(&Tree) -> Option<Rc<Node>>,
    ) -> Result<Option<Rc<Node>>, Errno> {
        let Some(transaction) = &mut self.transaction else {
            self.steps = self.steps.saturating_add(steps);
            return Ok(find(&self.state.tree));
        };
        let look_up = work::of_accesses(1, path.as_str().len());
        let seen = transaction.seen(path).map(|seen| seen.cloned());
        // A new path takes look-ups in the transaction and in the index, and the search in the tree.
        let steps = if seen.is_some() { look_up } else { look_up.saturating_mul(3).saturating_add(steps) };
        self.steps = self.steps.saturating_add(steps);
        transaction.count_look(usize::try_from(steps).unwrap_or(usize::MAX));
        if let Some(seen) = seen {
            return Ok(seen);
        }
        let with_this = transaction.len().saturating_add(1);
        if let Requester::Domain { own, .. } = &self.requester
            && !self.state.domains.quotas(own.domid).allows(Quota::TransactionNodes, with_this)
        {
            transaction.fail();
            return Err(Errno::NoSpc);
        }
        let base = find(&self.state.tree);
        if let Err(errno) = self.budget.take(Transaction::bytes_of_look(path, base.as_ref())) {
            transaction.fail();
            return Err(errno);
        }
        let path = path.to_owned();
        if let Some(accesses) = &mut self.accesses {
            accesses.note(path.clone());
        }
        transaction.note(path, base.clone());
        Ok(base)
    }

    /// Returns a special node.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] if the transaction reaches its limit of memory. It cannot be committed then.
    pub fn special(&mut self, special: Special) -> Result<SpecialNode, Errno> {
        let node = self.state.specials.get(special);
        let Some(transaction) = &mut self.transaction else { return Ok(node.clone()) };
        self.steps = self.steps.saturating_add(1);
        transaction.count_look(1);
        if let Some(seen) = transaction.special(special) {
            return Ok(seen.clone());
        }
        if let Err(errno) = self.budget.take(Transaction::bytes_of_special(node)) {
            transaction.fail();
            return Err(errno);
        }
        transaction.note_special(special, node.clone());
        Ok(node.clone())
    }

    /// Returns the node at `path`, if the requester has all of `wanted`.
    ///
    /// # Errors
    /// [`Errno::NoEnt`] for a missing node, if the nearest ancestor gives one of the wanted rights. [`Errno::Acces`]
    /// otherwise: the requester learns nothing about nodes that it may not know. [`Errno::NoSpc`] as in [`View::read`].
    pub fn get(&mut self, path: Path<'_>, wanted: Access) -> Result<Rc<Node>, Errno> {
        let (is_there, above) = if self.transaction.is_some() {
            let node = self.read(path)?;
            if let Some(node) = node.as_ref().filter(|node| self.access(node).contains(wanted)) {
                return Ok(node.clone());
            }
            // The answer also depends on the ancestors, so the transaction has to see them.
            (node.is_some(), self.nearest_ancestor(path)?.0)
        } else {
            self.spend(work::of_path(path.as_str().len()));
            let (found, node) = self.state.tree.nearest(path);
            let is_there = found.as_str().len() == path.as_str().len();
            if is_there && self.access(node).contains(wanted) {
                return Ok(node.clone());
            }
            (is_there, node.clone())
        };
        if !is_there && self.access(&above).intersects(wanted) { Err(Errno::NoEnt) } else { Err(Errno::Acces) }
    }

    /// Returns the nearest node above `path` (the root for the root), and the number of missing levels between them.
    /// One descent finds it. A transaction notes each missing level separately.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] as in [`View::read`].
    pub fn nearest_ancestor(&mut self, path: Path<'_>) -> Result<(Rc<Node>, usize), Errno> {
        let parent = path.parent().unwrap_or(Path::ROOT);
        self.spend(work::of_path(parent.as_str().len()));
        let state = self.state;
        let mut nearest = None;
        for (missing, ancestor) in parent.and_ancestors().enumerate() {
            let found = self.look(ancestor, 1, |tree| {
                let (found, node): (Path<'_>, &Rc<Node>) = *nearest.get_or_insert_with(|| state.tree.nearest(ancestor));
                match ancestor.as_str().len().cmp(&found.as_str().len()) {
                    Ordering::Greater => None,
                    Ordering::Equal => Some(node.clone()),
                    // The transaction removed the nearest node; this one is above it.
                    Ordering::Less => tree.get(ancestor).cloned(),
                }
            })?;
            if let Some(node) = found {
                return Ok((node, missing));
            }
        }
        // The tree always has a root, which cannot be removed.
        Err(Errno::Io)
    }

    /// Returns the requester's rights on `node`.
    #[must_use]
    pub fn access(&self, node: &Node) -> Access {
        self.requester.access(node.permissions(), node.generation())
    }
}
