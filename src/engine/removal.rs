//! The announcement of a removed node with all below it, children first.
//!
//! The nodes are out of the tree, and the walk over them can stop anywhere and continue in a later turn. The events for a node
//! below the top concern only watches on exactly it, so that the walk passes over nodes that nobody watches.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::children::Cursor;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf, PathCursor};
use crate::store::watch::{Scope, Watches};

/// A walk over removed nodes.
#[derive(Clone, Debug)]
pub(super) struct Removal {
    /// The node above the top, as it was.
    above: Option<Rc<Node>>,
    /// Where the walk is.
    at: PathCursor,
    /// The nodes on the way there, with the children that were visited.
    levels: Vec<(Rc<Node>, Cursor)>,
    /// A node whose events are not all queued.
    current: Option<Removed>,
}

/// A removed node.
#[derive(Clone, Debug)]
pub(super) struct Removed {
    pub(super) path: PathBuf,
    pub(super) node: Rc<Node>,
    pub(super) parent: Option<Rc<Node>>,
    pub(super) scope: Scope,
}

/// What a step of the walk came to.
#[derive(Debug)]
pub(super) enum Step {
    /// A node that may be watched.
    Node(Removed),
    /// A node that nobody watches, or none.
    Nothing,
    /// The walk is over.
    End,
}

impl Removal {
    /// A walk over `node`, which was at `top`, and all below it.
    pub(super) fn new(top: Path<'_>, node: Rc<Node>, above: Option<Rc<Node>>) -> Self {
        let levels = alloc::vec![(node, Cursor::default())];
        Self { above, at: PathCursor::at(top), levels, current: None }
    }

    /// Takes a step, to the next node or to one above it. Costs the same for each.
    pub(super) fn step(&mut self, watches: &Watches) -> Step {
        if let Some(removed) = self.current.take() {
            return Step::Node(removed);
        }
        let Some((node, cursor)) = self.levels.last_mut() else { return Step::End };
        if let Some((name, child)) = node.children().next(cursor) {
            self.at.push(name);
            let child = child.clone();
            self.levels.push((child, Cursor::default()));
            return Step::Nothing;
        }
        let Some((node, _)) = self.levels.pop() else { return Step::End };
        let above = self.levels.last().map(|(parent, _)| parent.clone());
        let scope = if above.is_some() { Scope::Exact } else { Scope::Subtree };
        let path = self.at.as_path();
        let step = if scope == Scope::Subtree || watches.any_at(path) {
            let parent = above.or_else(|| self.above.clone());
            Step::Node(Removed { path: path.to_owned(), node, parent, scope })
        } else {
            Step::Nothing
        };
        self.at.pop();
        step
    }

    /// Puts a node back whose events are not all queued.
    pub(super) fn put_back(&mut self, removed: Removed) {
        self.current = Some(removed);
    }

    /// Where the walk is, to tell whether it has come further.
    pub(super) fn place(&self) -> (usize, bool) {
        (self.levels.len(), self.current.is_some())
    }

    /// Calls `visit` for all nodes that are left and watched.
    pub(super) fn for_each(&self, watches: &Watches, mut visit: impl FnMut(&Removed)) {
        let mut rest = self.clone();
        loop {
            match rest.step(watches) {
                Step::Node(removed) => visit(&removed),
                Step::Nothing => {}
                Step::End => return,
            }
        }
    }
}
