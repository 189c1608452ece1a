//! A node: value, permissions, children, and when it was last written.
//!
//! Most nodes are leaves with a short value and few permissions. Such a node is one block of the heap. The fields that
//! only directories need are behind one pointer.

use alloc::boxed::Box;
use alloc::rc::Rc;

use crate::store::children::Children;
use crate::store::domain::DomId;
use crate::store::path::Path;
use crate::store::permission::Permissions;
use crate::store::value::Value;

/// One node of the tree. Versions of the tree share nodes that are the same in both.
#[derive(Clone, Debug)]
pub struct Node {
    value: Value,
    permissions: Permissions,
    generation: u64,
    below: Option<Box<Below>>,
}

const _: () = assert!(size_of::<Node>() == 72, "with its two counts and the allocator's word, it fills 96 bytes");

/// The part of a node that only directories have. Never without children.
#[derive(Clone, Debug, Default)]
struct Below {
    mentioned: Mentioned,
    children: Children,
}

/// The domains that the nodes below may name in their permissions: one bit for all domids that are equal modulo 64. A
/// clear bit is certain; a set bit may be outdated. The removal of a dead domain's nodes and rights skips subtrees
/// whose bit is clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mentioned(u64);

impl Mentioned {
    const fn of(domid: DomId) -> Self {
        Self(1 << (domid.0 % 64))
    }

    /// Notes the domains that `permissions` name.
    fn add(&mut self, permissions: &Permissions) {
        self.0 = permissions.entries().iter().fold(self.0, |sum, entry| sum | Self::of(entry.domid).0);
    }

    /// Notes the domains that `node` or a node below it may name.
    fn add_node(&mut self, node: &Node) {
        self.add(&node.permissions);
        self.0 |= node.below.as_ref().map_or(0, |below| below.mentioned.0);
    }
}

impl Node {
    /// Bytes that one permission entry counts for.
    pub const ENTRY_BYTES: usize = 8;

    /// Creates a node without children.
    #[must_use]
    pub const fn new(value: Value, permissions: Permissions, generation: u64) -> Self {
        Self { value, permissions, generation, below: None }
    }

    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the permissions.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Returns the generation of the last write of the value, the permissions or the list of children.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the children.
    #[must_use]
    pub fn children(&self) -> &Children {
        const NONE: &Children = &Children::None;
        self.below.as_ref().map_or(NONE, |below| &below.children)
    }

    /// Returns whether the permissions name a domain.
    #[must_use]
    pub fn names(&self, domid: DomId) -> bool {
        self.permissions.entries().iter().any(|entry| entry.domid == domid)
    }

    /// Returns the child `name`, to be changed.
    pub(super) fn child_mut(&mut self, name: &str) -> Option<&mut Rc<Self>> {
        self.below.as_mut()?.children.get_mut(name)
    }

    /// Puts the child `name` back into its place after a change.
    pub(super) fn put_back(&mut self, name: &str, node: Rc<Self>) {
        if let Some(below) = &mut self.below
            && let Some(place) = below.children.get_mut(name)
        {
            below.mentioned.add_node(&node);
            *place = node;
        }
    }

    /// Appends a child; `name` must not exist yet. The caller must [`Node::mention`] its domains in the nodes above.
    pub(super) fn insert_child(&mut self, name: &str, node: Rc<Self>) {
        let below = self.below.get_or_insert_default();
        below.mentioned.add_node(&node);
        below.children.insert(name, node);
    }

    /// Appends a child as [`Node::insert_child`] does, for one of many children in sequence. [`Node::trim`] follows the
    /// last one.
    pub(super) fn append_child(&mut self, name: &str, node: Rc<Self>) {
        let below = self.below.get_or_insert_default();
        below.mentioned.add_node(&node);
        below.children.append(name, node);
    }

    /// Releases the room that [`Node::append_child`] reserved in advance.
    pub(super) fn trim(&mut self) {
        if let Some(below) = &mut self.below {
            below.children.trim();
        }
    }

    /// Removes and returns the child `name`.
    pub(super) fn remove_child(&mut self, name: &str) -> Option<Rc<Self>> {
        let removed = self.below.as_mut()?.children.remove(name);
        self.below.take_if(|below| below.children.is_empty());
        removed
    }

    /// Shares the children of `other`, which this node replaces. This node has no children yet.
    pub(super) fn take_children_of(&mut self, other: &Self) {
        self.below.clone_from(&other.below);
    }

    /// Sets the value.
    pub(super) fn set_value(&mut self, value: Value) {
        self.value = value;
    }

    /// Sets the permissions. The caller must [`Node::mention`] them in the nodes above.
    pub(super) fn set_permissions(&mut self, permissions: Permissions) {
        self.permissions = permissions;
    }

    /// Sets the generation of the last write.
    pub(super) const fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Notes that a node below has `permissions`.
    pub(super) fn mention(&mut self, permissions: &Permissions) {
        if let Some(below) = &mut self.below {
            below.mentioned.add(permissions);
        }
    }

