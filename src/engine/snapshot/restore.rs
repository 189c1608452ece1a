//! Builds an engine from items, whole or not at all.
//!
//! Every reference is checked against what came before, and what is counted is counted anew. Quotas are not asked: what is
//! there stays, and limits bite when more is wanted. Nothing here panics, whatever the items say.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::fmt;

use crate::engine::Engine;
use crate::engine::RestartPhase;
use crate::engine::config::Config;
use crate::engine::conflict::{ConflictCredits, History};
use crate::engine::connection::{Connection, Fault, Peer, RingStart};
use crate::engine::hypervisor::Port;
use crate::engine::rate::WriteCredits;
use crate::engine::snapshot::extension::{self, ConnectionState, DomainState, GenerationReader, ServerState};
use crate::engine::snapshot::pending::{self, PendingNode, PendingNodes};
use crate::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, Extension, GlobalQuotas, Item, NamedQuotas, NodeAccess, NodeItem,
    StreamPeer, TransactionItem, WatchItem,
};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::domain_table::Domains;
use crate::store::node::Node;
use crate::store::path::{AnyPath, Path, PathScratch};
use crate::store::permission::{Access, Entry, Permissions};
use crate::store::quota::Quota;
use crate::store::special::Special;
use crate::store::state::{Inconsistency, State};
use crate::store::transaction::Transaction;
use crate::store::unknown_quotas::UnknownQuotas;
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;

/// Why items are no state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// A connection has the number 0, or one that another has.
    ConnectionNumber(ConnectionNumber),
    /// An item belongs to a connection that there is none of.
    UnknownConnection(ConnectionNumber),
    /// A domain has two connections, or one and a number that no domain has.
    DomainConnection(DomId),
    /// Two connections have the same port.
    Port(u32),
    /// More input than any server leaves unhandled.
    Input(usize),
    /// What waits to be sent is no sequence of messages, or far too much.
    Output(usize),
    /// A domain has two records, or a number that no domain has.
    Domain(DomId),
    /// A watch that is there already.
    Watch,
    /// A token with a NUL in it.
    Token,
    /// Not a path, or a relative one where none can be.
    Path,
    /// A node that is there already.
    Node(Box<str>),
    /// A node above which there is none.
    NoParent(Box<str>),
    /// A node that everybody sees, without permissions.
    NoPermissions(Box<str>),
    /// A transaction has the number 0, or one that another of its connection has.
    Transaction(u32),
    /// A node belongs to a transaction that there is none of.
    UnknownTransaction(u32),
    /// What was counted is not what is there. That would be a fault of the restorer itself.
    Inconsistent(Inconsistency),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionNumber(number) => write!(f, "connection number {} is 0 or in use", number.0),
            Self::UnknownConnection(number) => write!(f, "there is no connection {}", number.0),
            Self::DomainConnection(domid) => write!(f, "domain {domid} can't have this connection"),
            Self::Port(port) => write!(f, "port {port} is in use"),
            Self::Input(bytes) => write!(f, "{bytes} bytes of input are too many"),
            Self::Output(bytes) => write!(f, "{bytes} bytes to be sent are no messages, or too many"),
            Self::Domain(domid) => write!(f, "domain {domid} can't be, or comes twice"),
            Self::Watch => write!(f, "the watch is there already"),
            Self::Token => write!(f, "the watch's token has a NUL in it"),
            Self::Path => write!(f, "the path is none"),
            Self::Node(path) => write!(f, "node {path} is there already"),
            Self::NoParent(path) => write!(f, "there is no node above {path}"),
            Self::NoPermissions(path) => write!(f, "node {path} has no permissions"),
            Self::Transaction(id) => write!(f, "transaction number {id} is 0 or in use"),
            Self::UnknownTransaction(id) => write!(f, "there is no transaction {id}"),
            Self::Inconsistent(what) => write!(f, "the result is inconsistent: {what:?}"),
        }
    }
}

