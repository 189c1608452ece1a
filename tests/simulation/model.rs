//! The reference: the state and the output of the server, written to be obviously correct.
//!
//! Everything is a plain map or list, searched from end to end. The model learns of each request when the server has
//! executed it, in that order, with its outcome. It predicts the outcome, and the messages that the request causes. It
//! follows the server only where the outcome is not determined. While memory is short, a request that grows something,
//! or a long reply, may be ENOSPC instead. An event may be dropped.

use std::collections::BTreeMap;

use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};

use crate::nodes::{ANY, Entry, InTransaction, Node, Store, Transaction, View};
use crate::queue::{Payload, Queue};
use crate::rules::{self, DEFAULTS, Requester, Surroundings, quota};
use crate::support::machine::Machine;

/// A domain's session with the server.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub watches: Vec<Watch>,
    pub transactions: BTreeMap<u32, Transaction>,
    pub newest_transaction: u32,
    /// Bytes of a request that the server has taken.
    pub input: Vec<u8>,
    pub queue: Queue,
    /// The reason why the connection is shut, as in the ring's error word.
    pub error: Option<u32>,
    pub is_shut_out: bool,
    pub is_mapped: bool,
    pub has_port: bool,
    /// A long payload of the request that is being received may be skipped for lack of memory.
    pub may_be_skipped: bool,
    /// The server was also replaced since then.
    pub may_be_lost: bool,
}

impl Connection {
    /// Returns whether the server has taken a whole request, which it has to execute at once.
    pub fn has_whole_request(&self) -> bool {
        let header = self.input.first_chunk::<HEADER_BYTES>().map(Header::parse);
        header.is_some_and(|header| self.input.len() == HEADER_BYTES + header.payload_bytes as usize)
    }
}

#[derive(Clone, Debug)]
pub struct Watch {
    pub path: String,
    pub token: Vec<u8>,
    pub depth: Option<u32>,
    /// Bytes at the beginning of a path that the watch does not report.
    pub relative: usize,
}

/// A domain that was introduced, or that permissions or settings name.
#[derive(Clone, Debug)]
pub struct Known {
    /// A number that differs for each domain that becomes known.
    pub serial: u64,
    pub unique_id: Option<u64>,
    pub is_shut_down: bool,
    pub target: Option<(u16, u64)>,
    pub features: u32,
    pub quotas: [u32; 10],
    pub own_quotas: [bool; 10],
}

/// A deliberate defect of the model, which the test must detect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    #[default]
    None,
    /// Dead domains keep their nodes.
    DeadKeepNodes,
    /// Events need no right.
    EventsForAll,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub store: Store,
    pub known: BTreeMap<u16, Known>,
    pub connections: BTreeMap<u16, Connection>,
    pub defaults: [u32; 10],
    pub now_ms: u64,
    /// Whether the server has little memory.
    pub is_scarce: bool,
    pub serials: u64,
    pub flaw: Flaw,
    /// The domain whose ring is started by the request that was just executed.
    starting: Option<u16>,
    pub tally: Tally,
}

/// Counts of events.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub requests: usize,
    pub outcomes: BTreeMap<String, usize>,
    pub events: usize,
    /// Events about domains.
    pub special_events: usize,
    /// Events that a watch would have had, if its client had the right to know of them.
    pub withheld: usize,
    pub expired: usize,
    pub commits: usize,
    pub replays: usize,
    pub deaths: usize,
    pub refused_for_memory: usize,
    /// Introductions whose ring could not be mapped, or whose port could not be bound.
    pub introductions_failed: u64,
    /// Connections whose session ended: their clients start from nothing.
    pub restarted: Vec<u16>,
}

pub const SPECIALS: [&str; 2] = ["@introduceDomain", "@releaseDomain"];

/// The surroundings that a request for nodes depends on besides the nodes.
pub struct Beside<'a> {
    pub known: &'a BTreeMap<u16, Known>,
    pub machine: &'a Machine,
}

impl Surroundings for Beside<'_> {
    fn exists(&self, domid: u16) -> bool {
        self.known.contains_key(&domid) || domid < 0x7ff0 && self.machine.domains.contains_key(&DomId(domid))
    }
}

