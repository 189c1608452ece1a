//! Two servers, the same steps for both, and their answers side by side.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use crate::accepted::{self, Circumstances, Then};
use crate::coverage::Coverage;
use crate::generator::may_cause_events;
use crate::model::{CONNECTIONS, DOM0_CLIENTS, Model, Request, Step, Tx, connection_of, guest_of};
use crate::model::{GUESTS, Handle, Scope, name_of};
use crate::peers::client::{self, Client, Message, WATCH_EVENT, counted, without_generation};
use crate::peers::names;
use crate::quotas::Quotas;
use crate::server::{Kind, Server};
use crate::setting;
use crate::special_events;

/// The number of steps that a failure prints, unless `DIFF_HISTORY` sets another.
const REMEMBERED: usize = 24;

/// A domain that is only shut down, so that the server reports when it has checked all domains.
const CANARY: u32 = 60;

/// A request of the comparison itself, after whose reply all earlier events have arrived.
const BARRIER: (u32, &[u8]) = (names::GET_DOMAIN_PATH, b"0\0");

/// The continuation of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    Go,
    /// An accepted difference has put the servers into different states: both have to be started again.
    Restart,
}

/// The two servers and all connections to them.
pub struct Comparison {
    pub servers: [Server; 2],
    kinds: [Kind; 2],
    clients: Vec<[Option<Client>; 2]>,
    /// The comparison's own clients, which learn when the server has checked the domains.
    control: [Client; 2],
    /// Each server's number of each transaction.
    transactions: Vec<[u32; 2]>,
    next_request: u32,
    history: VecDeque<String>,
    remembered: usize,
    pub model: Model,
}

/// A difference between the servers.
#[derive(Debug)]
pub struct Difference(pub String);

impl From<io::Error> for Difference {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The number of requests between two comparisons of the guests' counts.
const USAGE_INTERVAL: u32 = 50;

impl Comparison {
    /// Starts both servers and connects to them.
    pub fn start(kinds: [Kind; 2], quotas: &Quotas) -> io::Result<Self> {
        let servers = [Server::start(kinds[0], quotas)?, Server::start(kinds[1], quotas)?];
        let connect = |at: usize| Client::connect(servers[at].folder());
        let take_ring = |at: usize| Client::dom0(servers[at].folder());
        let mut clients = vec![[Some(connect(0)?), Some(connect(1)?)], [Some(take_ring(0)?), Some(take_ring(1)?)]];
        clients.resize_with(CONNECTIONS, || [None, None]);
        let control = [connect(0)?, connect(1)?];
        let mut comparison = Self {
            servers,
            kinds,
            clients,
            control,
            transactions: Vec::new(),
            next_request: 0,
            history: VecDeque::new(),
            remembered: setting("DIFF_HISTORY").map_or(REMEMBERED, |steps| steps as usize),
            model: Model::new(quotas.clone(), Scope::of(kinds)),
        };
        comparison.prepare_control()?;
        Ok(comparison)
    }

    /// Makes one step with both servers.
    pub fn step(&mut self, step: &Step, coverage: &mut Coverage) -> Result<Onward, Difference> {
        let outcome = self.do_step(step, coverage).and_then(|onward| {
            if onward == Onward::Go && self.next_request.is_multiple_of(USAGE_INTERVAL) {
                self.compare_usage(coverage)?;
            }
            Ok(onward)
        });
        outcome.map_err(|Difference(what)| Difference(format!("{what}\n{}", self.story(step))))
    }