    /// Returns the node with children of these names, in this order. They are placeholders for nodes that a transaction
    /// does not visit here. A repeated name is used once.
    #[must_use]
    pub(crate) fn with_names<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        for name in names {
            if self.children().get(name).is_none() {
                let placeholder = Self::new(Value::default(), self.permissions.clone(), self.generation);
                self.insert_child(name, Rc::new(placeholder));
            }
        }
        self
    }

    /// Returns whether this node or one below it may name `domid`.
    #[must_use]
    pub fn may_mention(&self, domid: DomId) -> bool {
        self.permissions.entries().iter().any(|entry| entry.domid == domid)
            || self.below.as_ref().is_some_and(|below| below.mentioned.0 & Mentioned::of(domid).0 != 0)
    }

    /// See [`Children::pop_unshared`].
    fn pop_unshared(&mut self) -> Option<Rc<Self>> {
        self.below.as_mut()?.children.pop_unshared()
    }

    /// See [`Children::swap_first_unshared`].
    fn swap_first_unshared(&mut self, node: &mut Rc<Self>) -> bool {
        self.below.as_mut().is_some_and(|below| below.children.swap_first_unshared(node))
    }

    /// Returns the bytes that a node at `path` counts for in its owner's memory. These are its record without the names
    /// of children, its path, and its name in the parent's list.
    ///
    /// The C server charges that name to the owner of the parent. This server charges everything to the owner of the
    /// node.
    #[must_use]
    pub fn memory_bytes(path: Path<'_>, permissions: usize, value: usize) -> usize {
        Self::memory_bytes_at(path.as_str().len(), path.name().len(), permissions, value)
    }

    /// Returns the same as [`Node::memory_bytes`], from the bytes of a path and of its last name.
    fn memory_bytes_at(path: usize, name: usize, permissions: usize, value: usize) -> usize {
        Self::record_bytes(permissions, value, 0).saturating_add(path).saturating_add(name).saturating_add(1)
    }

    /// Returns the bytes that this node counts for at `path`, as [`Node::memory_bytes`].
    #[must_use]
    pub fn memory(&self, path: Path<'_>) -> usize {
        Self::memory_bytes(path, self.permissions.entries().len(), self.value.len())
    }

    /// Returns the same as [`Node::memory`], from the bytes of the path and of its last name.
    #[must_use]
    pub(super) fn memory_at(&self, path: usize, name: usize) -> usize {
        Self::memory_bytes_at(path, name, self.permissions.entries().len(), self.value.len())
    }

    /// Returns the bytes of the record that the quota `node-size` limits. These are 16, 8 for each permission, the
    /// value, and the children's names with a NUL each.
    #[must_use]
    pub fn record_bytes(permissions: usize, value: usize, names: usize) -> usize {
        permissions.saturating_mul(Self::ENTRY_BYTES).saturating_add(16).saturating_add(value).saturating_add(names)
    }
}

/// Drops a subtree by loops, not by recursion: a guest chooses the depth, and the stack is small.
impl Drop for Node {
    fn drop(&mut self) {
        while let Some(child) = self.pop_unshared() {
            dismantle(child);
        }
    }
}

/// Drops `current` and everything below it that no other version holds, without allocation.
///
/// On the way down, a node is parked in the place of the lower node's first child, which is visited next. When the
/// lower node has no other child left, the parked node is taken out again.
fn dismantle(mut current: Rc<Node>) {
    let mut parked = 0_usize;
    while let Some(mut child) = Rc::get_mut(&mut current).and_then(Node::pop_unshared) {
        if parked > 0 && current.children().is_empty() {
            current = child;
            parked = parked.saturating_sub(1);
            continue;
        }
        while Rc::get_mut(&mut child).is_some_and(|node| node.swap_first_unshared(&mut current)) {
            core::mem::swap(&mut child, &mut current);
            parked = parked.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::new(Value::default(), Permissions::private(DomId(0)), 1)
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

    /// Returns a tree of all shapes up to a depth, with wide directories among them.
    fn bush(depth: u32, seed: &mut u32) -> Node {
        let mut top = node();
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let width = if depth == 0 { 0 } else { [0, 1, 2, 3, 30][(*seed >> 8) as usize % 5] };
        for at in 0..width {
            top.insert_child(&alloc::format!("{at}"), Rc::new(bush(depth - 1, seed)));
        }
        top
    }

    #[test]
    fn a_chain_far_deeper_than_the_stack_is_dropped() {
        let mut chain = Rc::new(node());
        for _ in 0..2_000_000 {
            let mut above = node();
            above.insert_child("x", chain);
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

    /// Handles that show whether each node of the subtree still lives.
    fn weak_handles(node: &Rc<Node>) -> alloc::vec::Vec<alloc::rc::Weak<Node>> {
        let mut found = alloc::vec![Rc::downgrade(node)];
        let mut cursor = crate::store::children::Cursor::default();
        while let Some((_, child)) = node.children().next(&mut cursor) {
            found.extend(weak_handles(child));
        }
        found
    }
}
