//! The stream's header, the types of its records, and the errors in them.

use core::fmt;

/// The first bytes of a stream.
pub const IDENT: [u8; 8] = *b"xenstore";
/// Bytes of the header: ident, version, flags; all big-endian.
pub const HEADER_BYTES: usize = 16;
/// The header's flag for big-endian records.
pub const BIG_ENDIAN: u32 = 1;
/// Bytes of a record's header: type and length.
pub const RECORD_HEADER_BYTES: usize = 8;
/// Records begin at multiples of this many bytes.
pub const ALIGNMENT: usize = 8;

/// The end of the stream.
pub const END: u32 = 0;
/// Descriptors of a daemon.
pub const GLOBAL_DATA: u32 = 1;
/// A connection.
pub const CONNECTION_DATA: u32 = 2;
/// A watch.
pub const WATCH_DATA: u32 = 3;
/// An open transaction.
pub const TRANSACTION_DATA: u32 = 4;
/// A node.
pub const NODE_DATA: u32 = 5;
/// Quotas for all domains.
pub const GLOBAL_QUOTA_DATA: u32 = 6;
/// Features and quotas of a domain.
pub const DOMAIN_DATA: u32 = 7;
/// A watch with a depth; version 2.
pub const WATCH_DATA_EXTENDED: u32 = 8;

/// The connection is a ring.
pub const RING: u16 = 0;
/// The connection is a socket.
pub const SOCKET: u16 = 1;
/// A unique id follows the connection's data.
pub const HAS_UNIQUE_ID: u16 = 1;
/// The number for no target (`DOMID_INVALID`, `xen/include/public/xen.h`).
pub const NO_TARGET: u16 = 0x7ff4;
/// The depth of a watch without a limit.
pub const UNLIMITED_DEPTH: u16 = 0xffff;
/// Bytes of a watch's depth in WATCH_DATA_EXTENDED, with its padding.
pub const DEPTH_BYTES: usize = 4;
/// A permission's flag: the entry names no existing domain.
pub const STALE: u8 = 1;

/// A version of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Lacks features and the depth of watches. Readers skip open transactions.
    One = 1,
    /// Holds everything.
    Two = 2,
}

impl Version {
    /// The newest known version. The feature `stream-v1` makes a server that does not know version 2, for tests.
    pub const NEWEST: u32 = if cfg!(feature = "stream-v1") { 1 } else { 2 };

    /// Returns the version with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::One),
            2 if Self::NEWEST >= 2 => Some(Self::Two),
            _ => None,
        }
    }
}

/// An error in a stream, and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The record's number, from 1; 0 for the header.
    pub record: u32,
    /// The record's offset in bytes from the start.
    pub offset: usize,
    /// The error.
    pub reason: Reason,
}

/// An error in a record, or in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The stream does not begin with `xenstore`.
    NoStream,
    /// The version is unknown.
    Version(u32),
    /// A flag is unknown.
    Flags(u32),
    /// The stream ends within the record, or without END.
    Ends,
    /// A field, or the data that it counts, exceeds the record.
    TooShort,
    /// The record has bytes beyond its fields.
    TooLong,
    /// This version does not have such a record.
    NotInVersion,
    /// The connection's type is unknown.
    ConnectionType(u16),
    /// A text is not valid, lacks its final NUL, or has another NUL.
    Text(&'static str),
    /// A permission's letter is unknown.
    Permission(u8),
    /// The partial message is longer than the output.
    PartialMessage,
    /// A number is 0 and must not be.
    Zero(&'static str),
    /// A referenced object is missing.
    Missing(&'static str),
    /// An object occurs twice.
    Twice(&'static str),
    /// A node outside of transactions has no permissions.
    NoPermissions,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { record, offset, reason } = self;
        match record {
            0 => write!(f, "header: {reason}"),
            _ => write!(f, "record {record} at offset {offset}: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStream => f.write_str("not a migration stream of a Xenstore"),
            Self::Version(version) => write!(f, "stream version {version} is not supported"),
            Self::Flags(flags) => write!(f, "flags {flags:#x} are not supported"),
            Self::Ends => f.write_str("the stream ends before its END record"),
            Self::TooShort => f.write_str("a length or a count exceeds the record"),
            Self::TooLong => f.write_str("bytes follow the record's last field"),
            Self::NotInVersion => f.write_str("this version has no such record"),
            Self::ConnectionType(kind) => write!(f, "connection type {kind:#x} is unknown"),
            Self::Text(what) => write!(f, "the {what} is not a text with one NUL, at its end"),
            Self::Permission(letter) => write!(f, "permission {:?} is unknown", char::from(*letter)),
            Self::PartialMessage => f.write_str("the partial message is longer than the output"),
            Self::Zero(what) => write!(f, "the {what} is 0"),
            Self::Missing(what) => write!(f, "no earlier record has its {what}"),
            Self::Twice(what) => write!(f, "an earlier record has the same {what}"),
            Self::NoPermissions => f.write_str("the node has no permissions"),
        }
    }
}
