//! The state of both servers that the generator needs for meaningful sequences.

use std::collections::{BTreeSet, VecDeque};

use crate::peers::client::Message;
use crate::peers::names;
use crate::quotas::Quotas;
use crate::server::{Kind, Release};

/// dom0's clients are the first connections; the guests' rings follow.
pub const DOM0_CLIENTS: usize = 2;
/// The client on dom0's ring. dom0's other client is on the socket.
pub const DOM0_RING: usize = 1;
/// The number of domains with a ring.
pub const GUESTS: usize = 3;
/// All connections.
pub const CONNECTIONS: usize = DOM0_CLIENTS + GUESTS;
/// A domain that exists at times and is never introduced.
pub const BYSTANDER: u32 = 4;
/// Domains that never exist.
pub const NOBODY: [u32; 2] = [77, 32751];

/// A transaction, by the order of opening. Each server has its own number for it.
pub type Handle = usize;

/// The transaction number in a request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tx {
    None,
    /// Each server's own number of a transaction, open or not.
    Of(Handle),
    /// A number that no server has given out.
    Wrong(u32),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub connection: usize,
    pub kind: u32,
    pub tx: Tx,
    pub payload: Vec<u8>,
}

/// One step of a sequence.
#[derive(Clone, Debug)]
pub enum Step {
    Request(Request),
    /// A header with a longer payload than a message may have.
    BreakProtocol {
        connection: usize,
        payload_bytes: u32,
    },
    /// A domain starts, not introduced yet.
    Create(u32),
    /// A domain's state changes without a signal.
    Run(u32),
    /// A domain shuts down, and the server is signalled.
    ShutDown(u32),
    /// A domain begins to die, and the server is signalled.
    Die(u32),
    /// A domain is gone, and the server is signalled.
    Destroy(u32),
}

/// Kinds of requests that sequences may have. They depend on the servers.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Whether dom0 gives special nodes to guests. In the C server of 4.20, dom0 always owns them.
    pub gives_special_nodes: bool,
    /// Whether transactions have requests about special nodes' permissions. These are part of the transaction from 4.18
    /// on, and here, but not in 4.17.
    pub has_special_nodes_in_transactions: bool,
    /// Whether the quota of a path's bytes binds dom0 too. In 4.20, and here, only the protocol's limit does.
    pub quota_binds_dom0: bool,
}

impl Scope {
    pub fn of(kinds: [Kind; 2]) -> Self {
        let has = |release| kinds.contains(&Kind::C(release));
        let is_alone = kinds[0] == kinds[1];
        Self {
            gives_special_nodes: !has(Release::V4_20),
            has_special_nodes_in_transactions: is_alone || !has(Release::V4_17),
            quota_binds_dom0: has(Release::V4_17),
        }
    }
}

/// The domain's state in Xen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    Running,
    Shutdown,
    Dying,
}

/// A domain.
#[derive(Clone, Debug)]
pub struct Domain {
    pub state: State,
    pub introduced: bool,
    /// The connection was shut for a broken message.
    pub faulted: bool,
    /// The server has announced the shutdown.
    pub shutdown_reported: bool,
    /// Domains for which it acts or acted.
    pub targets: BTreeSet<u32>,
}

/// A connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub open: Vec<Handle>,
    pub closed: VecDeque<Handle>,
    /// Payloads of WATCH that were granted and not withdrawn.
    pub watches: Vec<Vec<u8>>,
}

/// The whole model.
pub struct Model {
    pub quotas: Quotas,
    pub scope: Scope,
    pub connections: Vec<Connection>,
    /// Domain 1 and so on: the guests and then the bystander.
    domains: Vec<Domain>,
    pub transactions: usize,
    /// The number of domains that had died or been released when each transaction was opened.
    gone_before: Vec<usize>,
    deaths: usize,
    /// Transactions that met a quota.
    pub met_a_quota: BTreeSet<Handle>,
    /// Transactions with a refusal for a special node's permissions.
    pub refused_special: BTreeSet<Handle>,
    /// Domains that died or were released at any time.
    pub gone: BTreeSet<u32>,
}

impl Model {
    pub fn new(quotas: Quotas, scope: Scope) -> Self {
        let domain = Domain {
            state: State::Absent,
            introduced: false,
            faulted: false,
            shutdown_reported: false,
            targets: BTreeSet::new(),
        };
        Self {
            quotas,
            scope,
            connections: vec![Connection::default(); CONNECTIONS],
            domains: vec![domain; GUESTS + 1],
            transactions: 0,
            gone_before: Vec::new(),
            deaths: 0,
            met_a_quota: BTreeSet::new(),
            refused_special: BTreeSet::new(),
            gone: BTreeSet::new(),
        }
    }

    pub fn domain(&self, domid: u32) -> &Domain {
        &self.domains[domid as usize - 1]
    }

    pub fn domain_mut(&mut self, domid: u32) -> &mut Domain {
        &mut self.domains[domid as usize - 1]
    }

    /// Returns whether a domain died or was released since a transaction was opened.
    pub fn has_outlived_a_domain(&self, tx: Tx) -> bool {
        matches!(tx, Tx::Of(handle) if self.gone_before[handle] < self.deaths)
    }

    /// Returns whether a connection takes requests.
    pub fn is_usable(&self, connection: usize) -> bool {
        match guest_of(connection) {
            None => true,
            Some(domid) => self.domain(domid).introduced && !self.domain(domid).faulted,
        }
    }

    /// Returns whether domain `domid` may be released or die: no other domain acts for it.
    pub fn is_nobodys_target(&self, domid: u32) -> bool {
        !self.domains.iter().any(|domain| domain.targets.contains(&domid))
    }

