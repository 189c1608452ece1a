//! A node's children, in the order of their creation (the order of DIRECTORY).
//!
//! Few children are a list that is searched from end to end. Many children are two maps: by name, and by a number that
//! grows with every new child. Both forms give the same answers. Their memory is in proportion to the present number of
//! children, not to an earlier one. Lists grow by small steps and shrink, and small maps become a list again.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::limits::{CHUNK_ENTRIES, SMALL_DIRECTORY};
use crate::store::chunk_map::{CHUNK_STEP, ChunkMap, Place, make_room, take_room};
use crate::store::name::Name;
use crate::store::node::Node;

/// The children of one node.
#[derive(Clone, Debug, Default)]
pub enum Children {
    /// No child; takes no memory.
    #[default]
    None,
    /// A list in the order of creation.
    Few(Vec<(Name, Rc<Node>)>),
    /// Maps by name and by order.
    Many(Box<Many>),
}

/// A large directory.
#[derive(Clone, Debug)]
pub struct Many {
    by_name: ChunkMap<Name, (u64, Rc<Node>)>,
    by_order: ChunkMap<u64, Name>,
    next: u64,
    /// See [`Children::list_bytes`].
    list_bytes: usize,
}

/// A position in the list of children; valid while the children do not change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// The position in the list, or in the map by order.
    order: Place,
    /// The position after the last child in the map by name: the next child is there if names are in the order of
    /// creation.
    name: Place,
}

impl Children {
    /// Returns the number of children.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Few(list) => list.len(),
            Self::Many(many) => many.by_name.len(),
        }
    }

    /// Returns whether there are no children.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the child `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Rc<Node>> {
        match self {
            Self::None => None,
            Self::Few(list) => list.iter().find(|(have, _)| **have == *name).map(|(_, node)| node),
            Self::Many(many) => many.by_name.get(name).map(|(_, node)| node),
        }
    }

    /// Returns the child `name`, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Rc<Node>> {
        match self {
            Self::None => None,
            Self::Few(list) => list.iter_mut().find(|(have, _)| **have == *name).map(|(_, node)| node),
            Self::Many(many) => many.by_name.get_mut(name).map(|(_, node)| node),
        }
    }

    /// Appends a child; `name` must not exist yet.
    pub fn insert(&mut self, name: &str, node: Rc<Node>) {
        match self {
            Self::None => *self = Self::Few(alloc::vec![(name.into(), node)]),
            Self::Few(list) if list.len() < SMALL_DIRECTORY => {
                let step = (list.len() / 4).min(SMALL_DIRECTORY.saturating_sub(list.len()));
                make_room(list, step);
                list.push((name.into(), node));
            }
            Self::Few(list) => {
                let mut many = Many { by_name: ChunkMap::new(), by_order: ChunkMap::new(), next: 1, list_bytes: 0 };
                for (name, node) in list.drain(..) {
                    many.insert(name, node);
                }
                many.insert(name.into(), node);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => many.insert(name.into(), node),
        }
    }

    /// Appends a child as [`Children::insert`] does, for one of many children that are added in sequence; see
    /// [`Children::trim`].
    pub(super) fn append(&mut self, name: &str, node: Rc<Node>) {
        match self {
            Self::Many(many) => many.insert_with_room(name.into(), node, CHUNK_ENTRIES),
            _ => self.insert(name, node),
        }
    }

    /// Releases the room that [`Children::append`] reserved in advance.
    pub(super) fn trim(&mut self) {
        if let Self::Many(many) = self {
            many.by_name.trim();
            many.by_order.trim();
        }
    }

    /// Returns whether there is a child `name`, which probably sorts after all other names.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Many(many) if many.by_name.is_behind_all(name) => false,
            _ => self.get(name).is_some(),
        }
    }

    /// Removes and returns the child `name`.
    pub fn remove(&mut self, name: &str) -> Option<Rc<Node>> {
        let removed = match self {
            Self::None => None,
            Self::Few(list) => {
                let at = list.iter().position(|(have, _)| **have == *name)?;
                let (_, node) = list.remove(at);
                take_room(list);
                Some(node)
            }
            Self::Many(many) => {
                let (order, node) = many.by_name.remove(name)?;
                many.by_order.remove(&order);
                many.list_bytes = many.list_bytes.saturating_sub(listed_bytes(name));
                Some(node)
            }
        };
        match self {
            _ if self.is_empty() => *self = Self::None,
            Self::Many(many) if many.by_name.len() <= SMALL_DIRECTORY / 2 => *self = Self::Few(many.to_list()),
            _ => {}
        }
        removed
    }

    /// Returns the child at `cursor`, and moves the cursor past it. A new cursor starts at the first child.
    pub fn next(&self, cursor: &mut Cursor) -> Option<(&str, &Rc<Node>)> {
        match self {
            Self::None => None,
            Self::Few(list) => {
                let (name, node) = cursor.order.next_of(list)?;
                Some((name, node))
            }
            Self::Many(many) => {
                let (order, name) = many.by_order.next(&mut cursor.order)?;
                // Numbers are cheaper to compare than names.
                let next = many.by_name.next_if(&mut cursor.name, |(at, _)| at == order);
                let found = next.or_else(|| many.by_name.get_at(&**name, &mut cursor.name));
                found.map(|(_, node)| (&**name, node))
            }
        }
    }

    /// Returns the next child as [`Children::next`] does, but in the cheapest order. A cursor is valid for only one of
    /// both methods.
    pub(super) fn next_in_any_order(&self, cursor: &mut Cursor) -> Option<(&str, &Rc<Node>)> {
        match self {
            Self::None => None,
            Self::Few(list) => cursor.order.next_of(list).map(|(name, node)| (&**name, node)),
            Self::Many(many) => many.by_name.next(&mut cursor.name).map(|(name, (_, node))| (&**name, node)),
        }
    }

    /// Returns the child `name`, and a cursor after it.
    #[must_use]
    pub fn behind(&self, name: &str) -> Option<(&Rc<Node>, Cursor)> {
        let mut cursor = Cursor::default();
        match self {
            Self::None => None,
            Self::Few(list) => loop {
                let (have, node) = cursor.order.next_of(list)?;
                if **have == *name {
                    return Some((node, cursor));
                }
            },
            Self::Many(many) => {
                let (order, node) = many.by_name.get_at(name, &mut cursor.name)?;
                many.by_order.get_at(order, &mut cursor.order)?;
                Some((node, cursor))
            }
        }
    }

    /// Returns the names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let few = if let Self::Few(list) = self { list.as_slice() } else { &[] };
        let many = if let Self::Many(many) = self { Some(many.by_order.iter()) } else { None };
        few.iter().map(|(name, _)| &**name).chain(many.into_iter().flatten().map(|(_, name)| &**name))
    }

    /// Returns the bytes of all names with a NUL each: the length of DIRECTORY's reply. The cost does not depend on the
    /// number of names.
    #[must_use]
    pub fn list_bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Few(list) => list.iter().fold(0, |sum, (name, _)| sum.saturating_add(listed_bytes(name))),
            Self::Many(many) => many.list_bytes,
        }
    }

    /// Removes and returns a child that no other version holds; drops children that another version holds. For
    /// dismantling only.
    pub(super) fn pop_unshared(&mut self) -> Option<Rc<Node>> {
        match self {
            Self::None => None,
            Self::Few(list) => list.pop().map(|(_, node)| node),
            Self::Many(many) => many.by_name.pop_unshared().map(|(_, (_, node))| node),
        }
    }

    /// Swaps `node` with the child that would be popped last, if no other version holds that child.
    pub(super) fn swap_first_unshared(&mut self, node: &mut Rc<Node>) -> bool {
        let first = match self {
            Self::None => None,
            Self::Few(list) => list.first_mut().map(|(_, first)| first),
            Self::Many(many) => many.by_name.first_unshared().map(|(_, first)| first),
        };
        first.map(|first| core::mem::swap(first, node)).is_some()
    }
}

