//! The committed tree of nodes.
//!
//! A clone keeps a version of the tree at no cost. The first change afterwards copies the nodes from the root to the
//! changed node. Reading allocates nothing. No operation recurses.

use alloc::collections::TryReserveError;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::limits;
use crate::store::children::Cursor;
use crate::store::descent::{Descent, Edit, node_mut};
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf, PathCursor};
use crate::store::permission::Permissions;
use crate::store::value::Value;

/// The tree. It always has a root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Rc<Node>,
}

/// The position of a visit of a subtree: a node below its parent.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The node's path.
    pub path: Path<'a>,
    /// The node.
    pub node: &'a Rc<Node>,
    /// The node's parent; `None` for the node at which the visit began.
    pub parent: Option<&'a Node>,
}

impl Tree {
    /// Creates a tree that consists of `root`.
    #[must_use]
    pub fn new(root: Node) -> Self {
        Self { root: Rc::new(root) }
    }

    /// Returns the node at `path`.
    #[must_use]
    pub fn get(&self, path: Path<'_>) -> Option<&Rc<Node>> {
        path.names().try_fold(&self.root, |node, name| node.children().get(name))
    }

    /// Returns the deepest existing node on the way to `path`, with its path. Costs one descent.
    #[must_use]
    pub fn nearest<'a>(&self, path: Path<'a>) -> (Path<'a>, &Rc<Node>) {
        let (mut bytes, mut node) = (0, &self.root);
        for (end, name) in path.names_below(0) {
            let Some(child) = node.children().get(name) else { break };
            (bytes, node) = (end, child);
        }
        (path.first(bytes), node)
    }

    /// Starts look-ups of `paths` paths, which cost little if the paths are sorted.
    #[must_use]
    pub const fn descent<'p>(&self, paths: usize) -> Descent<'_, 'p> {
        Descent::new(&self.root, paths)
    }

    /// Starts changes at `paths` paths, which cost little if the paths are sorted.
    pub(super) fn edit<'p>(&mut self, paths: usize) -> Edit<'_, 'p> {
        Edit::new(&mut self.root, paths)
    }

    /// Sets the value of the node at `path`, if it exists.
    pub fn write(&mut self, path: Path<'_>, value: Value, generation: u64) {
        if let Some(node) = node_mut(&mut self.root, path, None) {
            node.set_value(value);
            node.set_generation(generation);
        }
    }

    /// Sets the permissions of the node at `path`, if it exists.
    pub fn set_permissions(&mut self, path: Path<'_>, permissions: Permissions, generation: u64) {
        if let Some(node) = node_mut(&mut self.root, path, Some(&permissions)) {
            node.set_permissions(permissions);
            node.set_generation(generation);
        }
    }

    /// Puts `node` at `path`, where no node exists yet. The parent counts as written at the node's generation. Does
    /// nothing if the parent is missing.
    pub fn create(&mut self, path: Path<'_>, node: Node) {
        let Some(parent) = path.parent() else { return };
        if let Some(above) = node_mut(&mut self.root, parent, Some(node.permissions())) {
            above.set_generation(node.generation());
            above.insert_child(path.name(), Rc::new(node));
        }
    }

    /// Puts `node` at `path`, with all missing nodes above it, as [`Tree::create`]. Makes `levels` nodes in all. The
    /// nodes above `path` get no value, and the permissions of `node`. The parent of the topmost node exists. Costs one
    /// descent and a step for each level.
    pub fn create_levels(&mut self, path: Path<'_>, levels: usize, mut node: Node) {
        let mut at = path;
        for _ in 1..levels {
            let Some(parent) = at.parent() else { return };
            let mut above = Node::new(Value::default(), node.permissions().clone(), node.generation());
            above.insert_child(at.name(), Rc::new(node));
            (node, at) = (above, parent);
        }
        self.create(at, node);
    }

    /// Returns the root with everything below it; a copy if another version shares it.
    pub(super) fn into_root(self) -> Node {
        Rc::unwrap_or_clone(self.root)
    }

    /// Returns all nodes, parents before their children, and children in the order of creation.
    #[must_use]
    pub fn walk(&self) -> Walk<'_> {
        Walk { root: Some(&self.root), at: PathCursor::at(Path::ROOT), levels: Vec::new() }
    }

    /// Returns the same as [`Tree::walk`], with all the memory that the walk may need.
    ///
    /// # Errors
    /// Fails if that memory is missing.
    pub fn try_walk(&self) -> Result<Walk<'_>, TryReserveError> {
        let mut walk = self.walk();
        walk.levels.try_reserve_exact(limits::PATH_DEPTH.saturating_add(1))?;
        walk.at.try_reserve()?;
        Ok(walk)
    }

    /// Calls `visit` for all nodes, in the order of [`Tree::walk`].
    ///
    /// # Errors
    /// Fails if the memory that the walk may need is missing.
    pub fn try_visit(&self, mut visit: impl FnMut(&Node)) -> Result<(), TryReserveError> {
        let mut levels: Vec<(&Node, Cursor)> = Vec::new();
        levels.try_reserve_exact(limits::PATH_DEPTH.saturating_add(1))?;
        visit(&self.root);
        levels.push((&*self.root, Cursor::default()));
        while let Some((node, cursor)) = levels.last_mut() {
            let Some((_, child)) = node.children().next(cursor) else {
                levels.pop();
                continue;
            };
            visit(child);
            if !child.children().is_empty() {
                levels.push((child, Cursor::default()));
            }
        }
        Ok(())
    }

    /// Removes and returns the node at `path`, with everything below it. The parent counts as written at `generation`.
    /// The root stays.
    pub fn remove(&mut self, path: Path<'_>, generation: u64) -> Option<Rc<Node>> {
        let parent = node_mut(&mut self.root, path.parent()?, None)?;
        let removed = parent.remove_child(path.name())?;
        parent.set_generation(generation);
        Some(removed)
    }

    /// Calls `visit` for each node, in the cheapest order, with the bytes that the node counts for.
    pub(super) fn visit_memory(&self, mut visit: impl FnMut(&Node, usize)) {
        let root_bytes = Path::ROOT.as_str().len();
        visit(&self.root, self.root.memory_at(root_bytes, 0));
        // With the bytes of each node's path and of the slash after it.
        let mut levels: Vec<(&Node, usize, Cursor)> = alloc::vec![(&*self.root, root_bytes, Cursor::default())];
        while let Some((node, above_bytes, cursor)) = levels.last_mut() {
            let Some((name, child)) = node.children().next_in_any_order(cursor) else {
                levels.pop();
                continue;
            };
            let path_bytes = above_bytes.saturating_add(name.len());
            visit(child, child.memory_at(path_bytes, name.len()));
            if !child.children().is_empty() {
                levels.push((child, path_bytes.saturating_add(1), Cursor::default()));
            }
        }
    }

    /// Calls `visit` for the node at `path` and all nodes below it, children before their parents, in the order of
    /// creation.
    pub fn visit_children_first(&self, path: Path<'_>, visit: &mut dyn FnMut(Visit<'_>)) {
        let Some(top) = self.get(path) else { return };
        let mut at = PathCursor::at(path);
        let mut levels: Vec<(&Rc<Node>, Cursor)> = alloc::vec![(top, Cursor::default())];
        while let Some((node, cursor)) = levels.last_mut() {
            if let Some((name, child)) = node.children().next(cursor) {
                at.push(name);
                levels.push((child, Cursor::default()));
            } else {
                let node = *node;
                levels.pop();
                let parent = levels.last().map(|(parent, _)| &***parent);
                visit(Visit { path: at.as_path(), node, parent });
                at.pop();
            }
        }
    }

    /// Returns the path of the next node that names `domid` in its permissions, parents before their children. Starts
    /// at the root, or after the node `behind` of the tree. Skips all nodes below a node that `domid` owns, unless that
    /// node is the root or `below_owned` is set. The cost of finding all grows with the nodes that mention the domain,
    /// not with the size of the tree.
    ///
    /// The paths are returned one by one, because a list of them could need more memory than is free. A caller that
    /// removes the found node looks for the next one before.
    ///
    /// Adds one step to `steps` for each considered node, and for each level on the way to `behind`.
    #[must_use]
    pub fn next_naming(
        &self,
        domid: DomId,
        behind: Option<Path<'_>>,
        below_owned: bool,
        steps: &mut u64,
    ) -> Option<PathBuf> {
        let is_named = |node: &Node| node.permissions().entries().iter().any(|entry| entry.domid == domid);
        if behind.is_none() && is_named(&self.root) {
            return Some(Path::ROOT.to_owned());
        }
        let behind = behind.unwrap_or(Path::ROOT);
        let mut at = PathCursor::at(behind);
        let mut levels: Vec<(&Node, Cursor)> = Vec::new();
        let mut node = &*self.root;
        for name in behind.names() {
            *steps = steps.saturating_add(1);
            let (child, cursor) = node.children().behind(name)?;
            levels.push((node, cursor));
            node = child;
        }
        // The root cannot be removed, regardless of its owner.
        if below_owned || behind.is_root() || node.permissions().owner() != domid {
            levels.push((node, Cursor::default()));
        } else {
            at.pop();
        }
        while let Some((node, cursor)) = levels.last_mut() {
            *steps = steps.saturating_add(1);
            let Some((name, child)) = node.children().next(cursor) else {
                levels.pop();
                at.pop();
                continue;
            };
            if child.may_mention(domid) {
                at.push(name);
                if is_named(child) {
                    return Some(at.as_path().to_owned());
                }
                levels.push((child, Cursor::default()));
            }
        }
        None
    }

    /// Returns the paths of all nodes that name `domid`: see [`Tree::next_naming`].
    #[cfg(test)]
    pub(super) fn nodes_naming(&self, domid: DomId, below_owned: bool) -> Vec<PathBuf> {
        let mut next = self.next_naming(domid, None, below_owned, &mut 0);
        core::iter::from_fn(|| {
            let found = next.take()?;
            next = self.next_naming(domid, Some(found.as_path()), below_owned, &mut 0);
            Some(found)
        })
        .collect()
    }
}

