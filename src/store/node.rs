//! A node: value, permissions, children, and when it was last written.

use alloc::boxed::Box;
use alloc::rc::Rc;

use crate::store::children::Children;
use crate::store::domain::DomId;
use crate::store::path::Path;
use crate::store::permission::Permissions;

/// One node of the tree. Versions of the tree share nodes that are the same in both.
#[derive(Clone, Debug)]
pub struct Node {
    value: Box<[u8]>,
    permissions: Permissions,
    generation: u64,
    mentioned: Mentioned,
    children: Children,
}

/// Which domains this node or one below may name in its permissions: one bit for all domids that are the same modulo 64.
/// A bit that is not set is certain; one that is set may be left over. It lets the removal of a dead domain's nodes and
/// rights pass over what has nothing to do with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mentioned(u64);

impl Mentioned {
    const fn of(domid: DomId) -> Self {
        Self(1 << (domid.0 % 64))
    }

    fn by(permissions: &Permissions) -> Self {
        permissions.entries().iter().fold(Self::default(), |sum, entry| Self(sum.0 | Self::of(entry.domid).0))
    }
}

impl Node {
    /// Bytes that one entry of the permissions counts for.
    pub const ENTRY_BYTES: usize = 8;

    /// A node without children.
    #[must_use]
    pub fn new(value: Box<[u8]>, permissions: Permissions, generation: u64) -> Self {
        let mentioned = Mentioned::by(&permissions);
        Self { value, permissions, generation, mentioned, children: Children::None }
    }

    /// Its value.
    #[must_use]
    pub const fn value(&self) -> &[u8] {
        &self.value
    }

    /// Its permissions.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// The generation of the last write: of its value, its permissions or its list of children.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Its children.
    #[must_use]
    pub const fn children(&self) -> &Children {
        &self.children
    }

    /// Its children, to be changed.
    pub(super) const fn children_mut(&mut self) -> &mut Children {
        &mut self.children
    }

    /// Sets the value.
    pub(super) fn set_value(&mut self, value: Box<[u8]>) {
        self.value = value;
    }

    /// Sets the permissions. The nodes above have to [`Node::mention`] them.
    pub(super) fn set_permissions(&mut self, permissions: Permissions) {
        self.mentioned.0 |= Mentioned::by(&permissions).0;
        self.permissions = permissions;
    }

    /// Notes that it was written.
    pub(super) const fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Notes that a node below has `permissions`.
    pub(super) fn mention(&mut self, permissions: &Permissions) {
        self.mentioned.0 |= Mentioned::by(permissions).0;
    }

    /// Notes that all that `other` or a node below it names is named below.
    pub(super) const fn mention_all(&mut self, other: &Self) {
        self.mentioned.0 |= other.mentioned.0;
    }

    /// A node with children of these names, in this order, which stand for nodes that a transaction does not look at here.
    /// A name that comes twice is taken once.
    #[must_use]
    pub(crate) fn with_names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            if self.children.get(name).is_none() {
                let placeholder = Self::new(Box::default(), self.permissions.clone(), self.generation);
                self.children.insert(name, Rc::new(placeholder));
            }
        }
        self
    }

    /// Whether this node or one below may name `domid`.
    #[must_use]
    pub const fn may_mention(&self, domid: DomId) -> bool {
        self.mentioned.0 & Mentioned::of(domid).0 != 0
    }

    /// Bytes that a node at `path` counts for in its owner's memory: its record without the names of children, its path,
    /// and its name in the list of the node above.
    ///
    /// The C server counts that name for the owner of the node above. Here who makes a node pays for all of it.
    #[must_use]
    pub fn memory_bytes(path: Path<'_>, permissions: usize, value: usize) -> usize {
        let path_bytes = path.as_str().len().saturating_add(path.name().len()).saturating_add(1);
        Self::record_bytes(permissions, value, 0).saturating_add(path_bytes)
    }

    /// Bytes that this node counts for at `path`, as [`Node::memory_bytes`].
    #[must_use]
    pub fn memory(&self, path: Path<'_>) -> usize {
        Self::memory_bytes(path, self.permissions.entries().len(), self.value.len())
    }

    /// Bytes of the record that the quota `node-size` limits: 16, 8 for each permission, the value, and the names of the
    /// children with a NUL each.
    #[must_use]
    pub fn record_bytes(permissions: usize, value: usize, names: usize) -> usize {
        permissions.saturating_mul(Self::ENTRY_BYTES).saturating_add(16).saturating_add(value).saturating_add(names)
    }
}