/// Returns the bytes of a name in a list, with its NUL.
const fn listed_bytes(name: &str) -> usize {
    name.len().saturating_add(1)
}

impl Many {
    fn insert(&mut self, name: Name, node: Rc<Node>) {
        self.insert_with_room(name, node, CHUNK_STEP);
    }

    /// Inserts a child, and makes room for up to `step` more.
    fn insert_with_room(&mut self, name: Name, node: Rc<Node>, step: usize) {
        self.list_bytes = self.list_bytes.saturating_add(listed_bytes(&name));
        self.by_order.insert_with_room(self.next, name.clone(), step);
        self.by_name.insert_with_room(name, (self.next, node), step);
        self.next = self.next.saturating_add(1);
    }

    /// Returns the same children as a list.
    fn to_list(&self) -> Vec<(Name, Rc<Node>)> {
        let mut list = Vec::with_capacity(self.by_name.len());
        let node = |name: &Name| self.by_name.get(&**name).map(|(_, node)| node.clone());
        list.extend(self.by_order.iter().filter_map(|(_, name)| Some((name.clone(), node(name)?))));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::domain::DomId;
    use crate::store::permission::Permissions;
    use alloc::format;
    use alloc::string::String;

    fn leaf(value: &str) -> Rc<Node> {
        Rc::new(Node::new(value.as_bytes().into(), Permissions::private(DomId(0)), 1))
    }

    #[test]
    fn order_is_that_of_making_at_any_size() {
        let mut children = Children::default();
        let mut model: Vec<String> = Vec::new();
        for at in 0..500_u32 {
            let name = format!("n{}", at.wrapping_mul(2_654_435_761) % 100_000);
            children.insert(&name, leaf(&name));
            model.push(name);
            if at % 3 == 0 {
                let gone = model.remove(model.len() / 2);
                assert!(children.remove(&gone).is_some());
                assert!(children.remove(&gone).is_none());
            }
            assert!(children.names().eq(model.iter()));
            assert_eq!(children.len(), model.len());
            assert_eq!(children.list_bytes(), model.iter().map(|name| name.len() + 1).sum::<usize>());
        }
        let mut cursor = Cursor::default();
        for name in &model {
            let (have, node) = children.next(&mut cursor).unwrap();
            assert_eq!((have, node.value()), (name.as_str(), name.as_bytes()));
            assert_eq!(children.get(name).unwrap().value(), name.as_bytes());
        }
        assert!(children.next(&mut cursor).is_none());
        for (name, next) in model.iter().zip(model.iter().skip(1).map(Some).chain([None])) {
            let (node, mut behind) = children.behind(name).unwrap();
            assert_eq!(node.value(), name.as_bytes());
            assert_eq!(children.next(&mut behind).map(|(name, _)| name), next.map(String::as_str));
        }
        assert!(children.behind("missing").is_none());
        for name in &model {
            children.remove(name);
        }
        assert!(matches!(children, Children::None));
    }
}
