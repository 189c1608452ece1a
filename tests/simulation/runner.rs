//! Runs a history: the server, the machine around it, and the domains. Compares everything that the server does with
//! the model.

use std::collections::BTreeMap;

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::{DomainState, Port};
use xenstore::engine::report::trace::{Switches, Trace};
use xenstore::server::Server;
use xenstore::store::domain::DomId;
use xenstore::wire::ring::{Field, RingPage};

use crate::client::Client;
use crate::counts::Counts;
use crate::model::{Flaw, Model};
use crate::script::{Step, Which, has_unique_ids};
use crate::support::machine::{DOM0, Machine, Page};
use crate::support::random::Random;
use crate::trace::{self, Deed};

/// Turns after which the server must have no more work.
const TURNS: usize = 20_000;
/// The same limit while a ring changes at each access and causes work for ever.
const TURNS_SCRIBBLED: usize = 30;

pub struct Runner {
    pub server: Server,
    pub machine: Machine,
    pub model: Model,
    pub clients: BTreeMap<u16, Client>,
    pub now_ms: u64,
    pub counts: Counts,
    /// Whether the server was notified that a domain has ended.
    pub is_told: bool,
    has_unique_ids: bool,
    next_unique_id: u64,
    /// Domains whose requests were executed since the last step began.
    pub active: Vec<u16>,
    /// The memory of each domain when the last step began.
    pub memory_before: BTreeMap<u16, usize>,
}

pub fn config() -> Config {
    Config { trace: Trace { switches: Switches::IO, is_on: true }, ..Config::default() }
}

impl Runner {
    /// Returns a server with dom0 connected.
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

    /// Makes one step, and checks everything.
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
                self.model.set_scarce(free.is_some());
                Ok(())
            }
            Step::Update { newest, clock, meanwhile } => self.update(*newest, *clock, *meanwhile),
            Step::Crash { domid, which, is_repeated } => self.crash(*domid, *which, *is_repeated),
            Step::Walk => self.walk(),
            _ => self.upheaval(step),
        }?;
        self.check()
    }

    /// Makes a step of a domain's life.
    fn upheaval(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Build { domid } => {
                if self.machine.domains.contains_key(&DomId(domid)) {
                    return Ok(());
                }
                // Without unique ids, a domain's number is in use as long as its ring is mapped.
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

    /// Makes a guest's step on its ring page.
    fn cheat(&mut self, step: &Step) -> Result<(), String> {
        let (Step::Cheat { domid, .. }
        | Step::Scribble { domid, .. }
        | Step::Rest { domid }
        | Step::Garbage { domid, .. }
        | Step::Erase { domid }
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
            Step::Erase { .. } => {
                let connection = self.model.connections.get(domid);
                let is_idle = connection
                    .is_some_and(|of| of.error.is_none() && of.input.is_empty() && of.queue.is_empty())
                    && client.is_idle();
                if is_idle {
                    page.0.borrow_mut().fill(0);
                    self.counts.add("erased rings", 1);
                }
            }
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

    /// Ends a domain.
    pub fn end_domain(&mut self, domid: u16) {
        if self.machine.domains.remove(&DomId(domid)).is_some() {
            self.counts.add("deaths", 1);
        }
        self.machine.pages.remove(&DomId(domid));
        self.machine.unique_ids.remove(&DomId(domid));
        self.clients.remove(&domid);
    }

    /// Signals the end of a domain.
    pub fn tell(&mut self) -> Result<(), String> {
        self.is_told = true;
        self.server.handle_domain_exception();
        self.run()
    }

    pub fn ask(
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

    /// Returns the number of a transaction.
    pub fn transaction(&self, domid: u16, which: Which) -> u32 {
        let open = self.model.connections.get(&domid).map(|connection| &connection.transactions);
        match (which, open) {
            (Which::Open(at), Some(open)) if !open.is_empty() => *open.keys().rev().nth(at % open.len()).expect("one"),
            (Which::Number(number), _) => number,
            _ => 0,
        }
    }

    /// Writes a domain's pending requests into its ring, as the server makes room.
    pub fn send(&mut self, domid: u16, mut most: usize, signals: bool) -> Result<(), String> {
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

    pub fn take(&mut self, domid: u16, mut most: usize) -> Result<(), String> {
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

    /// Signals a domain's port.
    pub fn signal(&mut self, domid: u16) -> Result<(), String> {
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        if let Some(port) = port {
            self.server.handle_event(port);
            self.clients.entry(domid).and_modify(|client| client.is_unheard = false);
        }
        self.run()
    }

    /// Lets the server work until it has nothing to do, and reports its actions to the model.
    pub fn run(&mut self) -> Result<(), String> {
        self.begin_turns();
        let is_at_rest = self.turn();
        self.follow()?;
        let unhandled = self.model.connections.iter().find(|(_, connection)| connection.has_whole_request());
        if let Some((domid, _)) = unhandled {
            return Err(format!("G2: a request of domain {domid} was taken and not handled"));
        }
        if is_at_rest { Ok(()) } else { Err("G1: the server does not come to rest".into()) }
    }

    pub fn begin_turns(&mut self) {
        trace::take();
        if std::mem::take(&mut self.is_told) {
            self.model.look_at_all(&mut self.machine);
        }
        self.model.expire(self.now_ms);
    }

    /// Runs turns of the server. Returns whether it has no more work.
    pub fn turn(&mut self) -> bool {
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

    /// Reports the server's actions to the model.
    pub fn follow(&mut self) -> Result<(), String> {
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
                    let is_scribbled = self.clients.get(&domid).is_some_and(|client| client.page.is_scribbled());
                    self.counts.add("requests out of scribbled rings", u64::from(is_scribbled));
                    self.model.handled(domid, outcome, &self.machine)?;
                }
            }
            self.restart_clients();
        }
        self.follow_ring_errors()
    }

    fn restart_clients(&mut self) {
        for domid in self.model.take_restarted() {
            self.counts.add("fresh connections", 1);
            // A ring that is not mapped cannot be emptied.
            let page = self.machine.mapped.get(&DomId(domid));
            if let Some(client) =
                self.clients.get_mut(&domid).filter(|client| page.is_some_and(|page| client.has(page)))
            {
                client.restart();
            }
        }
    }

    /// Follows a connection that was shut over an index. The domain must have written an impossible one.
    fn follow_ring_errors(&mut self) -> Result<(), String> {
        let domids: Vec<u16> = self.model.connections.keys().copied().collect();
        for domid in domids {
            let error = self.error(domid);
            let expected = self.model.connection(domid).error;
            if error == expected {
                continue;
            }
            let is_wild = self.clients.get(&domid).is_none_or(|client| client.is_wild);
            if error == Some(2) && expected.is_none() && is_wild {
                self.counts.add("connections shut over an index", 1);
                self.model.set_error(domid, 2);
                continue;
            }
            return Err(format!("G3: the connection of domain {domid} has error {error:?} instead of {expected:?}"));
        }
        Ok(())
    }

    /// Returns the reason why a domain's connection is shut.
    fn error(&self, domid: u16) -> Option<u32> {
        let engine = self.server.engine();
        let connection = engine.state().domains.connection(DomId(domid)).and_then(|id| engine.connection(id));
        connection.and_then(|connection| connection.error()).map(|error| error as u32)
    }
}