    /// Returns whether the server sends dom0 an event when it checks the domains after this step.
    pub fn is_reported(&self, step: &Step) -> bool {
        match step {
            Step::ShutDown(domid) => self.domain(*domid).introduced && !self.domain(*domid).shutdown_reported,
            Step::Die(domid) | Step::Destroy(domid) => self.domain(*domid).introduced,
            _ => false,
        }
    }

    /// Applies a step that is no request.
    pub fn stepped(&mut self, step: &Step) {
        match *step {
            Step::Request(_) => {}
            Step::BreakProtocol { connection, .. } => {
                self.restarted(connection);
                if let Some(domid) = guest_of(connection) {
                    self.domain_mut(domid).faulted = true;
                }
            }
            Step::Create(domid) | Step::Run(domid) => self.domain_mut(domid).state = State::Running,
            Step::ShutDown(domid) => {
                let domain = self.domain_mut(domid);
                domain.state = State::Shutdown;
                domain.shutdown_reported |= domain.introduced;
            }
            Step::Die(domid) => {
                let was_introduced = self.domain(domid).introduced;
                if was_introduced {
                    self.released(domid);
                }
                self.domain_mut(domid).state = State::Dying;
            }
            Step::Destroy(domid) => {
                self.released(domid);
                self.domain_mut(domid).state = State::Absent;
            }
        }
    }

    /// Applies a request and its reply.
    pub fn answered(&mut self, request: &Request, reply: &Message) {
        let connection = &mut self.connections[request.connection];
        if reply.kind == names::ERROR {
            if let (b"ENOSPC\0", Tx::Of(handle)) = (&reply.payload[..], request.tx) {
                self.met_a_quota.insert(handle);
            }
            if let (b"EACCES\0", Tx::Of(handle), true) =
                (&reply.payload[..], request.tx, request.payload.starts_with(b"@"))
            {
                self.refused_special.insert(handle);
            }
            let may_be_over = request.kind == names::TRANSACTION_END && request.payload.len() == 2;
            if let (true, Tx::Of(handle)) = (may_be_over && matches!(&request.payload[..], b"T\0" | b"F\0"), request.tx)
            {
                connection.ended(handle);
            }
            return;
        }
        match request.kind {
            names::TRANSACTION_START => {
                connection.open.push(self.transactions);
                self.transactions += 1;
                self.gone_before.push(self.deaths);
            }
            names::TRANSACTION_END => {
                if let Tx::Of(handle) = request.tx {
                    connection.ended(handle);
                }
            }
            names::WATCH => connection.watches.push(request.payload.clone()),
            names::UNWATCH => {
                if let Some(at) = connection.watches.iter().position(|watch| *watch == request.payload) {
                    connection.watches.remove(at);
                }
            }
            names::RESET_WATCHES => self.restarted(request.connection),
            names::INTRODUCE => {
                if let Some(domid) = domid_of(&request.payload).filter(|domid| *domid <= GUESTS as u32) {
                    self.restarted(connection_of(domid));
                    let domain = self.domain_mut(domid);
                    domain.shutdown_reported &= domain.introduced;
                    domain.introduced = true;
                }
            }
            names::RELEASE => domid_of(&request.payload).into_iter().for_each(|domid| self.released(domid)),
            names::RESUME => domid_of(&request.payload)
                .into_iter()
                .for_each(|domid| self.domain_mut(domid).shutdown_reported = false),
            names::SET_TARGET => {
                let mut domids = request.payload.split(|byte| *byte == 0).filter_map(number);
                if let (Some(domid), Some(target)) = (domids.next(), domids.next()) {
                    self.domain_mut(domid).targets.insert(target);
                }
            }
            _ => {}
        }
    }

    fn released(&mut self, domid: u32) {
        self.gone.insert(domid);
        self.deaths += 1;
        if domid <= GUESTS as u32 {
            self.restarted(connection_of(domid));
        }
        let domain = self.domain_mut(domid);
        domain.introduced = false;
        domain.faulted = false;
        domain.shutdown_reported = false;
        domain.targets.clear();
    }

    /// Removes a connection's watches and transactions.
    fn restarted(&mut self, connection: usize) {
        // Both servers may give out transaction numbers again, and not the same ones.
        self.connections[connection] = Connection::default();
    }
}

impl Connection {
    fn ended(&mut self, handle: Handle) {
        self.open.retain(|open| *open != handle);
        self.closed.push_back(handle);
        if self.closed.len() > 4 {
            self.closed.pop_front();
        }
    }
}

/// Returns the domain of a ring's connection.
pub fn guest_of(connection: usize) -> Option<u32> {
    connection.checked_sub(DOM0_CLIENTS).map(|guest| guest as u32 + 1)
}

/// Returns the connection of a domain's ring.
pub fn connection_of(domid: u32) -> usize {
    DOM0_CLIENTS + domid as usize - 1
}

/// Returns a connection's name for a failure's text.
pub fn name_of(connection: usize) -> String {
    match guest_of(connection) {
        Some(domid) => format!("domain {domid}"),
        None if connection == DOM0_RING => "dom0's ring".into(),
        None => "dom0's socket".into(),
    }
}

/// Returns the domid at the beginning of a payload, if it is one that may exist.
fn domid_of(payload: &[u8]) -> Option<u32> {
    let first = payload.split(|byte| *byte == 0).next()?;
    number(first).filter(|domid| (1..=GUESTS as u32 + 1).contains(domid))
}

fn number(string: &[u8]) -> Option<u32> {
    std::str::from_utf8(string).ok()?.parse().ok()
}
