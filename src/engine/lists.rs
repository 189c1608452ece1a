//! Lists of children that clients read in parts.
//!
//! A client asks for a long list part by part, and starts again if the generation in a reply is another than before. In a
//! directory that changes all the time it would never come to the end. So later parts come from the list as it was at the
//! first part, with the generation of that time.
//!
//! What is kept is the text of the names and not the version of the node: that would keep the children and everything below
//! them alive, which can be the whole tree. The text is charged to the client's memory, and a client that cannot afford it
//! reads the present list. It also makes each part cheap: the server finds an offset in the text without a pass over the
//! names.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::limits;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf};
use crate::store::watch::ConnectionId;

/// The list of a directory at the time of a client's request for its first part.
#[derive(Clone, Debug)]
pub struct KeptList {
    path: PathBuf,
    /// The names with a NUL each.
    names: Vec<u8>,
    /// The generation of the directory.
    generation: u64,
    /// The offset at which the last part ended.
    next: usize,
    /// When it is dropped; set when it is kept.
    until_ms: u64,
}

/// What a request does with the lists of its connection.
#[derive(Debug)]
pub enum ListChange {
    /// A list is kept.
    Keep(KeptList),
    /// A part of a kept list was read, up to this offset.
    Advance {
        /// Its place among the connection's lists.
        at: usize,
        /// The offset.
        next: usize,
    },
    /// The first part of a list that can't be kept was read, up to this offset: older lists must not give its later parts.
    Outdate {
        /// The path.
        path: PathBuf,
        /// The offset.
        next: usize,
    },
    /// The last part of a kept list was read.
    Drop {
        /// Its place among the connection's lists.
        at: usize,
    },
}

impl KeptList {
    /// The list of a directory that has `bytes` of names; `None` if it is too long or there is no memory.
    #[must_use]
    pub fn of(path: Path<'_>, node: &Node, bytes: usize, next: usize) -> Option<Self> {
        let mut names = Vec::new();
        names.try_reserve_exact(bytes).ok().filter(|()| bytes <= limits::LIST_BYTES)?;
        for name in node.children().names() {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        Some(Self { path: path.to_owned(), names, generation: node.generation(), next, until_ms: 0 })
    }

    /// Bytes that a list of `names` bytes takes, for its client's account.
    #[must_use]
    pub fn bytes_of(path: Path<'_>, names: usize) -> usize {
        size_of::<Self>().saturating_add(path.as_str().len()).saturating_add(names)
    }

    /// Bytes that it takes, for its client's account.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Self::bytes_of(self.path.as_path(), self.names.len())
    }

    /// The names from an offset on, with a NUL each.
    #[must_use]
    pub fn names_from(&self, offset: usize) -> &[u8] {
        self.names.get(offset..).unwrap_or_default()
    }

    /// The generation of the directory when it was listed.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// The place of the list from which a client continues to read `path` at `offset`: the newest whose last part ended there.
/// Several programs may read the same directory over one connection, and one of them may have no kept list.
#[must_use]
pub fn find(lists: &[KeptList], path: Path<'_>, offset: usize) -> Option<usize> {
    lists.iter().rposition(|list| list.path.as_path() == path && list.next == offset)
}

impl Engine {
    /// Makes a request's change of the lists of its connection.
    pub(super) fn change_list(&mut self, id: ConnectionId, change: ListChange, now_ms: u64) {
        let Some(session) = self.session_mut(id) else { return };
        let lists = &mut session.lists;
        match change {
            ListChange::Keep(list) => {
                if lists.len() >= limits::LISTS_KEPT {
                    lists.remove(0);
                }
                let until_ms = now_ms.saturating_add(limits::LIST_KEPT_MS);
                lists.push(KeptList { until_ms, ..list });
                self.note_list_deadline(id, until_ms);
            }
            ListChange::Advance { at, next } => {
                if let Some(list) = lists.get_mut(at) {
                    list.next = next;
                }
            }
            ListChange::Outdate { path, next } => lists.retain(|list| list.path != path || list.next != next),
            ListChange::Drop { at } => {
                if at < lists.len() {
                    lists.remove(at);
                }
            }
        }
    }

    /// When the first list is dropped that nobody has read to its end.
    pub(super) fn next_list_deadline_ms(&self) -> Option<u64> {
        self.list_deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Drops lists that are too old.
    pub(super) fn drop_old_lists(&mut self, now_ms: u64) {
        while let Some((_, id)) = pop_due(&mut self.list_deadlines, now_ms) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.lists_deadline_ms = None;
            let Some((session, _)) = connection.session_mut() else { continue };
            session.lists.retain(|list| list.until_ms > now_ms);
            if session.lists.is_empty() {
                session.lists = Vec::new();
            }
            if let Some(next_ms) = session.lists.first().map(|list| list.until_ms) {
                self.note_list_deadline(id, next_ms);
            }
        }
    }

    /// Makes sure that a connection's lists are dropped in time. One entry is enough: later lists have later times.
    fn note_list_deadline(&mut self, id: ConnectionId, deadline_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.lists_deadline_ms.is_none()
        {
            connection.lists_deadline_ms = Some(deadline_ms);
            self.list_deadlines.insert((deadline_ms, id));
        }
    }
}

/// Takes the first entry if it is due.
fn pop_due(deadlines: &mut BTreeSet<(u64, ConnectionId)>, now_ms: u64) -> Option<(u64, ConnectionId)> {
    deadlines.first().filter(|(deadline_ms, _)| *deadline_ms <= now_ms)?;
    deadlines.pop_first()
}
