//! What waits to be sent to one connection: replies and events, in order.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::engine::queue::Queue;
use crate::limits;
use crate::store::watch::ConnectionId;
use crate::wire::header::{HEADER_BYTES, Header, MessageType};

/// The request that caused a message: it counts as outstanding until all messages that it caused are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who sent the request.
    pub connection: ConnectionId,
    /// Which of its requests.
    pub ticket: u64,
}

/// A message on its way.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    origin: Option<Origin>,
    event: Option<EventInfo>,
    /// Only the end of a message, of which a predecessor sent the beginning.
    is_rest: bool,
}

/// What of a message its bytes don't say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageDetails {
    /// The request that caused it.
    pub origin: Option<Origin>,
    /// When it is dropped if nothing of it was sent.
    pub deadline_ms: Option<u64>,
}

/// Bytes to be sent can't be split into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMessages;

/// What a queue needs to know of an event.
#[derive(Clone, Copy, Debug)]
struct EventInfo {
    /// Of the payload, to find an identical one.
    hash: u32,
    /// When it is dropped if nothing of it was sent.
    deadline_ms: Option<u64>,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Output {
    messages: Queue<Message>,
    /// Bytes of all messages.
    queued_bytes: usize,
    /// Bytes of the first message that were sent.
    sent: usize,
    /// How many pending events have a hash.
    event_hashes: BTreeMap<u32, usize>,
}

impl Output {
    /// Bytes of all messages that wait, headers included, as counted along the way.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The same, counted now.
    #[must_use]
    pub fn count_bytes(&self) -> usize {
        self.messages.iter().map(|message| message.bytes.len()).sum()
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// What caused the messages that wait.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.messages.iter().filter_map(|message| message.origin)
    }

    fn push(&mut self, message: Message) {
        self.queued_bytes = self.queued_bytes.saturating_add(message.bytes.len());
        self.messages.push_back(message);
    }

    /// Queues a reply, in a buffer with enough room for it.
    pub fn push_reply(&mut self, mut buffer: Vec<u8>, header: Header, payload: &[u8], origin: Option<Origin>) {
        buffer.extend_from_slice(&header.emit());
        buffer.extend_from_slice(payload);
        self.push(Message { bytes: buffer, origin, event: None, is_rest: false });
    }

    /// Gives the last reply to a request another payload. A message of which something was sent stays as it is.
    pub fn replace_last_reply(&mut self, header: &Header, payload: &[u8]) {
        let unsent = self.messages.len().saturating_sub(usize::from(self.sent > 0));
        let is_reply = |message: &Message| {
            let have = message.bytes.first_chunk::<HEADER_BYTES>().map(Header::parse);
            !message.is_rest
                && have.is_some_and(|have| (have.kind, have.request_id) == (header.kind, header.request_id))
        };
        if let Some(message) = self.messages.iter_mut().rev().take(unsent).find(|message| is_reply(message)) {
            let header = Header { payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX), ..*header };
            let old = core::mem::replace(&mut message.bytes, self::message(header, payload));
            self.queued_bytes = self.queued_bytes.saturating_sub(old.len()).saturating_add(message.bytes.len());
        }
    }

    /// Queues an event, unless an identical one waits already and `collapse` says that one is enough. Returns whether it
    /// was queued.
    pub fn push_event(
        &mut self,
        payload: &[u8],
        collapse: bool,
        origin: Option<Origin>,
        deadline_ms: Option<u64>,
    ) -> bool {
        let hash = hash(payload);
        if collapse && self.event_hashes.contains_key(&hash) && self.has_event(payload) {
            return false;
        }
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let kind = MessageType::WatchEvent.to_wire();
        let header = Header { kind, request_id: 0, transaction_id: 0, payload_bytes };
        let event = Some(EventInfo { hash, deadline_ms });
        self.push(Message { bytes: message(header, payload), origin, event, is_rest: false });
        let count = self.event_hashes.entry(hash).or_default();
        *count = count.saturating_add(1);
        true
    }