/// Builds an engine from items. The engine's connections have no ring yet, and ports that are only numbers.
#[derive(Debug)]
pub struct Restorer {
    engine: Engine,
    now_ms: u64,
    /// Numbers of connections that can't be carried on, with all that belongs to them.
    left_out: BTreeSet<ConnectionNumber>,
    /// Connections whose extension has come.
    extended: BTreeSet<ConnectionNumber>,
    /// Connections that were shut.
    faults: Vec<(ConnectionId, Fault)>,
    /// Domains whose record has come.
    described: BTreeSet<DomId>,
    /// Who acts for whom.
    targets: Vec<(DomId, DomId)>,
    /// When the nodes to come were last written.
    generations: GenerationReader,
    has_root: bool,
    specials: [bool; Special::ALL.len()],
    /// Transactions that only their nodes' records have told of so far.
    pending: BTreeMap<(ConnectionNumber, u32), PendingNodes>,
    fairness: Box<[u8]>,
}

impl Restorer {
    /// A restorer that has seen nothing. Quotas that the items don't name are those of `config`.
    #[must_use]
    pub fn new(config: &Config, now_ms: u64) -> Self {
        let mut engine = Engine::new(config.clone());
        engine.state = State::bare(config.privileged, config.quotas.clone());
        Self {
            engine,
            now_ms,
            left_out: BTreeSet::new(),
            extended: BTreeSet::new(),
            faults: Vec::new(),
            described: BTreeSet::new(),
            targets: Vec::new(),
            generations: GenerationReader::default(),
            has_root: false,
            specials: [false; Special::ALL.len()],
            pending: BTreeMap::new(),
            fairness: Box::default(),
        }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// What is wrong with it; nothing can be built any more then.
    pub fn push(&mut self, item: &Item<'_>) -> Result<(), RestoreError> {
        match item {
            // A daemon's descriptors mean nothing here.
            Item::Global(_) => Ok(()),
            Item::GlobalQuotas(quotas) => {
                self.global_quotas(quotas);
                Ok(())
            }
            Item::Connection(connection) => self.connection(connection),
            Item::Domain(domain) => self.domain(domain),
            Item::Watch(watch) => self.watch(watch),
            Item::Transaction(transaction) => self.transaction(*transaction),
            Item::Node(node) => match node.pending {
                None => self.node(node),
                Some((transaction, access)) => self.pending_node(transaction, access, node),
            },
            Item::Extension(extension) => {
                self.extension(extension);
                Ok(())
            }
        }
    }

    /// The engine, when all items have been taken.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub fn finish(mut self) -> Result<Engine, RestoreError> {
        for (id, fault) in core::mem::take(&mut self.faults) {
            self.engine.drop_session(id, RestartPhase::Faulted(fault));
        }
        for ((connection, id), nodes) in core::mem::take(&mut self.pending) {
            nodes
                .iter()
                .filter_map(|(_, node)| node.permissions.as_ref())
                .for_each(|permissions| self.learn(permissions));
            let transaction = pending::rebuild(&nodes, &mut self.engine.state, self.now_ms);
            self.open(connection, id, transaction);
        }
        if !self.generations.is_empty() {
            log::warn!("restore: more generations than nodes");
        }
        let domains = &mut self.engine.state.domains;
        for (domid, target) in core::mem::take(&mut self.targets) {
            let target = domains.identity(target);
            if let Some(domain) = domains.get_mut(domid) {
                domain.target = target;
            }
        }
        self.engine.state.recount_nodes();
        self.look_at_transactions();
        self.restore_tickets();
        self.restore_deadlines();
        self.restore_fairness();
        self.engine.state.check().map_err(RestoreError::Inconsistent)?;
        Ok(self.engine)
    }

    fn global_quotas(&mut self, quotas: &GlobalQuotas<'_>) {
        let domains = &mut self.engine.state.domains;
        for (names, is_default) in [(&quotas.defaults, true), (&quotas.global, false)] {
            for (name, value) in names {
                if let Some(quota) = Quota::from_protocol_name(name) {
                    domains.set_quota_everywhere(quota, *value);
                    continue;
                }
                let unknown = if is_default { &mut domains.unknown_quotas } else { &mut domains.unknown_global_quotas };
                keep(unknown, name, *value);
            }
        }
    }