impl Model {
    /// Returns a new store, as the server begins with it.
    pub fn new(flaw: Flaw) -> Self {
        let mut model = Self { defaults: DEFAULTS, flaw, ..Self::default() };
        let entry = |letter, domid| Entry { letter, domid, counts: true };
        let node = |children: &[&str]| Node {
            value: Vec::new(),
            permissions: vec![entry('n', 0)],
            children: children.iter().map(|name| (*name).to_owned()).collect(),
            version: 0,
        };
        model.store.set("/", Some(node(&["tool"])));
        model.store.set("/tool", Some(node(&["xenstored"])));
        model.store.set("/tool/xenstored", Some(node(&[])));
        model.store.set(SPECIALS[0], Some(node(&[])));
        let permissions = vec![entry('n', 0), entry('r', ANY)];
        model.store.set(SPECIALS[1], Some(Node { permissions, ..node(&[]) }));
        model
    }

    pub fn connection(&mut self, domid: u16) -> &mut Connection {
        self.connections.get_mut(&domid).expect("the domain is connected")
    }

    /// Returns the domain as a requester.
    pub fn requester(&self, domid: u16) -> Requester {
        let known = self.known.get(&domid);
        let target = known.and_then(|known| known.target);
        let is_current = |(target, serial): &(u16, u64)| self.known.get(target).is_some_and(|of| of.serial == *serial);
        Requester {
            domid,
            is_privileged: domid == 0,
            target: target.filter(is_current).map(|(target, _)| target),
            quotas: known.map_or(self.defaults, |known| known.quotas),
            nodes: 0,
            may_name_all: self.features(domid) & 8 != 0,
        }
    }

    /// Returns the features that a domain is offered.
    pub fn features(&self, domid: u16) -> u32 {
        self.known.get(&domid).map_or(15, |known| known.features)
    }

    /// Returns whether memory may be refused to a domain.
    pub fn may_be_refused_memory(&self, domid: u16) -> bool {
        let limit = self.known.get(&domid).map_or(self.defaults, |known| known.quotas)[quota("memory")];
        self.is_scarce || domid != 0 && limit != 0 && limit < 500_000
    }

    /// Starts a domain's ring because of the request that is being executed.
    pub fn begin(&mut self, domid: u16) {
        self.starting = Some(domid);
        self.tally.restarted.push(domid);
    }

    /// Takes note of bytes that the server took out of a domain's ring.
    pub fn took(&mut self, domid: u16, bytes: &[u8]) {
        self.starting = None;
        let is_scarce = self.is_scarce;
        let connection = self.connection(domid);
        if connection.input.is_empty() {
            (connection.may_be_skipped, connection.may_be_lost) = (false, false);
        }
        connection.may_be_skipped |= is_scarce;
        connection.input.extend(bytes);
        if let Some(header) = connection.input.first_chunk::<HEADER_BYTES>().map(Header::parse)
            && header.payload_bytes > 4096
        {
            self.set_error(domid, 3);
        }
    }

    /// Takes note of bytes that the server wrote into a domain's ring.
    pub fn put(&mut self, domid: u16, bytes: &[u8]) -> Result<(), String> {
        self.starting = None;
        let whole = self.connection(domid).queue.take(bytes)?;
        self.tally.events += whole.iter().filter(|(header, _)| header.is_event()).count();
        let is_special = |(header, payload): &&(Header, Vec<u8>)| header.is_event() && payload.starts_with(b"@");
        self.tally.special_events += whole.iter().filter(is_special).count();
        Ok(())
    }

    /// Takes note that the server reported a reset to a domain.
    pub fn connected(&mut self, domid: u16) {
        if self.starting != Some(domid) {
            self.restart(domid, None);
        }
    }

    /// Returns the whole request that the server has taken from a domain.
    pub fn request(&mut self, domid: u16) -> Option<(Header, Vec<u8>)> {
        let connection = self.connections.get_mut(&domid)?;
        if !connection.has_whole_request() {
            return None;
        }
        let header = Header::parse(connection.input.first_chunk::<HEADER_BYTES>()?);
        Some((header, std::mem::take(&mut connection.input).split_off(HEADER_BYTES)))
    }

