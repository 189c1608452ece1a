//! The contents of this server's own extensions. Each body begins with a version. A later server may add to the end of
//! a body, which earlier ones ignore. Any other change needs a new version. A body that cannot be read is skipped:
//! every extension is dispensable.
//!
//! Times are relative, because the successor has a different clock. Connections have their numbers in the sequence.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::engine::config::StreamLimit;
use crate::engine::connection::output::{MessageDetails, Origin};
use crate::engine::connection::{ProtocolError, Reading, RingStart};
use crate::engine::report::trace::{Switches, Trace};
use crate::engine::snapshot::codec::{Reader, Writer};
use crate::engine::snapshot::{ConnectionNumber, DomainItem, EXTENSION_FIRST, Extension, Item, NamedQuotas, NoMemory};
use crate::store::domain::DomId;
use crate::store::permission::{Access, Entry};
use crate::store::quota::{Peaks, Quota};
use crate::store::watch::ConnectionId;
use crate::wire::ring::Ring;

/// The counters of the server as a whole.
pub(super) const SERVER: u32 = EXTENSION_FIRST + 1;
/// A connection; follows its record.
pub(super) const CONNECTION: u32 = EXTENSION_FIRST + 2;
/// A domain; follows its record.
pub(super) const DOMAIN: u32 = EXTENSION_FIRST + 3;
/// The generations of the last writes of the nodes that follow.
pub(super) const GENERATIONS: u32 = EXTENSION_FIRST + 4;
/// A transaction; follows its nodes.
pub(super) const TRANSACTION: u32 = EXTENSION_FIRST + 5;
/// Write credits and conflict credits.
pub(super) const FAIRNESS: u32 = EXTENSION_FIRST + 6;
/// Features and quotas of a domain that has neither a connection nor nodes. Older releases skip it.
pub(super) const NAMED_DOMAIN: u32 = EXTENSION_FIRST + 7;
/// Postponed announcements, and domains whose nodes are being removed.
pub(super) const POSTPONED: u32 = EXTENSION_FIRST + 8;
/// Counts of dropped events.
pub(super) const DROPS: u32 = EXTENSION_FIRST + 9;

/// The version of every body.
const VERSION: u8 = 1;

/// Creates a body of the present version.
pub(super) fn body() -> Writer {
    Writer::new(VERSION)
}

/// Returns a reader of a body, if its version is known.
pub(super) fn read(body: &[u8]) -> Option<Reader<'_>> {
    Reader::of_version(body, VERSION)
}

/// Returns the item of a filled body.
///
/// # Errors
/// [`NoMemory`] if memory was missing for the body.
pub(super) fn item(kind: u32, body: Writer) -> Result<Item<'static>, NoMemory> {
    Ok(Item::Extension(Extension { kind, body: body.into_body()? }))
}

/// The counters of the server as a whole.
#[derive(Clone, Debug)]
pub(super) struct ServerState {
    /// The generation of the newest change.
    pub(super) generation: u64,
    /// The number of the newest request that counts as outstanding.
    pub(super) next_ticket: u64,
    /// The trace lines to log.
    pub(super) trace: Trace,
    /// The maxima of all guests.
    pub(super) peaks: Peaks,
    /// The limit of the stream's version; unset in bodies of servers that lack it.
    pub(super) stream_limit: StreamLimit,
}

impl ServerState {
    pub(super) fn write(&self) -> Result<Item<'static>, NoMemory> {
        let mut body = body();
        body.number(self.generation);
        body.number(self.next_ticket);
        body.number(self.trace.switches.bits().into());
        body.flag(self.trace.is_on);
        write_peaks(&mut body, &self.peaks);
        body.number(self.stream_limit.to_number());
        item(SERVER, body)
    }

    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut body = read(body)?;
        Some(Self {
            generation: body.number()?,
            next_ticket: body.number()?,
            trace: Trace { switches: Switches::from_bits_truncate(body.small()?), is_on: body.flag()? },
            peaks: read_peaks(&mut body)?,
            stream_limit: body.number().and_then(StreamLimit::from_number).unwrap_or_default(),
        })
    }
}

/// The state of a connection that its record lacks.
#[derive(Clone, Debug)]
pub(super) struct ConnectionState<'a> {
    /// The connection's number.
    pub(super) number: ConnectionNumber,
    /// The server's side of the ring.
    pub(super) ring: Ring,
    /// The pending preparation of the ring page.
    pub(super) ring_start: Option<RingStart>,
    /// The protocol error for which it was shut.
    pub(super) error: Option<ProtocolError>,
    /// Milliseconds until the next check for expired events.
    pub(super) deadline_ms: Option<u64>,
    /// The number of its newest transaction.
    pub(super) next_transaction: u32,
    /// The beginning of the message that is partly sent.
    pub(super) sent: &'a [u8],
    /// Whether only the control domain can reopen it; false in bodies of servers that lack it.
    pub(super) is_shut_out: bool,
    /// Whether the client reads, with times relative to now; the default in bodies of servers that lack it.
    pub(super) reading: Reading,
}

