//! Look-ups and changes of many nodes, in the order of their paths. The way down to the last node is kept, and the next
//! descent starts at the deepest node that both ways share. A deep chain of nodes then costs one step for each node,
//! not one descent from the root.
//!
//! Paths are in byte order, in which `/a-b` comes between `/a` and `/a/b`. All paths below one node are still adjacent.
//! Each edge is therefore walked at most once for the node itself, and once for all nodes below it. Paths in another
//! order cost more steps and give the same nodes.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::limits;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::Permissions;
use crate::store::value::Value;

/// A series of look-ups in a tree.
#[derive(Debug)]
pub struct Descent<'t, 'p> {
    root: &'t Rc<Node>,
    /// The path of the last look-up.
    path: Path<'p>,
    /// The nodes below the root on the way to it, each with the bytes of its path.
    levels: Vec<(usize, &'t Rc<Node>)>,
    /// Whether the way is kept.
    is_kept: bool,
    /// See [`Descent::steps`].
    steps: usize,
}

impl<'t, 'p> Descent<'t, 'p> {
    /// Starts at the root, for `paths` paths. The way is kept only for more than [`limits::FEW_PATHS`].
    pub(super) const fn new(root: &'t Rc<Node>, paths: usize) -> Self {
        let is_kept = paths > limits::FEW_PATHS;
        Self { root, path: Path::ROOT, levels: Vec::new(), is_kept, steps: 0 }
    }

    /// Returns the deepest node on the way to `path`, with its own path; as [`crate::store::tree::Tree::nearest`].
    pub fn nearest(&mut self, path: Path<'p>) -> (Path<'p>, &'t Rc<Node>) {
        let (mut bytes, mut node) = if self.is_kept { self.go_up_to(path) } else { (0, self.root) };
        for (end, name) in path.names_below(bytes) {
            self.steps = self.steps.saturating_add(1);
            let Some(child) = node.children().get(name) else { break };
            (bytes, node) = (end, child);
            if self.is_kept {
                self.levels.push((end, child));
            }
        }
        (path.first(bytes), node)
    }

    /// Returns to the deepest kept node that is also on the way to `path`.
    fn go_up_to(&mut self, path: Path<'p>) -> (usize, &'t Rc<Node>) {
        let common = self.path.common_bytes(path);
        while self.levels.pop_if(|(end, _)| *end > common).is_some() {}
        self.path = path;
        self.levels.last().copied().unwrap_or((0, self.root))
    }

    /// Returns the node at `path`; as [`crate::store::tree::Tree::get`].
    pub fn get(&mut self, path: Path<'p>) -> Option<&'t Rc<Node>> {
        let (found, node) = self.nearest(path);
        (found == path).then_some(node)
    }

    /// Returns the number of children looked up: the measure of the work.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.steps
    }
}

/// Returns the node at `path` below `root`, to be changed. Each node above it notes the domains that `mention` names.
pub(super) fn node_mut<'t>(
    root: &'t mut Rc<Node>,
    path: Path<'_>,
    mention: Option<&Permissions>,
) -> Option<&'t mut Node> {
    let mut node = Rc::make_mut(root);
    for name in path.names() {
        if let Some(permissions) = mention {
            node.mention(permissions);
        }
        node = Rc::make_mut(node.child_mut(name)?);
    }
    Some(node)
}

/// An edit of many nodes of a tree. The nodes on the way to the last changed node are taken out of their parents. They
/// are put back on the way up, at the latest when the edit is dropped.
#[derive(Debug)]
pub(super) struct Edit<'t, 'p> {
    root: &'t mut Rc<Node>,
    /// The path of the node that was changed last.
    path: Path<'p>,
    /// The nodes below the root on the way to it, each with the bytes of its path.
    levels: Vec<(usize, Rc<Node>)>,
    /// A placeholder for a node that was taken out; `None` if the way is not kept.
    hole: Option<Rc<Node>>,
}

impl<'t, 'p> Edit<'t, 'p> {
    /// Starts at the root, for `paths` paths. The way is kept only for more than [`limits::FEW_PATHS`].
    pub(super) fn new(root: &'t mut Rc<Node>, paths: usize) -> Self {
        let hole = || Rc::new(Node::new(Value::default(), Permissions::private(DomId::DOM0), 0));
        Self { root, path: Path::ROOT, levels: Vec::new(), hole: (paths > limits::FEW_PATHS).then(hole) }
    }

    /// Gives the node at `path` these permissions, and returns it to be changed. The nodes above it note the named
    /// domains.
    pub(super) fn at(&mut self, path: Path<'p>, permissions: Permissions) -> Option<&mut Node> {
        let node = if let Some(hole) = self.hole.clone() {
            self.go_to(path, &hole)
        } else {
            node_mut(self.root, path, Some(&permissions))
        };
        let node = node?;
        node.set_permissions(permissions);
        Some(node)
    }

    /// Moves to the node at `path`, by the shortest way.
    fn go_to(&mut self, path: Path<'p>, hole: &Rc<Node>) -> Option<&mut Node> {
        self.close_to(self.path.common_bytes(path));
        self.path = path;
        let open = self.levels.last().map_or(0, |(end, _)| *end);
        for (end, name) in path.names_below(open) {
            let node = core::mem::replace(self.last().child_mut(name)?, hole.clone());
            self.levels.push((end, node));
        }
        Some(self.last())
    }

