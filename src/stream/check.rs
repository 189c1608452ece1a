//! Whether each item refers to what is in the stream before it.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

use crate::engine::snapshot::{ConnectionNumber, Item, StreamPeer, TransactionItem};
use crate::store::domain::DomId;
use crate::stream::reader::Reader;
use crate::stream::record::{Reason, StreamError};

/// What was in the stream so far, as far as later items may refer to it.
#[derive(Debug, Default)]
pub struct References {
    connections: BTreeSet<ConnectionNumber>,
    transactions: BTreeSet<(ConnectionNumber, u32)>,
    domains: BTreeSet<DomId>,
    nodes: BTreeSet<String>,
    /// Domains that have a connection or own a node.
    named: BTreeSet<DomId>,
}

/// What is lost of an item, or makes another server refuse the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A watch had a depth, which the stream does not say.
    LostDepth {
        /// Whose watch.
        connection: ConnectionNumber,
        /// The path as the client spelled it.
        path: String,
    },
    /// A domain's record is not behind a connection or a node of the domain. The C server ends its restore there.
    UnknownDomain(DomId),
}

impl Warning {
    /// The warning in words. `name` says what a connection number stands for.
    #[must_use]
    pub fn text(&self, name: &dyn Fn(u32) -> String) -> String {
        match self {
            Self::LostDepth { connection, path } => {
                let owner = name(connection.0);
                format!(
                    "{owner}: watch of {path}: the record lacks its depth; a restore makes it a watch of all levels"
                )
            }
            Self::UnknownDomain(domid) => {
                format!(
                    "domain {domid} has neither a connection nor a node before this record; the C server stops here"
                )
            }
        }
    }
}

impl References {
    /// Takes an item, or says what it refers to that is not there.
    ///
    /// # Errors
    /// The reason.
    pub fn take(&mut self, item: &Item<'_>) -> Result<(), Reason> {
        match item {
            Item::Global(_) | Item::GlobalQuotas(_) | Item::Extension(_) => Ok(()),
            Item::Connection(connection) => {
                if let StreamPeer::Ring { domid, .. } = connection.peer {
                    self.named.insert(domid);
                }
                self.connections.insert(connection.number).then_some(()).ok_or(Reason::Twice("connection"))
            }
            Item::Domain(domain) => self.domains.insert(domain.domid).then_some(()).ok_or(Reason::Twice("domain")),
            Item::Watch(watch) => self.connection(watch.connection),
            Item::Transaction(transaction) => {
                self.connection(transaction.connection)?;
                let is_new = self.transactions.insert((transaction.connection, transaction.id));
                is_new.then_some(()).ok_or(Reason::Twice("transaction"))
            }
            Item::Node(node) => match node.pending {
                Some((transaction, _)) => self.transaction(transaction),
                None => {
                    self.named.extend(node.entries().first().map(|owner| owner.domid));
                    self.node(&node.path)
                }
            },
        }
    }

    /// What is to be said of an item before it is taken, though nothing is wrong with the stream.
    #[must_use]
    pub fn warning(&self, item: &Item<'_>) -> Option<Warning> {
        match item {
            Item::Watch(watch) if watch.has_lost_depth => {
                Some(Warning::LostDepth { connection: watch.connection, path: watch.path.as_ref().into() })
            }
            Item::Domain(domain) if !self.named.contains(&domain.domid) => Some(Warning::UnknownDomain(domain.domid)),
            _ => None,
        }
    }

    fn connection(&self, number: ConnectionNumber) -> Result<(), Reason> {
        self.connections.contains(&number).then_some(()).ok_or(Reason::Missing("connection"))
    }

    fn transaction(&self, of: TransactionItem) -> Result<(), Reason> {
        self.connection(of.connection)?;
        self.transactions.contains(&(of.connection, of.id)).then_some(()).ok_or(Reason::Missing("transaction"))
    }

    /// A node that everybody sees: its parent comes first. The root is there before the stream, and special nodes have no
    /// parent.
    fn node(&mut self, path: &str) -> Result<(), Reason> {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent).filter(|parent| !parent.is_empty());
        if parent.is_some_and(|parent| !self.nodes.contains(parent)) {
            return Err(Reason::Missing("parent"));
        }
        self.nodes.insert(path.into()).then_some(()).ok_or(Reason::Twice("path"))
    }
}

/// Reads a whole stream and checks it.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(bytes: &[u8]) -> Result<(), StreamError> {
    let mut reader = Reader::new(bytes)?;
    let mut references = References::default();
    while let Some(item) = reader.next_item()? {
        references.take(&item).map_err(|reason| reader.error(reason))?;
    }
    Ok(())
}
