//! The output queue of one connection: replies and events, in order.
//!
//! Identical pending events are queued once. The cost of an operation does not depend on the number of pending
//! messages. An index finds duplicates (`pending`); the cost of expiry is in proportion to the dropped events.

mod pending;
mod shares;

use alloc::vec::Vec;

pub use crate::engine::connection::output::pending::HashKey;
use crate::engine::connection::output::pending::PendingEvents;
use crate::engine::connection::output::shares::Shares;
use crate::engine::connection::queue::Queue;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;
use crate::wire::header::{HEADER_BYTES, Header, MessageType};

/// The request that caused a message. It is outstanding until all its messages are delivered or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The connection that sent the request.
    pub connection: ConnectionId,
    /// The number of the request; 0 if it is no longer outstanding.
    pub ticket: u64,
}

/// The cause of an event, and the originator whose share of the receiver's queue it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCause {
    /// The request that caused it.
    pub origin: Option<Origin>,
    /// The guest's connection that it is charged to; `None` for the control domain and the hypervisor.
    pub originator: Option<ConnectionId>,
    /// The domain that a special event is about.
    pub subject: Option<DomId>,
}

/// A message in the queue. The type is small: thousands can be pending.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    /// The connection whose request caused it, or that it is charged to; [`NOBODY`] for neither.
    by: ConnectionId,
    /// The ticket of the request that caused it; 0 if none is outstanding.
    ticket: u64,
    kind: Kind,
}

const _: () = assert!(size_of::<Message>() <= 56, "a piece of the queue takes 3.5 KiB");

/// No connection has this number.
const NOBODY: ConnectionId = ConnectionId(0);
/// A deadline that never comes.
const NEVER_MS: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reply,
    /// The end of a message whose beginning a predecessor sent.
    Rest,
    Event {
        /// The time at which the event is dropped unless a part was sent.
        deadline_ms: u64,
        /// The domain that a special event is about.
        subject: Option<DomId>,
    },
}

impl Message {
    fn new(bytes: Vec<u8>, origin: Option<Origin>, kind: Kind) -> Self {
        let Origin { connection: by, ticket } = origin.unwrap_or(Origin { connection: NOBODY, ticket: 0 });
        Self { bytes, by, ticket, kind }
    }

    /// Returns the request to settle when the message is sent or dropped. Its connection is woken even if the ticket is
    /// 0.
    fn origin(&self) -> Option<Origin> {
        (self.by != NOBODY).then_some(Origin { connection: self.by, ticket: self.ticket })
    }

    const fn is_event(&self) -> bool {
        matches!(self.kind, Kind::Event { .. })
    }

    const fn subject(&self) -> Option<DomId> {
        if let Kind::Event { subject, .. } = self.kind { subject } else { None }
    }

    fn deadline_ms(&self) -> Option<u64> {
        if let Kind::Event { deadline_ms, .. } = self.kind { Some(deadline_ms) } else { None }
            .filter(|deadline_ms| *deadline_ms != NEVER_MS)
    }

    /// Returns the guest's connection that an event is charged to.
    fn originator(&self) -> Option<ConnectionId> {
        Some(self.by).filter(|by| self.is_event() && *by != NOBODY)
    }

    fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }
}

/// The details of a message that its bytes do not contain, for a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageDetails {
    /// The request that caused it.
    pub origin: Option<Origin>,
    /// The time at which it is dropped unless a part was sent.
    pub deadline_ms: Option<u64>,
    /// The domain that a special event is about.
    pub subject: Option<DomId>,
}

/// The error for bytes that are not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMessages;

/// An event that was dropped because it was not read in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The request that caused it.
    pub origin: Option<Origin>,
    /// The guest's connection that it was charged to.
    pub originator: Option<ConnectionId>,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Output {
    messages: Queue<Message>,
    /// Bytes of all messages.
    queued_bytes: usize,
    /// Bytes of the first message that were sent.
    sent: usize,
    pending: PendingEvents,
    /// Bytes of events, by the guest's connection that caused them.
    shares: Shares,
}