    /// Puts back the nodes whose paths have more than `bytes` bytes.
    fn close_to(&mut self, bytes: usize) {
        while let Some((end, node)) = self.levels.pop_if(|(end, _)| *end > bytes) {
            let name = self.path.first(end).name();
            self.last().put_back(name, node);
        }
    }

    /// Returns the lowest node that was taken out, or the root.
    fn last(&mut self) -> &mut Node {
        Rc::make_mut(self.levels.last_mut().map_or(&mut *self.root, |(_, node)| node))
    }
}

impl Drop for Edit<'_, '_> {
    fn drop(&mut self) {
        self.close_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::PathBuf;
    use crate::store::tree::Tree;
    use alloc::format;
    use alloc::string::String;

    fn at(path: &str) -> PathBuf {
        Path::parse_absolute(path.as_bytes(), 3000).unwrap().to_owned()
    }

    fn random(seed: &mut u32, below: u32) -> u32 {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) % below
    }

    /// Returns a random path. Some of its possible names sort before the slash.
    fn some_path(seed: &mut u32) -> PathBuf {
        let mut text = String::new();
        for _ in 0..=random(seed, 5) {
            text += ["/a", "/a-b", "/b", "/a-", "/ab"][random(seed, 5) as usize];
        }
        at(&text)
    }

    fn some_tree(seed: &mut u32) -> Tree {
        let mut tree = Tree::new(Node::new(Value::default(), Permissions::private(DomId(0)), 1));
        for generation in 2..120 {
            let path = some_path(seed);
            let (found, _) = tree.nearest(path.as_path());
            let missing = path.as_path().and_ancestors().take_while(|above| *above != found).count();
            if missing > 0 {
                let node = Node::new(Value::default(), Permissions::private(DomId(0)), generation);
                tree.create_levels(path.as_path(), missing, node);
            }
        }
        tree
    }

    fn walked(tree: &Tree) -> Vec<(String, Vec<u8>, u64)> {
        let mut walk = tree.walk();
        let mut seen = Vec::new();
        while let Some((path, node)) = walk.next() {
            seen.push((String::from(path.as_str()), node.value().to_vec(), node.generation()));
        }
        seen
    }

    #[test]
    fn the_nodes_are_those_that_a_descent_from_the_root_finds_in_any_order_of_paths() {
        for mut seed in 1..40 {
            let tree = some_tree(&mut seed);
            let mut paths: Vec<_> = (0..200).map(|_| some_path(&mut seed)).chain([Path::ROOT.to_owned()]).collect();
            for is_sorted in [false, true] {
                let mut descent = tree.descent(paths.len());
                for path in &paths {
                    let (found, node) = descent.nearest(path.as_path());
                    let (expected, expected_node) = tree.nearest(path.as_path());
                    assert_eq!(found, expected);
                    assert!(Rc::ptr_eq(node, expected_node));
                    assert_eq!(descent.get(path.as_path()).is_some(), tree.get(path.as_path()).is_some());
                }
                assert!(!is_sorted || descent.steps() < 1000);
                paths.sort();
            }
        }
    }

    #[test]
    fn sorted_paths_of_a_deep_chain_cost_a_step_for_each() {
        const DEPTH: usize = 700;
        let deep = |levels| at(&"/x".repeat(levels));
        let mut tree = Tree::new(Node::new(Value::default(), Permissions::private(DomId(0)), 1));
        tree.create_levels(
            deep(DEPTH).as_path(),
            DEPTH,
            Node::new(Value::default(), Permissions::private(DomId(0)), 2),
        );
        // The last ones do not exist.
        let paths: Vec<_> = (1..=DEPTH + 300).map(deep).collect();
        let mut descent = tree.descent(paths.len());
        let found = paths.iter().filter(|path| descent.get(path.as_path()).is_some()).count();
        assert_eq!((found, descent.steps()), (DEPTH, paths.len()));
    }

    #[test]
    fn edits_give_the_same_tree_as_single_changes_and_leave_older_versions() {
        for mut seed in 1..40 {
            let mut tree = some_tree(&mut seed);
            let older = (seed % 2 == 0).then(|| (tree.clone(), walked(&tree)));
            let mut model = tree.clone();
            let mut paths: Vec<_> = (0..100).map(|_| some_path(&mut seed)).collect();
            if seed % 3 > 0 {
                paths.sort();
            }
            let mut edit = tree.edit(if seed % 5 == 0 { 1 } else { paths.len() });
            for (generation, path) in (500..).zip(&paths) {
                let path = path.as_path();
                let value: Value = format!("{generation}").as_bytes().into();
                let permissions = Permissions::private(DomId(generation as u16 % 64));
                model.write(path, value.clone(), generation);
                model.set_permissions(path, permissions.clone(), generation);
                let node = edit.at(path, permissions);
                assert_eq!(node.is_some(), model.get(path).is_some());
                let Some(node) = node else { continue };
                node.set_value(value);
                node.set_generation(generation);
                if generation % 7 == 0 && node.remove_child("a-b").is_some() {
                    model.remove(at(&format!("{}/a-b", path.as_str())).as_path(), generation);
                }
            }
            drop(edit);
            assert_eq!(walked(&tree), walked(&model));
            for domid in (0..64).map(DomId) {
                assert_eq!(tree.nodes_naming(domid, true), model.nodes_naming(domid, true), "what is mentioned above");
            }
            if let Some((older, before)) = older {
                assert_eq!(walked(&older), before);
            }
        }
    }
}
