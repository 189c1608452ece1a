//! The announcement of a removed subtree, children first.
//!
//! The nodes are no longer in the tree. The walk over them can stop anywhere and continue in a later turn. Below the
//! top, a node concerns only watches on exactly that node, so the walk skips nodes without a watch.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::engine::events::Readable;
use crate::store::children::Cursor;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf, PathCursor};
use crate::store::transaction::Before;
use crate::store::watch::{Scope, Watches};

/// A walk over a removed subtree.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Removal {
    /// The parent of the top node, as it was before. Of the node itself, which is still in the tree, a second owner
    /// would cost the next change of its children a copy of their list.
    above: Option<Before>,
    /// The path that the walk has reached.
    at: PathCursor,
    /// The nodes from the top down to that path, each with the position among its children.
    levels: Vec<(Rc<Node>, Cursor)>,
    /// A node whose events are not all queued.
    current: Option<Removed>,
}

/// A removed node.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Removed {
    pub(in crate::engine) path: PathBuf,
    pub(in crate::engine) node: Rc<Node>,
    /// Its parent, as it was before.
    pub(in crate::engine) above: Option<Before>,
    pub(in crate::engine) scope: Scope,
}

/// The outcome of one step of the walk.
#[derive(Debug)]
pub(in crate::engine) enum Step {
    /// The top node, or a watched node below it.
    Node(Removed),
    /// A node without a watch, or a step down.
    Nothing,
    /// The walk is over.
    End,
}

impl Removal {
    /// Creates a walk over `node`, which was at `top`, and its descendants.
    pub(in crate::engine) fn new(top: Path<'_>, node: Rc<Node>, above: Option<Before>) -> Self {
        let levels = alloc::vec![(node, Cursor::default())];
        Self { above, at: PathCursor::at(top), levels, current: None }
    }

    /// Takes one step, down to a child or up to the parent. The cost of each is the same.
    pub(in crate::engine) fn step(&mut self, watches: &Watches) -> Step {
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
        let parent = self.levels.last().map(|(parent, _)| parent);
        let scope = if parent.is_some() { Scope::Exact } else { Scope::Subtree };
        let path = self.at.as_path();
        let step = if scope == Scope::Subtree || watches.any_at(path) {
            let above = parent.map(|parent| Readable::node(parent).to_owned()).or_else(|| self.above.clone());
            Step::Node(Removed { path: path.to_owned(), node, above, scope })
        } else {
            Step::Nothing
        };
        self.at.pop();
        step
    }

    /// Puts back a node whose events are not all queued.
    pub(in crate::engine) fn put_back(&mut self, removed: Removed) {
        self.current = Some(removed);
    }

    /// Returns the present position, to detect progress.
    pub(in crate::engine) fn place(&self) -> (usize, bool) {
        (self.levels.len(), self.current.is_some())
    }

    /// Calls `visit` for each remaining node that [`Removal::step`] would return.
    pub(in crate::engine) fn for_each(&self, watches: &Watches, mut visit: impl FnMut(&Removed)) {
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