impl Output {
    /// Returns the bytes of all pending messages with their headers, from a running count.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Returns the same as [`Output::queued_bytes`], counted message by message.
    #[must_use]
    pub fn count_bytes(&self) -> usize {
        self.messages.iter().map(|message| message.bytes.len()).sum()
    }

    /// Returns the bytes of pending events that guests caused.
    #[must_use]
    pub const fn bytes_by_guests(&self) -> usize {
        self.shares.total()
    }

    /// Returns the bytes of pending events that one guest's connection caused.
    #[must_use]
    pub fn bytes_by(&self, originator: ConnectionId) -> usize {
        self.shares.of(originator)
    }

    /// Returns the number of pending messages.
    pub(in crate::engine) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns the causes of pending messages.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.messages.iter().filter_map(Message::origin)
    }

    fn push(&mut self, message: Message) {
        let bytes = message.bytes.len();
        self.queued_bytes = self.queued_bytes.saturating_add(bytes);
        if let Some(originator) = message.originator() {
            self.shares.add(originator, bytes);
        }
        self.messages.push_back(message);
    }

    /// Queues a reply, in a buffer with enough room for it.
    pub fn push_reply(&mut self, mut buffer: Vec<u8>, header: Header, payload: &[u8], origin: Option<Origin>) {
        buffer.extend_from_slice(&header.emit());
        buffer.extend_from_slice(payload);
        self.push(Message::new(buffer, origin, Kind::Reply));
    }

    /// Replaces the payload of the last reply to a request. A message that is partly sent stays unchanged.
    pub fn replace_last_reply(&mut self, header: &Header, payload: &[u8]) {
        let unsent = self.messages.len().saturating_sub(usize::from(self.sent > 0));
        let is_reply = |message: &Message| {
            let have = message.bytes.first_chunk::<HEADER_BYTES>().map(Header::parse);
            matches!(message.kind, Kind::Reply)
                && have.is_some_and(|have| (have.kind, have.request_id) == (header.kind, header.request_id))
        };
        if let Some(message) = self.messages.iter_mut().rev().take(unsent).find(|message| is_reply(message)) {
            let header = Header { payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX), ..*header };
            let old = core::mem::replace(&mut message.bytes, self::message(header, payload));
            self.queued_bytes = self.queued_bytes.saturating_sub(old.len()).saturating_add(message.bytes.len());
        }
    }

    /// Returns whether an event with this payload and subject is pending. Only special events have a subject.
    #[must_use]
    pub fn has_event(&mut self, payload: &[u8], subject: Option<DomId>, key: HashKey) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        if self.messages.len() <= limits::SCANNED_MESSAGES {
            let is_same =
                |message: &Message| message.is_event() && message.subject() == subject && message.payload() == payload;
            return self.messages.iter().any(is_same);
        }
        if !self.pending.is_indexed() {
            let events = self.messages.iter().filter(|message| message.is_event());
            let events = events.map(|message| (message.payload(), message.subject()));
            self.pending.index(key, events);
        }
        self.pending.contains(payload, subject)
    }

    /// Queues an event.
    pub fn push_event(&mut self, payload: &[u8], cause: EventCause, deadline_ms: Option<u64>) {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let kind = MessageType::WatchEvent.to_wire();
        let header = Header { kind, request_id: 0, transaction_id: 0, payload_bytes };
        let EventCause { origin, originator, subject } = cause;
        self.pending.add(payload, subject);
        let deadline_ms = deadline_ms.unwrap_or(NEVER_MS);
        // An event is charged to its originator even if no request waits for it.
        let origin = origin.or(originator.map(|connection| Origin { connection, ticket: 0 }));
        self.push(Message::new(message(header, payload), origin, Kind::Event { deadline_ms, subject }));
    }

    /// Returns the bytes to send next, up to the end of a message; empty when there are none.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes.get(self.sent..)).unwrap_or_default()
    }

    /// Returns all bytes to send, message by message.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let behind = self.messages.iter().skip(1).map(|message| &*message.bytes);
        core::iter::once(self.bytes()).filter(|bytes| !bytes.is_empty()).chain(behind)
    }

    /// Notes that `count` bytes of [`Output::bytes`] were sent. Returns the cause of a message that is now delivered,
    /// and its buffer.
    pub fn advance(&mut self, count: usize) -> Option<(Option<Origin>, Vec<u8>)> {
        self.sent = self.sent.saturating_add(count);
        let whole = self.messages.front().is_some_and(|message| self.sent >= message.bytes.len());
        if !whole {
            return None;
        }
        self.discard_first()
    }

    /// Drops the first message. Returns its cause and its buffer.
    #[inline]
    pub(in crate::engine) fn discard_first(&mut self) -> Option<(Option<Origin>, Vec<u8>)> {
        self.sent = 0;
        let message = self.messages.pop_front()?;
        self.forget(&message);
        Some((message.origin(), message.bytes))
    }

    /// Prepares to send the first message again from its beginning, after its receiver erased the part that was sent.
    /// If the beginning is unknown, drops the message and returns its cause.
    pub(in crate::engine) fn restart_first(&mut self) -> Option<Origin> {
        self.sent = 0;
        self.messages.front().filter(|message| matches!(message.kind, Kind::Rest))?;
        self.discard_first()?.0
    }

    /// Drops up to `most` expired events, except one that is partly sent. The cost is in proportion to the dropped
    /// events. Events are in the order of their deadlines, and few replies can be pending before the first event.
    pub fn expire(&mut self, now_ms: u64, most: usize) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        let mut kept = Vec::new();
        if self.sent > 0 {
            kept.extend(self.messages.pop_front());
        }
        while dropped.len() < most
            && let Some(message) = self.messages.pop_front()
        {
            let is_event = message.is_event();
            if message.deadline_ms().is_some_and(|deadline_ms| deadline_ms <= now_ms) {
                self.forget(&message);
                dropped.push(Dropped { origin: message.origin(), originator: message.originator() });
            } else {
                kept.push(message);
                if is_event {
                    break;
                }
            }
        }
        while let Some(message) = kept.pop() {
            self.messages.push_front(message);
        }
        dropped
    }

    /// Returns the deadline of the first event that is not partly sent. [`Output::expire`] also stops there if that is
    /// not due.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.pending.is_empty() {
            return None;
        }
        let partly_sent = usize::from(self.sent > 0);
        self.messages.iter().skip(partly_sent).find(|message| message.is_event())?.deadline_ms()
    }

    /// Returns whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Returns the details of all messages, in order. A partly sent message has no deadline.
    pub(in crate::engine) fn messages(&self) -> impl Iterator<Item = MessageDetails> {
        self.messages.iter().enumerate().map(|(at, message)| {
            let deadline_ms = message.deadline_ms().filter(|_| at > 0 || self.sent == 0);
            MessageDetails { origin: message.origin(), deadline_ms, subject: message.subject() }
        })
    }

    /// Returns the sent bytes of the first message.
    #[must_use]
    pub fn sent(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes.get(..self.sent)).unwrap_or_default()
    }

    /// Returns how many bytes of the first message remain to be sent; 0 unless a part was sent.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        let is_partial = |message: &&Message| self.sent > 0 || matches!(message.kind, Kind::Rest);
        let remaining = |message: &Message| message.bytes.len().saturating_sub(self.sent);
        self.messages.front().filter(is_partial).map_or(0, remaining)
    }

    /// Replaces the causes of the pending messages. An event without a cause is still charged to its originator.
    pub(in crate::engine) fn map_origins(&mut self, mut map: impl FnMut(Origin) -> Option<Origin>) {
        for message in self.messages.iter_mut() {
            if let Some(origin) = message.origin() {
                message.ticket = map(origin).map_or(0, |origin| origin.ticket);
            }
        }
    }

    /// Fills an empty queue with the bytes that a predecessor had to send. The first `partial_bytes` are the end of a
    /// message. Events are dropped at `deadline_ms`.
    ///
    /// # Errors
    /// [`NoMessages`] if the bytes are not a sequence of messages.
    pub(in crate::engine) fn restore(
        &mut self,
        bytes: &[u8],
        partial_bytes: usize,
        deadline_ms: Option<u64>,
    ) -> Result<(), NoMessages> {
        let (first, mut rest) = bytes.split_at_checked(partial_bytes).ok_or(NoMessages)?;
        if !first.is_empty() {
            self.push(Message::new(first.into(), None, Kind::Rest));
        }
        while !rest.is_empty() {
            let (message, behind) = length(rest).and_then(|length| rest.split_at_checked(length)).ok_or(NoMessages)?;
            self.restore_message(message, deadline_ms);
            rest = behind;
        }
        Ok(())
    }

    fn restore_message(&mut self, bytes: &[u8], deadline_ms: Option<u64>) {
        let message = Message::new(bytes.into(), None, kind_of(bytes, deadline_ms));
        if message.is_event() {
            self.pending.add(message.payload(), None);
        }
        self.push(message);
    }

    /// Puts the sent beginning of the first message before its end. Does nothing if the two do not form a message.
    pub(in crate::engine) fn restore_sent(&mut self, sent: &[u8]) {
        let Some(first) = self.messages.front_mut().filter(|first| matches!(first.kind, Kind::Rest)) else { return };
        let whole = [sent, &*first.bytes].concat();
        if sent.is_empty() || length(&whole) != Some(whole.len()) {
            return;
        }
        // A partly sent event does not expire.
        let kind = kind_of(&whole, None);
        first.bytes = whole;
        first.kind = kind;
        if first.is_event() {
            self.pending.add(first.payload(), None);
        }
        self.queued_bytes = self.queued_bytes.saturating_add(sent.len());
        self.sent = sent.len();
    }

    /// Restores the details of each message. `is_guest` returns whether a connection is a guest's; only guests are
    /// charged for events.
    pub(in crate::engine) fn restore_details(
        &mut self,
        details: impl Iterator<Item = MessageDetails>,
        is_guest: impl Fn(ConnectionId) -> bool,
    ) {
        for (message, details) in self.messages.iter_mut().zip(details) {
            let origin = details.origin.filter(|origin| is_guest(origin.connection));
            if let Kind::Event { deadline_ms, subject } = &mut message.kind {
                *deadline_ms = details.deadline_ms.unwrap_or(NEVER_MS);
                *subject = details.subject;
                if let Some(origin) = origin {
                    self.shares.add(origin.connection, message.bytes.len());
                }
            }
            if let Some(origin) = origin {
                (message.by, message.ticket) = (origin.connection, origin.ticket);
            }
        }
        // The index includes the subjects.
        self.pending.forget_index();
    }

    fn forget(&mut self, message: &Message) {
        let bytes = message.bytes.len();
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        if message.is_event() {
            self.pending.remove(message.payload(), message.subject());
            if let Some(originator) = message.originator() {
                self.shares.take(originator, bytes);
            }
        }
    }
}