    /// Takes note of an executed request. `observed` is the length of its reply, or the error.
    pub fn handled(&mut self, domid: u16, observed: Observed<'_>, machine: &Machine) -> Result<(), String> {
        self.starting = None;
        let (header, payload) = self.request(domid).ok_or("the request was not whole")?;
        self.tally.requests += 1;
        *self.tally.outcomes.entry(observed.err().unwrap_or("OK").into()).or_default() += 1;
        let kind = T::from_wire(header.kind);
        if let Some(kind) = kind {
            self.look_at_named(domid, kind, &payload, machine);
        }
        let answer = self.answer(domid, header, &payload, observed, machine);
        let reply = answer.map_err(|expected| wrong(domid, header, &payload, observed, &expected))?;
        let Some(connection) = self.connections.get_mut(&domid) else { return Ok(()) };
        let (reply_kind, reply) = match observed {
            Ok(_) => (header.kind, reply),
            Err(name) => (T::Error.to_wire(), Payload::Exactly([name.as_bytes(), b"\0"].concat())),
        };
        let payload_bytes = match &reply {
            Payload::Exactly(bytes) => bytes.len(),
            _ => observed.unwrap_or(0),
        };
        if observed.is_ok_and(|count| count != payload_bytes) {
            return Err(wrong(domid, header, &payload, observed, &format!("{payload_bytes} bytes, {reply:?}")));
        }
        // A request that has shut or reset its own connection is answered only after a reset.
        if connection.error.is_none() {
            let header = Header { kind: reply_kind, payload_bytes: payload_bytes as u32, ..header };
            connection.queue.push_reply(header, reply);
        }
        if kind == Some(T::Watch) && observed.is_ok() {
            self.tell_new_watch(domid);
        }
        Ok(())
    }

    /// Returns the reply to a request after its changes were made. An error names the expected outcome.
    fn answer(
        &mut self,
        domid: u16,
        header: Header,
        payload: &[u8],
        observed: Observed<'_>,
        machine: &Machine,
    ) -> Answer {
        let refused = |name: &str| refusal(name, observed);
        let is_long = payload.len() > 256 && domid != 0;
        if is_long && self.connection(domid).may_be_skipped && observed == Err("ENOSPC") {
            let transaction = self.connection(domid).transactions.get_mut(&header.transaction_id);
            // The payload was not skipped, and an access was refused.
            transaction.into_iter().for_each(|transaction| transaction.is_uncertain = true);
            return refused("ENOSPC");
        }
        if is_long && self.connection(domid).may_be_lost && observed == Err("EINVAL") {
            return refused("EINVAL");
        }
        let Some(kind) = T::from_wire(header.kind).filter(|kind| !matches!(kind, T::WatchEvent | T::Error)) else {
            return refused("ENOSYS");
        };
        let is_privileged = matches!(
            kind,
            T::Control
                | T::Introduce
                | T::Release
                | T::Resume
                | T::SetTarget
                | T::IsDomainIntroduced
                | T::SetFeature
                | T::GetQuota
                | T::SetQuota
        );
        if is_privileged && domid != 0 {
            return refused("EACCES");
        }
        let number = if matches!(kind, T::Watch | T::Unwatch) { 0 } else { header.transaction_id };
        if number != 0 && !self.connection(domid).transactions.contains_key(&number) {
            return refused("ENOENT");
        }
        match kind {
            T::Read | T::Directory | T::DirectoryPart | T::GetPerms | T::Write | T::Mkdir | T::Rm | T::SetPerms => {
                self.about_nodes(domid, number, kind, payload, observed, machine)
            }
            T::TransactionEnd => self.end(domid, number, payload, observed, machine),
            _ => self.about_others(domid, number, kind, payload, observed, machine),
        }
    }

