//! Requests that do not wait for each other's replies: the server always finds the next one. The guest sleeps while
//! there is neither room for a request nor anything to read. It takes little processor time, so that others wait only
//! for the server.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};
use xenstore::wire::ring::RING_BYTES;

use crate::xen::time;

use super::client::Client;

/// How long the guest sleeps at most before it checks the time.
const NAP_NS: u64 = 50_000_000;
/// If no message comes for this time, the server has sent all messages.
const QUIET_NS: u64 = 5_000_000;

/// The payload of a reply, or the name of the error.
pub(super) type Answer = Result<Vec<u8>, Vec<u8>>;

pub(super) struct Pipeline<'a> {
    pub(super) client: &'a mut Client,
    /// The system time, in milliseconds, at which the attack and each wait end.
    pub(super) end_ms: u64,
    /// Whether time was up in the middle of a request: the server would take the next bytes for the rest of it.
    is_over: bool,
    received: Vec<u8>,
    unanswered: u64,
    last_answer: Option<Answer>,
    /// Replies except errors.
    pub(super) answers: u64,
    pub(super) errors: u64,
    pub(super) events: u64,
}

impl<'a> Pipeline<'a> {
    pub(super) const fn new(client: &'a mut Client, end_ms: u64) -> Self {
        let received = Vec::new();
        Self {
            client,
            end_ms,
            is_over: false,
            received,
            unanswered: 0,
            last_answer: None,
            answers: 0,
            errors: 0,
            events: 0,
        }
    }

    pub(super) fn goes_on(&self) -> bool {
        time::now_ms() < self.end_ms
    }

    /// Sends a request. Returns whether all of it was sent in time.
    pub(super) fn send(&mut self, kind: T, transaction: u32, payload: &[u8]) -> bool {
        if self.is_over {
            return false;
        }
        let request = self.client.request(kind.to_wire(), transaction, payload);
        let mut rest = &request[..];
        while !rest.is_empty() {
            let count = self.client.put(rest);
            rest = &rest[count..];
            if count > 0 {
                self.client.signal();
            } else if !self.take() && !self.nap() {
                self.is_over = true;
                return false;
            }
        }
        self.unanswered += 1;
        true
    }

    /// Waits until each request has its reply. Returns whether that was in time.
    pub(super) fn settle(&mut self) -> bool {
        while self.unanswered > 0 {
            if !self.take() && !self.nap() {
                return false;
            }
        }
        true
    }

    /// Sends a request and waits for its reply. Returns `None` when time is up.
    pub(super) fn ask(&mut self, kind: T, transaction: u32, payload: &[u8]) -> Option<Answer> {
        let is_answered = self.send(kind, transaction, payload) && self.settle();
        self.last_answer.take().filter(|_| is_answered)
    }

    /// Opens a transaction. Returns `None` if it is refused.
    pub(super) fn start(&mut self) -> Option<u32> {
        let id = self.ask(T::TransactionStart, 0, b"\0")?.ok()?;
        core::str::from_utf8(&id).ok()?.trim_end_matches('\0').parse().ok()
    }

    /// Opens a transaction and writes these nodes in it. Returns its number, or `None` if it is refused or time is up.
    pub(super) fn prepare(&mut self, paths: impl Iterator<Item = String>) -> Option<u32> {
        let id = self.start()?;
        for path in paths {
            self.send(T::Write, id, format!("{path}\0x").as_bytes());
        }
        self.settle().then_some(id)
    }

    /// Commits a transaction.
    pub(super) fn commit(&mut self, id: u32) -> Option<Answer> {
        self.ask(T::TransactionEnd, id, b"T\0")
    }

    /// Reads until no message comes for [`QUIET_NS`].
    pub(super) fn drain(&mut self) {
        while self.goes_on() {
            if !self.take() {
                self.client.wait(time::now_ns() + QUIET_NS);
                if !self.take() {
                    return;
                }
            }
        }
    }

    /// Waits until dom0 has written `data/go`. The time for the attack and the counts begin then. Returns the node's value.
    pub(super) fn await_go(&mut self) -> String {
        let length_ms = self.end_ms.saturating_sub(time::now_ms());
        loop {
            self.end_ms = time::now_ms() + length_ms;
            if let Some(Ok(value)) = self.ask(T::Read, 0, b"data/go\0") {
                (self.answers, self.errors, self.events) = (0, 0, 0);
                return String::from_utf8_lossy(&value).into_owned();
            }
            self.client.wait(time::now_ns() + NAP_NS);
        }
    }

    /// Reads the messages in the ring. Returns whether there were any bytes.
    fn take(&mut self) -> bool {
        let bytes = self.client.read(RING_BYTES);
        if bytes.is_empty() {
            return false;
        }
        self.received.extend(bytes);
        let mut used = 0;
        while let Some(header) = self.received[used..].first_chunk::<HEADER_BYTES>().map(Header::parse) {
            let (begin, end) = (used + HEADER_BYTES, used + HEADER_BYTES + header.payload_bytes as usize);
            let Some(payload) = self.received.get(begin..end) else { break };
            used = end;
            match T::from_wire(header.kind) {
                Some(T::WatchEvent) => self.events += 1,
                Some(T::Error) => {
                    (self.errors, self.unanswered) = (self.errors + 1, self.unanswered - 1);
                    self.last_answer = Some(Err(payload.to_vec()));
                }
                _ => {
                    (self.answers, self.unanswered) = (self.answers + 1, self.unanswered - 1);
                    self.last_answer = Some(Ok(payload.to_vec()));
                }
            }
        }
        self.received.drain(..used);
        true
    }

    /// Sleeps until the server signals. Returns whether there is time left.
    fn nap(&self) -> bool {
        self.client.wait(time::now_ns() + NAP_NS);
        self.goes_on()
    }
}