    fn do_step(&mut self, step: &Step, coverage: &mut Coverage) -> Result<Onward, Difference> {
        match step {
            Step::Request(request) => return self.request(request, coverage),
            Step::BreakProtocol { connection, payload_bytes } => {
                self.break_protocol(*connection, *payload_bytes)?;
                coverage.count_step("break the protocol");
            }
            Step::Create(domid) => {
                for at in 0..2 {
                    let client = Client::create_domain(self.servers[at].folder(), *domid)?;
                    if *domid <= GUESTS as u32 {
                        self.clients[connection_of(*domid)][at] = Some(client);
                    }
                }
                coverage.count_step("create");
            }
            Step::Run(domid) => self.set_state(*domid, "r")?,
            Step::ShutDown(domid) => {
                self.set_state(*domid, "s")?;
                self.look_at_domains(step)?;
                coverage.count_step("shut down");
            }
            Step::Die(domid) => {
                self.set_state(*domid, "d")?;
                self.look_at_domains(step)?;
                coverage.count_step("die");
            }
            Step::Destroy(domid) => {
                for server in &self.servers {
                    client::destroy_domain(server.folder(), *domid);
                }
                self.look_at_domains(step)?;
                coverage.count_step("destroy");
            }
        }
        self.model.stepped(step);
        self.remember(format!("{step:?}"));
        self.compare_events(None, None, coverage)?;
        Ok(Onward::Go)
    }

    /// Compares the counts of both servers for each guest.
    fn compare_usage(&mut self, coverage: &mut Coverage) -> Result<(), Difference> {
        for domid in 1..=GUESTS {
            let asked = format!("quota\0{domid}\0");
            let [theirs, ours] = [0, 1].map(|at| self.ask(at, names::CONTROL, asked.as_bytes()));
            // A domain that only permissions name may be forgotten at another moment.
            let (Some(theirs), Some(ours)) = (theirs?, ours?) else { continue };
            for name in ["nodes", "watches", "transactions"] {
                let [theirs, ours] = [&theirs, &ours].map(|shown| counted(&shown.payload, name));
                if theirs.is_none() || theirs != ours {
                    return Err(Difference(format!("domain {domid} has {theirs:?} {name} there and {ours:?} here")));
                }
            }
            coverage.usages += 1;
        }
        Ok(())
    }

    fn set_state(&self, domid: u32, state: &str) -> io::Result<()> {
        self.servers.iter().try_for_each(|server| client::set_domain_state(server.folder(), domid, state))
    }

    /// Sends one request to both servers and compares all messages that come back.
    fn request(&mut self, request: &Request, coverage: &mut Coverage) -> Result<Onward, Difference> {
        let id = self.new_request_id();
        let tx = self.tx_ids(request.tx);
        for (at, tx) in tx.into_iter().enumerate() {
            let client = client_of(&mut self.clients, request.connection, at)?;
            client.request(request.kind, id, tx, &request.payload)?;
        }
        let answers = [self.receive(request.connection, 0, id)?, self.receive(request.connection, 1, id)?];
        let [theirs, ours] = &answers;
        self.remember(self.describe(request, tx, &answers));
        let (reply, events) = theirs.split_last().expect("the reply is the last");
        let (our_reply, our_events) = ours.split_last().expect("the reply is the last");
        coverage.count(request.kind, reply);
        coverage.events += events.len();
        if !self.replies_agree(request, tx, reply, our_reply) {
            let more_entries = self.has_more_entries(request)?;
            let circumstances = self.circumstances(request, more_entries);
            let accepted = accepted::find(self.kinds, &circumstances, reply, our_reply);
            let Some(accepted) = accepted else { return Err(Difference("the replies differ".into())) };
            coverage.count_accepted(accepted.reason);
            match accepted.then {
                Then::GoOn => {}
                Then::AbortTransaction => return self.abort_transaction(request, coverage),
                Then::Restart => return Ok(Onward::Restart),
            }
        }
        // The C server sends the reply to RELEASE before or after the events, by the order of its list.
        let early = if request.kind == names::RELEASE {
            Some((request.connection, [events.to_vec(), our_events.to_vec()]))
        } else {
            let (mut theirs, mut ours) = (events.to_vec(), our_events.to_vec());
            self.align_special_events(Some(request), request.connection, [&mut theirs, &mut ours], coverage);
            compare_messages(&theirs, &ours)?;
            None
        };

        if request.kind == names::TRANSACTION_START && reply.kind != names::ERROR {
            self.transactions.push([number(reply)?, number(our_reply)?]);
        }
        self.model.answered(request, reply);
        if may_cause_events(request.kind) {
            self.compare_events(Some(request), early, coverage)?;
        }
        Ok(Onward::Go)
    }

