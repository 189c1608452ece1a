//! Runs a history, with or without updates, and keeps everything that the domains received.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use xenstore::engine::Engine;
use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::{Header, MessageType as T};
use xenstore::wire::ring::Field;

use crate::loss::lose;
use crate::script::{GUESTS, Step};
use crate::support::items::{restore, save};
use crate::support::random::Random;
use crate::support::testbed::{Page, Testbed};

/// Counts of the events in histories with updates.
#[derive(Debug, Default)]
pub struct Counts {
    histories: usize,
    requests: usize,
    replies: usize,
    refusals: usize,
    events: usize,
    bytes_compared: usize,
    nodes_compared: usize,
    updates_by_version_1: usize,
    updates_by_version_2: usize,
    updates_forced: usize,
    features_lost: usize,
    depths_lost: usize,
    transactions_lost: usize,
    updates_with_half_requests: usize,
    updates_with_half_replies: usize,
    updates_with_unread_replies: usize,
    updates_with_open_transactions: usize,
    updates_with_shut_connections: usize,
    updates_with_guests_held_back: usize,
}

impl Counts {
    /// Checks that each of these events has occurred; otherwise the comparison does not cover them.
    pub fn assert_all_happened(&self) {
        for count in [
            self.refusals,
            self.events,
            self.updates_by_version_1,
            self.updates_by_version_2,
            self.updates_forced,
            self.features_lost,
            self.depths_lost,
            self.transactions_lost,
            self.updates_with_half_requests,
            self.updates_with_half_replies,
            self.updates_with_unread_replies,
            self.updates_with_open_transactions,
            self.updates_with_shut_connections,
            self.updates_with_guests_held_back,
        ] {
            assert!(count >= self.histories / 100, "{self:#?}");
        }
    }
}

/// One run of a history.
pub struct Runner {
    testbed: Testbed,
    updates: bool,
    random: Random,
    next_request: u32,
    /// Bytes that a domain has begun to send.
    outgoing: BTreeMap<u16, Vec<u8>>,
    /// All bytes that a domain has received, over all its lives.
    received: BTreeMap<u16, Vec<u8>>,
    /// The number of bytes that were compared.
    compared: BTreeMap<u16, usize>,
    /// The nodes of the tree in the end.
    tree: Vec<String>,
    counts: Counts,
}

impl Runner {
    pub fn new(updates: bool, seed: u64) -> Self {
        Self {
            testbed: Testbed::new(),
            updates,
            random: Random::new(seed ^ 0x5eed),
            next_request: 0,
            outgoing: BTreeMap::new(),
            received: BTreeMap::new(),
            compared: BTreeMap::new(),
            tree: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Send { domid, transaction, kind, payload, now } => {
                self.send(*domid, *transaction, *kind, payload, *now);
            }
            Step::SendRest { domid } => self.send_rest(*domid, usize::MAX),
            Step::Take { domid, most } => self.take(*domid, *most),
            Step::Pass { ms } => self.testbed.pass(*ms),
            Step::Build { domid, unique_id } => self.build(*domid, *unique_id),
            Step::Kill { domid } => {
                self.testbed.machine.unique_ids.remove(&DomId(*domid));
                self.forget(*domid);
                self.testbed.kill(*domid);
            }
            Step::Shutdown { domid, tells } if self.is_there(*domid) => {
                self.testbed.machine.domains.insert(DomId(*domid), DomainState::Shutdown);
                if *tells {
                    self.testbed.server.handle_domain_exception();
                    self.testbed.run();
                }
            }
            Step::Cheat { domid } if self.is_there(*domid) => {
                let producer = self.testbed.word(*domid, Field::RequestConsumer).wrapping_add(1025);
                self.testbed.set_word(*domid, Field::RequestProducer, producer);
                self.testbed.signal(*domid);
            }
            Step::Reconnect { domid } if self.is_there(*domid) => {
                self.testbed.set_word(*domid, Field::Connection, 1);
                self.testbed.signal(*domid);
                if self.testbed.word(*domid, Field::Connection) == 0 {
                    self.forget(*domid);
                }
            }
            Step::Shutdown { .. } | Step::Cheat { .. } | Step::Reconnect { .. } => {}
            Step::Update => self.update(),
            Step::ForcedUpdate => self.forced_update(),
        }
    }