    /// The connection of a number, unless what belongs to it is left out.
    fn known(&self, number: ConnectionNumber) -> Result<Option<ConnectionId>, RestoreError> {
        let id = ConnectionId(number.0.into());
        if self.engine.connections.contains_key(&id) {
            Ok(Some(id))
        } else if self.left_out.contains(&number) {
            Ok(None)
        } else {
            Err(RestoreError::UnknownConnection(number))
        }
    }

    fn connection(&mut self, item: &ConnectionItem<'_>) -> Result<(), RestoreError> {
        if item.number.0 == 0 || self.known(item.number).is_ok() {
            return Err(RestoreError::ConnectionNumber(item.number));
        }
        let StreamPeer::Ring { domid, target, port } = item.peer else {
            log::warn!("restore: connection {} is a socket's and is left out", item.number.0);
            self.left_out.insert(item.number);
            return Ok(());
        };
        if domid.is_reserved() || self.engine.state.domains.is_introduced(domid) {
            return Err(RestoreError::DomainConnection(domid));
        }
        if item.input.len() > limits::BACKLOG_BYTES {
            return Err(RestoreError::Input(item.input.len()));
        }
        let id = ConnectionId(item.number.0.into());
        let bound = (port != 0).then_some(Port(port));
        if bound.is_some_and(|port| self.engine.ports.insert(port, id).is_some()) {
            return Err(RestoreError::Port(port));
        }
        let mut connection = Connection::new(Peer::Domain { domid, port: bound }, Some(RingStart::Adopt));
        connection.is_mapped = false;
        self.engine.connections.insert(id, connection);
        self.engine.next_connection = self.engine.next_connection.max(id.0);
        let domain = self.engine.state.domains.learn(domid, 0);
        domain.connection = Some(id);
        domain.unique_id = item.unique_id;
        self.targets.extend(target.map(|target| (domid, target)));
        self.fill(id, item)
    }

    /// Gives a connection its input and output.
    fn fill(&mut self, id: ConnectionId, item: &ConnectionItem<'_>) -> Result<(), RestoreError> {
        let wrong = RestoreError::Output(item.output.len());
        if item.output.len() > limits::RESTORED_OUTPUT_BYTES {
            return Err(wrong);
        }
        let timeout_ms = self.engine.config.event_timeout_ms;
        let is_privileged = self.engine.domain_of(id) == Some(self.engine.config.privileged);
        let deadline_ms = (timeout_ms > 0 && !is_privileged).then(|| self.now_ms.saturating_add(timeout_ms));
        let Some(session) = self.engine.session_mut(id) else { return Ok(()) };
        session.input.restore(&item.input);
        session.output.restore(&item.output, item.partial_bytes, deadline_ms).map_err(|_| wrong)
    }

    fn domain(&mut self, item: &DomainItem<'_>) -> Result<(), RestoreError> {
        if item.domid.is_reserved() || !self.described.insert(item.domid) {
            return Err(RestoreError::Domain(item.domid));
        }
        let domains = &mut self.engine.state.domains;
        domains.learn(item.domid, 0);
        set_quotas(domains, item.domid, &item.quotas);
        if let (Some(domain), Some(features)) = (domains.get_mut(item.domid), item.features) {
            domain.features = Features::from_bits_truncate(features);
        }
        Ok(())
    }

    fn watch(&mut self, item: &WatchItem<'_>) -> Result<(), RestoreError> {
        let Some(id) = self.known(item.connection)? else { return Ok(()) };
        if item.token.contains(&0) {
            return Err(RestoreError::Token);
        }
        let mut scratch = PathScratch::new();
        let domid = self.engine.domid_of(id);
        let path = AnyPath::parse(item.path.as_bytes(), domid, limits::PATH_BYTES, &mut scratch);
        let path = path.map_err(|_| RestoreError::Path)?.as_str();
        if self.engine.state.watches.find(id, path, &item.token).is_some() {
            return Err(RestoreError::Watch);
        }
        let relative = !item.path.starts_with(['/', '@']);
        self.engine.add_watch(id, path, &item.token, relative, item.depth.map(u32::from));
        Ok(())
    }

