//! Why a state is not told, and why items are no state of a server.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::fmt;

use crate::engine::snapshot::ConnectionNumber;
use crate::store::domain::DomId;
use crate::store::state::Inconsistency;

/// There is no memory for what it takes to tell a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl From<TryReserveError> for NoMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

/// Why items are no state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// A connection has the number 0, or one that another has.
    ConnectionNumber(ConnectionNumber),
    /// An item belongs to a connection that there is none of.
    UnknownConnection(ConnectionNumber),
    /// A domain has two connections, or one and a number that no domain has.
    DomainConnection(DomId),
    /// Two connections have the same port.
    Port(u32),
    /// More input than any server leaves unhandled.
    Input(usize),
    /// What waits to be sent is no sequence of messages.
    Output(usize),
    /// A domain has two records, or a number that no domain has.
    Domain(DomId),
    /// A watch that is there already.
    Watch,
    /// A token with a NUL in it.
    Token,
    /// Not a path, or a relative one where none can be.
    Path,
    /// A node that is there already.
    Node(Box<str>),
    /// A node above which there is none.
    NoParent(Box<str>),
    /// A node that everybody sees, without permissions.
    NoPermissions(Box<str>),
    /// A transaction has the number 0, or one that another of its connection has.
    Transaction(u32),
    /// A node belongs to a transaction that there is none of.
    UnknownTransaction(u32),
    /// What was counted is not what is there. That would be a fault of the restorer itself.
    Inconsistent(Inconsistency),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionNumber(number) => write!(f, "connection number {} is 0 or in use", number.0),
            Self::UnknownConnection(number) => write!(f, "there is no connection {}", number.0),
            Self::DomainConnection(domid) => write!(f, "domain {domid} can't have this connection"),
            Self::Port(port) => write!(f, "port {port} is in use"),
            Self::Input(bytes) => write!(f, "{bytes} bytes of input are too many"),
            Self::Output(bytes) => write!(f, "{bytes} bytes to be sent are no messages"),
            Self::Domain(domid) => write!(f, "domain {domid} can't be, or comes twice"),
            Self::Watch => write!(f, "the watch is there already"),
            Self::Token => write!(f, "the watch's token has a NUL in it"),
            Self::Path => write!(f, "the path is none"),
            Self::Node(path) => write!(f, "node {path} is there already"),
            Self::NoParent(path) => write!(f, "there is no node above {path}"),
            Self::NoPermissions(path) => write!(f, "node {path} has no permissions"),
            Self::Transaction(id) => write!(f, "transaction number {id} is 0 or in use"),
            Self::UnknownTransaction(id) => write!(f, "there is no transaction {id}"),
            Self::Inconsistent(what) => write!(f, "the result is inconsistent: {what:?}"),
        }
    }
}
