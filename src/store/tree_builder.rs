//! Builds a tree from nodes that arrive one by one, parents before their children.
//!
//! In the order of a walk, a node needs no search from the root. Every stream that this server writes has this order.
//! The way down to the last node stays open, and a node joins its parent when the next node is not below it. In any
//! other order, each node needs a search.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::node::Node;
use crate::store::path::{Path, PathCursor};
use crate::store::tree::Tree;

/// The reason why a node cannot be at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// The parent is missing.
    NoParent,
    /// The path has a node already.
    Exists,
}

/// A tree that is being built.
#[derive(Debug)]
pub struct TreeBuilder {
    root: Node,
    /// The nodes below the root on the way to the last one, each with the bytes of its path.
    open: Vec<(usize, Node)>,
    /// The path of the last open node.
    path: PathCursor,
}

impl TreeBuilder {
    /// Continues a tree.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self { root: tree.into_root(), open: Vec::new(), path: PathCursor::at(Path::ROOT) }
    }

    /// Returns the finished tree.
    #[must_use]
    pub fn finish(mut self) -> Tree {
        self.close_to(0);
        self.root.trim();
        Tree::new(self.root)
    }

    /// Replaces the root.
    pub fn replace_root(&mut self, mut root: Node) {
        self.close_to(0);
        root.take_children_of(&self.root);
        self.root = root;
    }

    /// Reads a path that is probably that of a sibling or a child of the last node. Returns `None` if it is not.
    #[must_use]
    pub fn read_near<'a>(&self, spelling: &'a str) -> Option<Path<'a>> {
        let last = self.path.as_path();
        let sibling = last.parent().and_then(|parent| Path::child_of(parent, spelling));
        sibling.or_else(|| Path::child_of(last, spelling))
    }

    /// Appends a node at `path`, which is not the root, to its parent's children. `make` makes the node from its
    /// parent.
    ///
    /// # Errors
    /// Fails if the parent is missing or the node exists. Nothing changes then.
    pub fn add(&mut self, path: Path<'_>, make: impl FnOnce(&Node) -> Node) -> Result<(), Misplaced> {
        let above = path.parent().ok_or(Misplaced::Exists)?;
        let above_bytes = if above.is_root() { 0 } else { above.as_str().len() };
        let Some(levels) = self.find_open(above, above_bytes) else { return self.add_elsewhere(path, above, make) };
        self.close_to(levels);
        let parent = self.open.last().map_or(&self.root, |(_, node)| node);
        if parent.children().has(path.name()) {
            return Err(Misplaced::Exists);
        }
        let node = make(parent);
        self.path.push(path.name());
        self.open.push((path.as_str().len(), node));
        Ok(())
    }

    /// Returns the number of open nodes down to the one at `path`; `None` if it is not open.
    fn find_open(&self, path: Path<'_>, bytes: usize) -> Option<usize> {
        if bytes == 0 {
            return Some(0);
        }
        // The parent is near the end: it is the last node, or that node's parent.
        let at = self.open.iter().rposition(|(end, _)| *end <= bytes)?;
        let is_there = self.open.get(at).is_some_and(|(end, _)| *end == bytes)
            && self.path.as_path().as_str().as_bytes().get(..bytes) == Some(path.as_str().as_bytes());
        is_there.then(|| at.saturating_add(1))
    }

    /// Moves the open nodes below the first `levels` into their parents.
    fn close_to(&mut self, levels: usize) {
        while self.open.len() > levels {
            let Some((_, mut node)) = self.open.pop() else { return };
            node.trim();
            let parent = self.open.last_mut().map_or(&mut self.root, |(_, parent)| parent);
            parent.append_child(self.path.as_path().name(), Rc::new(node));
            self.path.pop();
        }
    }

    /// Adds a node whose parent is not on the way to the last one.
    fn add_elsewhere(
        &mut self,
        path: Path<'_>,
        above: Path<'_>,
        make: impl FnOnce(&Node) -> Node,
    ) -> Result<(), Misplaced> {
        self.close_to(0);
        let parent = above.names().try_fold(&self.root, |node, name| node.children().get(name).map(|child| &**child));
        let parent = parent.ok_or(Misplaced::NoParent)?;
        if parent.children().get(path.name()).is_some() {
            return Err(Misplaced::Exists);
        }
        let made = make(parent);
        let mut node = &mut self.root;
        for name in above.names() {
            node.mention(made.permissions());
            node = Rc::make_mut(node.child_mut(name).ok_or(Misplaced::NoParent)?);
        }
        node.insert_child(path.name(), Rc::new(made));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::domain::DomId;
    use crate::store::path::PathBuf;
    use crate::store::permission::Permissions;
    use crate::store::value::Value;
    use alloc::string::String;

    fn at(path: &str) -> PathBuf {
        Path::parse(path.as_bytes(), DomId(0), 100, &mut Default::default()).unwrap().to_owned()
    }

    fn node(owner: u16) -> Node {
        Node::new(Value::default(), Permissions::private(DomId(owner)), 1)
    }

    fn build(paths: &[&str]) -> (Tree, Vec<Result<(), Misplaced>>) {
        let mut builder = TreeBuilder::new(Tree::new(node(0)));
        let mut owner = 0;
        let outcomes = paths.iter().map(|path| {
            owner += 1;
            builder.add(at(path).as_path(), |_| node(owner))
        });
        let outcomes = outcomes.collect();
        (builder.finish(), outcomes)
    }

    fn walked(tree: &Tree) -> Vec<String> {
        let mut walk = tree.walk();
        let mut seen = Vec::new();
        while let Some((path, _)) = walk.next() {
            seen.push(String::from(path.as_str()));
        }
        seen
    }

    #[test]
    fn nodes_in_the_order_of_a_walk_make_the_tree_that_was_walked() {
        let paths = ["/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/e", "/e/a", "/e/a/b", "/f"];
        let (tree, outcomes) = build(&paths);
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(walked(&tree)[1..], paths);
    }

    #[test]
    fn any_order_with_parents_first_is_taken_and_kept_among_siblings() {
        let (tree, outcomes) = build(&["/z", "/a", "/z/2", "/a/1", "/z/1", "/z/2/x", "/a/1/y", "/b"]);
        assert!(outcomes.iter().all(Result::is_ok));
        assert_eq!(walked(&tree), ["/", "/z", "/z/2", "/z/2/x", "/z/1", "/a", "/a/1", "/a/1/y", "/b"]);
    }

    #[test]
    fn what_has_no_parent_or_is_there_already_is_refused_and_changes_nothing() {
        let (exists, missing) = (Err(Misplaced::Exists), Err(Misplaced::NoParent));
        let (tree, outcomes) = build(&["/a", "/a", "/a/b", "/a", "/c/d", "/a/b", "/ab/c", "/a/b/c"]);
        assert_eq!(outcomes, [Ok(()), exists, Ok(()), exists, missing, exists, missing, Ok(())]);
        assert_eq!(walked(&tree), ["/", "/a", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn every_node_above_knows_who_is_named_below() {
        let (tree, _) = build(&["/a", "/a/b", "/c", "/a/b/c"]);
        for (owner, path) in [(1, "/a"), (2, "/a/b"), (3, "/c"), (4, "/a/b/c")] {
            let found = tree.nodes_naming(DomId(owner), true);
            assert_eq!(found.iter().map(|path| path.as_path().as_str()).collect::<Vec<_>>(), [path]);
        }
    }

    #[test]
    fn a_root_that_comes_late_keeps_what_is_below() {
        let mut builder = TreeBuilder::new(Tree::new(node(0)));
        builder.add(at("/a").as_path(), |_| node(5)).unwrap();
        builder.replace_root(node(7));
        builder.add(at("/b").as_path(), |parent| node(parent.permissions().owner().0)).unwrap();
        let tree = builder.finish();
        assert_eq!(walked(&tree), ["/", "/a", "/b"]);
        assert_eq!(tree.nodes_naming(DomId(5), true).len(), 1);
        assert_eq!(tree.nodes_naming(DomId(7), true).len(), 2);
    }
}