    fn is_there(&self, domid: u16) -> bool {
        self.testbed.machine.pages.contains_key(&DomId(domid))
    }

    /// Resets a domain's client.
    fn forget(&mut self, domid: u16) {
        self.outgoing.remove(&domid);
        self.received.entry(domid).or_default().extend(b"<new>");
    }

    fn build(&mut self, domid: u16, unique_id: Option<u64>) {
        self.forget(domid);
        self.testbed.build(DomId(domid));
        if let Some(unique_id) = unique_id {
            self.testbed.machine.unique_ids.insert(DomId(domid), unique_id);
        }
    }

    fn send(&mut self, domid: u16, transaction: u32, kind: u32, payload: &[u8], now: usize) {
        if !self.is_there(domid) {
            return;
        }
        self.next_request += 1;
        self.counts.requests += 1;
        self.send_rest(domid, usize::MAX);
        let request_id = self.next_request;
        let header = Header { kind, request_id, transaction_id: transaction, payload_bytes: payload.len() as u32 };
        let outgoing = self.outgoing.entry(domid).or_default();
        let before = outgoing.len();
        // A domain that is not read for long gives up.
        if before < 20_000 {
            outgoing.extend(header.emit());
            outgoing.extend(payload);
            self.send_rest(domid, now.saturating_add(before));
        }
    }

    fn send_rest(&mut self, domid: u16, most: usize) {
        if !self.is_there(domid) || self.testbed.machine.pages[&DomId(domid)].has_impossible_requests() {
            return;
        }
        let mut bytes = self.outgoing.remove(&domid).unwrap_or_default();
        let sent = self.testbed.send_bytes(domid, &bytes[..bytes.len().min(most)]);
        bytes.drain(..sent);
        self.outgoing.insert(domid, bytes);
    }

    fn take(&mut self, domid: u16, most: usize) {
        if !self.is_there(domid) {
            return;
        }
        let mut left = most;
        while left > 0 {
            let taken = self.testbed.take_bytes(domid, left.min(u32::MAX as usize));
            if taken.is_empty() {
                break;
            }
            left -= taken.len();
            self.received.entry(domid).or_default().extend(taken);
        }
    }

    /// Makes an update, or wakes all domains in the same way without one.
    fn update(&mut self) {
        if self.updates {
            self.count_update();
            self.replace();
        } else {
            let ports: Vec<_> = self.testbed.machine.bound.keys().copied().collect();
            ports.into_iter().for_each(|port| self.testbed.server.handle_event(port));
            self.testbed.server.handle_domain_exception();
        }
        self.testbed.run();
    }

    /// Saves the server, and continues with another one.
    fn replace(&mut self) {
        let needs_2 = self.testbed.server.engine().requires_version_2();
        let version = if needs_2 || self.random.once_in(4) { Version::Two } else { Version::One };
        match version {
            Version::One => self.counts.updates_by_version_1 += 1,
            Version::Two => self.counts.updates_by_version_2 += 1,
        }
        self.replace_by(version);
    }

    fn replace_by(&mut self, version: Version) {
        let mut stream = Vec::new();
        self.testbed.server.save_to(&mut stream, version, &self.save_options()).unwrap();
        // The successor has another clock.
        self.testbed.now_ms += self.random.below(100_000) as u64;
        let engine = load(&stream, &Config::default(), self.testbed.now_ms).unwrap();
        self.go_on_with(engine);
    }

