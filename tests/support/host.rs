//! The server on a heap of its own, and its clients, which take nothing from that heap.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::engine::snapshot::{EXTENSION_FIRST, Item, SaveOptions};
use xenstore::server::Server;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

use super::allocator::Taken;
use super::items;
use super::machine::{DOM0, Machine, Page};

/// Extensions with counters of requests, the rings, and the maxima of domains.
const COUNTERS: [u32; 3] = [1, 2, 3];
/// The extension with the details of a transaction.
const TRANSACTION: u32 = 5;

/// A reply: its payload, or the error's name.
pub type Answer = Result<Vec<u8>, String>;

/// The heap of this thread's server.
pub trait Heap {
    /// Begins with an empty heap.
    fn reset();

    /// Bytes that are free, for the server to ask.
    fn free_bytes() -> usize;

    /// Does work of the server on its heap.
    fn on_heap<T>(work: impl FnOnce() -> T) -> (T, Taken);
}

pub struct Host<H> {
    pub server: Server,
    pub machine: Machine,
    pub now_ms: u64,
    incoming: BTreeMap<u16, Vec<u8>>,
    /// The memory that the server took since the last reading.
    taken: Taken,
    next_request: u32,
    heap: PhantomData<H>,
}

impl<H: Heap> Host<H> {
    /// Returns a server with dom0 connected.
    pub fn new() -> Self {
        H::reset();
        let (server, _) = H::on_heap(|| Server::new(Config::default()));
        let mut machine = Machine::default();
        machine.free_probe = Some(H::free_bytes);
        let mut host = Self {
            server,
            machine,
            now_ms: 1000,
            incoming: BTreeMap::new(),
            taken: Taken::default(),
            next_request: 0,
            heap: PhantomData,
        };
        host.build(0);
        host.work(|server, machine| server.handle_boot_domain(DOM0, 1, machine)).unwrap();
        host.run();
        host
    }

    /// Runs `work` on the server's heap.
    pub fn work<R>(&mut self, work: impl FnOnce(&mut Server, &mut Machine) -> R) -> R {
        let (result, taken) = H::on_heap(|| work(&mut self.server, &mut self.machine));
        self.taken = self.taken.and(taken);
        result
    }

    /// Returns the memory that the server took since the last reading.
    pub fn taken(&mut self) -> Taken {
        std::mem::take(&mut self.taken)
    }

    pub fn run(&mut self) {
        let now_ms = self.now_ms;
        for _ in 0..100_000 {
            if !self.work(|server, machine| server.poll(machine, now_ms)).busy {
                while self.server.poll_action().is_some() {}
                return;
            }
        }
        panic!("the server does not come to rest");
    }

    pub fn signal(&mut self, domid: u16) {
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        if let Some(port) = port {
            self.work(|server, _| server.handle_event(port));
        }
        self.run();
    }

    pub fn build(&mut self, domid: u16) {
        self.machine.domains.insert(DomId(domid), DomainState::Running);
        self.machine.pages.insert(DomId(domid), Page::default());
    }

    /// Starts a guest with a home.
    pub fn start(&mut self, domid: u16) {
        self.build(domid);
        self.ask(0, T::Introduce, format!("{domid}\x001\0{domid}\0")).unwrap();
        self.ask(0, T::Mkdir, format!("/local/domain/{domid}\0")).unwrap();
        self.ask(0, T::SetPerms, format!("/local/domain/{domid}\0n{domid}\0")).unwrap();
    }

    pub fn page(&self, domid: u16) -> Page {
        self.machine.pages[&DomId(domid)].clone()
    }

    /// Sends a request.
    pub fn send(&mut self, domid: u16, transaction: u32, kind: T, payload: &[u8]) {
        self.next_request += 1;
        let header = Header {
            kind: kind.to_wire(),
            request_id: self.next_request,
            transaction_id: transaction,
            payload_bytes: payload.len() as u32,
        };
        self.send_bytes(domid, &[&header.emit()[..], payload].concat());
    }

