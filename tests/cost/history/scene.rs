//! A server, dom0 and guests. Each of their requests is measured alone.
//!
//! The server takes a request from [`Server::handle_received`], as the hosted server does, with the connection of its domain.
//! Such a turn has the limits of a ring's turn, and it can be measured alone. Steps of [`Mode::Rings`] use the rings.
//!
//! [`Mode::Rings`]: super::step::Mode::Rings
//! [`Server::handle_received`]: xenstore::server::Server::handle_received

use std::collections::{BTreeMap, BTreeSet};

use xenstore::limits;
use xenstore::server::ConnectionId;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};
use xenstore::wire::ring::{Field, RING_BYTES};

use super::found::{Cost, Objective, Worst};
use super::step::GUESTS;
use crate::clock;
use crate::support::testbed::Testbed;

/// Steps of the meter that end a history: many times any bound, and a fraction of a second.
const STEPS: u64 = 3_000_000;
/// Calls of `poll` after which a history continues although the server has more to do.
const POLLS: usize = 2000;
/// How often a domain that is held back waits for time to pass.
const WAITS: usize = 8;
/// The longest of these waits, in milliseconds: enough for credits, too short for unread events to expire.
const WAIT_MS: u64 = 2000;

/// A request of a domain, and the transaction that it names.
#[derive(Clone, Debug)]
pub struct Request {
    pub kind: T,
    pub transaction: u32,
    pub payload: Vec<u8>,
}

impl Request {
    fn bytes(&self) -> Vec<u8> {
        let payload_bytes = self.payload.len() as u32;
        let header =
            Header { kind: self.kind.to_wire(), request_id: 1, transaction_id: self.transaction, payload_bytes };
        [&header.emit()[..], &self.payload].concat()
    }
}

pub struct Scene {
    pub testbed: Testbed,
    pub worst: Worst,
    /// Idle domains: they do not read.
    pub idle: BTreeSet<u16>,
    /// Each domain's transactions, oldest first. Some may have ended.
    pub transactions: BTreeMap<u16, Vec<u32>>,
    /// Requests that the history may still make.
    left: usize,
    /// Domains that ended since the last call of `poll`.
    ended: u64,
}

impl Scene {
    /// Makes all guests, each with a home, and a directory in which every guest may write. `requests` bounds the history.
    pub fn new(requests: usize, by_time: bool) -> Self {
        let mut scene = Self {
            testbed: Testbed::new(),
            worst: Worst::new(by_time),
            idle: BTreeSet::new(),
            transactions: BTreeMap::new(),
            left: requests,
            ended: 0,
        };
        scene.ask_dom0(T::Mkdir, "/shared\0".into());
        scene.ask_dom0(T::SetPerms, "/shared\0b0\0".into());
        (1..=GUESTS).for_each(|domid| scene.bear(domid));
        scene
    }

    /// Returns whether the history has made all of its requests, or has taken more than [`STEPS`].
    pub const fn is_over(&self) -> bool {
        self.left == 0 || self.testbed.server.steps() > STEPS
    }

    /// Starts a guest and makes its home.
    pub fn bear(&mut self, domid: u16) {
        self.testbed.build(DomId(domid));
        self.ask_dom0(T::Introduce, format!("{domid}\x001\x001\0"));
        self.ask_dom0(T::Mkdir, format!("/local/domain/{domid}\0"));
        self.ask_dom0(T::SetPerms, format!("/local/domain/{domid}\0n{domid}\0"));
    }

    fn ask_dom0(&mut self, kind: T, payload: String) {
        self.ask(0, &Request { kind, transaction: 0, payload: payload.into() });
    }

    /// Ends a guest, and notifies the server.
    pub fn end(&mut self, domid: u16) {
        self.testbed.machine.domains.remove(&DomId(domid));
        self.testbed.machine.pages.remove(&DomId(domid));
        self.transactions.remove(&domid);
        self.idle.remove(&domid);
        self.testbed.server.handle_domain_exception();
        self.ended += 1;
    }

    /// Sends one request, and measures it.
    pub fn ask(&mut self, domid: u16, request: &Request) {
        let objective = match (domid, request.transaction) {
            (0, _) => Objective::Privileged(request.kind),
            (_, 0) => Objective::Request(request.kind),
            _ => Objective::Within(request.kind),
        };
        self.send(domid, &request.bytes(), 1, Some(objective));
        if request.kind == T::TransactionStart {
            self.note_transaction(domid);
        }
        self.read_unless_idle(domid);
    }

    /// Sends requests, as many in each turn as a turn takes, and measures the turns.
    pub fn ask_in_turns(&mut self, domid: u16, requests: &[Request]) {
        for requests in requests.chunks(limits::REQUESTS_PER_TURN) {
            let bytes: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
            self.send(domid, &bytes, requests.len(), (domid != 0).then_some(Objective::Turn));
            self.read_unless_idle(domid);
        }
    }