/// Drops a subtree by loops instead of by recursion: a guest chooses the depth, and the stack is small.
impl Drop for Node {
    fn drop(&mut self) {
        while let Some(child) = self.children.pop_unshared() {
            dismantle(child);
        }
    }
}

/// Drops `current` and everything below that nobody else holds, without allocating.
///
/// To go down, a node is parked in the place of the lower node's first child, which is looked at next; when the lower
/// node has no other child left, the parked one comes out of it again.
fn dismantle(mut current: Rc<Node>) {
    let mut parked = 0_usize;
    while let Some(mut child) = Rc::get_mut(&mut current).and_then(|node| node.children.pop_unshared()) {
        if parked > 0 && current.children.is_empty() {
            current = child;
            parked = parked.saturating_sub(1);
            continue;
        }
        while Rc::get_mut(&mut child).is_some_and(|node| node.children.swap_first_unshared(&mut current)) {
            core::mem::swap(&mut child, &mut current);
            parked = parked.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::new(Box::default(), Permissions::private(DomId(0)), 1)
    }

    /// Counts the nodes of a subtree.
    fn count(node: &Node) -> usize {
        let mut cursor = crate::store::children::Cursor::default();
        let mut sum = 1;
        while let Some((_, child)) = node.children().next(&mut cursor) {
            sum += count(child);
        }
        sum
    }

    /// A tree of all shapes up to a depth, with wide directories among them.
    fn bush(depth: u32, seed: &mut u32) -> Node {
        let mut top = node();
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let width = if depth == 0 { 0 } else { [0, 1, 2, 3, 30][(*seed >> 8) as usize % 5] };
        for at in 0..width {
            top.children_mut().insert(&alloc::format!("{at}"), Rc::new(bush(depth - 1, seed)));
        }
        top
    }

    #[test]
    fn a_chain_far_deeper_than_the_stack_is_dropped() {
        let mut chain = Rc::new(node());
        for _ in 0..2_000_000 {
            let mut above = node();
            above.children_mut().insert("x", chain);
            chain = Rc::new(above);
        }
        drop(chain);
    }

    #[test]
    fn dropping_frees_all_that_nobody_else_holds_and_nothing_else() {
        for seed in 1..60 {
            let tree = Rc::new(bush(4, &mut { seed }));
            let held: alloc::vec::Vec<_> = {
                let mut cursor = crate::store::children::Cursor::default();
                core::iter::from_fn(|| tree.children().next(&mut cursor).map(|(_, child)| child.clone()))
                    .step_by(2)
                    .collect()
            };
            let sizes: alloc::vec::Vec<_> = held.iter().map(|node| count(node)).collect();
            let all: alloc::vec::Vec<_> = weak_handles(&tree);
            drop(tree);
            assert!(held.iter().map(|node| count(node)).eq(sizes));
            drop(held);
            assert!(all.iter().all(|weak| weak.strong_count() == 0));
        }
    }

    /// Handles that tell whether each node of the subtree still lives.
    fn weak_handles(node: &Rc<Node>) -> alloc::vec::Vec<alloc::rc::Weak<Node>> {
        let mut found = alloc::vec![Rc::downgrade(node)];
        let mut cursor = crate::store::children::Cursor::default();
        while let Some((_, child)) = node.children().next(&mut cursor) {
            found.extend(weak_handles(child));
        }
        found
    }
}
