//! Writes items as a stream.
//!
//! Lengths of records include their padding, as in the C server's streams. The C server's reader expects the next
//! record where the length ends.

use alloc::vec::Vec;
use core::fmt;

use crate::engine::snapshot::{
    Bytes, ConnectionItem, DomainItem, GlobalQuotas, Item, NamedQuotas, NoMemory, NodeAccess, NodeItem, StreamPeer,
    TransactionItem, WatchItem,
};
use crate::store::permission::{Access, Entry};
use crate::stream::record::{
    ALIGNMENT, CONNECTION_DATA, DOMAIN_DATA, END, GLOBAL_DATA, GLOBAL_QUOTA_DATA, HAS_UNIQUE_ID, IDENT, NO_TARGET,
    NODE_DATA, RECORD_HEADER_BYTES, RING, SOCKET, STALE, TRANSACTION_DATA, Version, WATCH_DATA, WATCH_DATA_EXTENDED,
};

/// The destination of a stream's bytes.
pub trait Sink {
    /// Takes bytes.
    ///
    /// # Errors
    /// Fails with [`SinkFull`]. The bytes written before are useless then.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull>;
}

/// The sink has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkFull;

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.try_reserve(bytes.len()).map_err(|_| SinkFull)?;
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A sink that counts bytes and keeps none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter(pub usize);

impl Sink for Counter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(())
    }
}

/// The reason why an item cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The sink is full, or memory is missing.
    Full,
    /// A value is too long for its field.
    TooLong(&'static str),
}

impl From<SinkFull> for WriteError {
    fn from(_: SinkFull) -> Self {
        Self::Full
    }
}

impl From<NoMemory> for WriteError {
    fn from(_: NoMemory) -> Self {
        Self::Full
    }
}

/// A stream that is being written.
pub struct Writer<'a> {
    sink: &'a mut dyn Sink,
    version: Version,
    /// A record's header and body; the buffer is reused. Long parts go directly to the sink.
    record: Vec<u8>,
    /// Whether memory was missing for a part of the record.
    is_spoiled: bool,
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Converts a number for a field of 16 bits.
fn short(number: usize, what: &'static str) -> Result<u16, WriteError> {
    u16::try_from(number).map_err(|_| WriteError::TooLong(what))
}

impl<'a> Writer<'a> {
    /// Begins a stream with its header.
    ///
    /// # Errors
    /// Fails with [`WriteError`] if the sink is full.
    pub fn new(sink: &'a mut dyn Sink, version: Version) -> Result<Self, WriteError> {
        sink.write(&IDENT)?;
        sink.write(&(version as u32).to_be_bytes())?;
        sink.write(&0_u32.to_be_bytes())?;
        Ok(Self { sink, version, record: Vec::new(), is_spoiled: false })
    }

