//! Reads a stream, item by item, without copying its texts. An invalid stream has no effect but an error.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, EXTENSION_FIRST, EXTENSION_LAST, Extension, Global, GlobalQuotas,
    Item, NamedQuotas, NodeAccess, NodeItem, StreamPeer, TransactionItem, WatchItem,
};
use crate::store::domain::DomId;
use crate::store::permission::{Access, Entry, Permissions};
use crate::stream::record::{
    ALIGNMENT, BIG_ENDIAN, CONNECTION_DATA, DEPTH_BYTES, DOMAIN_DATA, END, GLOBAL_DATA, GLOBAL_QUOTA_DATA,
    HAS_UNIQUE_ID, HEADER_BYTES, IDENT, NO_TARGET, NODE_DATA, RECORD_HEADER_BYTES, RING, Reason, SOCKET, STALE,
    StreamError, TRANSACTION_DATA, UNLIMITED_DEPTH, Version, WATCH_DATA, WATCH_DATA_EXTENDED,
};

/// A stream that is being read.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    version: Version,
    is_big_endian: bool,
    /// Offset of the next record, in bytes.
    offset: usize,
    /// Number and offset of the record that was read last.
    last: (u32, usize),
    is_ended: bool,
    /// Number of records of unknown types.
    skipped: u32,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// Fails if the bytes are not a stream, or if its version is unknown.
    pub fn new(bytes: &'a [u8]) -> Result<Self, StreamError> {
        let wrong = |reason| StreamError { record: 0, offset: 0, reason };
        let mut header = Fields { rest: bytes, is_big_endian: true };
        let ident = header.take(IDENT.len()).map_err(|_| wrong(Reason::NoStream))?;
        if ident != IDENT {
            return Err(wrong(Reason::NoStream));
        }
        let version = header.u32().map_err(|_| wrong(Reason::Ends))?;
        let flags = header.u32().map_err(|_| wrong(Reason::Ends))?;
        let version = Version::from_number(version).ok_or(wrong(Reason::Version(version)))?;
        if flags & !BIG_ENDIAN != 0 {
            return Err(wrong(Reason::Flags(flags)));
        }
        let is_big_endian = flags & BIG_ENDIAN != 0;
        Ok(Self { bytes, version, is_big_endian, offset: HEADER_BYTES, last: (0, 0), is_ended: false, skipped: 0 })
    }

    /// Returns the stream's version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Returns the number of records that were skipped because their type is unknown.
    #[must_use]
    pub const fn skipped(&self) -> u32 {
        self.skipped
    }

    /// Returns the offset of the next record; after the END record, the stream's end.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the place of the last record, in words.
    #[must_use]
    pub fn place(&self) -> String {
        format!("record {} at offset {}", self.last.0, self.last.1)
    }

    /// Returns an error about the record that was read last.
    #[must_use]
    pub const fn error(&self, reason: Reason) -> StreamError {
        StreamError { record: self.last.0, offset: self.last.1, reason }
    }

    /// Returns the next item; `None` once the END record was read. Bytes after END are not read: a boot module may be
    /// padded.
    ///
    /// # Errors
    /// Fails with the error in the record. The stream cannot be read further then.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, StreamError> {
        while !self.is_ended {
            let (kind, mut body) = self.record()?;
            let item = match kind {
                END => {
                    self.is_ended = true;
                    Ok(None)
                }
                GLOBAL_DATA => body.global().map(Some),
                CONNECTION_DATA => body.connection().map(Some),
                WATCH_DATA => body.watch(false).map(Some),
                WATCH_DATA_EXTENDED => self.extended_watch(&mut body).map(Some),
                TRANSACTION_DATA => body.transaction().map(|item| Some(Item::Transaction(item))),
                NODE_DATA => body.node().map(Some),
                GLOBAL_QUOTA_DATA => body.global_quotas().map(Some),
                DOMAIN_DATA => body.domain(self.version).map(Some),
                EXTENSION_FIRST..=EXTENSION_LAST => {
                    let body = core::mem::take(&mut body.rest);
                    Ok(Some(Item::Extension(Extension { kind, body: body.into() })))
                }
                _ => {
                    self.skipped = self.skipped.saturating_add(1);
                    continue;
                }
            };
            // Writers may count the padding as a part of the record.
            let item = item.and_then(|item| if body.rest.len() < ALIGNMENT { Ok(item) } else { Err(Reason::TooLong) });
            return item.map_err(|reason| self.error(reason));
        }
        Ok(None)
    }

    /// Reads a watch with a depth, or one whose depth the C server left out.
    ///
    /// Tries the documented form first. A record without a depth never has this form. Its texts begin four bytes
    /// earlier, and a NUL is at a place where the documented form has none.
    fn extended_watch(&mut self, body: &mut Fields<'a>) -> Result<Item<'a>, Reason> {
        let whole = body.rest;
        let as_documented = if self.version >= Version::Two { body.watch(true) } else { Err(Reason::NotInVersion) };
        as_documented.or_else(|reason| {
            *body = Fields { rest: whole, is_big_endian: self.is_big_endian };
            let (item, length) = body.watch_without_depth().map_err(|_| reason)?;
            // The length in the header counts the missing depth, and may therefore reach into the next record.
            let end = self.last.1.checked_add(RECORD_HEADER_BYTES).and_then(|at| at.checked_add(length));
            self.offset = end.ok_or(reason)?;
            body.rest = &[];
            Ok(item)
        })
    }

    /// Returns the type and the body of the next record.
    fn record(&mut self) -> Result<(u32, Fields<'a>), StreamError> {
        self.last = (self.last.0.saturating_add(1), self.offset);
        let ends = self.error(Reason::Ends);
        let rest = self.bytes.get(self.offset..).ok_or(ends)?;
        let mut fields = Fields { rest, is_big_endian: self.is_big_endian };
        let kind = fields.u32().map_err(|_| ends)?;
        let length = fields.u32().ok().and_then(|length| usize::try_from(length).ok()).ok_or(ends)?;
        let body = fields.take(length).map_err(|_| ends)?;
        let end = self.offset.checked_add(RECORD_HEADER_BYTES).and_then(|at| at.checked_add(length));
        self.offset = end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT)).ok_or(ends)?;
        Ok((kind, Fields { rest: body, is_big_endian: self.is_big_endian }))
    }
}