    fn transaction(&mut self, item: TransactionItem) -> Result<(), RestoreError> {
        let Some(id) = self.known(item.connection)? else { return Ok(()) };
        let session = self.engine.session_mut(id);
        let is_open = session.as_ref().is_some_and(|session| session.transactions.contains_key(&item.id));
        if item.id == 0 || is_open || self.pending.contains_key(&(item.connection, item.id)) {
            return Err(RestoreError::Transaction(item.id));
        }
        if let Some(session) = session
            && !self.extended.contains(&item.connection)
        {
            session.next_transaction = session.next_transaction.max(item.id);
        }
        self.pending.insert((item.connection, item.id), Vec::new());
        Ok(())
    }

    fn node(&mut self, item: &NodeItem<'_>) -> Result<(), RestoreError> {
        let name = || Box::from(&*item.path);
        let permissions = self.permissions(&item.permissions).ok_or_else(|| RestoreError::NoPermissions(name()))?;
        self.learn(&permissions);
        if item.path.starts_with('@') {
            return self.special(item, permissions);
        }
        let mut scratch = PathScratch::new();
        let path = absolute(&item.path, &mut scratch)?;
        let state = &mut self.engine.state;
        if path.is_root() && core::mem::replace(&mut self.has_root, true) {
            return Err(RestoreError::Node(name()));
        }
        let parent = match path.parent() {
            None => None,
            Some(parent) => Some(state.tree.get(parent).ok_or_else(|| RestoreError::NoParent(name()))?),
        };
        // Most nodes inherited theirs; those share them, as they did before.
        let inherited = parent.map(|parent| parent.permissions()).filter(|inherited| **inherited == permissions);
        let permissions = inherited.cloned().unwrap_or(permissions);
        let newest = state.generation();
        let generation = self.generations.next(newest).unwrap_or_else(|| state.next_generation());
        if state.tree.restore(path, Node::new((*item.value).into(), permissions, generation)) {
            Ok(())
        } else {
            Err(RestoreError::Node(name()))
        }
    }

    fn special(&mut self, item: &NodeItem<'_>, permissions: Permissions) -> Result<(), RestoreError> {
        let Some(special) = Special::from_name(&item.path) else {
            log::warn!("restore: special node {} is left out", item.path);
            return Ok(());
        };
        let has = self.specials.get_mut(special as usize);
        if has.is_some_and(|has| core::mem::replace(has, true)) {
            return Err(RestoreError::Node((&*item.path).into()));
        }
        let state = &mut self.engine.state;
        let newest = state.generation();
        let generation = self.generations.next(newest).unwrap_or_else(|| state.next_generation());
        let node = state.specials.get_mut(special);
        (node.permissions, node.generation) = (permissions, generation);
        Ok(())
    }