impl<'a> ConnectionState<'a> {
    /// Writes the extension, with the details of `count` messages. Origins name connections by their numbers in the
    /// sequence. Deadlines are milliseconds from now.
    pub(super) fn write(
        &self,
        count: usize,
        messages: impl Iterator<Item = MessageDetails>,
    ) -> Result<Item<'static>, NoMemory> {
        let mut body = body();
        body.number(self.number.0.into());
        let (request_consumer, reply_producer) = self.ring.indices();
        body.number(request_consumer.into());
        body.number(reply_producer.into());
        body.number(match self.ring_start {
            None => 0,
            Some(RingStart::Adopt) => 1,
            Some(RingStart::Reset) => 2,
        });
        body.number(self.error.map_or(0, |error| error as u64));
        body.optional(self.deadline_ms);
        body.number(self.next_transaction.into());
        body.bytes(self.sent);
        body.size(count);
        let (mut subjects, mut special) = (Writer::default(), 0_usize);
        for (at, message) in messages.enumerate() {
            if let Some(subject) = message.subject {
                special = special.saturating_add(1);
                subjects.size(at);
                subjects.number(subject.0.into());
            }
            body.flag(message.origin.is_some());
            if let Some(origin) = message.origin {
                body.number(origin.connection.0);
                body.number(origin.ticket);
            }
            body.optional(message.deadline_ms);
        }
        body.flag(self.is_shut_out);
        body.flag(self.reading.is_given_up);
        body.optional(self.reading.unread_since_ms);
        body.size(self.reading.bytes);
        body.size(special);
        body.append(subjects);
        item(CONNECTION, body)
    }

    /// Reads the output of [`ConnectionState::write`].
    pub(super) fn read(body: &'a [u8]) -> Option<(Self, Vec<MessageDetails>)> {
        let mut body = read(body)?;
        let mut state = Self {
            number: ConnectionNumber(body.small()?),
            ring: Ring::resume(body.small()?, body.small()?),
            ring_start: match body.number()? {
                0 => None,
                1 => Some(RingStart::Adopt),
                2 => Some(RingStart::Reset),
                _ => return None,
            },
            error: match body.number()? {
                0 => None,
                1 => Some(ProtocolError::Communication),
                2 => Some(ProtocolError::RingIndex),
                3 => Some(ProtocolError::Protocol),
                _ => return None,
            },
            deadline_ms: body.optional()?,
            next_transaction: body.small()?,
            sent: body.bytes()?,
            is_shut_out: false,
            reading: Reading::default(),
        };
        let mut messages = Vec::new();
        for _ in 0..body.count()? {
            let origin = if body.flag()? {
                Some(Origin { connection: ConnectionId(body.number()?), ticket: body.number()? })
            } else {
                None
            };
            messages.push(MessageDetails { origin, deadline_ms: body.optional()?, subject: None });
        }
        state.is_shut_out = body.flag().unwrap_or(false);
        // Bodies of servers that lack these end here, or with the zeros that fill up the record.
        state.reading = read_reading(&mut body).unwrap_or_default();
        read_subjects(&mut body, &mut messages)?;
        Some((state, messages))
    }
}

fn read_reading(body: &mut Reader<'_>) -> Option<Reading> {
    let is_given_up = body.flag()?;
    Some(Reading { is_given_up, unread_since_ms: body.optional()?, bytes: body.small()? })
}

/// Reads the subjects of the special events among the messages.
fn read_subjects(body: &mut Reader<'_>, messages: &mut [MessageDetails]) -> Option<()> {
    for _ in 0..body.count().unwrap_or(0) {
        let message = messages.get_mut(body.small::<usize>()?)?;
        message.subject = Some(DomId(body.small()?));
    }
    Some(())
}

/// The state of a domain that its records lack.
#[derive(Clone, Debug)]
pub(super) struct DomainState {
    /// The domain.
    pub(super) domid: DomId,
    /// The generation at which it became known.
    pub(super) born: u64,
    /// Whether its shutdown has been reported.
    pub(super) shutdown: bool,
    /// The hypervisor's unique ID of the domain.
    pub(super) unique_id: Option<u64>,
    /// The quotas that were set for this domain alone, one bit each.
    pub(super) own_quotas: u16,
    /// The domain whose rights it has in addition.
    pub(super) target: Option<DomId>,
    /// The maxima of its use.
    pub(super) peaks: Peaks,
}

