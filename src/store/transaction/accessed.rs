//! A node that a transaction has seen, with the transaction's own version of it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::node::Node;
use crate::store::transaction::Before;
use crate::store::value::Value;
use crate::store::watch::Scope;

/// A transaction's version of a node.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    /// The transaction has not changed the node.
    Untouched,
    /// The transaction changed or made the node.
    Present(Rc<Node>),
    /// The transaction removed the node, perhaps after making it.
    Absent,
}

/// A change of the list of children.
#[derive(Clone, Debug)]
pub(crate) enum ChildChange {
    Add(Box<str>),
    Remove(Box<str>),
}

/// A node that a transaction has seen.
#[derive(Clone, Debug)]
pub(crate) struct Accessed {
    /// The number of the first access, in order; events are sent in this order.
    pub(super) order: usize,
    /// The node at the first access; `None` if it was missing.
    pub(crate) base: Option<Rc<Node>>,
    pub(crate) local: Local,
    /// The changes of the list of children since the node was made or first seen, in order.
    pub(crate) children: Vec<ChildChange>,
    /// The event that the commit sends.
    pub(crate) event: Option<Scope>,
}

/// Returns the bytes of a node's copy. Its list of children is mostly shared, and each change of the list counts
/// separately.
pub(super) fn content_bytes(node: &Node) -> usize {
    Node::record_bytes(node.permissions().entries().len(), node.value().len(), 0)
}

impl Accessed {
    /// Returns the permissions at the first access, if the commit sends an event.
    pub(super) fn before(&self) -> Option<Before> {
        let base = self.event.and(self.base.as_ref())?;
        Some(Before { permissions: base.permissions().clone(), generation: base.generation() })
    }

    /// Returns the bytes of the transaction's own version.
    pub(super) fn local_bytes(&self) -> usize {
        match &self.local {
            Local::Present(node) => content_bytes(node),
            Local::Untouched | Local::Absent => 0,
        }
    }

    pub(crate) const fn current(&self) -> Option<&Rc<Node>> {
        match &self.local {
            Local::Untouched => self.base.as_ref(),
            Local::Present(node) => Some(node),
            Local::Absent => None,
        }
    }

    /// Returns the node to be changed, as the transaction's own version from now on.
    pub(super) fn current_mut(&mut self) -> Option<&mut Node> {
        if let (Local::Untouched, Some(base)) = (&self.local, &self.base) {
            self.local = Local::Present(base.clone());
        }
        match &mut self.local {
            Local::Present(node) => Some(Rc::make_mut(node)),
            Local::Untouched | Local::Absent => None,
        }
    }

    /// Notes an event. A wider scope replaces a narrower one, but not the other way round.
    pub(super) fn announce(&mut self, scope: Scope) {
        if self.event != Some(Scope::Subtree) {
            self.event = Some(scope);
        }
    }
}

impl ChildChange {
    /// Returns the child's name.
    pub(crate) const fn name(&self) -> &str {
        let (Self::Add(name) | Self::Remove(name)) = self;
        name
    }

    /// Returns the bytes of the change.
    pub(super) const fn bytes(&self) -> usize {
        let (Self::Add(name) | Self::Remove(name)) = self;
        name.len().saturating_add(size_of::<Self>())
    }

    /// Applies the change to a node's list of children, for a commit. A new child is empty, with its parent's
    /// permissions, until its own entry fills it. The removal of a child removes all nodes below it.
    pub(super) fn make(&self, node: &mut Node) {
        match self {
            Self::Add(name) => {
                let child = Node::new(Value::default(), node.permissions().clone(), node.generation());
                node.insert_child(name, Rc::new(child));
            }
            Self::Remove(name) => drop(node.remove_child(name)),
        }
    }
}