    /// The bytes to send next, up to the end of a message; empty when there are none.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes.get(self.sent..)).unwrap_or_default()
    }

    /// All bytes to send, message by message.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let behind = self.messages.iter().skip(1).map(|message| &*message.bytes);
        core::iter::once(self.bytes()).filter(|bytes| !bytes.is_empty()).chain(behind)
    }

    /// Notes that `count` bytes of [`Output::bytes`] were sent. Returns the cause of a message that is now delivered, and
    /// its buffer.
    pub fn advance(&mut self, count: usize) -> Option<(Option<Origin>, Vec<u8>)> {
        self.sent = self.sent.saturating_add(count);
        let whole = self.messages.front().is_some_and(|message| self.sent >= message.bytes.len());
        if !whole {
            return None;
        }
        self.sent = 0;
        let message = self.messages.pop_front()?;
        self.forget(&message);
        Some((message.origin, message.bytes))
    }

    /// Sends the first message again from its beginning: its receiver has erased the part that was sent. The end of a message
    /// whose beginning is unknown is dropped; returns what caused it.
    pub(super) fn restart_first(&mut self) -> Option<Origin> {
        self.sent = 0;
        self.messages.front().filter(|message| message.is_rest)?;
        let message = self.messages.pop_front()?;
        self.forget(&message);
        message.origin
    }

    /// Drops events whose time is over and of which nothing was sent, and returns what caused them.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Origin> {
        let partly_sent = usize::from(self.sent > 0);
        let is_over = |message: &Message| {
            message.event.and_then(|event| event.deadline_ms).is_some_and(|deadline_ms| deadline_ms <= now_ms)
        };
        let mut causes = Vec::new();
        for at in (partly_sent..self.messages.len()).rev() {
            if self.messages.get(at).is_some_and(is_over)
                && let Some(message) = self.messages.remove(at)
            {
                self.forget(&message);
                causes.extend(message.origin);
            }
        }
        causes
    }

    /// When the first event's time is over.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let partly_sent = usize::from(self.sent > 0);
        self.messages.iter().skip(partly_sent).find_map(|message| message.event?.deadline_ms)
    }

    /// Empties the queue and returns what caused its messages.
    pub fn clear(&mut self) -> Vec<Origin> {
        self.sent = 0;
        self.queued_bytes = 0;
        self.event_hashes.clear();
        self.messages.drain().filter_map(|message| message.origin).collect()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What the bytes of each message don't say, in order. One that is partly sent has no deadline any more.
    pub(super) fn messages(&self) -> impl Iterator<Item = MessageDetails> {
        self.messages.iter().enumerate().map(|(at, message)| {
            let event = message.event.filter(|_| at > 0 || self.sent == 0);
            let deadline_ms = event.and_then(|event| event.deadline_ms);
            MessageDetails { origin: message.origin, deadline_ms }
        })
    }

    /// Bytes of the first message that were sent.
    #[must_use]
    pub fn sent(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes.get(..self.sent)).unwrap_or_default()
    }

    /// Bytes of the first message that remain to be sent, if its beginning was sent.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        let is_partial = |message: &&Message| self.sent > 0 || message.is_rest;
        let remaining = |message: &Message| message.bytes.len().saturating_sub(self.sent);
        self.messages.front().filter(is_partial).map_or(0, remaining)
    }

    /// Changes the causes of the messages that wait.
    pub(super) fn map_origins(&mut self, mut map: impl FnMut(Origin) -> Option<Origin>) {
        for message in self.messages.iter_mut() {
            message.origin = message.origin.and_then(&mut map);
        }
    }

    /// Fills an empty queue with what a predecessor had to send. The first `partial_bytes` are the end of a message.
    /// Events are dropped at `deadline_ms`.
    ///
    /// # Errors
    /// [`NoMessages`] when that is no sequence of messages.
    pub(super) fn restore(
        &mut self,
        bytes: &[u8],
        partial_bytes: usize,
        deadline_ms: Option<u64>,
    ) -> Result<(), NoMessages> {
        let (first, mut rest) = bytes.split_at_checked(partial_bytes).ok_or(NoMessages)?;
        if !first.is_empty() {
            self.push(Message { bytes: first.into(), origin: None, event: None, is_rest: true });
        }
        while !rest.is_empty() {
            let (message, behind) = length(rest).and_then(|length| rest.split_at_checked(length)).ok_or(NoMessages)?;
            self.restore_message(message, deadline_ms);
            rest = behind;
        }
        Ok(())
    }

    fn restore_message(&mut self, bytes: &[u8], deadline_ms: Option<u64>) {
        let event = event_info(bytes, deadline_ms);
        self.note_event(event);
        self.push(Message { bytes: bytes.into(), origin: None, event, is_rest: false });
    }

    /// Puts the beginning of the first message, which was sent already, before its end. Does nothing if that does not make
    /// a message.
    pub(super) fn restore_sent(&mut self, sent: &[u8]) {
        let Some(first) = self.messages.front_mut().filter(|first| first.is_rest) else { return };
        let whole = [sent, &*first.bytes].concat();
        if sent.is_empty() || length(&whole) != Some(whole.len()) {
            return;
        }
        // An event of which a part was sent is not dropped any more.
        let event = event_info(&whole, None);
        *first = Message { bytes: whole, origin: first.origin, event, is_rest: false };
        self.queued_bytes = self.queued_bytes.saturating_add(sent.len());
        self.sent = sent.len();
        self.note_event(event);
    }

    fn note_event(&mut self, event: Option<EventInfo>) {
        if let Some(event) = event {
            let count = self.event_hashes.entry(event.hash).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Says of each message what its bytes don't say. Returns whether there are as many messages; does nothing otherwise.
    pub(super) fn restore_details(&mut self, details: &[MessageDetails]) -> bool {
        if self.messages.len() != details.len() {
            return false;
        }
        for (message, details) in self.messages.iter_mut().zip(details) {
            message.origin = details.origin;
            if let Some(event) = &mut message.event {
                event.deadline_ms = details.deadline_ms;
            }
        }
        true
    }

    fn has_event(&self, payload: &[u8]) -> bool {
        let same = |message: &Message| message.event.is_some() && message.bytes.get(HEADER_BYTES..) == Some(payload);
        self.messages.iter().any(same)
    }

    fn forget(&mut self, message: &Message) {
        self.queued_bytes = self.queued_bytes.saturating_sub(message.bytes.len());
        if let Some(event) = message.event
            && let Some(count) = self.event_hashes.get_mut(&event.hash)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.event_hashes.remove(&event.hash);
            }
        }
    }
}

