//! The server, the machine and the domains. Executes the steps, and checks the whole state at the end.

use std::collections::{BTreeMap, BTreeSet};

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::{Field, RingPage};

use crate::peer::{Peer, put_bytes};
use crate::script::{GUESTS, Step};
use crate::support::machine::{DOM0, Machine, Page};
use crate::support::random::Random;

/// Most calls of the server until it must be idle.
const TURNS: usize = 20_000;

/// The words of a ring page that a guest may write.
const WORDS: [Field; 8] = [
    Field::RequestConsumer,
    Field::RequestProducer,
    Field::ReplyConsumer,
    Field::ReplyProducer,
    Field::Features,
    Field::Connection,
    Field::Error,
    Field::EventPort,
];

pub struct Scene {
    server: Server,
    machine: Machine,
    now_ms: u64,
    peers: BTreeMap<u16, Peer>,
}

impl Scene {
    /// Creates a server with dom0 and two guests, each with a home, and a directory for all.
    pub fn new() -> Self {
        let mut scene = Self {
            server: Server::new(Config::default()),
            machine: Machine::default(),
            now_ms: 1000,
            peers: [0].into_iter().chain(GUESTS).map(|domid| (domid, Peer::default())).collect(),
        };
        scene.build(0);
        scene.server.handle_boot_domain(DOM0, 1, &mut scene.machine).expect("dom0 has a ring and a port");
        scene.step(Step::Begin { domid: 1, port: 1 });
        scene.step(Step::Begin { domid: 2, port: 1 });
        scene.ask_now(T::Write, "/shared\0");
        scene.ask_now(T::SetPerms, "/shared\0b0\0");
        scene
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Send { domid, transaction, kind, payload, now } => {
                let Some(peer) = self.peers.get_mut(&domid) else { return };
                let before = peer.unsent();
                peer.ask(transaction, kind, &payload);
                self.send(domid, now.saturating_add(before));
            }
            Step::SendRest { domid } => self.send(domid, usize::MAX),
            Step::Take { domid, most } => self.take(domid, most),
            Step::Pass { ms } => {
                self.now_ms += ms;
                self.run();
            }
            Step::Begin { domid, port } => self.begin(domid, port),
            Step::Release { domid } => {
                self.ask_now(T::Release, &format!("{domid}\0"));
                self.peers.insert(domid, Peer::new(true));
            }
            Step::Kill { domid, tells } => self.kill(domid, tells),
            Step::State { domid, dying } if self.machine.domains.contains_key(&DomId(domid)) => {
                let state = if dying { DomainState::Dying } else { DomainState::Shutdown };
                self.machine.domains.insert(DomId(domid), state);
                if dying {
                    self.peers.insert(domid, Peer::new(true));
                }
                self.server.handle_domain_exception();
                self.run();
            }
            Step::Update => self.update(),
            Step::Memory { free } => self.machine.free_memory = free,
            Step::WakeAll => {
                self.server.wake_all();
                self.run();
            }
            step => self.cheat(step),
        }
    }

    /// Changes a guest's ring page as the guest.
    fn cheat(&mut self, step: Step) {
        let (Step::Scribble { domid, .. }
        | Step::Storm { domid, .. }
        | Step::Garbage { domid, .. }
        | Step::Reconnect { domid }) = step
        else {
            return;
        };
        let Some(page) = self.page(domid) else { return };
        let mut is_wild = true;
        match step {
            Step::Scribble { word, value, .. } => page.store(WORDS[word % WORDS.len()], value),
            Step::Storm { seed, .. } => page.scribble(Some(Random::new(seed))),
            Step::Garbage { bytes, .. } => put_bytes(&page, &bytes),
            _ => {
                page.scribble(None);
                page.store(Field::Connection, 1);
                self.signal(domid);
                is_wild = page.load(Field::Connection) != 0;
            }
        }
        self.peers.insert(domid, Peer::new(is_wild));
        self.signal(domid);
    }

    fn page(&self, domid: u16) -> Option<Page> {
        self.machine.pages.get(&DomId(domid)).cloned()
    }

    fn build(&mut self, domid: u16) {
        self.machine.domains.insert(DomId(domid), DomainState::Running);
        self.machine.pages.insert(DomId(domid), Page::default());
        self.peers.insert(domid, Peer::default());
    }

    /// Creates a domain unless it exists, introduces it, and makes its home.
    fn begin(&mut self, domid: u16, port: u32) {
        let is_introduced = self.server.engine().state().domains.is_introduced(DomId(domid));
        if !self.machine.domains.contains_key(&DomId(domid)) && !is_introduced {
            self.build(domid);
        }
        self.page(domid).inspect(|page| page.scribble(None));
        // Requests that were in its ring may be answered before the introduction.
        self.peers.insert(domid, Peer::new(true));
        let is_fresh = self.ask_now(T::Introduce, &format!("{domid}\x001\0{port}\0")).is_some() && port != 666;
        self.peers.insert(domid, Peer::new(!is_fresh));
        self.ask_now(T::Mkdir, &format!("/local/domain/{domid}\0"));
        self.ask_now(T::SetPerms, &format!("/local/domain/{domid}\0n{domid}\0"));
    }

    fn kill(&mut self, domid: u16, tells: bool) {
        self.machine.domains.remove(&DomId(domid));
        self.machine.pages.remove(&DomId(domid));
        self.peers.insert(domid, Peer::new(true));
        if tells {
            self.server.handle_domain_exception();
        }
        self.run();
    }

    /// Sends a request of dom0 and returns the reply; `None` for an error.
    fn ask_now(&mut self, kind: T, payload: &str) -> Option<Vec<u8>> {
        self.finish(0);
        let peer = self.peers.entry(0).or_default();
        peer.last_reply = None;
        peer.ask(0, kind.to_wire(), payload.as_bytes());
        self.finish(0);
        self.peers.entry(0).or_default().last_reply.take()
    }

    /// Sends all unsent bytes of a domain, and reads all replies.
    fn finish(&mut self, domid: u16) {
        self.send(domid, usize::MAX);
        for _ in 0..100 {
            if !self.peers[&domid].is_waiting() {
                break;
            }
            self.take(domid, usize::MAX);
            self.send(domid, usize::MAX);
        }
        assert!(domid != 0 || !self.peers[&domid].is_waiting(), "dom0 is always served");
    }

    fn send(&mut self, domid: u16, mut most: usize) {
        let Some(page) = self.page(domid) else { return };
        loop {
            let count = self.peers.entry(domid).or_default().put(&page, most);
            self.signal(domid);
            most -= count;
            if count == 0 || most == 0 {
                return;
            }
        }
    }

    fn take(&mut self, domid: u16, mut most: usize) {
        let Some(page) = self.page(domid) else { return };
        // A domain whose reply index differs at each read never finishes.
        for _ in 0..100 {
            let count = self.peers.entry(domid).or_default().take(&page, most);
            self.signal(domid);
            most -= count;
            if count == 0 || most == 0 {
                return;
            }
        }
    }

    fn signal(&mut self, domid: u16) {
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        if let Some(port) = port {
            self.server.handle_event(port);
        }
        self.run();
    }

    fn run(&mut self) {
        for _ in 0..TURNS {
            if !self.server.poll(&mut self.machine, self.now_ms).busy {
                while self.server.poll_action().is_some() {}
                return;
            }
            // A page whose indices change at each read causes endless work.
            if self.machine.pages.values().any(Page::is_scribbled) {
                return;
            }
        }
        panic!("the server does not become idle");
    }

    /// Saves the server, and continues with a restored one.
    fn update(&mut self) {
        let needs_2 = self.server.engine().requires_version_2();
        let version = if needs_2 || self.now_ms.is_multiple_of(2) { Version::Two } else { Version::One };
        let mut stream = Vec::new();
        self.server
            .save_to(&mut stream, version, &SaveOptions { now_ms: self.now_ms, reply: None })
            .expect("there is room");
        self.machine.mapped.clear();
        let engine = load(&stream, &Config::default(), self.now_ms).expect("what was saved is restored");
        self.server = Server::restored(engine);
        let taken = self.server.reattach(&mut self.machine, self.now_ms, Reattachment::Live);
        assert!(taken.has_control, "{taken:?}");
        self.run();
        self.check_state();
    }

    fn check_state(&self) {
        assert_eq!(self.server.engine().state().check(), Ok(()));
        let (counted, found) = self.server.engine().open_transactions();
        assert_eq!(counted, found, "open transactions");
    }

    /// Returns whether a domain is served and has followed the protocol.
    fn is_tame(&self, domid: u16) -> bool {
        let is_introduced = self.server.engine().state().domains.is_introduced(DomId(domid));
        !self.peers[&domid].is_wild && is_introduced && self.machine.pages.contains_key(&DomId(domid))
    }

    /// Checks that all requests are answered, that the recount agrees, and that dead guests leave no state.
    pub fn end(&mut self) {
        self.machine.free_memory = None;
        self.machine.pages.values().for_each(|page| page.scribble(None));
        let all: Vec<u16> = [0].into_iter().chain(GUESTS).collect();
        for round in 0..200 {
            all.iter().filter(|domid| self.is_tame(**domid)).copied().collect::<Vec<_>>().into_iter().for_each(
                |domid| {
                    self.finish(domid);
                    self.take(domid, usize::MAX);
                },
            );
            self.now_ms += 1000;
            self.run();
            if round > 21 && !all.iter().any(|domid| self.is_tame(*domid) && self.peers[domid].is_waiting()) {
                break;
            }
        }
        for domid in all {
            assert!(!self.is_tame(domid) || !self.peers[&domid].is_waiting(), "domain {domid} waits for a reply");
        }
        self.check();
        GUESTS.into_iter().for_each(|domid| self.kill(domid, true));
        self.check();
        let engine = self.server.engine();
        let known: Vec<DomId> = engine.state().domains.iter().map(|(domid, _)| domid).collect();
        assert_eq!(known, [DOM0], "no other domain is known any more");
        assert_eq!(engine.rings_and_ports(), (1, 1));
    }

    /// Checks the engine's recount, and that only introduced domains have rings and ports.
    fn check(&mut self) {
        assert_eq!(self.ask_now(T::Control, "check\0").as_deref(), Some(&b"OK\0"[..]));
        self.check_state();
        let state = self.server.engine().state();
        let introduced: BTreeSet<DomId> =
            state.domains.iter().filter(|(_, domain)| domain.connection.is_some()).map(|(domid, _)| domid).collect();
        let mapped: BTreeSet<DomId> = self.machine.mapped.keys().copied().collect();
        let bound: BTreeSet<DomId> = self.machine.bound.values().copied().collect();
        assert!(mapped.is_subset(&introduced) && bound.is_subset(&introduced), "{mapped:?} {bound:?} {introduced:?}");
    }
}
