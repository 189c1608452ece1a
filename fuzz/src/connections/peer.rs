//! A domain's side of its ring: unsent bytes, requests without a reply, and whether the domain still follows the
//! protocol.

use std::collections::VecDeque;

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

use crate::support::machine::Page;

/// Most unsent bytes of a domain, which drops further requests.
const OUTGOING_BYTES: usize = 20_000;

/// A domain's state of its connection.
#[derive(Default)]
pub struct Peer {
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// Requests without a reply yet, oldest first: number, transaction, type.
    pending: VecDeque<(u32, u32, u32)>,
    /// The newest transaction.
    newest: u32,
    /// Whether the domain has broken the protocol, after which the server guarantees it no reply.
    pub is_wild: bool,
    next_request: u32,
    /// The payload of the last successful reply.
    pub last_reply: Option<Vec<u8>>,
}

impl Peer {
    /// Creates a domain that has sent no request.
    pub fn new(is_wild: bool) -> Self {
        Self { is_wild, ..Self::default() }
    }

    /// Queues a request.
    pub fn ask(&mut self, transaction: u8, kind: u32, payload: &[u8]) {
        if self.outgoing.len() > OUTGOING_BYTES {
            return;
        }
        let transaction = match transaction % 4 {
            0 | 1 => 0,
            _ if transaction > 250 => 9999,
            _ => self.newest.saturating_sub(u32::from(transaction >> 6)),
        };
        self.next_request += 1;
        let payload_bytes = payload.len() as u32;
        let header = Header { kind, request_id: self.next_request, transaction_id: transaction, payload_bytes };
        self.pending.push_back((self.next_request, transaction, kind));
        self.outgoing.extend(header.emit());
        self.outgoing.extend(payload);
    }

    /// Returns whether the domain waits for a reply, or has unsent bytes.
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.outgoing.is_empty()
    }

    /// Returns the number of unsent bytes.
    pub const fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Puts up to `most` bytes into the ring, as far as they fit. Returns their number.
    pub fn put(&mut self, page: &Page, most: usize) -> usize {
        let producer = page.load(Field::RequestProducer);
        let used = producer.wrapping_sub(page.load(Field::RequestConsumer)) as usize;
        let count = self.outgoing.len().min(most).min(RING_BYTES.saturating_sub(used));
        put_bytes(page, &self.outgoing[..count]);
        self.outgoing.drain(..count);
        count
    }

    /// Takes up to `most` bytes out of the ring, and checks the complete messages. Returns the number of bytes.
    pub fn take(&mut self, page: &Page, most: usize) -> usize {
        let consumer = page.load(Field::ReplyConsumer);
        let waiting = page.load(Field::ReplyProducer).wrapping_sub(consumer) as usize;
        let count = waiting.min(most);
        if waiting > RING_BYTES {
            return 0;
        }
        for at in 0..count {
            let at = consumer.wrapping_add(at as u32) as usize % RING_BYTES;
            self.incoming.push(page.0.borrow()[RING_BYTES + at]);
        }
        page.store(Field::ReplyConsumer, consumer.wrapping_add(count as u32));
        if self.is_wild {
            self.incoming.clear();
        }
        while self.look_at_message() {}
        count
    }

    /// Checks the next complete message, if there is one.
    fn look_at_message(&mut self) -> bool {
        let Some(header) = self.incoming.first_chunk::<HEADER_BYTES>().map(Header::parse) else { return false };
        assert!(header.payload_bytes <= 4096, "no message is too long");
        let end = HEADER_BYTES + header.payload_bytes as usize;
        if self.incoming.len() < end {
            return false;
        }
        let payload = self.incoming[HEADER_BYTES..end].to_vec();
        self.incoming.drain(..end);
        if header.kind == T::WatchEvent.to_wire() {
            assert_eq!((header.request_id, header.transaction_id), (0, 0));
            assert!(payload.iter().filter(|byte| **byte == 0).count() >= 2, "an event has path and token");
            return true;
        }
        let at = self.pending.iter().position(|pending| pending.0 == header.request_id).expect("a reply has a request");
        let (_, transaction, kind) = self.pending.remove(at).expect("it was found");
        // Replies to actions of the host may come later than others.
        let is_control =
            kind == T::Control.to_wire() || self.pending.iter().take(at).all(|of| of.2 == T::Control.to_wire());
        assert!(at == 0 || is_control, "replies come in order");
        assert_eq!(header.transaction_id, transaction);
        if header.kind == T::Error.to_wire() {
            return true;
        }
        assert_eq!(header.kind, kind, "a reply is of its request's type");
        if kind == T::TransactionStart.to_wire() {
            let number = payload.strip_suffix(b"\0").and_then(|text| core::str::from_utf8(text).ok());
            self.newest = number.and_then(|number| number.parse().ok()).expect("a transaction's number");
        }
        self.last_reply = Some(payload);
        true
    }
}

/// Puts bytes into the request queue even if it is full, and advances the index.
pub fn put_bytes(page: &Page, bytes: &[u8]) {
    let producer = page.load(Field::RequestProducer);
    for (at, byte) in bytes.iter().enumerate() {
        let at = producer.wrapping_add(at as u32) as usize % RING_BYTES;
        page.0.borrow_mut()[at] = *byte;
    }
    page.store(Field::RequestProducer, producer.wrapping_add(bytes.len() as u32));
}