    fn save_options(&self) -> SaveOptions<'static> {
        SaveOptions { now_ms: self.testbed.now_ms, reply: None }
    }

    /// Continues with another server with this state.
    fn go_on_with(&mut self, engine: Engine) {
        // The predecessor's mappings end with it; its ports remain.
        let before: BTreeSet<DomId> = std::mem::take(&mut self.testbed.machine.mapped).into_keys().collect();
        let mut server = Server::restored(engine);
        let taken = server.reattach(&mut self.testbed.machine, self.testbed.now_ms, Reattachment::Live);
        assert!(taken.has_control, "{taken:?}");
        assert_eq!((taken.connections, taken.lost), (before.len(), 0));
        assert_eq!(before, self.testbed.machine.mapped.keys().copied().collect());
        self.testbed.server = server;
        self.testbed.check();
    }

    /// Makes an update by version 1 with all its losses, or causes the same losses without a stream.
    fn forced_update(&mut self) {
        if self.updates {
            self.counts.updates_forced += 1;
            self.replace_by(Version::One);
        } else {
            let needs: Vec<_> = self.testbed.server.engine().version_2_requirements(self.testbed.now_ms).collect();
            let mut items = save(self.testbed.server.engine(), &self.save_options());
            let lost = lose(&mut items, &needs);
            self.counts.features_lost += lost.features;
            self.counts.depths_lost += lost.depths;
            self.counts.transactions_lost += lost.transactions;
            self.go_on_with(restore(&items, &Config::default(), self.testbed.now_ms).unwrap());
        }
        self.testbed.run();
    }

    fn count_update(&mut self) {
        let engine = self.testbed.server.engine();
        let connections = || (0..5).filter_map(|domid| self.testbed.connection(domid));
        let any = |is: &dyn Fn(&xenstore::engine::connection::Connection) -> bool| {
            usize::from(connections().filter_map(|id| engine.connection(id)).any(is))
        };
        let counts = &mut self.counts;
        counts.updates_with_half_requests +=
            any(&|of| of.session().is_some_and(|session| !session.input.received().is_empty()));
        counts.updates_with_half_replies +=
            any(&|of| of.session().is_some_and(|session| session.output.partial_bytes() > 0));
        counts.updates_with_unread_replies += any(&|of| of.session().is_some_and(|session| !session.output.is_empty()));
        counts.updates_with_open_transactions += usize::from(engine.open_transactions().1 > 0);
        counts.updates_with_shut_connections += any(&|of| of.error().is_some());
        let held_back = connections().any(|id| engine.is_held_back(id));
        counts.updates_with_guests_held_back += usize::from(held_back);
    }

    /// Compares the bytes received since the last comparison.
    pub fn compare(&mut self, other: &Self, at: usize, step: impl fmt::Debug) {
        for (domid, bytes) in &self.received {
            let compared = self.compared.entry(*domid).or_default();
            let others = other.received.get(domid).map_or(&[][..], Vec::as_slice);
            let (new, others) = (&bytes[*compared..], &others[*compared..]);
            assert!(
                new == others,
                "step {at}, {step:?}: domain {domid} receives\n{}\nwithout updates, and with them\n{}",
                new.escape_ascii(),
                others.escape_ascii()
            );
            *compared = bytes.len();
        }
        assert_eq!(self.received.len(), other.received.len());
        for (one, other) in self.tree.iter().zip(&other.tree) {
            assert_eq!(one, other);
        }
        assert_eq!(self.tree.len(), other.tree.len());
    }

    /// Compares both states, with all times and counters.
    pub fn compare_states(&self, other: &Self, at: usize) {
        let items =
            |of: &Self| save(of.testbed.server.engine(), &SaveOptions { now_ms: of.testbed.now_ms, reply: None });
        let (ours, others) = (items(self), items(other));
        for (one, other) in ours.iter().zip(&others) {
            assert_eq!(one, other, "step {at}");
        }
        assert_eq!(ours.len(), others.len());
    }

    /// Lets all domains read everything, and dom0 read the tree.
    pub fn end(&mut self) {
        for _ in 0..40 {
            for domid in [0].into_iter().chain(GUESTS) {
                self.send_rest(domid, usize::MAX);
                self.take(domid, usize::MAX);
            }
            self.testbed.pass(1000);
        }
        self.testbed.forget_incoming(0);
        let mut open = vec![String::new()];
        while let Some(path) = open.pop() {
            let full = if path.is_empty() { "/" } else { &path };
            let names = self.testbed.directory(0, full);
            self.tree.push(format!(
                "{full} {:?} {:?} {names:?}",
                self.testbed.read(0, full),
                self.testbed.get_perms(0, full)
            ));
            open.extend(names.unwrap_or_default().iter().map(|name| format!("{path}/{name}")));
        }
        assert_eq!(self.testbed.request(0, T::Control, "check\0"), Ok(b"OK\0".to_vec()));
        self.tree.push(format!("{:?}", self.testbed.request(0, T::Control, "memreport\0")));
        self.testbed.check();
    }

    /// Adds the losses of the run without updates.
    pub fn add_losses_to(&self, sum: &mut Counts) {
        sum.features_lost += self.counts.features_lost;
        sum.depths_lost += self.counts.depths_lost;
        sum.transactions_lost += self.counts.transactions_lost;
    }

    pub fn add_to(&self, sum: &mut Counts) {
        let Counts { requests, .. } = self.counts;
        sum.histories += 1;
        sum.requests += requests;
        for bytes in self.received.values() {
            sum.bytes_compared += bytes.len();
            let (replies, refusals, events) = count_messages(bytes);
            sum.replies += replies;
            sum.refusals += refusals;
            sum.events += events;
        }
        sum.nodes_compared += self.tree.len() - 1;
        for (sum, own) in [
            (&mut sum.updates_by_version_1, self.counts.updates_by_version_1),
            (&mut sum.updates_by_version_2, self.counts.updates_by_version_2),
            (&mut sum.updates_forced, self.counts.updates_forced),
            (&mut sum.updates_with_half_requests, self.counts.updates_with_half_requests),
            (&mut sum.updates_with_half_replies, self.counts.updates_with_half_replies),
            (&mut sum.updates_with_unread_replies, self.counts.updates_with_unread_replies),
            (&mut sum.updates_with_open_transactions, self.counts.updates_with_open_transactions),
            (&mut sum.updates_with_shut_connections, self.counts.updates_with_shut_connections),
            (&mut sum.updates_with_guests_held_back, self.counts.updates_with_guests_held_back),
        ] {
            *sum += own;
        }
    }
}

/// Counts replies, refusals and events in whole messages, from each start of a connection on.
fn count_messages(mut bytes: &[u8]) -> (usize, usize, usize) {
    let (mut replies, mut refusals, mut events) = (0, 0, 0);
    while let Some(header) = bytes.first_chunk().map(Header::parse) {
        if bytes.starts_with(b"<new>") {
            bytes = &bytes[5..];
            continue;
        }
        match T::from_wire(header.kind) {
            Some(T::WatchEvent) => events += 1,
            Some(T::Error) => (replies, refusals) = (replies + 1, refusals + 1),
            Some(_) => replies += 1,
            // The end of a message that a new start cut off.
            None => {
                bytes = &bytes[1..];
                continue;
            }
        }
        bytes = bytes.get(16 + header.payload_bytes as usize..).unwrap_or_default();
    }
    (replies, refusals, events)
}

impl Page {
    /// Returns whether the domain has written an impossible index.
    fn has_impossible_requests(&self) -> bool {
        use xenstore::wire::ring::RingPage as _;
        self.load(Field::RequestProducer).wrapping_sub(self.load(Field::RequestConsumer)) > 1024
    }
}
