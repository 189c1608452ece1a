//! Random requests of all kinds by the control domain and guests that come, go, break the protocol and do not read.
//! Each request has one reply, the counts are correct, the tree is consistent, and in the end nothing is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::Field;

use crate::support::random::{Random, Seed};
use crate::support::requests::Requests;
use crate::support::testbed::{Message, Testbed};

const GUESTS: [u16; 4] = [1, 2, 3, 4];
/// INTRODUCE and RELEASE change the connected domains: `upheaval` sends them.
const REQUESTS: Requests = Requests {
    guests: GUESTS.len(),
    rare_once_in: 13,
    rare: &[(10, T::Resume), (10, T::SetTarget), (1, T::ResetWatches)],
};

pub struct Storm {
    pub testbed: Testbed,
    pub random: Random,
    /// Requests whose reply has not been seen, oldest first: number, transaction and type.
    pending: BTreeMap<u16, VecDeque<(u32, u32, u32)>>,
    /// Guests that are introduced and whose connection is open.
    served: BTreeSet<u16>,
    /// The number of each domain's newest transaction.
    newest_transaction: BTreeMap<u16, u32>,
    pub requests: usize,
    reconnections: usize,
    refusals: BTreeMap<String, usize>,
}

impl Storm {
    pub fn new(seed: u64) -> Self {
        let mut testbed = Testbed::with_homes(GUESTS);
        testbed.write(0, "/shared", "").unwrap();
        testbed.set_perms(0, "/shared", "b0").unwrap();
        Self {
            testbed,
            random: Random::new(seed),
            pending: BTreeMap::new(),
            served: GUESTS.into(),
            newest_transaction: BTreeMap::new(),
            requests: 0,
            reconnections: 0,
            refusals: BTreeMap::new(),
        }
    }

    /// Sends one request of a random domain. Its reply may be read now or much later.
    pub fn request(&mut self) {
        let domid = *self.random.one_of(&[0, 0, 1, 1, 2, 2, 3, 4]);
        if domid != 0 && !self.served.contains(&domid) || self.pending.get(&domid).is_some_and(|list| list.len() >= 6) {
            return;
        }
        let Some((kind, payload)) = REQUESTS.request(&mut self.random, domid) else { return };
        let transaction = match self.random.below(3) {
            0 => 0,
            _ => self.open_transaction(domid),
        };
        let transaction = if self.random.once_in(200) { 9999 } else { transaction };
        let id = self.testbed.send(domid, transaction, kind.to_wire(), &payload);
        self.pending.entry(domid).or_default().push_back((id, transaction, kind.to_wire()));
        self.requests += 1;
        if !self.random.once_in(4) {
            self.drain(domid);
        }
    }

    /// Returns a number near those of the domain's transactions.
    fn open_transaction(&mut self, domid: u16) -> u32 {
        let Some(connection) = self.testbed.connection(domid) else { return 0 };
        let session = self.testbed.server.engine().connection(connection).and_then(|connection| connection.session());
        if session.is_none_or(|session| session.open_transactions() == 0) {
            return 0;
        }
        let newest = self.newest_transaction.get(&domid).copied().unwrap_or(0);
        newest.saturating_sub(self.random.below(4) as u32)
    }

    fn drain(&mut self, domid: u16) {
        while let Some(message) = self.testbed.message(domid) {
            self.check_message(domid, &message);
        }
    }

    fn check_message(&mut self, domid: u16, message: &Message) {
        if message.kind == T::WatchEvent.to_wire() {
            assert_eq!((message.request_id, message.transaction), (0, 0));
            assert_eq!(message.payload.iter().filter(|byte| **byte == 0).count(), 2);
            return;
        }
        let expected = self.pending.get_mut(&domid).and_then(VecDeque::pop_front);
        let (id, transaction, kind) = expected.expect("a reply belongs to a request");
        assert_eq!((message.request_id, message.transaction), (id, transaction), "replies come in order");
        if message.kind == T::Error.to_wire() {
            *self.refusals.entry(crate::support::testbed::string(&message.payload)).or_default() += 1;
        } else {
            assert_eq!(message.kind, kind);
            if kind == T::TransactionStart.to_wire() {
                let number = crate::support::testbed::string(&message.payload).parse().unwrap();
                self.newest_transaction.insert(domid, number);
            }
        }
    }

