//! The output that one connection must get: its replies and events, in order. The server's real output is compared with
//! it.

use std::collections::VecDeque;

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};

/// Milliseconds until a guest's unread event is dropped.
const EVENT_TIMEOUT_MS: u64 = 20_000;

/// The known part of a reply's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Exactly(Vec<u8>),
    /// A number, followed by exactly these bytes.
    Behind(Vec<u8>),
    /// A payload of this length.
    Some(usize),
}

#[derive(Clone, Debug)]
pub struct Owed {
    pub header: Header,
    pub payload: Payload,
    /// The time after which an event for a guest may be dropped.
    deadline_ms: Option<u64>,
    /// Whether it may have been dropped for lack of memory.
    is_optional: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Queue {
    owed: VecDeque<Owed>,
    /// The sent bytes of the first message.
    sent: Vec<u8>,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.owed.iter().all(|owed| owed.is_optional)
    }

    /// Returns how many pending events and replies cannot have been dropped.
    pub fn len(&self) -> usize {
        self.owed.iter().filter(|owed| !owed.is_optional).count()
    }

    /// Returns the bytes of all messages, if none of them may have been dropped.
    pub fn bytes(&self) -> Option<usize> {
        let bytes = self.owed.iter().map(|owed| HEADER_BYTES + owed.header.payload_bytes as usize).sum();
        self.owed.iter().all(|owed| !owed.is_optional).then_some(bytes)
    }

    /// Returns whether a part of a message was sent, and not its end.
    pub fn has_half_message(&self) -> bool {
        !self.sent.is_empty()
    }

    pub fn push_reply(&mut self, header: Header, payload: Payload) {
        self.owed.push_back(Owed { header, payload, deadline_ms: None, is_optional: false });
    }

    /// Adds an event, unless an identical one is pending.
    pub fn push_event(&mut self, path: &str, token: &[u8], guest_now_ms: Option<u64>, is_optional: bool) {
        let payload = [path.as_bytes(), b"\0", token, b"\0"].concat();
        if payload.len() > 4096 {
            return;
        }
        let payload_bytes = payload.len() as u32;
        let payload = Payload::Exactly(payload);
        let is_same = |owed: &&Owed| owed.header.is_event() && owed.payload == payload;
        // Events about domains do not collapse.
        let collapses = !path.starts_with('@');
        let waiting: Vec<&Owed> = self.owed.iter().filter(is_same).filter(|_| collapses).collect();
        if waiting.iter().any(|owed| !owed.is_optional) {
            return;
        }
        // One of several is sent, if any of them may have been dropped.
        let is_optional = is_optional || !waiting.is_empty();
        let header = Header { kind: T::WatchEvent.to_wire(), request_id: 0, transaction_id: 0, payload_bytes };
        let deadline_ms = guest_now_ms.map(|now_ms| now_ms + EVENT_TIMEOUT_MS);
        self.owed.push_back(Owed { header, payload, deadline_ms, is_optional });
    }

    /// Drops expired events, except for a partly sent one. Returns how many.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let before = self.owed.len();
        let is_over = |owed: &Owed| owed.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms);
        // If the first one may have been dropped, the sent part may belong to another.
        let mut may_be_sent = !self.sent.is_empty();
        let sent = std::mem::take(&mut self.sent);
        self.owed.retain_mut(|owed| {
            let is_kept = may_be_sent && owed.begins_with(&sent);
            may_be_sent &= owed.is_optional;
            is_kept || !is_over(owed)
        });
        self.sent = sent;
        before - self.owed.len()
    }

    /// Changes to another clock.
    pub fn shift_clock(&mut self, by_ms: u64) {
        for owed in &mut self.owed {
            owed.deadline_ms = owed.deadline_ms.map(|deadline_ms| deadline_ms + by_ms);
        }
    }

    /// Compares bytes that the server sent, and returns the messages that they complete.
    ///
    /// # Errors
    /// If the bytes are not those of the next message.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, String> {
        self.sent.extend(bytes);
        let mut whole = Vec::new();
        loop {
            while self.owed.front().is_some_and(|owed| owed.is_optional && !owed.begins_with(&self.sent)) {
                self.owed.pop_front();
            }
            if self.sent.is_empty() {
                return Ok(whole);
            }
            let Some(first) = self.owed.front() else {
                return Err(format!("no message is due, but this was sent: {}", self.sent.escape_ascii()));
            };
            if !first.begins_with(&self.sent) {
                return Err(format!("{first:?} is due, but this was sent: {}", self.sent.escape_ascii()));
            }
            let end = HEADER_BYTES + first.header.payload_bytes as usize;
            if self.sent.len() < end {
                return Ok(whole);
            }
            let payload = self.sent[HEADER_BYTES..end].to_vec();
            whole.push((first.header, payload));
            self.sent.drain(..end);
            self.owed.pop_front();
        }
    }
}

impl Owed {
    /// Returns whether these bytes can be the beginning of the message.
    fn begins_with(&self, sent: &[u8]) -> bool {
        let header = self.header.emit();
        let common = sent.len().min(HEADER_BYTES);
        if sent[..common] != header[..common] {
            return false;
        }
        let have = &sent[common..];
        let end = have.len().min(self.header.payload_bytes as usize);
        let have = &have[..end];
        match &self.payload {
            Payload::Exactly(payload) => payload.starts_with(have),
            Payload::Behind(rest) => {
                let number = have.iter().take_while(|byte| byte.is_ascii_digit()).count();
                rest.starts_with(&have[number..])
            }
            Payload::Some(_) => true,
        }
    }
}
