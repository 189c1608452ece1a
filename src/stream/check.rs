//! Checks that each item refers only to items before it in the stream.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

use crate::engine::snapshot::{ConnectionNumber, Item, StreamPeer, TransactionItem};
use crate::store::domain::DomId;
use crate::stream::reader::Reader;
use crate::stream::record::{Reason, StreamError};

/// The earlier items of the stream, as far as later items may refer to them.
#[derive(Debug, Default)]
pub struct References {
    connections: BTreeSet<ConnectionNumber>,
    transactions: BTreeSet<(ConnectionNumber, u32)>,
    domains: BTreeSet<DomId>,
    nodes: BTreeSet<String>,
    /// Domains that have a connection or own a node.
    named: BTreeSet<DomId>,
}

/// A loss in an item, or a reason for another server to refuse the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A watch had a depth, but the stream does not contain it.
    LostDepth {
        /// The watch's connection.
        connection: ConnectionNumber,
        /// The path as the client wrote it.
        path: String,
    },
    /// No connection and no node of a domain comes before the domain's record. The C server ends its restore there.
    UnknownDomain(DomId),
}

impl Warning {
    /// Returns the warning in words. `name` translates a connection number.
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
    /// Takes an item, and checks its references.
    ///
    /// # Errors
    /// Fails with the reason if the item refers to a missing object, or repeats one.
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

    /// Returns a warning about an item that was not taken yet. The stream is valid in spite of it.
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

    /// Takes a node outside of transactions: its parent comes first. The root exists before the stream, and special
    /// nodes have no parent.
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
/// Fails with the first error.
pub fn check(bytes: &[u8]) -> Result<(), StreamError> {
    let mut reader = Reader::new(bytes)?;
    let mut references = References::default();
    while let Some(item) = reader.next_item()? {
        references.take(&item).map_err(|reason| reader.error(reason))?;
    }
    Ok(())
}
