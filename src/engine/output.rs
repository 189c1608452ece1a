//! What waits to be sent to one connection: replies and events, in order.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

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
    bytes: Box<[u8]>,
    origin: Option<Origin>,
    event: Option<EventInfo>,
}

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
    messages: VecDeque<Message>,
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

    /// What caused the messages that wait.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.messages.iter().filter_map(|message| message.origin)
    }

    fn push(&mut self, message: Message) {
        self.queued_bytes = self.queued_bytes.saturating_add(message.bytes.len());
        self.messages.push_back(message);
    }

    /// Queues a reply.
    pub fn push_reply(&mut self, header: Header, payload: &[u8], origin: Option<Origin>) {
        self.push(Message { bytes: message(header, payload), origin, event: None });
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
        self.push(Message { bytes: message(header, payload), origin, event });
        let count = self.event_hashes.entry(hash).or_default();
        *count = count.saturating_add(1);
        true
    }

    /// The bytes to send next, up to the end of a message; empty when there are none.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.messages.front().and_then(|message| message.bytes.get(self.sent..)).unwrap_or_default()
    }

    /// Notes that `count` bytes of [`Output::bytes`] were sent. Returns the cause of a message that is now delivered.
    pub fn advance(&mut self, count: usize) -> Option<Origin> {
        self.sent = self.sent.saturating_add(count);
        let whole = self.messages.front().is_some_and(|message| self.sent >= message.bytes.len());
        if !whole {
            return None;
        }
        self.sent = 0;
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
        self.messages.drain(..).filter_map(|message| message.origin).collect()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
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

/// Header and payload in one piece.
fn message(header: Header, payload: &[u8]) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(payload.len()));
    bytes.extend_from_slice(&header.emit());
    bytes.extend_from_slice(payload);
    bytes.into()
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
        output.push_reply(header(b"one"), b"one", None);
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
    fn events_time_out_unless_a_part_was_sent_and_replies_never() {
        let mut output = Output::default();
        output.push_event(b"a", true, Some(ORIGIN), Some(10));
        output.push_reply(header(b""), b"", None);
        output.push_event(b"b", true, Some(ORIGIN), Some(20));
        output.push_event(b"c", true, None, Some(30));
        output.advance(1);
        assert_eq!(output.next_deadline_ms(), Some(20));
        assert_eq!(output.expire(25), [ORIGIN]);
        assert_eq!(output.advance(16), Some(ORIGIN));
        assert_eq!(output.advance(16), None);
        assert_eq!(output.bytes()[16..], *b"c");
    }
}