    /// Gives up the transaction, whose contents differ by an accepted difference. Nothing else has happened.
    fn abort_transaction(&mut self, request: &Request, coverage: &mut Coverage) -> Result<Onward, Difference> {
        let abort = Request { kind: names::TRANSACTION_END, payload: b"F\0".to_vec(), ..request.clone() };
        self.request(&abort, coverage)
    }

    fn circumstances<'a>(&'a self, request: &'a Request, more_entries: bool) -> Circumstances<'a> {
        let is_in = |transactions: &BTreeSet<Handle>| matches!(request.tx, Tx::Of(at) if transactions.contains(&at));
        Circumstances {
            request,
            more_entries,
            has_outlived_a_domain: self.model.has_outlived_a_domain(request.tx),
            has_met_a_quota: is_in(&self.model.met_a_quota),
            was_refused_special: is_in(&self.model.refused_special),
            is_privileged: request.connection < DOM0_CLIENTS,
            is_in_transaction: matches!(request.tx, Tx::Of(_)),
            gone: &self.model.gone,
            quotas: &self.model.quotas,
        }
    }

    /// Returns whether the first server lists more permissions than the second for a request's node or one above.
    fn has_more_entries(&mut self, request: &Request) -> io::Result<bool> {
        let first = request.payload.split(|byte| *byte == 0).next().unwrap_or_default();
        let Ok(spelling) = std::str::from_utf8(first) else { return Ok(false) };
        let domid = guest_of(request.connection).unwrap_or(0);
        let path =
            if spelling.starts_with('/') { spelling.into() } else { format!("/local/domain/{domid}/{spelling}") };
        for (end, _) in [(1, "")].into_iter().chain(path.match_indices('/').skip(1)).chain([(path.len(), "")]) {
            let asked = [&path.as_bytes()[..end], b"\0"].concat();
            let entries =
                |reply: Option<Message>| reply.map_or(0, |reply| reply.payload.split(|byte| *byte == 0).count());
            let [theirs, ours] = [0, 1].map(|at| self.ask(at, names::GET_PERMS, &asked).map(entries));
            if theirs? > ours? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether the first server may send a guest events of special nodes because guests may read the root.
    fn may_be_seen_by_root(&mut self, connection: usize) -> io::Result<bool> {
        if !special_events::root_shows_special_nodes(self.kinds) || guest_of(connection).is_none() {
            return Ok(false);
        }
        let root = self.ask(0, names::GET_PERMS, b"/\0")?;
        let entries = root.iter().flat_map(|root| root.payload.split(|byte| *byte == 0));
        Ok(entries.into_iter().any(|entry| matches!(entry.first(), Some(b'r' | b'b'))))
    }

    /// Returns whether two replies are equivalent. Numbers of transactions and generations may differ.
    fn replies_agree(&self, request: &Request, tx: [u32; 2], theirs: &Message, ours: &Message) -> bool {
        if theirs.kind != ours.kind || theirs.transaction != tx[0] || ours.transaction != tx[1] {
            return false;
        }
        match theirs.kind {
            names::TRANSACTION_START => number(theirs).is_ok() && number(ours).is_ok(),
            names::DIRECTORY_PART => {
                without_generation(theirs).is_some_and(|list| Some(list) == without_generation(ours))
            }
            kind => (kind == request.kind || kind == names::ERROR) && theirs.payload == ours.payload,
        }
    }

    /// Waits until all events caused so far have arrived at all connections, and compares them. `early` are events that
    /// a connection got before.
    fn compare_events(
        &mut self,
        request: Option<&Request>,
        early: Option<(usize, [Vec<Message>; 2])>,
        coverage: &mut Coverage,
    ) -> Result<(), Difference> {
        let id = self.new_request_id();
        let concerned: Vec<usize> = (0..CONNECTIONS)
            .filter(|at| self.model.is_usable(*at) && !self.model.connections[*at].watches.is_empty())
            .collect();
        for connection in &concerned {
            for at in 0..2 {
                client_of(&mut self.clients, *connection, at)?.request(BARRIER.0, id, 0, BARRIER.1)?;
            }
        }
        for connection in concerned {
            let mut theirs = self.receive(connection, 0, id)?;
            let mut ours = self.receive(connection, 1, id)?;
            coverage.barriers += 1;
            coverage.events += theirs.len() - 1;
            if let Some((_, [their_early, our_early])) = early.as_ref().filter(|(at, _)| *at == connection) {
                theirs.splice(0..0, their_early.iter().cloned());
                ours.splice(0..0, our_early.iter().cloned());
            }
            if theirs.len() > 1 || theirs != ours {
                self.remember(format!(
                    "  events at {}:\n    C:    {theirs:?}\n    ours: {ours:?}",
                    name_of(connection)
                ));
            }
            self.align_special_events(request, connection, [&mut theirs, &mut ours], coverage);
            if theirs != ours && self.may_be_seen_by_root(connection)? {
                special_events::leave_unread_out(&mut theirs, &ours, coverage);
            }
            compare_messages(&theirs, &ours)?;
        }
        Ok(())
    }

    /// Removes the accepted differences between events of special nodes.
    fn align_special_events(
        &self,
        request: Option<&Request>,
        connection: usize,
        [theirs, ours]: [&mut Vec<Message>; 2],
        coverage: &mut Coverage,
    ) {
        if let Some(request) = request {
            special_events::leave_unsent_out(self.kinds, request, ours, coverage);
            special_events::sort(self.kinds, request, [theirs, ours], coverage);
        }
        let watches = &self.model.connections[connection].watches;
        special_events::leave_watched_by_root_out(self.kinds, watches, [theirs, ours], coverage);
    }

    /// Receives all messages of one connection up to the reply to a request.
    fn receive(&mut self, connection: usize, at: usize, id: u32) -> Result<Vec<Message>, Difference> {
        let kind = self.kinds[at];
        let client = client_of(&mut self.clients, connection, at)?;
        let mut messages = Vec::new();
        loop {
            let message = client.receive().map_err(|error| {
                let so_far = format!("received so far: {messages:?}");
                Difference(format!("{kind:?} does not answer {}: {error}; {so_far}", name_of(connection)))
            })?;
            let is_reply = message.kind != WATCH_EVENT;
            if is_reply && message.request != id {
                return Err(Difference(format!("{kind:?} answers request {} instead of {id}", message.request)));
            }
            messages.push(message);
            if is_reply {
                return Ok(messages);
            }
        }
    }

    fn break_protocol(&mut self, connection: usize, payload_bytes: u32) -> Result<(), Difference> {
        let id = self.new_request_id();
        let mut errors = [0; 2];
        for (at, error) in errors.iter_mut().enumerate() {
            let client = client_of(&mut self.clients, connection, at)?;
            client.send(names::READ, id, 0, payload_bytes, b"")?;
            *error = client.wait_until_shut()?;
        }
        if errors[0] != errors[1] {
            return Err(Difference(format!("shut with different errors: {errors:?}")));
        }
        // A guest's ring stays shut until its domain is released. A client of the socket connects again.
        if guest_of(connection).is_none() {
            for at in 0..2 {
                self.clients[connection][at] = Some(Client::connect(self.servers[at].folder())?);
            }
        }
        Ok(())
    }

    fn prepare_control(&mut self) -> io::Result<()> {
        for at in 0..2 {
            drop(Client::create_domain(self.servers[at].folder(), CANARY)?);
            self.control_request(at, names::INTRODUCE, format!("{CANARY}\x001\x001\0").as_bytes())?;
            self.control_request(at, names::WATCH, b"@releaseDomain\0control\0")?;
            // From 4.22 on, and here, every domain may watch releases.
            self.control_request(at, names::SET_PERMS, b"@releaseDomain\0n0\0")?;
            self.drain_control(at)?;
        }
        Ok(())
    }

    /// Makes both servers check all domains, and waits until they have.
    ///
    /// A domain of the comparison's own shuts down at the same time, so that there is always an event.
    fn look_at_domains(&mut self, step: &Step) -> Result<(), Difference> {
        let needs_canary = !self.model.is_reported(step);
        for at in 0..2 {
            self.drain_control(at)?;
            if needs_canary {
                client::set_domain_state(self.servers[at].folder(), CANARY, "s")?;
            }
            client::raise_exception(self.servers[at].folder())?;
        }
        for at in 0..2 {
            let kind = self.kinds[at];
            let event = self.control[at].receive();
            let event = event.map_err(|error| Difference(format!("{kind:?} does not report {step:?}: {error}")))?;
            if event.kind != WATCH_EVENT {
                return Err(Difference(format!("{kind:?} reports {step:?} by {event:?}")));
            }
            if needs_canary {
                client::set_domain_state(self.servers[at].folder(), CANARY, "r")?;
                self.control_request(at, names::RESUME, format!("{CANARY}\0").as_bytes())?;
            }
        }
        Ok(())
    }

    /// Sends a request of the comparison's own, which must succeed.
    fn control_request(&mut self, at: usize, kind: u32, payload: &[u8]) -> io::Result<()> {
        let kind_of_server = self.kinds[at];
        let refused = || io::Error::other(format!("{kind_of_server:?} refuses the comparison's {}", names::kind(kind)));
        self.ask(at, kind, payload)?.map(|_| ()).ok_or_else(refused)
    }

    /// Returns the payload of a successful request of the comparison's own. Events before it are dropped.
    fn ask(&mut self, at: usize, kind: u32, payload: &[u8]) -> io::Result<Option<Message>> {
        let client = &mut self.control[at];
        client.request(kind, 0, 0, payload)?;
        loop {
            let message = client.receive()?;
            if message.kind != WATCH_EVENT {
                return Ok((message.kind != names::ERROR).then_some(message));
            }
        }
    }

    fn drain_control(&mut self, at: usize) -> io::Result<()> {
        self.control_request(at, BARRIER.0, BARRIER.1)
    }

    const fn new_request_id(&mut self) -> u32 {
        self.next_request += 1;
        self.next_request
    }

    fn tx_ids(&self, tx: Tx) -> [u32; 2] {
        match tx {
            Tx::None => [0; 2],
            Tx::Of(handle) => self.transaction_numbers(handle),
            Tx::Wrong(number) => [number; 2],
        }
    }

    fn transaction_numbers(&self, handle: Handle) -> [u32; 2] {
        self.transactions[handle]
    }

    fn remember(&mut self, what: String) {
        self.history.push_back(what);
        if self.history.len() > self.remembered {
            self.history.pop_front();
        }
    }

    fn describe(&self, request: &Request, tx: [u32; 2], [theirs, ours]: &[Vec<Message>; 2]) -> String {
        let asked = Message { kind: request.kind, request: 0, transaction: tx[0], payload: request.payload.clone() };
        let name = name_of(request.connection);
        if theirs == ours {
            format!("{name}: {asked:?}\n    both: {theirs:?}")
        } else {
            format!("{name}: {asked:?} (here tx {})\n    C:    {theirs:?}\n    ours: {ours:?}", tx[1])
        }
    }

    /// Returns the last steps and the servers' reports.
    fn story(&mut self, step: &Step) -> String {
        let history: Vec<_> = self.history.iter().map(String::as_str).collect();
        let reports: Vec<_> = (0..2).map(|at| format!("{:?} {}", self.kinds[at], self.servers[at].report())).collect();
        let step = match step {
            Step::Request(Request { connection, kind, .. }) => {
                format!("{} by {}", names::kind(*kind), name_of(*connection))
            }
            other => format!("{other:?}"),
        };
        format!("at {step}\nlast steps:\n{}\n{}", history.join("\n"), reports.join("\n"))
    }
}

fn client_of(clients: &mut [[Option<Client>; 2]], connection: usize, at: usize) -> io::Result<&mut Client> {
    clients[connection][at].as_mut().ok_or_else(|| io::Error::other("a connection that is not there is used"))
}

fn compare_messages(theirs: &[Message], ours: &[Message]) -> Result<(), Difference> {
    if theirs == ours {
        return Ok(());
    }
    Err(Difference(format!("the events differ\n    C:    {theirs:?}\n    ours: {ours:?}")))
}

/// Returns the number in a payload.
fn number(message: &Message) -> Result<u32, Difference> {
    let text = message.payload.strip_suffix(b"\0").and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Difference(format!("no number of a transaction: {message:?}")))
}