/// What a queue needs to know of a message, if it is an event.
fn event_info(bytes: &[u8], deadline_ms: Option<u64>) -> Option<EventInfo> {
    let is_event = bytes.first_chunk().map(Header::parse).is_some_and(|header| header.is_event());
    is_event.then(|| EventInfo { hash: hash(bytes.get(HEADER_BYTES..).unwrap_or_default()), deadline_ms })
}

/// Bytes of the message that `bytes` begins with, if they begin with a whole header of one.
fn length(bytes: &[u8]) -> Option<usize> {
    let payload_bytes = usize::try_from(Header::parse(bytes.first_chunk()?).payload_bytes).ok()?;
    (payload_bytes <= limits::PAYLOAD_BYTES).then(|| HEADER_BYTES.saturating_add(payload_bytes))
}

/// How many messages these bytes are.
pub(super) fn count(bytes: &[u8]) -> usize {
    let split = |bytes: &mut &[u8]| {
        let (_, behind) = length(bytes).and_then(|length| bytes.split_at_checked(length))?;
        *bytes = behind;
        Some(())
    };
    let mut rest = bytes;
    core::iter::from_fn(|| split(&mut rest)).count()
}

/// Header and payload in one piece.
pub(super) fn message(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(payload.len()));
    bytes.extend_from_slice(&header.emit());
    bytes.extend_from_slice(payload);
    bytes
}

