//! The errors of a save and of a restore.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::fmt;

use crate::engine::snapshot::ConnectionNumber;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::state::Inconsistency;

/// The error for a lack of memory during a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl From<TryReserveError> for NoMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

/// The error for items that are not the state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// A connection has the number 0, or another connection's number.
    ConnectionNumber(ConnectionNumber),
    /// An item belongs to a connection that does not exist.
    UnknownConnection(ConnectionNumber),
    /// A domain has a second connection, or a domid that no domain can have.
    DomainConnection(DomId),
    /// Two connections have the same port.
    Port(u32),
    /// A connection has more unhandled input than any server leaves. The value is in bytes.
    Input(usize),
    /// Bytes to be sent are not a sequence of messages. The value is their number.
    Output(usize),
    /// A domain has a second record, or a domid that no domain can have.
    Domain(DomId),
    /// A watch exists already.
    Watch,
    /// A token contains a NUL.
    Token,
    /// A path is invalid, or relative where it must be absolute.
    Path,
    /// A node exists already.
    Node(Box<str>),
    /// A node has no parent.
    NoParent(Box<str>),
    /// A committed node has no permissions.
    NoPermissions(Box<str>),
    /// A transaction has the number 0, or that of another transaction of its connection.
    Transaction(u32),
    /// A node belongs to a transaction that does not exist.
    UnknownTransaction(u32),
    /// A count differs from the restored objects: a bug of the restorer itself.
    Inconsistent(Inconsistency),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionNumber(number) => write!(f, "connection number {} is 0 or in use", number.0),
            Self::UnknownConnection(number) => write!(f, "connection {} does not exist", number.0),
            Self::DomainConnection(domid) => write!(f, "domain {domid} has a connection already, or cannot have one"),
            Self::Port(port) => write!(f, "port {port} is in use"),
            Self::Input(bytes) => write!(f, "{bytes} bytes of input exceed the limit of {}", limits::BACKLOG_BYTES),
            Self::Output(bytes) => write!(f, "{bytes} bytes of output are not a sequence of messages"),
            Self::Domain(domid) => write!(f, "domain {domid} has a record already, or is not a valid domid"),
            Self::Watch => write!(f, "the connection has this watch already"),
            Self::Token => write!(f, "the watch's token contains a NUL"),
            Self::Path => write!(f, "the path is invalid"),
            Self::Node(path) => write!(f, "node {path} exists already"),
            Self::NoParent(path) => write!(f, "node {path} has no parent"),
            Self::NoPermissions(path) => write!(f, "node {path} has no permissions"),
            Self::Transaction(id) => write!(f, "transaction number {id} is 0 or in use"),
            Self::UnknownTransaction(id) => write!(f, "transaction {id} does not exist"),
            Self::Inconsistent(Inconsistency::NodeCount { domid, counted, found }) => write!(
                f,
                "domain {domid}: counted {} nodes of {} bytes, found {} nodes of {} bytes",
                counted.nodes, counted.bytes, found.nodes, found.bytes
            ),
            Self::Inconsistent(Inconsistency::UnknownOwner(domid)) => {
                write!(f, "a node belongs to domain {domid}, which is unknown")
            }
            Self::Inconsistent(Inconsistency::Watches) => f.write_str("the indexes of watches differ"),
        }
    }
}