    /// Permissions of a node; `None` for no entry. A dead owner's node goes to the control domain.
    fn permissions(&self, entries: &[Entry]) -> Option<Permissions> {
        let privileged = self.engine.config.privileged;
        let mut kept = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let mut entry = Entry { access: entry.access & !Access::OWNER, ..*entry };
            let can_be = !entry.domid.is_reserved() || entry.domid == DomId::ANY;
            entry.stale = entry.stale || !can_be;
            if at == 0 && entry.stale {
                log::warn!("restore: a node of domain {} goes to the control domain", entry.domid);
                entry = Entry { domid: privileged, stale: false, ..entry };
            }
            kept.push(entry);
        }
        Permissions::from_entries(&kept)
    }

    /// Lets domains become known that permissions name: those that are not alive are marked there.
    fn learn(&mut self, permissions: &Permissions) {
        for entry in permissions.entries() {
            if !entry.stale && entry.domid != DomId::ANY {
                self.engine.state.domains.learn(entry.domid, 0);
            }
        }
    }

    fn pending_node(
        &mut self,
        transaction: TransactionItem,
        access: NodeAccess,
        item: &NodeItem<'_>,
    ) -> Result<(), RestoreError> {
        if self.known(transaction.connection)?.is_none() {
            return Ok(());
        }
        let mut scratch = PathScratch::new();
        let path = absolute(&item.path, &mut scratch)?.to_owned();
        let permissions = self.permissions(&item.permissions);
        let nodes = self.pending.get_mut(&(transaction.connection, transaction.id));
        let nodes = nodes.ok_or(RestoreError::UnknownTransaction(transaction.id))?;
        nodes.push((path, PendingNode { access, value: item.value.to_vec().into(), permissions }));
        Ok(())
    }

    /// Opens a transaction that is complete.
    fn open(&mut self, connection: ConnectionNumber, number: u32, transaction: Transaction) {
        let id = ConnectionId(connection.0.into());
        if let Some(session) = self.engine.session_mut(id) {
            session.transactions.insert(number, transaction);
            self.engine.note_opened(id);
        }
    }

    /// Takes what this server itself added; everything else is passed over.
    fn extension(&mut self, item: &Extension<'_>) {
        let taken = match item.kind {
            extension::SERVER => self.server_extension(&item.body),
            extension::CONNECTION => self.connection_extension(&item.body),
            extension::DOMAIN => self.domain_extension(&item.body),
            extension::GENERATIONS => GenerationReader::new(&item.body).map(|reader| self.generations = reader),
            extension::TRANSACTION => self.transaction_extension(&item.body),
            extension::FAIRNESS => {
                self.fairness = (*item.body).into();
                Some(())
            }
            _ => None,
        };
        if taken.is_none() {
            log::warn!("restore: an extension {:#x} of {} bytes is passed over", item.kind, item.body.len());
        }
    }

    fn server_extension(&mut self, body: &[u8]) -> Option<()> {
        let server = ServerState::read(body).filter(|server| server.generation <= limits::RESTORED_GENERATION)?;
        let engine = &mut self.engine;
        engine.state.skip_generations(server.generation);
        engine.next_ticket = server.next_ticket;
        engine.trace = server.trace;
        engine.peaks = server.peaks;
        Some(())
    }

    fn connection_extension(&mut self, body: &[u8]) -> Option<()> {
        let state = ConnectionState::read(body)?;
        let id = ConnectionId(state.number.0.into());
        let connection = self.engine.connections.get_mut(&id)?;
        if self.extended.contains(&state.number) {
            return None;
        }
        let (session, ring) = connection.session_mut()?;
        let now_ms = self.now_ms;
        let absolute = |remaining_ms: u64| now_ms.saturating_add(remaining_ms);
        let details = state.messages.into_iter().map(|mut details| {
            details.deadline_ms = details.deadline_ms.map(absolute);
            details
        });
        if !session.output.restore_details(&details.collect::<Vec<_>>()) {
            return None;
        }
        session.output.restore_sent(state.sent);
        let first_ms = session.output.next_deadline_ms();
        session.next_transaction = state.next_transaction;
        *ring = state.ring;
        connection.ring_start = state.ring_start;
        let deadlines_ms = [state.deadline_ms.map(absolute), first_ms];
        self.faults.extend(state.fault.map(|fault| (id, fault)));
        self.extended.insert(state.number);
        if let Some(deadline_ms) = deadlines_ms.into_iter().flatten().min() {
            self.engine.note_deadline(id, deadline_ms);
        }
        Some(())
    }

    fn domain_extension(&mut self, body: &[u8]) -> Option<()> {
        let state = DomainState::read(body)?;
        if !self.described.contains(&state.domid) || state.born > self.engine.state.generation() {
            return None;
        }
        let domains = &mut self.engine.state.domains;
        domains.restore_own_quotas(state.domid, state.own_quotas);
        let domain = domains.get_mut(state.domid)?;
        domain.born = state.born;
        domain.shutdown = state.shutdown;
        domain.peaks = state.peaks;
        domain.unique_id = domain.unique_id.or(state.unique_id);
        self.targets.extend(state.target.map(|target| (state.domid, target)));
        Some(())
    }

    fn transaction_extension(&mut self, body: &[u8]) -> Option<()> {
        let ((connection, id), body) = pending::read_name(body)?;
        let name = (ConnectionNumber(connection), id);
        let nodes = self.pending.get(&name)?;
        let transaction = pending::read(body, nodes, &self.engine.state.tree, self.now_ms)?;
        self.pending.remove(&name);
        self.open(name.0, id, transaction);
        Some(())
    }

    /// Keeps transactions from being committed that do not fit the tree.
    fn look_at_transactions(&mut self) {
        let tree = &self.engine.state.tree;
        for connection in self.engine.connections.values_mut() {
            let Some((session, _)) = connection.session_mut() else { continue };
            let unfit = session.transactions.values_mut().filter(|transaction| !transaction.fits(tree));
            unfit.for_each(Transaction::fail);
        }
    }

    /// Which requests are outstanding: those that caused what waits to be sent.
    fn restore_tickets(&mut self) {
        let connections = &mut self.engine.connections;
        let known: BTreeSet<ConnectionId> = connections.keys().copied().collect();
        let mut waiting: BTreeMap<ConnectionId, BTreeMap<u64, usize>> = BTreeMap::new();
        let newest = self.engine.next_ticket;
        for connection in connections.values_mut() {
            let Some((session, _)) = connection.session_mut() else { continue };
            session.output.map_origins(|origin| {
                if !known.contains(&origin.connection) || origin.ticket > newest {
                    return None;
                }
                let messages = waiting.entry(origin.connection).or_default().entry(origin.ticket).or_default();
                *messages = messages.saturating_add(1);
                Some(origin)
            });
        }
        for (id, tickets) in waiting {
            if let Some(connection) = connections.get_mut(&id) {
                connection.restore_tickets(VecDeque::from_iter(tickets));
            }
        }
    }

    /// Sees to it that events are dropped in time, for connections whose extension does not say when to look.
    fn restore_deadlines(&mut self) {
        let ids: Vec<ConnectionId> = self.engine.connections.keys().copied().collect();
        for id in ids {
            let next_ms = self.engine.connection(id).and_then(Connection::session);
            if let Some(next_ms) = next_ms.and_then(|session| session.output.next_deadline_ms()) {
                self.engine.note_deadline(id, next_ms);
            }
        }
    }

    /// Write credits and conflict points; who has none of its own begins like a new domain.
    fn restore_fairness(&mut self) {
        let fairness = self.read_fairness();
        if fairness.is_none() && !self.fairness.is_empty() {
            log::warn!("restore: write credits and conflict points can't be read");
        }
        if let Some((writes, conflicts, history)) = fairness {
            self.engine.fairness.writes = writes;
            self.engine.fairness.conflicts = conflicts;
            if self.engine.open_transactions().1 > 0 {
                self.engine.fairness.history = history;
            }
        }
        let introduced = self.engine.state.domains.iter().filter(|(_, domain)| domain.connection.is_some());
        let without: Vec<DomId> = introduced
            .map(|(domid, _)| domid)
            .filter(|domid| self.engine.fairness.writes.credit(*domid).is_none())
            .collect();
        for domid in without {
            self.engine.open_account(domid);
        }
    }

    fn read_fairness(&self) -> Option<(WriteCredits, ConflictCredits, History)> {
        let is_introduced = |domid| self.engine.state.domains.is_introduced(domid);
        let mut body = extension::read(&self.fairness)?;
        let writes = WriteCredits::restore(&mut body, self.now_ms, is_introduced)?;
        let conflicts = ConflictCredits::restore(&mut body, self.now_ms, is_introduced)?;
        let history = History::restore(&mut body, self.engine.state.generation())?;
        Some((writes, conflicts, history))
    }
}

/// An absolute path of a node.
fn absolute<'a>(spelling: &'a str, scratch: &'a mut PathScratch) -> Result<Path<'a>, RestoreError> {
    if !spelling.starts_with('/') {
        return Err(RestoreError::Path);
    }
    Path::parse(spelling.as_bytes(), DomId::DOM0, limits::PATH_BYTES, scratch).map_err(|_| RestoreError::Path)
}

fn set_quotas(domains: &mut Domains, domid: DomId, quotas: &NamedQuotas<'_>) {
    for (name, value) in quotas {
        if let Some(quota) = Quota::from_protocol_name(name) {
            domains.set_quota(domid, quota, *value);
        } else if let Some(domain) = domains.get_mut(domid) {
            keep(&mut domain.unknown_quotas, name, *value);
        }
    }
}

/// Keeps a quota that this server does not know.
fn keep(unknown: &mut UnknownQuotas, name: &str, value: u32) {
    if let Err(why) = unknown.set(name, value) {
        log::warn!("restore: quota {name:?} is left out: {why:?}");
    }
}