    pub fn send_bytes(&mut self, domid: u16, mut bytes: &[u8]) {
        let page = self.page(domid);
        let mut tries = 0;
        while !bytes.is_empty() {
            let producer = page.load(Field::RequestProducer);
            let used = producer.wrapping_sub(page.load(Field::RequestConsumer)) as usize;
            let count = bytes.len().min(RING_BYTES.saturating_sub(used));
            for (index, byte) in bytes[..count].iter().enumerate() {
                page.0.borrow_mut()[producer.wrapping_add(index as u32) as usize % RING_BYTES] = *byte;
            }
            page.store(Field::RequestProducer, producer.wrapping_add(count as u32));
            bytes = &bytes[count..];
            self.signal(domid);
            if count == 0 {
                // The domain may be held back for a while.
                self.now_ms += 100;
                self.run();
                tries += 1;
                assert!(tries < 100, "domain {domid} is not read from");
            }
        }
    }

    /// Fills a domain's ring, so that its replies and events stay with the server.
    pub fn stall(&mut self, domid: u16) {
        self.take(domid);
        let page = self.page(domid);
        page.store(Field::ReplyConsumer, page.load(Field::ReplyProducer).wrapping_sub(RING_BYTES as u32));
    }

    /// Lets a domain read again, without the bytes that its ring was filled with.
    pub fn go_on(&mut self, domid: u16) {
        let page = self.page(domid);
        page.store(Field::ReplyConsumer, page.load(Field::ReplyProducer));
        self.incoming.remove(&domid);
        self.signal(domid);
    }

    /// Lets a domain read everything.
    pub fn take(&mut self, domid: u16) {
        let page = self.page(domid);
        loop {
            let consumer = page.load(Field::ReplyConsumer);
            let count = page.load(Field::ReplyProducer).wrapping_sub(consumer);
            let bytes =
                (0..count).map(|at| page.0.borrow()[RING_BYTES + consumer.wrapping_add(at) as usize % RING_BYTES]);
            self.incoming.entry(domid).or_default().extend(bytes);
            page.store(Field::ReplyConsumer, consumer.wrapping_add(count));
            self.signal(domid);
            if count == 0 {
                return;
            }
        }
    }

    /// Returns the next reply. Events before it are dropped.
    pub fn reply(&mut self, domid: u16) -> Option<Answer> {
        self.take(domid);
        let buffer = self.incoming.entry(domid).or_default();
        loop {
            let header = Header::parse(buffer.first_chunk()?);
            let end = HEADER_BYTES + header.payload_bytes as usize;
            let payload = buffer.get(HEADER_BYTES..end)?.to_vec();
            buffer.drain(..end);
            if header.kind == T::Error.to_wire() {
                return Some(Err(String::from_utf8(payload[..payload.len() - 1].to_vec()).unwrap()));
            }
            if !header.is_event() {
                return Some(Ok(payload));
            }
        }
    }

    pub fn ask(&mut self, domid: u16, kind: T, payload: impl AsRef<[u8]>) -> Answer {
        self.ask_in(domid, 0, kind, payload)
    }

    pub fn ask_in(&mut self, domid: u16, transaction: u32, kind: T, payload: impl AsRef<[u8]>) -> Answer {
        self.send(domid, transaction, kind, payload.as_ref());
        for _ in 0..100 {
            if let Some(answer) = self.reply(domid) {
                return answer;
            }
            // The domain may be held back for a while.
            self.now_ms += 100;
            self.run();
        }
        panic!("domain {domid} has no reply to {kind:?}")
    }

    /// Opens a transaction.
    pub fn begin(&mut self, domid: u16) -> u32 {
        let number = self.ask(domid, T::TransactionStart, "\0").unwrap();
        std::str::from_utf8(&number[..number.len() - 1]).unwrap().parse().unwrap()
    }

    /// Returns the state that a successor would get: nodes with the times of their last writes, watches, transactions,
    /// domains, credits. Positions in rings and counts of requests are left out. `without_looks` leaves out the
    /// accesses of transactions.
    pub fn state(&self, without_looks: bool) -> Vec<Item<'static>> {
        let mut state = items::save(self.server.engine(), &SaveOptions { now_ms: self.now_ms, reply: None });
        state.retain(|item| match item {
            Item::Connection(_) => false,
            Item::Extension(extension) => {
                let number = extension.kind - EXTENSION_FIRST;
                !COUNTERS.contains(&number) && (number != TRANSACTION || !without_looks)
            }
            Item::Node(node) => node.pending.is_none() || !without_looks,
            _ => true,
        });
        state
    }

    /// Checks the engine's counts.
    pub fn check(&mut self) {
        assert_eq!(self.server.engine().state().check(), Ok(()));
        let (counted, found) = self.server.engine().open_transactions();
        assert_eq!(counted, found, "open transactions");
    }
}