    /// Writes an item. Omits or simplifies what the version cannot express: open transactions with their nodes, the
    /// depth of watches, features.
    ///
    /// # Errors
    /// Fails if the sink is full, if memory is missing, or if a part of the item is too long for its field.
    pub fn item(&mut self, item: &Item<'_>) -> Result<(), WriteError> {
        self.begin();
        let is_old = self.version == Version::One;
        let kind = match item {
            Item::Global(global) => {
                self.put(&global.socket.to_le_bytes());
                self.put(&global.event_channel.to_le_bytes());
                GLOBAL_DATA
            }
            Item::GlobalQuotas(quotas) => self.global_quotas(quotas)?,
            Item::Connection(connection) => return self.connection(connection),
            Item::Domain(domain) => self.domain(domain)?,
            Item::Watch(watch) => self.watch(watch)?,
            Item::Transaction(_) if is_old => return Ok(()),
            Item::Transaction(transaction) => {
                self.transaction(*transaction);
                TRANSACTION_DATA
            }
            Item::Node(NodeItem { pending: Some(_), .. }) if is_old => return Ok(()),
            Item::Node(node) => self.node(node)?,
            Item::Extension(extension) => return self.long_record(extension.kind, &extension.body, None),
        };
        self.record(kind)
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Fails if the sink is full.
    pub fn end(mut self) -> Result<(), WriteError> {
        self.begin();
        self.record(END)
    }

    /// Begins a record, with room for its header.
    fn begin(&mut self) {
        self.record.clear();
        self.put(&[0; RECORD_HEADER_BYTES]);
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.record.try_reserve(bytes.len()).is_ok() {
            self.record.extend_from_slice(bytes);
        } else {
            self.is_spoiled = true;
        }
    }

    /// Returns the bytes of the buffered body.
    const fn body_bytes(&self) -> usize {
        self.record.len().saturating_sub(RECORD_HEADER_BYTES)
    }

    /// Writes the buffered record.
    fn record(&mut self, kind: u32) -> Result<(), WriteError> {
        self.put(padding(self.body_bytes()));
        self.head(kind, self.body_bytes())
    }

    /// Writes the buffered record, then `rest`, and then `number` if there is one.
    fn long_record(&mut self, kind: u32, rest: &Bytes<'_>, number: Option<u64>) -> Result<(), WriteError> {
        let bytes = self.body_bytes().saturating_add(rest.len());
        let padding = padding(bytes);
        let number = number.map(u64::to_le_bytes);
        let number = number.as_ref().map_or(&[][..], |number| &number[..]);
        self.head(kind, bytes.saturating_add(padding.len()).saturating_add(number.len()))?;
        rest.pieces().try_for_each(|piece| self.sink.write(piece))?;
        self.sink.write(padding)?;
        Ok(self.sink.write(number)?)
    }

    /// Writes the buffered part of a record whose body has `bytes` bytes.
    fn head(&mut self, kind: u32, bytes: usize) -> Result<(), WriteError> {
        if self.is_spoiled {
            return Err(WriteError::Full);
        }
        let bytes = u32::try_from(bytes).map_err(|_| WriteError::TooLong("record"))?;
        if let Some(header) = self.record.first_chunk_mut() {
            *header = pair(kind, bytes);
        }
        Ok(self.sink.write(&self.record)?)
    }

    fn transaction(&mut self, transaction: TransactionItem) {
        self.put(&transaction.connection.0.to_le_bytes());
        self.put(&transaction.id.to_le_bytes());
    }

    /// Appends the values, and then the names.
    fn quotas(&mut self, lists: &[&NamedQuotas<'_>]) {
        for (_, value) in lists.iter().flat_map(|list| list.iter()) {
            self.put(&value.to_le_bytes());
        }
        for (name, _) in lists.iter().flat_map(|list| list.iter()) {
            self.put(name.as_bytes());
            self.put(&[0]);
        }
    }

    fn global_quotas(&mut self, quotas: &GlobalQuotas<'_>) -> Result<u32, WriteError> {
        self.put(&short(quotas.defaults.len(), "list of quotas")?.to_le_bytes());
        self.put(&short(quotas.global.len(), "list of quotas")?.to_le_bytes());
        self.quotas(&[&quotas.defaults, &quotas.global]);
        Ok(GLOBAL_QUOTA_DATA)
    }

    fn domain(&mut self, domain: &DomainItem<'_>) -> Result<u32, WriteError> {
        self.put(&domain.domid.0.to_le_bytes());
        self.put(&short(domain.quotas.len(), "list of quotas")?.to_le_bytes());
        let features = if self.version == Version::One { None } else { domain.features };
        self.put(&features.unwrap_or(0).to_le_bytes());
        self.quotas(&[&domain.quotas]);
        Ok(DOMAIN_DATA)
    }

    fn connection(&mut self, connection: &ConnectionItem<'_>) -> Result<(), WriteError> {
        self.put(&connection.number.0.to_le_bytes());
        // For the C server, 0 is an unknown id.
        let unique_id = connection.unique_id.filter(|id| *id != 0);
        let fields = if unique_id.is_some() { HAS_UNIQUE_ID } else { 0 };
        match connection.peer {
            StreamPeer::Ring { domid, target, port } => {
                self.put(&RING.to_le_bytes());
                self.put(&fields.to_le_bytes());
                self.put(&domid.0.to_le_bytes());
                self.put(&target.map_or(NO_TARGET, |target| target.0).to_le_bytes());
                self.put(&port.to_le_bytes());
            }
            StreamPeer::Socket { descriptor } => {
                self.put(&SOCKET.to_le_bytes());
                self.put(&fields.to_le_bytes());
                self.put(&descriptor.to_le_bytes());
                self.put(&[0; 4]);
            }
        }
        self.put(&short(connection.input.len(), "input")?.to_le_bytes());
        self.put(&short(connection.partial_bytes, "partial message")?.to_le_bytes());
        let output = u32::try_from(connection.output.len()).map_err(|_| WriteError::TooLong("output"))?;
        self.put(&output.to_le_bytes());
        self.put(&connection.input);
        self.long_record(CONNECTION_DATA, &connection.output, unique_id)
    }

    fn watch(&mut self, watch: &WatchItem<'_>) -> Result<u32, WriteError> {
        self.put(&watch.connection.0.to_le_bytes());
        self.put(&short(watch.path.len().saturating_add(1), "path")?.to_le_bytes());
        self.put(&short(watch.token.len().saturating_add(1), "token")?.to_le_bytes());
        let depth = watch.depth.filter(|_| self.version >= Version::Two);
        if let Some(depth) = depth {
            self.put(&depth.to_le_bytes());
            self.put(&[0; 2]);
        }
        self.put(watch.path.as_bytes());
        self.put(&[0]);
        self.put(&watch.token);
        self.put(&[0]);
        Ok(if depth.is_some() { WATCH_DATA_EXTENDED } else { WATCH_DATA })
    }

    fn node(&mut self, node: &NodeItem<'_>) -> Result<u32, WriteError> {
        let (connection, id, access) = match node.pending {
            Some((transaction, access)) => (transaction.connection.0, transaction.id, access),
            None => (0, 0, NodeAccess::empty()),
        };
        let entries = node.entries();
        let path_bytes = short(node.path.len().saturating_add(1), "path")?;
        let value_bytes = short(node.value.len(), "value")?;
        let count = short(entries.len(), "list of permissions")?;
        self.put(&pair(connection, id));
        self.put(&pair(double(path_bytes, value_bytes), double(access.bits(), count)));
        for entry in entries {
            self.put(&permission(*entry));
        }
        self.put(node.path.as_bytes());
        self.put(&[0]);
        self.put(&node.value);
        Ok(NODE_DATA)
    }
}

/// Returns two fields of 32 bits, one after the other.
fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}

/// Returns two fields of 16 bits as one of 32.
fn double(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

/// Returns the padding after a body of `bytes` bytes.
fn padding(bytes: usize) -> &'static [u8] {
    const MOST: &[u8] = &[0; ALIGNMENT];
    MOST.get(..bytes.wrapping_neg() % ALIGNMENT).unwrap_or_default()
}

/// Encodes letter, flags and domid.
fn permission(entry: Entry) -> [u8; 4] {
    let letter = match (entry.access.contains(Access::READ), entry.access.contains(Access::WRITE)) {
        (false, false) => b'n',
        (true, false) => b'r',
        (false, true) => b'w',
        (true, true) => b'b',
    };
    let [low, high] = entry.domid.0.to_le_bytes();
    [letter, if entry.stale { STALE } else { 0 }, low, high]
}
