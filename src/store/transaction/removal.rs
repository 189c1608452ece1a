//! The removal of a subtree in a transaction: a walk over the nodes that the transaction sees, without a list of them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::convert::Infallible;

use super::{Local, Transaction};
use crate::store::children::Cursor;
use crate::store::node::Node;
use crate::store::path::{Path, PathCursor};
use crate::store::watch::Scope;

/// Walks over the subtree at `top` in a view whose lists of children give only names. Calls `look` for each path,
/// parents first, to get the node there. Nothing is below a missing node.
pub(crate) fn walk_seen<E>(
    top: Path<'_>,
    mut look: impl FnMut(Path<'_>) -> Result<Option<Rc<Node>>, E>,
) -> Result<(), E> {
    let mut at = PathCursor::at(top);
    let mut levels = Vec::new();
    if let Some(node) = look(top)? {
        levels.push((node, Cursor::default()));
    }
    while let Some((node, cursor)) = levels.last_mut() {
        if let Some((name, _)) = node.children().next(cursor) {
            at.push(name);
            match look(at.as_path())? {
                Some(child) => levels.push((child, Cursor::default())),
                None => at.pop(),
            }
        } else {
            levels.pop();
            at.pop();
        }
    }
    Ok(())
}

impl Transaction {
    /// Removes a seen node and all nodes below it, all of which were seen too.
    pub(super) fn remove(&mut self, top: Path<'_>, generation: u64) {
        let Ok(()) = walk_seen(top, |path| {
            let node = self.seen(path).flatten().cloned();
            if node.is_some() {
                let scope = if path == top { Scope::Subtree } else { Scope::Exact };
                self.remove_one(path, scope, generation);
            }
            Ok::<_, Infallible>(node)
        });
    }

    /// Removes one seen node; [`Scope::Subtree`] marks the top of the removed subtree.
    pub(crate) fn remove_one(&mut self, path: Path<'_>, scope: Scope, generation: u64) {
        self.charge(self.owner(path), -1);
        if scope == Scope::Subtree {
            self.remove_child(path, generation);
        }
        if let Some(accessed) = self.accessed.get_mut(path.as_str()) {
            self.bytes = self.bytes.saturating_sub(accessed.local_bytes());
            accessed.local = Local::Absent;
            accessed.children.clear();
            accessed.announce(scope);
        }
    }
}