/// Returns the kind of the message in these bytes.
fn kind_of(bytes: &[u8], deadline_ms: Option<u64>) -> Kind {
    let is_event = bytes.first_chunk().map(Header::parse).is_some_and(|header| header.is_event());
    if is_event { Kind::Event { deadline_ms: deadline_ms.unwrap_or(NEVER_MS), subject: None } } else { Kind::Reply }
}

/// Returns the length of the message that `bytes` begins with; `None` without a whole header.
fn length(bytes: &[u8]) -> Option<usize> {
    let payload_bytes = usize::try_from(Header::parse(bytes.first_chunk()?).payload_bytes).ok()?;
    (payload_bytes <= limits::PAYLOAD_BYTES).then(|| HEADER_BYTES.saturating_add(payload_bytes))
}

/// Returns the number of messages in these bytes.
pub(in crate::engine) fn count(bytes: &[u8]) -> usize {
    let split = |bytes: &mut &[u8]| {
        let (_, behind) = length(bytes).and_then(|length| bytes.split_at_checked(length))?;
        *bytes = behind;
        Some(())
    };
    let mut rest = bytes;
    core::iter::from_fn(|| split(&mut rest)).count()
}

/// Returns a header and a payload as one message.
pub(in crate::engine) fn message(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(payload.len()));
    bytes.extend_from_slice(&header.emit());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
#[path = "output/tests.rs"]
mod tests;
