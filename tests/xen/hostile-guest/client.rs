//! The guest's side of its ring: requests, replies, and arbitrary values of the ring's words.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{Ordering, fence};

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::xen::event_channel::two_level;
use crate::xen::shared_page::SharedPage;
use crate::xen::{event_channel, hypercall, sched, shared_info, time};

/// The offset of the replies in the page; requests are at its beginning.
const REPLIES: usize = RING_BYTES;
/// The time after which the client gives up on a reply.
const PATIENCE_MS: u64 = 5000;

/// `struct sched_poll` (`xen/include/public/sched.h`).
#[repr(C)]
struct Poll {
    ports: usize,
    port_count: u32,
    timeout_ns: u64,
}

pub(super) struct Client {
    page: SharedPage,
    port: u32,
    next_request: u32,
}

impl Client {
    pub(super) const fn new(page: SharedPage, port: u32) -> Self {
        Self { page, port, next_request: 0 }
    }

    pub(super) fn load(&self, field: Field) -> u32 {
        self.page.load32(field.offset())
    }

    pub(super) fn store(&self, field: Field, value: u32) {
        self.page.store32(field.offset(), value);
    }

    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    pub(super) const fn page(&self) -> &SharedPage {
        &self.page
    }

    /// Signals the server.
    pub(super) fn signal(&self) {
        // A port whose other end is gone signals no domain.
        let _ = event_channel::send(self.port);
    }

    /// Rests for a millisecond.
    pub(super) fn rest() {
        sched::sleep(time::now_ns() + 1_000_000);
    }

    /// Sleeps until the server signals, or until system time `until_ns`. Returns at once if a signal came since the last call.
    pub(super) fn wait(&self, until_ns: u64) {
        let mut ports = [self.port];
        let ports = ptr::from_mut(&mut ports).expose_provenance();
        let mut argument = Poll { ports, port_count: 1, timeout_ns: until_ns };
        // SAFETY: the structure is the one of SCHEDOP_poll, with one port.
        let _ = unsafe { hypercall::operation(xen_sys::__HYPERVISOR_sched_op, xen_sys::SCHEDOP_poll, &mut argument) };
        two_level::take_fired(shared_info::page().expect("mapped before"), |_| ());
    }

    /// Returns whether there is nothing to read.
    pub(super) fn is_quiet(&self) -> bool {
        self.load(Field::ReplyProducer) == self.load(Field::ReplyConsumer)
    }

    /// Writes as many of the bytes into the ring as there is room for, without a signal. Returns how many.
    pub(super) fn put(&self, bytes: &[u8]) -> usize {
        let producer = self.load(Field::RequestProducer);
        let used = producer.wrapping_sub(self.load(Field::RequestConsumer)) as usize;
        let count = bytes.len().min(RING_BYTES.saturating_sub(used));
        for (at, byte) in bytes.iter().take(count).enumerate() {
            self.page.store8(producer.wrapping_add(at as u32) as usize % RING_BYTES, *byte);
        }
        self.store(Field::RequestProducer, producer.wrapping_add(count as u32));
        count
    }

    /// Takes up to `most` bytes of replies.
    pub(super) fn take(&self, most: usize) -> Vec<u8> {
        let consumer = self.load(Field::ReplyConsumer);
        let there = (self.load(Field::ReplyProducer).wrapping_sub(consumer) as usize).min(RING_BYTES);
        let count = there.min(most);
        let byte = |at: usize| self.page.load8(REPLIES + consumer.wrapping_add(at as u32) as usize % RING_BYTES);
        let bytes = (0..count).map(byte).collect();
        self.store(Field::ReplyConsumer, consumer.wrapping_add(count as u32));
        bytes
    }

    /// Takes up to `most` bytes of replies, and signals if the ring was full: the server may wait for room.
    pub(super) fn read(&self, most: usize) -> Vec<u8> {
        let consumed = self.load(Field::ReplyConsumer);
        let bytes = self.take(most);
        // The producer is loaded again: the server may have filled the ring before it could see the new room.
        fence(Ordering::SeqCst);
        if !bytes.is_empty() && self.load(Field::ReplyProducer).wrapping_sub(consumed) as usize >= RING_BYTES {
            self.signal();
        }
        bytes
    }

    /// Discards all replies in the ring.
    pub(super) fn drop_replies(&self) {
        self.store(Field::ReplyConsumer, self.load(Field::ReplyProducer));
    }

    /// Sends all of the bytes. Returns whether that took no longer than `patience_ms`.
    pub(super) fn send(&self, mut bytes: &[u8], patience_ms: u64) -> bool {
        let end_ms = time::now_ms() + patience_ms;
        while !bytes.is_empty() {
            let count = self.put(bytes);
            bytes = &bytes[count..];
            self.signal();
            if count == 0 {
                if time::now_ms() > end_ms {
                    return false;
                }
                Self::rest();
            }
        }
        true
    }

    /// Receives exactly so many bytes.
    fn receive(&self, count: usize) -> Option<Vec<u8>> {
        let end_ms = time::now_ms() + PATIENCE_MS;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let more = self.take(count - bytes.len());
            if more.is_empty() {
                if time::now_ms() > end_ms {
                    return None;
                }
                Self::rest();
            } else {
                bytes.extend(more);
                self.signal();
            }
        }
        Some(bytes)
    }

    /// Returns a request's bytes.
    pub(super) fn request(&mut self, kind: u32, transaction_id: u32, payload: &[u8]) -> Vec<u8> {
        self.next_request = self.next_request.wrapping_add(1);
        let header =
            Header { kind, request_id: self.next_request, transaction_id, payload_bytes: payload.len() as u32 };
        [&header.emit()[..], payload].concat()
    }

    /// Sends a request and waits for its reply. Events are skipped. Returns `None` without a reply, else its payload or
    /// the error's name.
    pub(super) fn ask(
        &mut self,
        kind: MessageType,
        transaction_id: u32,
        payload: &[u8],
    ) -> Option<Result<Vec<u8>, Vec<u8>>> {
        let request = self.request(kind.to_wire(), transaction_id, payload);
        if !self.send(&request, PATIENCE_MS) {
            return None;
        }
        loop {
            let header = Header::parse(self.receive(HEADER_BYTES)?.first_chunk()?);
            let payload = self.receive(header.payload_bytes as usize)?;
            if header.kind == MessageType::WatchEvent.to_wire() {
                continue;
            }
            assert_eq!(header.request_id, self.next_request, "one reply to each request, in order");
            return Some(if header.kind == MessageType::Error.to_wire() { Err(payload) } else { Ok(payload) });
        }
    }

    /// Requests a reset. Returns whether the server did it within a second.
    pub(super) fn reconnect(&self) -> bool {
        self.store(Field::Connection, 1);
        let end_ms = time::now_ms() + 1000;
        while self.load(Field::Connection) != 0 {
            self.signal();
            if time::now_ms() > end_ms {
                return false;
            }
            Self::rest();
        }
        true
    }
}
