//! Makes a history: the server, the machine around it, and the domains; and holds everything that the server does against
//! the model.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use xenstore::engine::config::Config;
use xenstore::engine::crash::Crash;
use xenstore::engine::hypervisor::{DomainState, Port};
use xenstore::engine::in_hand::InHand;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::engine::trace::{Switches, Trace};
use xenstore::server::Server;
use xenstore::server::stream::load;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::{Field, RingPage};

use crate::client::Client;
use crate::counts::Counts;
use crate::machine::{DOM0, Machine, Page};
use crate::model::{Flaw, Model};
use crate::random::Random;
use crate::script::{GUESTS, Meanwhile, Step, Which, has_unique_ids, trapped_request};
use crate::trace::{self, Deed, OnPurpose};

/// Turns of the server after which it has to have come to rest.
const TURNS: usize = 20_000;
/// The same, while a ring changes at each look and gives work for ever.
const TURNS_SCRIBBLED: usize = 30;
/// The node that tells of a crash.
const CRASH_NODE: &str = "/tool/xenstored/crash";

pub struct Runner {
    pub server: Server,
    pub machine: Machine,
    pub model: Model,
    pub clients: BTreeMap<u16, Client>,
    pub now_ms: u64,
    pub counts: Counts,
    /// The server was told that a domain has ended.
    is_told: bool,
    has_unique_ids: bool,
    next_unique_id: u64,
    /// Domains whose requests were handled since the last step began.
    pub active: Vec<u16>,
    /// What each domain took of memory when the last step began.
    pub memory_before: BTreeMap<u16, usize>,
}

fn config() -> Config {
    Config { trace: Trace { switches: Switches::IO, is_on: true }, ..Config::default() }
}

impl Runner {
    /// A server with dom0 connected.
    pub fn new(seed: u64, flaw: Flaw) -> Self {
        trace::listen();
        trace::take();
        trace::set_trap(false);
        let mut runner = Self {
            server: Server::new(config()),
            machine: Machine::default(),
            model: Model::new(flaw),
            clients: BTreeMap::new(),
            now_ms: 1000,
            counts: Counts::default(),
            is_told: false,
            has_unique_ids: has_unique_ids(seed),
            next_unique_id: 100,
            active: Vec::new(),
            memory_before: BTreeMap::new(),
        };
        runner.machine.info_probe = Some(trace::probe);
        runner.build(0);
        runner.server.handle_boot_domain(DOM0, 1, &mut runner.machine).expect("dom0 has a ring and a port");
        runner.model.introduce(0, &runner.machine);
        runner
    }

