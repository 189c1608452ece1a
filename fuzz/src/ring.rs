//! A ring page that a domain changes at will. The server touches no byte outside of the two queues, and reports an
//! impossible index. All moved bytes arrive in order, in pieces of any size.
#![no_main]

use std::cell::RefCell;
use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use xenstore::wire::ring::{Field, ImpossibleIndex, RING_BYTES, Ring, RingPage};

/// A page in memory, whose words the domain changes between two reads.
struct Page {
    bytes: RefCell<[u8; 4096]>,
    /// The values that the next reads of an index return instead of the stored ones.
    lies: RefCell<VecDeque<u32>>,
}

impl Page {
    fn word(&self, field: Field) -> u32 {
        u32::from_le_bytes(self.bytes.borrow()[field.offset()..][..4].try_into().expect("four bytes"))
    }
}

impl RingPage for Page {
    fn load(&self, field: Field) -> u32 {
        self.lies.borrow_mut().pop_front().unwrap_or_else(|| self.word(field))
    }

    fn store(&self, field: Field, value: u32) {
        self.bytes.borrow_mut()[field.offset()..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn copy_requests(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= RING_BYTES);
        to.copy_from_slice(&self.bytes.borrow()[at..at + to.len()]);
    }

    fn copy_replies(&self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= RING_BYTES);
        self.bytes.borrow_mut()[RING_BYTES + at..][..from.len()].copy_from_slice(from);
    }

    fn fence(&self) {}
}

/// Both sides of the ring, and the expected bytes.
struct Both {
    page: Page,
    ring: Ring,
    /// Numbers of the next bytes: of requests that the domain writes and the server reads, and of replies likewise.
    put: u32,
    taken: u32,
    sent: u32,
    received: u32,
}

fuzz_target!(|bytes: &[u8]| {
    let (start, rest) = bytes.split_at(bytes.len().min(8));
    let mut start = start.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    let (requests, replies) = (start.next().unwrap_or(0), start.next().unwrap_or(0));
    let page = Page { bytes: RefCell::new([0; 4096]), lies: RefCell::default() };
    for (field, value) in [
        (Field::RequestConsumer, requests),
        (Field::RequestProducer, requests),
        (Field::ReplyConsumer, replies),
        (Field::ReplyProducer, replies),
    ] {
        page.store(field, value);
    }
    let ring = Ring::adopt(&page);
    assert_eq!(ring, Ring::resume(requests, replies));
    let mut both = Both { page, ring, put: requests, taken: requests, sent: replies, received: replies };
    for step in rest.chunks_exact(3) {
        let count = usize::from(u16::from_le_bytes([step[1], step[2]]));
        match step[0] % 8 {
            0 | 1 => both.domain_puts(count % (RING_BYTES + 1)),
            2 | 3 => both.we_take(count % 3000),
            4 | 5 => both.we_send(count % 3000),
            6 => both.domain_receives(count % (RING_BYTES + 1)),
            _ => both.lie(step[0] >> 3, count),
        }
    }
});

impl Both {
    fn domain_puts(&mut self, count: usize) {
        let free = RING_BYTES - self.put.wrapping_sub(self.taken) as usize;
        for _ in 0..count.min(free) {
            self.page.bytes.borrow_mut()[self.put as usize % RING_BYTES] = self.put as u8 ^ (self.put >> 8) as u8;
            self.put = self.put.wrapping_add(1);
        }
        self.page.store(Field::RequestProducer, self.put);
    }

    fn we_take(&mut self, count: usize) {
        let waiting = self.put.wrapping_sub(self.taken) as usize;
        assert_eq!(self.ring.readable(&self.page), Ok(waiting));
        let mut to = vec![0; count];
        assert_eq!(self.ring.read(&self.page, &mut to), Ok(waiting.min(count)));
        for byte in &to[..waiting.min(count)] {
            assert_eq!(*byte, self.taken as u8 ^ (self.taken >> 8) as u8);
            self.taken = self.taken.wrapping_add(1);
        }
        assert_eq!(self.page.word(Field::RequestConsumer), self.taken);
    }

    fn we_send(&mut self, count: usize) {
        let free = RING_BYTES - self.sent.wrapping_sub(self.received) as usize;
        let from: Vec<u8> = (0..count as u32).map(|at| self.sent.wrapping_add(at) as u8).collect();
        assert_eq!(self.ring.write(&self.page, &from), Ok(free.min(count)));
        self.sent = self.sent.wrapping_add(free.min(count) as u32);
        assert_eq!(self.page.word(Field::ReplyProducer), self.sent);
    }

    fn domain_receives(&mut self, count: usize) {
        for _ in 0..count.min(self.sent.wrapping_sub(self.received) as usize) {
            let byte = self.page.bytes.borrow()[RING_BYTES + self.received as usize % RING_BYTES];
            assert_eq!(byte, self.received as u8);
            self.received = self.received.wrapping_add(1);
        }
        self.page.store(Field::ReplyConsumer, self.received);
    }

    /// Lets one read return another index. Then either all state is as before, or the distance was impossible and no
    /// byte was moved.
    fn lie(&mut self, how: u8, distance: usize) {
        let before = (self.ring, *self.page.bytes.borrow());
        // Some of the distances are large.
        let distance = if how & 2 == 0 { distance as u32 % 2048 } else { (distance as u32) << 16 };
        let is_possible = distance <= RING_BYTES as u32;
        if how & 1 == 0 {
            let mut to = [0; 4096];
            self.page.lies.borrow_mut().push_back(self.taken.wrapping_add(distance));
            let outcome = self.ring.read(&self.page, &mut to);
            assert_eq!(outcome, if is_possible { Ok(distance as usize) } else { Err(ImpossibleIndex) });
        } else {
            let from = [0; 4096];
            self.page.lies.borrow_mut().push_back(self.sent.wrapping_sub(distance));
            let outcome = self.ring.write(&self.page, &from);
            let room = RING_BYTES.saturating_sub(distance as usize);
            assert_eq!(outcome, if is_possible { Ok(room) } else { Err(ImpossibleIndex) });
        }
        assert!(self.page.lies.borrow().is_empty(), "an index is read once");
        if !is_possible {
            assert_eq!(self.ring, before.0);
        }
        // The domain has harmed only itself: restore the state.
        (self.ring, *self.page.bytes.borrow_mut()) = before;
    }
}