    /// Lets a domain die, start, shut down, break the protocol, be released or be introduced again, or lets time pass.
    pub fn upheaval(&mut self) {
        let domid = *self.random.one_of(&GUESTS);
        let what = self.random.below(10);
        self.drain(0);
        match what {
            0 | 1 if self.testbed.machine.domains.contains_key(&DomId(domid)) => {
                self.testbed.kill(domid);
                self.gone(domid);
            }
            2 if self.served.contains(&domid) => {
                self.testbed.release(0, domid).unwrap();
                self.gone(domid);
            }
            3 if self.served.contains(&domid) => {
                while self.testbed.is_held_back(domid) {
                    self.testbed.pass_until_due();
                }
                let producer = self.testbed.word(domid, Field::RequestConsumer).wrapping_add(1025);
                self.testbed.set_word(domid, Field::RequestProducer, producer);
                self.testbed.signal(domid);
                self.gone(domid);
                let is_told = self.features(domid) & 2 != 0;
                assert_eq!(self.testbed.word(domid, Field::Error), if is_told { 2 } else { 0 });
            }
            8 if self.features(domid) & 1 != 0 => self.reconnect(domid),
            4 if self.served.contains(&domid) => self.testbed.set_state(domid, DomainState::Shutdown),
            5 => self.testbed.pass(15_000),
            _ => self.bear(domid),
        }
    }

    /// Returns the features that an introduced domain is offered.
    fn features(&self, domid: u16) -> u32 {
        let introduced = self.testbed.server.engine().state().domains.get(DomId(domid));
        introduced.filter(|domain| domain.connection.is_some()).map_or(0, |domain| domain.features.bits())
    }

    /// Requests a reset for a domain, whose connection may be shut.
    fn reconnect(&mut self, domid: u16) {
        self.testbed.set_word(domid, Field::Connection, 1);
        self.testbed.signal(domid);
        assert_eq!(self.testbed.word(domid, Field::Connection), 0);
        self.gone(domid);
        self.served.insert(domid);
        self.reconnections += 1;
    }

    fn gone(&mut self, domid: u16) {
        self.served.remove(&domid);
        self.pending.remove(&domid);
        self.newest_transaction.remove(&domid);
        if self.testbed.machine.pages.contains_key(&DomId(domid)) {
            self.testbed.forget_incoming(domid);
        }
    }

    /// Introduces a domain, for the first time or again.
    fn bear(&mut self, domid: u16) {
        self.gone(domid);
        if !self.testbed.machine.domains.contains_key(&DomId(domid)) {
            self.testbed.build(DomId(domid));
            let features = self.random.next() & 15;
            self.testbed.request(0, T::SetFeature, format!("{domid}\0{features}\0")).unwrap();
        }
        self.testbed.introduce(0, domid, 1).unwrap();
        self.testbed.forget_incoming(domid);
        let _ = self.testbed.mkdir(0, &format!("/local/domain/{domid}"));
        let _ = self.testbed.set_perms(0, &format!("/local/domain/{domid}"), &format!("n{domid}"));
        if self.testbed.read(0, "/shared").is_err() {
            self.testbed.write(0, "/shared", "").unwrap();
            self.testbed.set_perms(0, "/shared", "b0").unwrap();
        }
        self.served.insert(domid);
    }