    /// Executes a request for nodes, in a transaction or outside.
    fn about_nodes(
        &mut self,
        domid: u16,
        number: u32,
        kind: T,
        payload: &[u8],
        observed: Observed<'_>,
        machine: &Machine,
    ) -> Answer {
        let mut requester = self.requester(domid);
        if matches!(kind, T::Write | T::Mkdir) && domid != 0 {
            requester.nodes = self.store.count(domid).cast_signed();
        }
        let beside = Beside { known: &self.known, machine };
        let may_be_refused = self.may_be_refused_memory(domid);
        let mut taken = self.connections.get_mut(&domid).and_then(|of| of.transactions.remove(&number));
        let before = may_be_refused.then(|| (self.store.clone(), taken.clone()));
        let expected = match &mut taken {
            Some(transaction) => {
                requester.nodes += transaction.counts().get(&domid).copied().unwrap_or(0);
                let mut view =
                    InTransaction { store: &self.store, transaction, limit: requester.paths_in_transaction() };
                rules::answer(&mut view, &requester, &beside, kind, payload)
            }
            None => rules::answer(&mut self.store, &requester, &beside, kind, payload),
        };
        let mut is_right = agrees(&expected, observed);
        if let (false, Err("ENOSPC"), Some((store, transaction))) = (is_right, observed, before) {
            // A request that grows nothing is never refused for lack of memory. In a transaction, each access makes it
            // grow.
            let is_long = expected.as_ref().is_ok_and(|reply| reply.len() > 16);
            let grows = expected.is_ok() && self.store.bytes() > store.bytes();
            if taken.is_some() || is_long || grows {
                (self.store, taken, is_right) = (store, transaction, true);
                self.tally.refused_for_memory += 1;
            }
        }
        if let Some(mut transaction) = taken {
            // Also after another refusal: an access may have been refused before.
            transaction.is_uncertain |= may_be_refused && observed == Err("ENOSPC");
            transaction.may_lack_replay |= may_be_refused || kind == T::DirectoryPart;
            let reply = observed.map(|_| expected.clone().unwrap_or_default()).map_err(str::to_owned);
            transaction.record(kind, payload, reply, domid == 0);
            self.connection(domid).transactions.insert(number, transaction);
        }
        if !is_right {
            return Err(format!("{expected:?}"));
        }
        if kind == T::SetPerms && observed.is_ok() {
            self.after_permissions(&requester, payload, machine);
        }
        self.tell_all();
        Ok(match (expected, kind) {
            (Ok(reply), T::DirectoryPart) => Payload::Behind(reply),
            (Ok(reply), _) => Payload::Exactly(reply),
            (Err(_), _) => Payload::Exactly(Vec::new()),
        })
    }

    /// Learns the domains that new permissions name.
    fn after_permissions(&mut self, requester: &Requester, payload: &[u8], machine: &Machine) {
        let beside = Beside { known: &self.known, machine };
        let permissions = rules::parse_permissions(payload, requester, &beside).expect("the permissions are valid");
        for entry in permissions.iter().filter(|entry| entry.counts && entry.domid != ANY) {
            self.learn(entry.domid, machine);
        }
    }

    /// Executes TRANSACTION_END.
    fn end(&mut self, domid: u16, number: u32, payload: &[u8], observed: Observed<'_>, machine: &Machine) -> Answer {
        let commits = match rules::only(payload) {
            Ok(b"T") => true,
            Ok(b"F") => false,
            _ => return refusal("EINVAL", observed),
        };
        let Some(transaction) = self.connection(domid).transactions.remove(&number) else {
            return refusal("ENOENT", observed);
        };
        if !commits {
            return simply_ok(observed);
        }
        let conflicts = transaction.conflicts(&self.store);
        let mut names = Vec::new();
        let expected = match self.may_commit(domid, &transaction) {
            Err(refused) => Err(refused),
            Ok(()) if !conflicts => Ok(None),
            Ok(()) => self.replay(domid, &transaction, machine, &mut names).map(Some),
        };
        let may_conflict = conflicts && (transaction.may_lack_replay || self.may_be_refused_memory(domid));
        let is_right = match (&expected, observed) {
            (Ok(_), Ok(3)) => true,
            (Err(refused), Err(name)) if *refused == name => true,
            (Ok(_), Err("EAGAIN")) if may_conflict => true,
            (_, Ok(3) | Err("EAGAIN" | "ENOMEM" | "ENOSPC")) => transaction.is_uncertain,
            _ => false,
        };
        if !is_right {
            return Err(format!("{:?}", expected.map(|replayed| if replayed.is_some() { "replayed" } else { "OK" })));
        }
        if observed.is_ok() {
            self.tally.commits += 1;
            let replayed = expected.ok().flatten();
            if let Some(replayed) = replayed {
                self.tally.replays += 1;
                names.into_iter().for_each(|domid| self.learn(domid, machine));
                replayed.commit(&mut self.store);
            } else {
                transaction.commit(&mut self.store);
            }
            self.tell_all();
        }
        Ok(Payload::Exactly(b"OK\0".to_vec()))
    }