    /// Makes one step, and looks at everything.
    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        self.active.clear();
        self.note_memory();
        match step {
            Step::Ask { domid, which, kind, payload, now, signals } => {
                self.ask(*domid, *which, *kind, payload, *now, *signals)
            }
            Step::SendRest { domid } => self.send(*domid, usize::MAX, true),
            Step::Take { domid, most } => self.take(*domid, *most),
            Step::Signal { domid } => self.signal(*domid),
            Step::Spurious => {
                self.counts.add("spurious signals", 1);
                self.server.handle_event(Port(9999));
                self.is_told = true;
                self.server.handle_domain_exception();
                self.run()
            }
            Step::WakeAll => {
                self.is_told = true;
                self.server.wake_all();
                self.clients.values_mut().for_each(|client| client.is_unheard = false);
                self.run()
            }
            Step::Pass { ms } => {
                self.now_ms += ms;
                self.counts.add("seconds", ms.div_ceil(1000));
                self.run()
            }
            Step::Memory { free } => {
                self.counts.add("memory shrinks", u64::from(free.is_some()));
                self.machine.free_memory = *free;
                self.model.is_scarce = free.is_some();
                Ok(())
            }
            Step::Update { newest, clock, meanwhile } => self.update(*newest, *clock, *meanwhile),
            Step::Crash { domid, which, is_repeated } => self.crash(*domid, *which, *is_repeated),
            Step::Walk => self.walk(),
            _ => self.upheaval(step),
        }?;
        self.check()
    }

    /// What happens to domains.
    fn upheaval(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Build { domid } => {
                if self.machine.domains.contains_key(&DomId(domid)) {
                    return Ok(());
                }
                // Without such numbers, that of a domain is not free as long as its ring is mapped.
                if !self.has_unique_ids && self.model.known.contains_key(&domid) {
                    self.tell()?;
                }
                self.counts.add("numbers used again", u64::from(self.model.known.contains_key(&domid)));
                self.build(domid);
                Ok(())
            }
            Step::Kill { domid, tells } => {
                self.end_domain(domid);
                if tells { self.tell() } else { Ok(()) }
            }
            Step::State { domid, state, tells } => {
                if let Some(have) =
                    self.machine.domains.get_mut(&DomId(domid)).filter(|have| **have != DomainState::Dying)
                {
                    *have = state;
                    self.counts.add("domains shut down", u64::from(state == DomainState::Shutdown));
                    self.counts.add("domains dying", u64::from(state == DomainState::Dying));
                }
                if tells { self.tell() } else { Ok(()) }
            }
            Step::Grant { domid, gives } => {
                if let Some(client) =
                    self.clients.get(&domid).filter(|_| self.machine.domains.contains_key(&DomId(domid)))
                {
                    if gives {
                        self.machine.pages.insert(DomId(domid), client.page.clone());
                    } else if self.machine.pages.remove(&DomId(domid)).is_some() {
                        self.counts.add("grants taken back", 1);
                    }
                }
                Ok(())
            }
            _ => self.cheat(step),
        }
    }

    /// What a guest does to its ring page.
    fn cheat(&mut self, step: &Step) -> Result<(), String> {
        let (Step::Cheat { domid, .. }
        | Step::Scribble { domid, .. }
        | Step::Rest { domid }
        | Step::Garbage { domid, .. }
        | Step::Reconnect { domid }) = step
        else {
            unreachable!("{step:?} is made elsewhere");
        };
        let Some(client) = self.clients.get_mut(domid) else { return Ok(()) };
        let page = client.page.clone();
        match step {
            Step::Cheat { reply, .. } => {
                client.is_wild = true;
                self.counts.add("impossible indices", 1);
                if *reply {
                    page.store(Field::ReplyConsumer, page.load(Field::ReplyProducer).wrapping_add(1));
                } else {
                    page.store(Field::RequestProducer, page.load(Field::RequestConsumer).wrapping_add(1025));
                }
            }
            Step::Scribble { seed, .. } => {
                let mut random = Random::new(*seed);
                client.is_wild = true;
                client.fill(|| if random.once_in(24) { random.below(30) as u8 } else { 0 });
                page.scribble(Some(random));
                self.counts.add("scribbled rings", 1);
            }
            Step::Rest { .. } => page.scribble(None),
            Step::Garbage { bytes, .. } if client.unread() as usize + bytes.len() <= 1024 && !page.is_scribbled() => {
                client.is_wild = true;
                client.put_bytes(bytes);
                self.counts.add("garbage", 1);
            }
            Step::Reconnect { .. } => {
                page.scribble(None);
                page.store(Field::Connection, 1);
            }
            _ => {}
        }
        self.signal(*domid)
    }

    fn build(&mut self, domid: u16) {
        let page = Page::default();
        page.watch(trace::onlooker(domid));
        self.machine.domains.insert(DomId(domid), DomainState::Running);
        self.machine.pages.insert(DomId(domid), page.clone());
        self.clients.insert(domid, Client::new(page));
        if self.has_unique_ids && domid != 0 {
            self.next_unique_id += 1;
            self.machine.unique_ids.insert(DomId(domid), self.next_unique_id);
        }
        self.counts.add("domains", 1);
    }

    /// A domain is gone.
    fn end_domain(&mut self, domid: u16) {
        if self.machine.domains.remove(&DomId(domid)).is_some() {
            self.counts.add("deaths", 1);
        }
        self.machine.pages.remove(&DomId(domid));
        self.machine.unique_ids.remove(&DomId(domid));
        self.clients.remove(&domid);
    }

    /// The hypervisor says that a domain has ended.
    fn tell(&mut self) -> Result<(), String> {
        self.is_told = true;
        self.server.handle_domain_exception();
        self.run()
    }

    fn ask(
        &mut self,
        domid: u16,
        which: Which,
        kind: u32,
        payload: &[u8],
        now: usize,
        signals: bool,
    ) -> Result<(), String> {
        let transaction = self.transaction(domid, which);
        let Some(client) = self.clients.get_mut(&domid) else { return Ok(()) };
        let before = client.unsent();
        let added = client.ask(transaction, kind, payload);
        self.counts.add("half requests", u64::from(now < added));
        self.send(domid, before.saturating_add(now), signals)
    }

    /// The number of a transaction.
    fn transaction(&self, domid: u16, which: Which) -> u32 {
        let open = self.model.connections.get(&domid).map(|connection| &connection.transactions);
        match (which, open) {
            (Which::Open(at), Some(open)) if !open.is_empty() => *open.keys().rev().nth(at % open.len()).expect("one"),
            (Which::Number(number), _) => number,
            _ => 0,
        }
    }

    /// A domain puts what it has to send into its ring, as the server makes room.
    fn send(&mut self, domid: u16, mut most: usize, signals: bool) -> Result<(), String> {
        loop {
            let Some(client) = self.clients.get_mut(&domid) else { return Ok(()) };
            let count = client.put(most);
            most -= count;
            if !signals {
                client.is_unheard = true;
                self.counts.add("lost signals", 1);
                return Ok(());
            }
            self.signal(domid)?;
            if count == 0 || most == 0 {
                return Ok(());
            }
        }
    }

    fn take(&mut self, domid: u16, mut most: usize) -> Result<(), String> {
        loop {
            let Some(client) = self.clients.get_mut(&domid) else { return Ok(()) };
            let count = client.take(most)?;
            most -= count;
            self.signal(domid)?;
            if count == 0 || most == 0 {
                return Ok(());
            }
        }
    }

    /// A domain signals its port.
    fn signal(&mut self, domid: u16) -> Result<(), String> {
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        if let Some(port) = port {
            self.server.handle_event(port);
            self.clients.entry(domid).and_modify(|client| client.is_unheard = false);
        }
        self.run()
    }

    /// Lets the server work until it has nothing to do, and tells the model what it did.
    fn run(&mut self) -> Result<(), String> {
        self.begin_turns();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.turn()));
        match outcome {
            Ok(is_at_rest) => {
                self.follow()?;
                if is_at_rest { Ok(()) } else { Err("G1: the server does not come to rest".into()) }
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    fn begin_turns(&mut self) {
        trace::take();
        if std::mem::take(&mut self.is_told) {
            self.model.look_at_all(&mut self.machine);
        }
        self.model.expire(self.now_ms);
    }

    /// Turns of the server; whether it came to rest.
    fn turn(&mut self) -> bool {
        let is_scribbled = self.machine.mapped.values().any(Page::is_scribbled);
        for _ in 0..if is_scribbled { TURNS_SCRIBBLED } else { TURNS } {
            let is_busy = self.server.poll(&mut self.machine, self.now_ms).busy;
            while self.server.poll_action().is_some() {}
            if !is_busy {
                return true;
            }
        }
        is_scribbled
    }

    /// Tells the model what the server did.
    fn follow(&mut self) -> Result<(), String> {
        for deed in trace::take() {
            match deed {
                Deed::Took(domid, bytes) => self.model.took(domid, &bytes),
                Deed::Put(domid, bytes) => {
                    self.model.put(domid, &bytes).map_err(|wrong| format!("domain {domid}: {wrong}"))?;
                    if let Some(client) = self.clients.get_mut(&domid) {
                        client.incoming.extend(bytes);
                    }
                }
                Deed::Connected(domid) => self.model.connected(domid),
                Deed::Handled(domid, outcome) => {
                    self.active.push(domid);
                    self.model.handled(domid, outcome, &self.machine)?;
                }
            }
            self.restart_clients();
        }
        self.follow_ring_faults()
    }

    fn restart_clients(&mut self) {
        for domid in self.model.take_restarted() {
            self.counts.add("fresh connections", 1);
            // A ring that is not mapped can't be emptied.
            let page = self.machine.mapped.get(&DomId(domid));
            if let Some(client) =
                self.clients.get_mut(&domid).filter(|client| page.is_some_and(|page| client.has(page)))
            {
                client.restart();
            }
        }
    }

    /// A connection that was shut over an index: only one whose domain has put one there that can't be.
    fn follow_ring_faults(&mut self) -> Result<(), String> {
        let domids: Vec<u16> = self.model.connections.keys().copied().collect();
        for domid in domids {
            let fault = self.fault(domid);
            let expected = self.model.connection(domid).fault;
            if fault == expected {
                continue;
            }
            let is_wild = self.clients.get(&domid).is_none_or(|client| client.is_wild);
            if fault == Some(2) && expected.is_none() && is_wild {
                self.counts.add("connections shut over an index", 1);
                self.model.fault(domid, 2);
                continue;
            }
            return Err(format!("G3: the connection of domain {domid} has fault {fault:?}, and not {expected:?}"));
        }
        Ok(())
    }

    /// Why a domain's connection was shut.
    fn fault(&self, domid: u16) -> Option<u32> {
        let engine = self.server.engine();
        let connection = engine.state().domains.connection(DomId(domid)).and_then(|id| engine.connection(id));
        connection.and_then(|connection| connection.fault()).map(|fault| fault as u32)
    }

    /// The server is saved, and another one goes on.
    fn update(&mut self, newest: bool, clock: u64, meanwhile: Meanwhile) -> Result<(), String> {
        let needs_newest = !self.server.engine().version_2_needs(self.now_ms).is_empty();
        let version = if newest || needs_newest { Version::Two } else { Version::One };
        self.counts.add(if version == Version::One { "updates, version 1" } else { "updates, version 2" }, 1);
        self.count_connections();
        let mut stream = Vec::new();
        let options = SaveOptions { now_ms: self.now_ms, reply: None };
        self.server.save_to(&mut stream, version, &options).map_err(|error| format!("not saved: {error:?}"))?;
        let closed = self.meanwhile(meanwhile);
        // The successor has another clock.
        self.now_ms += clock;
        self.model.shift_clock(clock);
        self.replace(&stream, closed)?;
        self.run()
    }

    fn meanwhile(&mut self, meanwhile: Meanwhile) -> Option<u16> {
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Dies(domid) => {
                self.counts.add("deaths in an update", 1);
                self.end_domain(domid);
            }
            Meanwhile::GrantEnds(domid) => {
                self.counts.add("grants taken back in an update", 1);
                self.machine.pages.remove(&DomId(domid));
            }
            Meanwhile::PortCloses(domid) => {
                let bound = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid));
                if let Some(port) = bound.map(|(port, _)| *port) {
                    self.counts.add("ports closed in an update", 1);
                    self.machine.bound.remove(&port);
                    self.machine.remote.remove(&port);
                    return Some(domid);
                }
            }
        }
        None
    }

    /// A server with a saved state takes over.
    fn replace(&mut self, stream: &[u8], closed: Option<u16>) -> Result<(), String> {
        self.machine.mapped.clear();
        let engine = load(stream, &config(), self.now_ms).map_err(|error| format!("not restored: {error:?}"))?;
        self.server = Server::restored(engine);
        let taken = self.server.take_over(&mut self.machine, self.now_ms, TakeOver::Live);
        self.counts.add("connections lost in an update", taken.lost as u64);
        if !taken.has_control {
            return Err("G1: dom0 is not served any more".into());
        }
        self.model.taken_over(&self.machine, closed);
        self.is_told = true;
        Ok(())
    }

    fn count_connections(&mut self) {
        for connection in self.model.connections.values() {
            self.counts.add("half requests in an update", u64::from(!connection.input.is_empty()));
            self.counts.add("half replies in an update", u64::from(connection.queue.has_half_message()));
            self.counts.add("unread messages in an update", connection.queue.len() as u64);
            self.counts.add("open transactions in an update", connection.transactions.len() as u64);
            self.counts.add("shut connections in an update", u64::from(connection.fault.is_some()));
        }
    }

    /// The server panics while it handles a request of a domain, and another one goes on.
    fn crash(&mut self, domid: u16, which: Which, is_repeated: bool) -> Result<(), String> {
        let (kind, payload) = trapped_request(domid);
        let transaction = self.transaction(domid, which);
        let Some(client) = self.clients.get_mut(&domid) else { return Ok(()) };
        client.ask(transaction, kind.to_wire(), &payload);
        client.put(usize::MAX);
        client.is_unheard = false;
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        port.into_iter().for_each(|port| self.server.handle_event(port));
        self.begin_turns();
        trace::set_trap(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.turn()));
        trace::set_trap(false);
        match outcome {
            Ok(_) => self.follow(),
            Err(panic) if panic.is::<OnPurpose>() => self.restart(is_repeated),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// A warm restart, after the server panicked with a request in hand.
    fn restart(&mut self, is_repeated: bool) -> Result<(), String> {
        self.follow()?;
        let connections: Vec<u16> = self.model.connections.keys().copied().collect();
        let in_hand = connections.into_iter().find_map(|domid| Some((domid, self.model.request(domid)?)));
        let (domid, (header, payload)) = in_hand.ok_or("no request was in hand")?;
        self.counts.add(if domid == 0 { "crashes by dom0" } else { "crashes by guests" }, 1);
        self.model.look_at_named(domid, T::from_wire(header.kind).expect("it has a handler"), &payload, &self.machine);
        let connection = self.server.engine().state().domains.connection(DomId(domid)).ok_or("it is connected")?;
        let request = InHand { connection, header, payload: 0 };
        let mut stream = Vec::new();
        let saved = self.server.save_after_crash(&request, &mut stream, self.now_ms);
        saved.map_err(|error| format!("not saved: {error:?}"))?;
        self.machine.free_memory = None;
        self.model.is_scarce = false;
        self.model.crashed(domid, header);
        self.replace(&stream, None)?;
        let report = "it broke";
        let crash = Crash { domid: DomId(domid), is_repeated, report, node: CRASH_NODE };
        self.server.handle_crash(&crash, &mut self.machine, self.now_ms);
        self.model.told_of_crash(domid, is_repeated, CRASH_NODE, report, &self.machine);
        self.run()
    }

    /// Dom0 reads everything, node by node; the model knows what it has to find.
    pub fn walk(&mut self) -> Result<(), String> {
        self.finish(0)?;
        self.ask_now(T::Control, "check\0")?;
        let paths: Vec<String> = self.model.store.nodes.keys().cloned().collect();
        for path in paths {
            self.counts.add("nodes read in walks", 1);
            for kind in [T::Directory, T::Read, T::GetPerms] {
                self.ask_now(kind, &format!("{path}\0"))?;
            }
        }
        Ok(())
    }

    /// A request of dom0 that is answered at once.
    fn ask_now(&mut self, kind: T, payload: &str) -> Result<(), String> {
        self.ask(0, Which::None, kind.to_wire(), payload.as_bytes(), usize::MAX, true)?;
        self.take(0, usize::MAX)
    }

    /// A domain sends and reads everything that it can.
    fn finish(&mut self, domid: u16) -> Result<(), String> {
        for _ in 0..100 {
            self.send(domid, usize::MAX, true)?;
            self.take(domid, usize::MAX)?;
            if self.clients.get(&domid).is_none_or(|client| client.unsent() == 0) {
                break;
            }
        }
        Ok(())
    }

    /// Everybody reads and is answered; then all guests go, and nothing of them is left.
    pub fn end(&mut self) -> Result<(), String> {
        self.machine.free_memory = None;
        self.model.is_scarce = false;
        self.clients.values().for_each(|client| client.page.scribble(None));
        // Sooner or later it is told of every death.
        self.tell()?;
        for round in 0..60 {
            for domid in [0].into_iter().chain(GUESTS) {
                self.finish(domid)?;
            }
            if round > 2 && self.unanswered().is_none() {
                break;
            }
            self.now_ms += 1000;
            self.run()?;
        }
        if let Some(domid) = self.unanswered() {
            return Err(format!("G2: domain {domid} waits for a reply"));
        }
        self.check()?;
        self.walk()?;
        GUESTS.into_iter().for_each(|domid| self.end_domain(domid));
        self.tell()?;
        self.check()?;
        self.walk()?;
        self.check_nothing_is_left()
    }

    /// What happened.
    pub fn counted(&self) -> Counts {
        let mut counts = self.counts.clone();
        let tally = &self.model.tally;
        counts.add("requests", tally.requests as u64);
        for (outcome, count) in &tally.outcomes {
            counts.add(format!("answered {outcome}"), *count as u64);
        }
        counts.add("events", tally.events as u64);
        counts.add("events that nobody read in time", tally.expired as u64);
        counts.add("commits", tally.commits as u64);
        counts.add("commits by a replay", tally.replays as u64);
        counts.add("releases", tally.deaths as u64);
        counts.add("refused for memory", tally.refused_for_memory as u64);
        counts
    }

    /// A domain that keeps to the rules and has something to send or to be sent.
    fn unanswered(&self) -> Option<u16> {
        self.clients.iter().find_map(|(domid, client)| {
            let connection = self.model.connections.get(domid).filter(|of| of.fault.is_none() && of.is_mapped)?;
            let waits = client.unsent() > 0 || client.unread() > 0 || !connection.queue.is_empty();
            (waits && !client.is_wild).then_some(*domid)
        })
    }
}
