//! Many nodes, in the order of their paths: the way down to the last one is kept, and the next one is reached from where
//! both ways part. A deep chain of nodes then costs a step for each, not a descent from the root for each.
//!
//! Paths are in byte order, in which `/a-b` comes between `/a` and `/a/b`. All paths below one node still follow each other,
//! so that each edge is walked at most once more for the node itself than for all below it. Paths in another order cost more
//! steps and give the same nodes.

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::path::Path;
use crate::store::permission::Permissions;
use crate::store::value::Value;

/// Reads nodes of a tree.
#[derive(Debug)]
pub struct Descent<'t, 'p> {
    root: &'t Rc<Node>,
    /// The path that was looked for last.
    path: Path<'p>,
    /// The nodes below the root on the way to it, each with the bytes of its path.
    levels: Vec<(usize, &'t Rc<Node>)>,
    /// See [`Descent::steps`].
    steps: usize,
}

impl<'t, 'p> Descent<'t, 'p> {
    /// Starts at the root.
    pub(super) const fn new(root: &'t Rc<Node>) -> Self {
        Self { root, path: Path::ROOT, levels: Vec::new(), steps: 0 }
    }

    /// The deepest node on the way to `path`, with its own path; as [`crate::store::tree::Tree::nearest`].
    pub fn nearest(&mut self, path: Path<'p>) -> (Path<'p>, &'t Rc<Node>) {
        let common = self.path.common_bytes(path);
        while self.levels.pop_if(|(end, _)| *end > common).is_some() {}
        let (mut bytes, mut node) = self.levels.last().copied().unwrap_or((0, self.root));
        for (end, name) in path.names_below(bytes) {
            self.steps = self.steps.saturating_add(1);
            let Some(child) = node.children().get(name) else { break };
            (bytes, node) = (end, child);
            self.levels.push((end, child));
        }
        self.path = path;
        (path.first(bytes), node)
    }

    /// The node at `path`; as [`crate::store::tree::Tree::get`].
    pub fn get(&mut self, path: Path<'p>) -> Option<&'t Rc<Node>> {
        let (found, node) = self.nearest(path);
        (found == path).then_some(node)
    }

    /// How many children it has looked for: the measure of its work.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.steps
    }
}

/// Changes nodes of a tree. Those on the way to the last one are out of their parents meanwhile, and go back on the way up,
/// at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Edit<'t, 'p> {
    root: &'t mut Rc<Node>,
    /// The path of the node that was changed last.
    path: Path<'p>,
    /// The nodes below the root on the way to it, each with the bytes of its path.
    levels: Vec<(usize, Rc<Node>)>,
    /// Stands in the place of a node that is out.
    hole: Rc<Node>,
}

impl<'t, 'p> Edit<'t, 'p> {
    /// Starts at the root.
    pub(super) fn new(root: &'t mut Rc<Node>) -> Self {
        let hole = Rc::new(Node::new(Value::default(), Permissions::private(DomId::DOM0), 0));
        Self { root, path: Path::ROOT, levels: Vec::new(), hole }
    }

    /// The node at `path`, to be changed. The nodes above it learn by themselves what it names.
    pub(super) fn at(&mut self, path: Path<'p>) -> Option<&mut Node> {
        self.close_to(self.path.common_bytes(path));
        self.path = path;
        let open = self.levels.last().map_or(0, |(end, _)| *end);
        for (end, name) in path.names_below(open) {
            let parent = Rc::make_mut(self.levels.last_mut().map_or(&mut *self.root, |(_, node)| node));
            let node = core::mem::replace(parent.child_mut(name)?, self.hole.clone());
            self.levels.push((end, node));
        }
        Some(Rc::make_mut(self.levels.last_mut().map_or(&mut *self.root, |(_, node)| node)))
    }

    /// Puts the nodes back whose paths have more than `bytes` bytes.
    fn close_to(&mut self, bytes: usize) {
        while let Some((end, node)) = self.levels.pop_if(|(end, _)| *end > bytes) {
            let parent = Rc::make_mut(self.levels.last_mut().map_or(&mut *self.root, |(_, node)| node));
            parent.put_back(self.path.first(end).name(), node);
        }
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

    /// Some path of few names, some of which sort before the slash.
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
                let mut descent = tree.descent();
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
        let mut descent = tree.descent();
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
            let mut edit = tree.edit();
            for (generation, path) in (500..).zip(&paths) {
                let path = path.as_path();
                let value: Value = format!("{generation}").as_bytes().into();
                let permissions = Permissions::private(DomId(generation as u16 % 64));
                model.write(path, value.clone(), generation);
                model.set_permissions(path, permissions.clone(), generation);
                let node = edit.at(path);
                assert_eq!(node.is_some(), model.get(path).is_some());
                let Some(node) = node else { continue };
                node.set_value(value);
                node.set_permissions(permissions);
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