impl DomainState {
    pub(super) fn write(&self) -> Result<Item<'static>, NoMemory> {
        let mut body = body();
        body.number(self.domid.0.into());
        body.number(self.born);
        body.flag(self.shutdown);
        body.optional(self.unique_id);
        body.number(self.own_quotas.into());
        body.optional(self.target.map(|target| target.0.into()));
        write_peaks(&mut body, &self.peaks);
        item(DOMAIN, body)
    }

    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut body = read(body)?;
        Some(Self {
            domid: DomId(body.small()?),
            born: body.number()?,
            shutdown: body.flag()?,
            unique_id: body.optional()?,
            own_quotas: body.small()?,
            target: match body.optional()? {
                Some(target) => Some(DomId(u16::try_from(target).ok()?)),
                None => None,
            },
            peaks: read_peaks(&mut body)?,
        })
    }
}

/// Writes an extension with the content of a domain's record.
pub(super) fn write_named_domain(item: &DomainItem<'_>) -> Result<Item<'static>, NoMemory> {
    let mut body = body();
    body.number(item.domid.0.into());
    body.optional(item.features.map(u64::from));
    body.size(item.quotas.len());
    for (name, value) in &item.quotas {
        body.bytes(name.as_bytes());
        body.number((*value).into());
    }
    self::item(NAMED_DOMAIN, body)
}

/// Reads the output of [`write_named_domain`].
pub(super) fn read_named_domain(body: &[u8]) -> Option<DomainItem<'_>> {
    let mut body = read(body)?;
    let domid = DomId(body.small()?);
    let features = match body.optional()? {
        Some(features) => Some(u32::try_from(features).ok()?),
        None => None,
    };
    let mut quotas = NamedQuotas::new();
    for _ in 0..body.count()? {
        quotas.push((body.text()?.into(), body.small()?));
    }
    Some(DomainItem { domid, features, quotas })
}

/// A writer of the generations of nodes, as differences.
#[derive(Debug, Default)]
pub(super) struct GenerationWriter {
    body: Writer,
    nodes: usize,
    before: u64,
}

impl GenerationWriter {
    pub(super) fn push(&mut self, generation: u64) {
        self.body.signed(generation.wrapping_sub(self.before).cast_signed());
        self.before = generation;
        self.nodes = self.nodes.saturating_add(1);
    }

    /// Returns the extension: the number of generations, and all of them.
    pub(super) fn finish(self) -> Result<Item<'static>, NoMemory> {
        let mut body = body();
        body.size(self.nodes);
        body.append(self.body);
        item(GENERATIONS, body)
    }
}

/// A reader of the generations, one for each node.
#[derive(Debug, Default)]
pub(super) struct GenerationReader {
    /// The bytes after the count of nodes.
    body: Box<[u8]>,
    at: usize,
    before: u64,
    /// The number of nodes whose generations remain.
    left: usize,
}

impl GenerationReader {
    /// Creates a reader, if the version is known.
    pub(super) fn new(body: &[u8]) -> Option<Self> {
        let mut body = read(body)?;
        let left = body.count()?;
        Some(Self { body: body.rest().into(), at: 0, before: 0, left })
    }

    /// Returns the generation of the next node, limited to `newest`.
    pub(super) fn next(&mut self, newest: u64) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let mut rest = Reader::of_rest(self.body.get(self.at..)?);
        let generation = self.before.wrapping_add_signed(rest.signed()?);
        self.at = self.body.len().checked_sub(rest.rest().len())?;
        self.before = generation;
        (1..=newest).contains(&generation).then_some(generation)
    }

    /// Returns whether no generation is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.left == 0
    }
}

fn write_peaks(body: &mut Writer, peaks: &Peaks) {
    body.size(Quota::ALL.len());
    for quota in Quota::ALL {
        body.number(peaks.get(quota).into());
    }
}

fn read_peaks(body: &mut Reader<'_>) -> Option<Peaks> {
    let mut peaks = Peaks::default();
    let mut quotas = Quota::ALL.into_iter();
    for _ in 0..body.count()? {
        let peak: u32 = body.small()?;
        if let (Some(quota), Ok(peak)) = (quotas.next(), usize::try_from(peak)) {
            peaks.note(quota, peak);
        }
    }
    Some(peaks)
}

/// Writes permissions.
pub(super) fn write_entries(body: &mut Writer, entries: &[Entry]) {
    body.size(entries.len());
    for entry in entries {
        body.number(entry.domid.0.into());
        body.number(entry.access.bits().into());
        body.flag(entry.stale);
    }
}

/// Reads permissions.
pub(super) fn read_entries(body: &mut Reader<'_>) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for _ in 0..body.count()? {
        let domid = DomId(body.small()?);
        let access = Access::from_bits(body.small()?).filter(|access| !access.contains(Access::OWNER))?;
        entries.push(Entry { domid, access, stale: body.flag()? });
    }
    Some(entries)
}
