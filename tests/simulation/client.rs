//! A domain's side of its ring.

use std::collections::VecDeque;
use std::rc::Rc;

use xenstore::wire::header::Header;
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

use crate::support::machine::Page;

/// The most bytes that a domain keeps to send. A request beyond this is not made.
const OUTGOING_BYTES: usize = 16_000;

pub struct Client {
    pub page: Page,
    outgoing: VecDeque<u8>,
    /// Bytes that the server has written into the ring, and the domain has not read yet.
    pub incoming: VecDeque<u8>,
    /// Whether the domain has broken the rules: its connection may be shut.
    pub is_wild: bool,
    next_request: u32,
    /// Whether the server lacks a signal for the domain's last change of the ring.
    pub is_unheard: bool,
}

impl Client {
    pub fn new(page: Page) -> Self {
        let (outgoing, incoming) = (VecDeque::new(), VecDeque::new());
        Self { page, outgoing, incoming, is_wild: false, next_request: 0, is_unheard: false }
    }

    /// Returns whether this page is the domain's ring.
    pub fn has(&self, page: &Page) -> bool {
        Rc::ptr_eq(&self.page.0, &page.0)
    }

    /// Starts again after a reset of the connection.
    pub fn restart(&mut self) {
        self.outgoing.clear();
        self.incoming.clear();
        self.is_wild = self.page.is_scribbled();
    }

    /// Adds a request to the bytes to send. Returns the number of its bytes.
    pub fn ask(&mut self, transaction_id: u32, kind: u32, payload: &[u8]) -> usize {
        if self.outgoing.len() > OUTGOING_BYTES {
            return 0;
        }
        self.next_request += 1;
        let payload_bytes = payload.len() as u32;
        let header = Header { kind, request_id: self.next_request, transaction_id, payload_bytes };
        self.outgoing.extend(header.emit());
        self.outgoing.extend(payload);
        header.emit().len() + payload.len()
    }

    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// Returns whether the domain keeps to the rules, and has nothing to send and nothing to read.
    pub fn is_idle(&self) -> bool {
        !self.is_wild && self.outgoing.is_empty() && self.incoming.is_empty() && self.unread() == 0
    }

    /// Returns the bytes of requests in the ring.
    pub fn unread(&self) -> u32 {
        self.page.load(Field::RequestProducer).wrapping_sub(self.page.load(Field::RequestConsumer))
    }

    /// Writes at most `most` of the bytes to send into the ring, as many as there is room for. Returns how many.
    pub fn put(&mut self, most: usize) -> usize {
        let used = self.unread() as usize;
        if used > RING_BYTES || self.page.is_scribbled() {
            return 0;
        }
        let count = self.outgoing.len().min(most).min(RING_BYTES - used);
        let bytes: Vec<u8> = self.outgoing.drain(..count).collect();
        self.put_bytes(&bytes);
        count
    }

    /// Writes bytes into the ring, even over others.
    pub fn put_bytes(&self, bytes: &[u8]) {
        let producer = self.page.load(Field::RequestProducer);
        for (at, byte) in bytes.iter().enumerate() {
            let at = producer.wrapping_add(at as u32) as usize % RING_BYTES;
            self.page.0.borrow_mut()[at] = *byte;
        }
        self.page.store(Field::RequestProducer, producer.wrapping_add(bytes.len() as u32));
    }

    /// Fills the whole ring.
    pub fn fill(&self, byte: impl FnMut() -> u8) {
        self.page.0.borrow_mut()[..RING_BYTES].fill_with(byte);
    }

    /// Reads up to `most` bytes.
    ///
    /// # Errors
    /// If the bytes differ from those that the server has written.
    pub fn take(&mut self, most: usize) -> Result<usize, String> {
        let consumer = self.page.load(Field::ReplyConsumer);
        let waiting = self.page.load(Field::ReplyProducer).wrapping_sub(consumer) as usize;
        if waiting > RING_BYTES || self.is_wild {
            return Ok(0);
        }
        let count = waiting.min(most);
        for at in 0..count {
            let at = consumer.wrapping_add(at as u32) as usize % RING_BYTES;
            let byte = self.page.0.borrow()[RING_BYTES + at];
            if self.incoming.pop_front() != Some(byte) {
                return Err("a domain reads another byte than the server sent".into());
            }
        }
        self.page.store(Field::ReplyConsumer, consumer.wrapping_add(count as u32));
        Ok(count)
    }
}