    /// Returns whether the quotas of the owners allow the nodes that a commit would give them.
    fn may_commit(&self, domid: u16, transaction: &Transaction) -> Result<(), &'static str> {
        if transaction.has_failed {
            return Err("ENOMEM");
        }
        if transaction.is_outdated {
            return Err("EAGAIN");
        }
        for (owner, count) in transaction.counts().into_iter().filter(|(owner, count)| *count > 0 && *owner != ANY) {
            if !self.known.contains_key(&owner) {
                return Err("EAGAIN");
            }
            let after = self.store.count(owner).saturating_add_signed(count) as usize;
            let is_limited = domid != 0 && owner != 0 && transaction.has_created;
            if is_limited && self.requester(owner).exceeds("nodes", after) {
                return Err("ENOSPC");
            }
        }
        Ok(())
    }

    /// Re-executes the requests of a transaction against the current state. Succeeds if all replies are the same.
    fn replay(
        &self,
        domid: u16,
        old: &Transaction,
        machine: &Machine,
        names: &mut Vec<u16>,
    ) -> Result<Transaction, &'static str> {
        if old.is_unrecorded {
            return Err("EAGAIN");
        }
        let mut new = Transaction::default();
        let mut requester = self.requester(domid);
        let owned = self.store.count(domid).cast_signed();
        let beside = Beside { known: &self.known, machine };
        for request in &old.requests {
            requester.nodes = owned + new.counts().get(&domid).copied().unwrap_or(0);
            let mut view =
                InTransaction { store: &self.store, transaction: &mut new, limit: requester.paths_in_transaction() };
            let reply = rules::answer(&mut view, &requester, &beside, request.kind, &request.payload);
            if reply.clone().map_err(str::to_owned) != request.reply {
                return Err("EAGAIN");
            }
            if request.kind == T::SetPerms && reply.is_ok() {
                let named = rules::parse_permissions(&request.payload, &requester, &beside).unwrap_or_default();
                names.extend(named.iter().filter(|entry| entry.counts && entry.domid != ANY).map(|entry| entry.domid));
            }
        }
        self.may_commit(domid, &Transaction { has_failed: false, ..new.clone() }).map_err(|_| "EAGAIN")?;
        Ok(new)
    }
}

/// The length of the server's reply to a request, or the error.
pub type Observed<'a> = Result<usize, &'a str>;

/// Compares an outcome with the expected one. An error names the expected outcome.
pub type Answer = Result<Payload, String>;

fn agrees(expected: &Result<Vec<u8>, &str>, observed: Observed<'_>) -> bool {
    match (expected, observed) {
        // The length is checked later.
        (Ok(_), Ok(_)) => true,
        (Err(expected), Err(observed)) => *expected == observed,
        _ => false,
    }
}

/// Expects a refusal.
pub fn refusal(name: &str, observed: Observed<'_>) -> Answer {
    if observed == Err(name) { Ok(Payload::Exactly(Vec::new())) } else { Err(name.to_owned()) }
}

/// Expects the reply OK.
pub fn simply_ok(observed: Observed<'_>) -> Answer {
    exactly(b"OK\0", observed)
}

/// Expects this reply.
pub fn exactly(reply: &[u8], observed: Observed<'_>) -> Answer {
    if observed.is_ok() { Ok(Payload::Exactly(reply.to_vec())) } else { Err(format!("{}", reply.escape_ascii())) }
}

fn wrong(domid: u16, header: Header, payload: &[u8], observed: Observed<'_>, expected: &str) -> String {
    let kind = T::from_wire(header.kind).map_or("?".to_owned(), |kind| format!("{kind:?}"));
    let payload = crate::script::spell(payload);
    let number = header.transaction_id;
    format!("domain {domid}: {kind} \"{payload}\" in {number} is answered {observed:?}, instead of {expected}")
}