    /// Puts as many requests into a domain's ring as fit, if it is empty. Returns how many are settled: sent or left out.
    pub fn put_into_ring(&mut self, domid: u16, requests: &[Request]) -> usize {
        let is_empty = self.testbed.connection(domid).is_some()
            && self.testbed.word(domid, Field::RequestProducer) == self.testbed.word(domid, Field::RequestConsumer);
        if !is_empty {
            return requests.len();
        }
        let (mut bytes, mut count) = (Vec::new(), 0);
        for request in requests.iter().take(self.left) {
            let more = request.bytes();
            if bytes.len() + more.len() > RING_BYTES {
                break;
            }
            bytes.extend(more);
            count += 1;
        }
        self.left -= count;
        self.worst.requests += count as u64;
        self.testbed.put_bytes(domid, &bytes);
        if let Some(port) = self.testbed.machine.bound.iter().find(|(_, of)| of.0 == domid).map(|(port, _)| *port) {
            self.testbed.server.handle_event(port);
        }
        // A request that does not fit into an empty ring is left out.
        count.max(1)
    }

    fn send(&mut self, domid: u16, bytes: &[u8], requests: usize, objective: Option<Objective>) {
        if self.is_over() || self.left < requests || !self.may_ask(domid) {
            return;
        }
        let Some(id) = self.testbed.connection(domid) else { return };
        self.left -= requests;
        self.worst.requests += requests as u64;
        let before = self.testbed.server.steps();
        let begun = clock::now();
        self.testbed.server.handle_received(id, bytes, &mut self.testbed.machine, self.testbed.now_ms);
        let time = clock::now() - begun;
        let steps = self.testbed.server.steps() - before;
        if let Some(objective) = objective {
            self.worst.note(objective, Cost { steps, time, works: 1 });
        }
    }

    /// Returns whether the server reads from a domain, now or after some waits.
    fn may_ask(&mut self, domid: u16) -> bool {
        for _ in 0..WAITS {
            let Some(id) = self.testbed.connection(domid) else { return false };
            if self.testbed.server.engine().may_receive(id) {
                return true;
            }
            self.settle();
            let due_ms = self.testbed.server.engine().poll_timeout().unwrap_or(u64::MAX);
            if due_ms > self.testbed.now_ms.saturating_add(WAIT_MS) {
                break;
            }
            self.testbed.now_ms = self.testbed.now_ms.max(due_ms);
            self.settle();
        }
        self.testbed.connection(domid).is_some_and(|id| self.testbed.server.engine().may_receive(id))
    }

    /// Notes the transaction number in the reply to the last request.
    fn note_transaction(&mut self, domid: u16) {
        let Some(id) = self.testbed.connection(domid) else { return };
        let Some(reply) = self.testbed.server.poll_transmit(id).last() else { return };
        let Some((header, payload)) = reply.split_first_chunk::<HEADER_BYTES>() else { return };
        if Header::parse(header).kind == T::TransactionStart.to_wire()
            && let Some(number) =
                std::str::from_utf8(payload).ok().and_then(|text| text.trim_end_matches('\0').parse().ok())
        {
            self.transactions.entry(domid).or_default().push(number);
        }
    }

    fn read_unless_idle(&mut self, domid: u16) {
        if !self.idle.contains(&domid) {
            self.read(domid);
        }
    }

    /// Reads all replies and events of a domain.
    pub fn read(&mut self, domid: u16) {
        let Some(id) = self.testbed.connection(domid) else { return };
        let server = &mut self.testbed.server;
        let bytes = server.poll_transmit(id).map(<[u8]>::len).sum();
        server.handle_transmitted(id, bytes);
        if self.testbed.machine.pages.contains_key(&DomId(domid)) {
            let producer = self.testbed.word(domid, Field::ReplyProducer);
            self.testbed.set_word(domid, Field::ReplyConsumer, producer);
        }
    }

    /// Lets the server work until it has nothing to do, while all domains that are not idle read.
    pub fn settle(&mut self) {
        for _ in 0..POLLS {
            (0..=GUESTS).for_each(|domid| self.read_unless_idle(domid));
            if !self.poll() || self.is_over() {
                return;
            }
        }
    }

    /// Measures one round of the main loop. Returns whether the server has more to do.
    pub fn poll(&mut self) -> bool {
        let works = self.testbed.server.engine().ready_len() as u64 + std::mem::take(&mut self.ended);
        let before = self.testbed.server.steps();
        let begun = clock::now();
        let outcome = self.testbed.server.poll(&mut self.testbed.machine, self.testbed.now_ms);
        let time = clock::now() - begun;
        let steps = self.testbed.server.steps() - before;
        let objective = if works == 0 { Objective::Postponed } else { Objective::Poll };
        self.worst.note(objective, Cost { steps, time, works });
        outcome.busy
    }

    /// Returns the connection of a domain.
    pub fn connection(&self, domid: u16) -> Option<ConnectionId> {
        self.testbed.connection(domid)
    }
}