/// A walk over all nodes.
#[derive(Debug)]
pub struct Walk<'a> {
    root: Option<&'a Rc<Node>>,
    at: PathCursor,
    /// The nodes with children on the way down, each with the bytes of its path.
    levels: Vec<(&'a Rc<Node>, usize, Cursor)>,
}

impl<'a> Walk<'a> {
    /// Returns the next node.
    #[expect(clippy::should_implement_trait, reason = "the path is lent until the next call")]
    pub fn next(&mut self) -> Option<(Path<'_>, &'a Rc<Node>)> {
        if let Some(root) = self.root.take() {
            self.levels.push((root, self.at.bytes(), Cursor::default()));
            return Some((self.at.as_path(), root));
        }
        loop {
            let (node, bytes, cursor) = self.levels.last_mut()?;
            let node: &'a Rc<Node> = node;
            let Some((name, child)) = node.children().next(cursor) else {
                self.levels.pop();
                continue;
            };
            self.at.go_up_to(*bytes);
            self.at.push(name);
            if !child.children().is_empty() {
                self.levels.push((child, self.at.bytes(), Cursor::default()));
            }
            return Some((self.at.as_path(), child));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    fn tree(paths: &[(&str, u16)]) -> Tree {
        let mut tree = Tree::new(Node::new(Value::default(), Permissions::private(DomId(0)), 1));
        for (path, owner) in paths {
            tree.create(
                at(path).as_path(),
                Node::new((*path).as_bytes().into(), Permissions::private(DomId(*owner)), 2),
            );
        }
        tree
    }

    fn at(path: &str) -> PathBuf {
        Path::parse(path.as_bytes(), DomId(0), 100, &mut Default::default()).unwrap().to_owned()
    }

    #[test]
    fn an_older_version_stays_as_it_was() {
        let mut tree = tree(&[("/a", 0), ("/a/b", 0), ("/c", 0)]);
        let older = tree.clone();
        tree.write(at("/a/b").as_path(), b"new"[..].into(), 9);
        tree.remove(at("/c").as_path(), 10);
        assert_eq!(older.get(at("/a/b").as_path()).unwrap().value(), b"/a/b");
        assert!(older.get(at("/c").as_path()).is_some());
        assert_eq!(tree.get(at("/a/b").as_path()).unwrap().value(), b"new");
        assert!(tree.get(at("/c").as_path()).is_none());
    }

    #[test]
    fn the_nearest_node_is_the_deepest_that_exists_on_the_way() {
        let tree = tree(&[("/a", 0), ("/a/b", 0), ("/ab", 0)]);
        for (path, nearest) in
            [("/", "/"), ("/a", "/a"), ("/a/b", "/a/b"), ("/a/b/c/d", "/a/b"), ("/ab/b", "/ab"), ("/b", "/")]
        {
            let (path, nearest) = (at(path), at(nearest));
            let (found, node) = tree.nearest(path.as_path());
            assert_eq!(found, nearest.as_path());
            assert!(Rc::ptr_eq(node, tree.get(found).unwrap()));
        }
    }

    #[test]
    fn levels_that_are_made_at_once_are_like_levels_made_one_by_one() {
        let mut at_once = tree(&[("/a", 0)]);
        at_once.create_levels(
            at("/a/b/c/d").as_path(),
            3,
            Node::new(b"v"[..].into(), Permissions::private(DomId(7)), 5),
        );
        let mut walk = at_once.walk();
        let mut seen = Vec::new();
        while let Some((path, node)) = walk.next() {
            seen.push((
                String::from(path.as_str()),
                node.value().to_vec(),
                node.permissions().owner().0,
                node.generation(),
            ));
        }
        let expected =
            [("/", "", 0, 1), ("/a", "/a", 0, 5), ("/a/b", "", 7, 5), ("/a/b/c", "", 7, 5), ("/a/b/c/d", "v", 7, 5)];
        let expected = expected.map(|(path, value, owner, at)| (path.into(), value.as_bytes().to_vec(), owner, at));
        // The root got a child before, which counts as a write.
        assert_eq!(seen[1..], expected[1..]);
        assert_eq!(at_once.nodes_naming(DomId(7), true), [at("/a/b"), at("/a/b/c"), at("/a/b/c/d")]);
    }

    #[test]
    fn a_visit_sees_children_before_their_parents_in_order() {
        let tree = tree(&[("/a", 0), ("/a/z", 0), ("/a/z/1", 0), ("/a/b", 0), ("/c", 0)]);
        let mut seen: Vec<String> = Vec::new();
        tree.visit_children_first(at("/a").as_path(), &mut |visit| {
            assert_eq!(visit.parent.is_none(), visit.path.as_str() == "/a");
            seen.push(visit.path.as_str().into());
        });
        assert_eq!(seen, ["/a/z/1", "/a/z", "/a/b", "/a"]);
    }

    #[test]
    fn nodes_that_name_a_domain_are_found_wherever_they_are() {
        let mut tree = tree(&[("/a", 0), ("/a/b", 7), ("/a/b/c", 7), ("/a/d", 71), ("/e", 0), ("/e/f", 7)]);
        tree.set_permissions(at("/a/d").as_path(), Permissions::parse(b"n71\0r7\0", 2).unwrap(), 3);
        let paths = |below| {
            tree.nodes_naming(DomId(7), below).iter().map(|p| String::from(p.as_path().as_str())).collect::<Vec<_>>()
        };
        assert_eq!(paths(false), ["/a/b", "/a/d", "/e/f"]);
        assert_eq!(paths(true), ["/a/b", "/a/b/c", "/a/d", "/e/f"]);
    }

    #[test]
    fn the_next_node_that_names_a_domain_is_found_while_those_before_it_go() {
        // Directories of both forms. Of five children, the domain owns one, one names it, and one has a node of the
        // domain below.
        let directories = [("/few", 20), ("/many", 300)];
        let mut all = Vec::new();
        for (directory, children) in directories {
            all.push((String::from(directory), 0));
            for at in 0..children {
                let path = format!("{directory}/{at}");
                all.push((path.clone(), if at % 5 == 1 { 7 } else { 0 }));
                if at % 5 < 3 {
                    all.push((format!("{path}/below"), 7));
                }
            }
        }
        let borrowed: Vec<_> = all.iter().map(|(path, owner)| (path.as_str(), *owner)).collect();
        let mut tree = tree(&borrowed);
        for (path, _) in all.iter().filter(|(path, _)| path.ends_with('2')) {
            tree.set_permissions(at(path).as_path(), Permissions::parse(b"n0\0r7\0", 2).unwrap(), 3);
        }
        let expected = tree.nodes_naming(DomId(7), false);
        assert!(expected.len() > 150);

        let mut found = Vec::new();
        let mut next = tree.next_naming(DomId(7), None, false, &mut 0);
        while let Some(path) = next {
            next = tree.next_naming(DomId(7), Some(path.as_path()), false, &mut 0);
            let permissions = tree.get(path.as_path()).unwrap().permissions().clone();
            if permissions.owner() == DomId(7) {
                tree.remove(path.as_path(), 4).unwrap();
            } else {
                tree.set_permissions(path.as_path(), permissions.without(DomId(7)), 4);
            }
            found.push(path);
        }
        assert_eq!(found, expected);
        assert!(tree.next_naming(DomId(7), None, true, &mut 0).is_none(), "nothing is left");
    }

    #[test]
    fn the_root_is_found_once_and_what_is_below_is_looked_at_whoever_owns_it() {
        let mut tree = tree(&[("/a", 7), ("/a/b", 7)]);
        tree.set_permissions(Path::ROOT, Permissions::private(DomId(7)), 3);
        assert_eq!(tree.nodes_naming(DomId(7), false), [Path::ROOT.to_owned(), at("/a")]);
        assert_eq!(tree.nodes_naming(DomId(7), true), [Path::ROOT.to_owned(), at("/a"), at("/a/b")]);
    }
}