/// The unread rest of a record.
struct Fields<'a> {
    rest: &'a [u8],
    is_big_endian: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Reason> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Reason::TooShort)?;
        self.rest = rest;
        Ok(taken)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let (word, rest) = self.rest.split_first_chunk::<N>().ok_or(Reason::TooShort)?;
        self.rest = rest;
        Ok(*word)
    }

    fn u16(&mut self) -> Result<u16, Reason> {
        let word = self.word()?;
        Ok(if self.is_big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) })
    }

    fn u32(&mut self) -> Result<u32, Reason> {
        let word = self.word()?;
        Ok(if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }

    fn u64(&mut self) -> Result<u64, Reason> {
        let word = self.word()?;
        Ok(if self.is_big_endian { u64::from_be_bytes(word) } else { u64::from_le_bytes(word) })
    }

    /// Takes `count` bytes, of which only the last is a NUL.
    fn terminated(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Reason> {
        match self.take(count)?.split_last() {
            Some((0, bytes)) if !bytes.contains(&0) => Ok(bytes),
            _ => Err(Reason::Text(what)),
        }
    }

    fn text(&mut self, count: usize, what: &'static str) -> Result<Cow<'a, str>, Reason> {
        let bytes = self.terminated(count, what)?;
        core::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| Reason::Text(what))
    }

    fn connection_number(&mut self) -> Result<ConnectionNumber, Reason> {
        match self.u32()? {
            0 => Err(Reason::Zero("connection")),
            number => Ok(ConnectionNumber(number)),
        }
    }

    fn transaction(&mut self) -> Result<TransactionItem, Reason> {
        let connection = self.connection_number()?;
        match self.u32()? {
            0 => Err(Reason::Zero("transaction")),
            id => Ok(TransactionItem { connection, id }),
        }
    }

    fn global(&mut self) -> Result<Item<'a>, Reason> {
        let (socket, event_channel) = (self.u32()?.cast_signed(), self.u32()?.cast_signed());
        Ok(Item::Global(Global { socket, event_channel }))
    }

    fn connection(&mut self) -> Result<Item<'a>, Reason> {
        let whole = self.rest.len();
        let number = self.connection_number()?;
        let (kind, fields) = (self.u16()?, self.u16()?);
        let peer = match kind {
            RING => {
                let (domid, target) = (DomId(self.u16()?), DomId(self.u16()?));
                let target = Some(target).filter(|target| target.0 != NO_TARGET);
                StreamPeer::Ring { domid, target, port: self.u32()? }
            }
            SOCKET => {
                let descriptor = self.u32()?.cast_signed();
                self.take(4)?;
                StreamPeer::Socket { descriptor }
            }
            _ => return Err(Reason::ConnectionType(kind)),
        };
        let (input, partial_bytes) = (usize::from(self.u16()?), usize::from(self.u16()?));
        let output = usize::try_from(self.u32()?).map_err(|_| Reason::TooShort)?;
        if partial_bytes > output {
            return Err(Reason::PartialMessage);
        }
        let (input, output) = (self.take(input)?.into(), self.take(output)?.into());
        let mut unique_id = None;
        if fields & HAS_UNIQUE_ID != 0 {
            let read = whole.saturating_sub(self.rest.len());
            self.take(read.next_multiple_of(ALIGNMENT).saturating_sub(read))?;
            // The C server writes 0 for an unknown id.
            unique_id = Some(self.u64()?).filter(|id| *id != 0);
        }
        Ok(Item::Connection(ConnectionItem { number, peer, input, output, partial_bytes, unique_id }))
    }

    fn watch(&mut self, is_extended: bool) -> Result<Item<'a>, Reason> {
        let connection = self.connection_number()?;
        let (path, token) = (usize::from(self.u16()?), usize::from(self.u16()?));
        let mut depth = None;
        if is_extended {
            // The depth and its padding: DEPTH_BYTES.
            depth = Some(self.u16()?).filter(|depth| *depth != UNLIMITED_DEPTH);
            self.u16()?;
        }
        let path = self.text(path, "path")?;
        let token = self.terminated(token, "token")?.into();
        Ok(Item::Watch(WatchItem { connection, path, token, depth, has_lost_depth: false }))
    }

    /// Reads a WATCH_DATA_EXTENDED as the C server of 4.22 writes it, in streams of both versions. Returns the item and
    /// the number of bytes that belong to the record. The depth is missing: the path follows the lengths. But the
    /// record's length counts the depth (`dump_state_watches` of Xen's `tools/xenstored/watch.c`).
    fn watch_without_depth(&mut self) -> Result<(Item<'a>, usize), Reason> {
        let whole = self.rest.len();
        let connection = self.connection_number()?;
        let (path, token) = (usize::from(self.u16()?), usize::from(self.u16()?));
        let path = self.text(path, "path")?;
        let token = self.terminated(token, "token")?.into();
        let bytes = whole.saturating_sub(self.rest.len());
        let length = bytes.next_multiple_of(ALIGNMENT);
        if whole != bytes.saturating_add(DEPTH_BYTES).next_multiple_of(ALIGNMENT) {
            return Err(Reason::TooLong);
        }
        if self.take(length.saturating_sub(bytes))?.iter().any(|byte| *byte != 0) {
            return Err(Reason::TooLong);
        }
        Ok((Item::Watch(WatchItem { connection, path, token, depth: None, has_lost_depth: true }), length))
    }

    fn node(&mut self) -> Result<Item<'a>, Reason> {
        let (connection, id) = (self.u32()?, self.u32()?);
        let (path, value) = (usize::from(self.u16()?), usize::from(self.u16()?));
        let (access, count) = (NodeAccess::from_bits_truncate(self.u16()?), self.u16()?);
        let pending = match (connection, id) {
            (0, _) => None,
            (_, 0) => return Err(Reason::Zero("transaction")),
            _ => Some((TransactionItem { connection: ConnectionNumber(connection), id }, access)),
        };
        if count == 0 && pending.is_none() {
            return Err(Reason::NoPermissions);
        }
        // The record's length bounds their number.
        let permissions = Permissions::try_from_entries((0..count).map(|_| self.permission()))?;
        let path = self.text(path, "path")?;
        let value = self.take(value)?.into();
        Ok(Item::Node(NodeItem { pending, path, value, permissions }))
    }

    fn permission(&mut self) -> Result<Entry, Reason> {
        let [letter, flags] = self.word()?;
        let access = match letter {
            b'n' => Access::empty(),
            b'r' => Access::READ,
            b'w' => Access::WRITE,
            b'b' => Access::READ.union(Access::WRITE),
            _ => return Err(Reason::Permission(letter)),
        };
        Ok(Entry { domid: DomId(self.u16()?), access, stale: flags & STALE != 0 })
    }

    /// Reads `count` values, and then as many names.
    fn quotas(&mut self, count: usize) -> Result<NamedQuotas<'a>, Reason> {
        let values = self.take(count.saturating_mul(size_of::<u32>()))?;
        let mut values = Fields { rest: values, is_big_endian: self.is_big_endian };
        let mut quotas = Vec::new();
        for _ in 0..count {
            let bytes = self.rest.iter().position(|byte| *byte == 0).ok_or(Reason::Text("quota's name"))?;
            quotas.push((self.text(bytes.saturating_add(1), "quota's name")?, values.u32()?));
        }
        Ok(quotas)
    }

    fn global_quotas(&mut self) -> Result<Item<'a>, Reason> {
        let (defaults, global) = (usize::from(self.u16()?), usize::from(self.u16()?));
        let mut defaults_and_global = self.quotas(defaults.saturating_add(global))?;
        let global = defaults_and_global.split_off(defaults.min(defaults_and_global.len()));
        Ok(Item::GlobalQuotas(GlobalQuotas { defaults: defaults_and_global, global }))
    }

    fn domain(&mut self, version: Version) -> Result<Item<'a>, Reason> {
        let (domid, count) = (DomId(self.u16()?), usize::from(self.u16()?));
        let features = Some(self.u32()?).filter(|_| version >= Version::Two);
        let quotas = self.quotas(count)?;
        Ok(Item::Domain(DomainItem { domid, features, quotas }))
    }
}
