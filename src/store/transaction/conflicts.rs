//! Conflicts: nodes that a transaction has seen and that have changed in the tree since.

use alloc::rc::Rc;

use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::transaction::Transaction;
use crate::store::tree::Tree;

/// A node that a transaction has seen and that has changed in the tree since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict<'a> {
    /// The node's path.
    pub path: Path<'a>,
    /// Generation of the last write of the node, or of its nearest existing ancestor if the node is gone.
    pub last_write: u64,
    /// Whether the node is gone.
    pub is_gone: bool,
}

impl Transaction {
    /// Returns whether a seen node has changed in the tree since.
    #[must_use]
    pub fn conflicts(&self, tree: &Tree) -> bool {
        self.conflicting(tree).next().is_some()
    }

    /// Returns the seen nodes that have changed in the tree since, in the order of their paths.
    pub fn conflicting<'a>(&'a self, tree: &'a Tree) -> impl Iterator<Item = Conflict<'a>> {
        let generation = |node: &Rc<Node>| node.generation();
        let mut descent = tree.descent(self.accessed.len());
        self.accessed.iter().filter_map(move |(path, accessed)| {
            let path = path.as_path();
            let (found, node) = descent.nearest(path);
            let is_gone = found != path;
            let now = (!is_gone).then(|| node.generation());
            let is_other = accessed.base.as_ref().map(generation) != now;
            is_other.then(|| Conflict { path, last_write: node.generation(), is_gone })
        })
    }
}