/// FNV-1a. A guest that makes its own events collide makes only its own queue slower.
fn hash(payload: &[u8]) -> u32 {
    payload.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { connection: ConnectionId(1), ticket: 1 };

    fn header(payload: &[u8]) -> Header {
        Header { kind: 2, request_id: 1, transaction_id: 0, payload_bytes: payload.len() as u32 }
    }

    #[test]
    fn messages_leave_in_order_however_they_are_split() {
        let mut output = Output::default();
        output.push_reply(Vec::new(), header(b"one"), b"one", None);
        output.push_event(b"two\0t\0", true, None, None);
        let mut sent = Vec::new();
        while !output.is_empty() {
            let part = &output.bytes()[..output.bytes().len().min(5)];
            sent.extend_from_slice(part);
            let count = part.len();
            output.advance(count);
        }
        assert_eq!(&sent[16..19], b"one");
        assert_eq!(&sent[35..], b"two\0t\0");
        assert_eq!(sent[19], 15);
    }

    #[test]
    fn identical_pending_events_collapse_and_may_come_again_once_sent() {
        let mut output = Output::default();
        assert!(output.push_event(b"a", true, None, None));
        assert!(!output.push_event(b"a", true, None, None));
        assert!(output.push_event(b"a", false, None, None));
        assert!(output.push_event(b"b", true, None, None));
        for _ in 0..3 {
            output.advance(usize::MAX);
        }
        assert!(output.is_empty());
        assert!(output.push_event(b"a", true, None, None));
    }

    #[test]
    fn what_a_predecessor_had_to_send_is_sent_from_where_it_stopped() {
        let mut before = Output::default();
        before.push_event(b"a\0t\0", true, None, Some(10));
        before.push_reply(Vec::new(), header(b"reply"), b"reply", None);
        before.advance(18);
        let bytes: Vec<u8> = before.pieces().flatten().copied().collect();
        for knows_beginning in [true, false] {
            let mut output = Output::default();
            output.restore(&bytes, before.partial_bytes(), Some(99)).unwrap();
            output.restore_sent(if knows_beginning { before.sent() } else { &[] });
            assert_eq!((output.bytes(), output.partial_bytes()), (&b"\0t\0"[1..], 2));
            assert_eq!(output.push_event(b"a\0t\0", true, None, None), !knows_beginning, "it waits already, if known");
            assert_eq!(output.expire(100), []);
            output.advance(2);
            assert_eq!(output.bytes()[16..], *b"reply");
            assert_eq!((output.partial_bytes(), output.queued_bytes()), (0, output.count_bytes()));
        }
        for wrong in [1, 16, 22] {
            assert_eq!(Output::default().restore(&bytes[..wrong], 2, None), Err(NoMessages), "{wrong}");
        }
        assert_eq!(Output::default().restore(&bytes, bytes.len() + 1, None), Err(NoMessages));
    }

    #[test]
    fn events_time_out_unless_a_part_was_sent_and_replies_never() {
        let mut output = Output::default();
        output.push_event(b"a", true, Some(ORIGIN), Some(10));
        output.push_reply(Vec::new(), header(b""), b"", None);
        output.push_event(b"b", true, Some(ORIGIN), Some(20));
        output.push_event(b"c", true, None, Some(30));
        output.advance(1);
        assert_eq!(output.next_deadline_ms(), Some(20));
        assert_eq!(output.expire(25), [ORIGIN]);
        let mut cause = |count| output.advance(count).map(|(cause, _)| cause);
        assert_eq!((cause(16), cause(16)), (Some(Some(ORIGIN)), Some(None)));
        assert_eq!(output.bytes()[16..], *b"c");
    }
}
