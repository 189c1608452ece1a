//! Lists of children that clients read in parts.
//!
//! A client requests a long list part by part, and starts again if the generation in a reply differs from the one
//! before. With a directory that changes all the time it would never reach the end. So later parts come from the list
//! as it was at the first part, with the generation of that time.
//!
//! The server keeps the text of the names, not the version of the node: a version would keep all descendants alive,
//! possibly the whole tree. The text is charged to the client's memory. A client that cannot afford it reads the
//! present list. Each part is cheap: the server finds an offset in the text without a pass over the names.

use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::turn::Turn;
use crate::limits;
use crate::store::node::Node;
use crate::store::path::{Path, PathBuf};
use crate::store::watch::ConnectionId;

/// The list of a directory at the time of a client's request for its first part.
#[derive(Clone, Debug)]
pub struct KeptList {
    path: PathBuf,
    /// The names, each followed by a NUL.
    names: Vec<u8>,
    /// The generation of the directory.
    generation: u64,
    /// The offset at which the last part ended.
    next: usize,
    /// The time at which the list is dropped; set when it is kept.
    until_ms: u64,
}

/// A request's change to the lists of its connection.
#[derive(Debug)]
pub enum ListChange {
    /// A list is kept.
    Keep(KeptList),
    /// A part of a kept list was read, up to this offset.
    Advance {
        /// The index among the connection's lists.
        at: usize,
        /// The offset in bytes.
        next: usize,
    },
    /// The first part of a list that cannot be kept was read, up to this offset. Later parts must not come from older
    /// lists.
    Outdate {
        /// The path of the directory.
        path: PathBuf,
        /// The offset in bytes.
        next: usize,
    },
    /// The last part of a kept list was read.
    Drop {
        /// The index among the connection's lists.
        at: usize,
    },
}

impl KeptList {
    /// Copies the list of a directory with `bytes` of names. Returns `None` if the list is too long or memory is
    /// missing.
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

    /// Returns the bytes charged to the client for a list with `names` bytes of names.
    #[must_use]
    pub fn bytes_of(path: Path<'_>, names: usize) -> usize {
        size_of::<Self>().saturating_add(path.as_str().len()).saturating_add(names)
    }

    /// Returns the bytes charged to the client for this list.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Self::bytes_of(self.path.as_path(), self.names.len())
    }

    /// Returns the names from an offset on, each followed by a NUL.
    #[must_use]
    pub fn names_from(&self, offset: usize) -> &[u8] {
        self.names.get(offset..).unwrap_or_default()
    }

    /// Returns the generation of the directory when it was listed.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

/// Finds the list from which a client continues to read `path` at `offset`: the newest whose last part ended there.
/// Several programs may read the same directory over one connection, and one of them may have no kept list.
#[must_use]
pub fn find(lists: &[KeptList], path: Path<'_>, offset: usize) -> Option<usize> {
    lists.iter().rposition(|list| list.path.as_path() == path && list.next == offset)
}

impl Engine {
    /// Applies a request's change to the lists of its connection.
    pub(in crate::engine) fn change_list(&mut self, id: ConnectionId, change: ListChange, turn: &Turn<'_>) {
        let Some(session) = self.connections.session_mut(id) else { return };
        let lists = &mut session.lists;
        match change {
            ListChange::Keep(list) => {
                if lists.len() >= limits::LISTS_KEPT {
                    lists.remove(0);
                }
                let until_ms = turn.now_ms.saturating_add(limits::LIST_KEPT_MS);
                lists.push(KeptList { until_ms, ..list });
                self.connections.note_list_deadline(id, until_ms);
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

    /// Drops lists that are too old.
    pub(in crate::engine) fn drop_old_lists(&mut self, turn: &Turn<'_>) {
        while let Some(id) = self.connections.pop_list_expired(turn.now_ms) {
            let Some(session) = self.connections.session_mut(id) else { continue };
            session.lists.retain(|list| list.until_ms > turn.now_ms);
            if session.lists.is_empty() {
                session.lists = Vec::new();
            }
            if let Some(next_ms) = session.lists.first().map(|list| list.until_ms) {
                self.connections.note_list_deadline(id, next_ms);
            }
        }
    }
}