    /// Lets all domains read everything.
    fn settle(&mut self) {
        for _ in 0..200 {
            for domid in [0, 1, 2, 3, 4] {
                if domid == 0 || self.served.contains(&domid) {
                    self.drain(domid);
                }
                if self.testbed.is_held_back(domid) {
                    self.testbed.pass_until_due();
                }
            }
            if self.pending.values().all(VecDeque::is_empty) {
                break;
            }
        }
        assert!(self.pending.values().all(VecDeque::is_empty), "each request has a reply: {:?}", self.pending);
        for domid in &self.served {
            assert_eq!(self.testbed.outstanding(*domid), 0);
        }
    }

    pub fn check(&mut self) {
        self.settle();
        self.testbed.check();
        let state = self.testbed.server.engine().state();
        let mut watches = 0;
        for (domid, domain) in state.domains.iter() {
            let found = domain.connection.map_or(0, |connection| state.watches.of_connection(connection).len());
            assert_eq!(domain.watches, found, "{domid}");
            watches += found;
        }
        assert_eq!(watches, state.watches.len());
        let introduced: BTreeSet<DomId> =
            state.domains.iter().filter(|(_, domain)| domain.connection.is_some()).map(|(domid, _)| domid).collect();
        assert!(introduced.iter().all(|domid| self.testbed.machine.domains.contains_key(domid)));
        assert_eq!(self.testbed.machine.mapped.keys().copied().collect::<BTreeSet<_>>(), introduced);
        assert_eq!(self.testbed.machine.bound.values().copied().collect::<BTreeSet<_>>(), introduced);
        let owned: u64 = state.domains.iter().map(|(_, domain)| domain.nodes).sum();
        assert_eq!(self.walk(), owned, "DIRECTORY shows all nodes");
    }

    /// Walks the tree by DIRECTORY and counts the nodes. Each node can be read.
    fn walk(&mut self) -> u64 {
        let mut open = vec![String::new()];
        let mut found = 0;
        while let Some(path) = open.pop() {
            let full = if path.is_empty() { "/" } else { &path };
            let names = self.testbed.directory(0, full).unwrap();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "no name twice in {full}");
            assert!(self.testbed.read(0, full).is_ok() && self.testbed.get_perms(0, full).is_ok());
            open.extend(names.iter().map(|name| format!("{path}/{name}")));
            found += 1;
        }
        found
    }

    pub fn end(&mut self) {
        for domid in GUESTS {
            if self.testbed.machine.domains.contains_key(&DomId(domid)) {
                self.testbed.kill(domid);
            }
            self.gone(domid);
        }
        self.check();
        assert!(GUESTS.iter().all(|domid| self.testbed.nodes(*domid) == 0));
        let known: Vec<DomId> = self.testbed.server.engine().state().domains.iter().map(|(domid, _)| domid).collect();
        assert_eq!(known, [DomId(0)], "no other domain is known any more");
        assert_eq!(self.testbed.server.engine().rings_and_ports(), (1, 1));
        assert_eq!(self.testbed.server.poll(&mut self.testbed.machine, u64::MAX / 2).deadline_ms, None);
    }
}

#[test]
fn after_any_requests_the_counts_are_correct_and_nothing_is_left() {
    let (mut requests, mut reconnections, mut refusals) = (0, 0, BTreeMap::<String, usize>::new());
    for seed in 1..=10 {
        let _seed = Seed(seed);
        let mut storm = Storm::new(seed);
        for step in 1..=30_000 {
            storm.request();
            if storm.random.once_in(150) {
                storm.upheaval();
            }
            if step % 2000 == 0 {
                storm.check();
            }
        }
        storm.end();
        requests += storm.requests;
        reconnections += storm.reconnections;
        for (name, count) in storm.refusals {
            *refusals.entry(name).or_default() += count;
        }
    }
    println!("{requests} requests, {reconnections} reconnections; refused: {refusals:?}");
    assert!(reconnections > 20);
    for name in ["EINVAL", "EACCES", "ENOENT", "EEXIST", "ENOSPC", "EAGAIN", "EBUSY", "ENOSYS", "EPERM"] {
        assert!(refusals.contains_key(name), "{name} was tried: {refusals:?}");
    }
}
