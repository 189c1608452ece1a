//! The state of a server as a sequence of items.
//!
//! The items have the content of a migration stream's records (`docs/designs/xenstore-migration.md` of the Xen tree),
//! without their encoding. Items refer only to items before them: a watch to its connection, a node to its parent. A
//! domain refers to its connection, or to a node that it owns. Streams of older releases have domains before nodes, so
//! a restore accepts domains at any place.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::engine::snapshot::Bytes;
use crate::store::domain::DomId;
use crate::store::permission::{Entry, Permissions};

/// The number of a connection within one sequence; never 0. It has no meaning outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionNumber(pub u32);

/// One item of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// Descriptors of a daemon.
    Global(Global),
    /// Quotas that hold for all domains.
    GlobalQuotas(GlobalQuotas<'a>),
    /// A connection.
    Connection(ConnectionItem<'a>),
    /// Features and quotas of a domain that has a connection or owns a node.
    Domain(DomainItem<'a>),
    /// A watch.
    Watch(WatchItem<'a>),
    /// An open transaction.
    Transaction(TransactionItem),
    /// A node, committed or as a transaction sees it.
    Node(NodeItem<'a>),
    /// State for which the document has no record.
    Extension(Extension<'a>),
}

/// Descriptors of a daemon, which a successor in the same process inherits; -1 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global {
    /// The socket that takes clients.
    pub socket: i32,
    /// The event channel device.
    pub event_channel: i32,
}

impl Global {
    /// A domain has no descriptors.
    pub const NONE: Self = Self { socket: -1, event_channel: -1 };
}

/// Quotas by name; 0 for no limit. Names that this server does not know are kept.
pub type NamedQuotas<'a> = Vec<(Cow<'a, str>, u32)>;

/// Quotas that hold for all domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlobalQuotas<'a> {
    /// The quotas of a domain that becomes known.
    pub defaults: NamedQuotas<'a>,
    /// The quotas of the server as a whole.
    pub global: NamedQuotas<'a>,
}

/// The client at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPeer {
    /// A domain, over its ring.
    Ring {
        /// The domain's number.
        domid: DomId,
        /// The domain whose rights it has in addition (SET_TARGET).
        target: Option<DomId>,
        /// The server's port of its event channel.
        port: u32,
    },
    /// A client of a daemon.
    Socket {
        /// The descriptor.
        descriptor: i32,
    },
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionItem<'a> {
    /// The number by which later items refer to it.
    pub number: ConnectionNumber,
    /// The client at the other end.
    pub peer: StreamPeer,
    /// Bytes received and not yet handled.
    pub input: Cow<'a, [u8]>,
    /// Bytes to be sent, the rest of a message that is partly sent first.
    pub output: Bytes<'a>,
    /// Bytes of `output` that are the end of a partly sent message. They come first.
    pub partial_bytes: usize,
    /// The hypervisor's unique ID of the domain, which a later domain of the same domid does not share. It is never 0:
    /// an item with 0 counts as one without an ID.
    pub unique_id: Option<u64>,
}

/// Features and quotas of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainItem<'a> {
    /// The domain.
    pub domid: DomId,
    /// The ring's feature bits that the domain is offered; `None` if the stream's version has no field for them.
    pub features: Option<u32>,
    /// The domain's own quotas.
    pub quotas: NamedQuotas<'a>,
}

/// A watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchItem<'a> {
    /// The connection that set the watch.
    pub connection: ConnectionNumber,
    /// The path as the client spelled it: relative or absolute, or a special name.
    pub path: Cow<'a, str>,
    /// The token that the client chose; any bytes without NUL.
    pub token: Cow<'a, [u8]>,
    /// The number of levels below its path that the watch covers; `None` for all.
    pub depth: Option<u16>,
    /// Whether the watch had a depth that the stream lacks. `depth` is `None` then: the watch gets more events than
    /// requested, never fewer.
    pub has_lost_depth: bool,
}

/// An open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionItem {
    /// The connection that opened the transaction.
    pub connection: ConnectionNumber,
    /// Its number, which is not 0.
    pub id: u32,
}

bitflags! {
    /// A transaction's access to a node; empty for a removal.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NodeAccess: u16 {
        /// It read the node.
        const READ = 1;
        /// It wrote the node.
        const WRITTEN = 2;
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeItem<'a> {
    /// The transaction that sees the node this way, and its access; `None` for a committed node.
    pub pending: Option<(TransactionItem, NodeAccess)>,
    /// The absolute path, or a special name.
    pub path: Cow<'a, str>,
    /// Its value.
    pub value: Cow<'a, [u8]>,
    /// Its permissions; `None` for a node that a transaction removed.
    pub permissions: Option<Permissions>,
}

impl NodeItem<'_> {
    /// Returns the entries of its permissions, the owner's first; none for a node that a transaction removed.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        self.permissions.as_ref().map_or(&[], Permissions::entries)
    }
}

/// State of one kind of server for which the document has no record. A reader skips kinds that it does not know. The
/// server that wrote it must be able to do without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// The record's type, from [`EXTENSION_FIRST`] to [`EXTENSION_LAST`] for this server's own.
    pub kind: u32,
    /// The content; its encoding depends on the kind.
    pub body: Bytes<'a>,
}

/// The first record type of this server's own: "XS" and two bytes. The document reserves all types from 9 on for later
/// use, counting up; readers skip types that they do not know.
pub const EXTENSION_FIRST: u32 = 0x5853_0000;
/// The last record type of this server's own.
pub const EXTENSION_LAST: u32 = 0x5853_ffff;
