//! The nodes as a request sees them: through its transaction, if it has one, and with the rules about who may know what.

use alloc::rc::Rc;

use crate::engine::config::Config;
use crate::engine::memory::Budget;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::{Access, Requester};
use crate::store::quota::Quota;
use crate::store::special::{Special, SpecialNode};
use crate::store::state::State;
use crate::store::transaction::Transaction;
use crate::wire::errno::Errno;

/// A request's view of the nodes. Looking at a node in a transaction is noted there.
#[derive(Debug)]
pub struct View<'a> {
    pub(super) state: &'a State,
    pub(super) config: &'a Config,
    pub(super) requester: Requester,
    pub(super) transaction: Option<&'a mut Transaction>,
    /// What the request may still make grow.
    pub(super) budget: Budget,
}

impl View<'_> {
    /// The node at `path`.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] when the transaction has seen as many paths as it may, or takes all memory that it may; it can't
    /// be committed then.
    pub fn read(&mut self, path: Path<'_>) -> Result<Option<Rc<Node>>, Errno> {
        let Some(transaction) = &mut self.transaction else { return Ok(self.state.tree.get(path).cloned()) };
        transaction.count_look();
        if let Some(seen) = transaction.seen(path) {
            return Ok(seen.cloned());
        }
        let with_this = transaction.len().saturating_add(1);
        if let Requester::Domain { own, .. } = &self.requester
            && !self.state.domains.quotas(own.domid).allows(Quota::TransactionNodes, with_this)
        {
            transaction.fail();
            return Err(Errno::NoSpc);
        }
        let base = self.state.tree.get(path).cloned();
        if let Err(errno) = self.budget.take(Transaction::bytes_of_look(path, base.as_ref())) {
            transaction.fail();
            return Err(errno);
        }
        transaction.note(path, base.clone());
        Ok(base)
    }

    /// A special node.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] when the transaction takes all memory that it may; it cannot be committed then.
    pub fn special(&mut self, special: Special) -> Result<SpecialNode, Errno> {
        let node = self.state.specials.get(special);
        let Some(transaction) = &mut self.transaction else { return Ok(node.clone()) };
        transaction.count_look();
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

    /// The node at `path`, if the requester has all of `wanted`.
    ///
    /// # Errors
    /// [`Errno::NoEnt`] for a missing node, if the nearest ancestor gives a right that is wanted; [`Errno::Acces`]
    /// otherwise, so that nobody learns of nodes that do not concern him. [`Errno::NoSpc`] as in [`View::read`].
    pub fn get(&mut self, path: Path<'_>, wanted: Access) -> Result<Rc<Node>, Errno> {
        let node = self.read(path)?;
        if let Some(node) = node.as_ref().filter(|node| self.access(node).contains(wanted)) {
            return Ok(node.clone());
        }
        let above = self.nearest_ancestor(path)?;
        if node.is_none() && self.access(&above).intersects(wanted) { Err(Errno::NoEnt) } else { Err(Errno::Acces) }
    }

    /// The nearest node above `path`; the root for the root.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] as in [`View::read`].
    pub fn nearest_ancestor(&mut self, path: Path<'_>) -> Result<Rc<Node>, Errno> {
        for ancestor in path.and_ancestors().skip(1) {
            if let Some(node) = self.read(ancestor)? {
                return Ok(node);
            }
        }
        // Only the root is its own nearest ancestor, and the tree always has one.
        self.read(Path::ROOT)?.ok_or(Errno::Io)
    }

    /// What the requester may do with `node`.
    #[must_use]
    pub fn access(&self, node: &Node) -> Access {
        self.requester.access(node.permissions(), node.generation())
    }
}
