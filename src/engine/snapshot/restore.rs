//! Builds an engine from items, whole or not at all.
//!
//! Every reference is checked against the items before it, and all counts are computed again. Quotas are not checked:
//! existing objects stay, and the limits hold for new ones. Nothing here panics, whatever the items contain.
//!
//! Without this server's extensions, as from another server, these defaults hold:
//!
//! - Every named domain counts as older than every node.
//! - Events expire as late as new ones.
//! - No request is outstanding.
//! - The ring indices are those of the page.
//!
//! Sockets are left out, with all their objects.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::config::Config;
use crate::engine::connection::{Connection, Peer, ProtocolError, RingStart};
use crate::engine::hypervisor::Port;
use crate::engine::snapshot::extension::GenerationReader;
use crate::engine::snapshot::pending::{PendingNode, PendingNodes};
use crate::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, GlobalQuotas, Item, NamedQuotas, NodeAccess, NodeItem, RestoreError,
    StreamPeer, TransactionItem, WatchItem,
};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::domain_table::{Domains, NodeCount};
use crate::store::node::Node;
use crate::store::path::{AnyPath, Path, PathScratch};
use crate::store::permission::{Access, Entry, Permissions};
use crate::store::quota::Quota;
use crate::store::special::Special;
use crate::store::state::State;
use crate::store::transaction::Transaction;
use crate::store::tree_builder::{Misplaced, TreeBuilder};
use crate::store::unknown_quotas::{NotKept, UnknownQuotas};
use crate::store::watch::ConnectionId;
use crate::wire::feature::Features;

/// A builder of an engine from items. The engine's connections have no ring yet, and their ports are not adopted.
#[derive(Debug)]
pub struct Restorer {
    pub(super) engine: Engine,
    pub(super) now_ms: u64,
    /// Numbers of connections that cannot be restored; their objects are left out too.
    pub(super) left_out: BTreeSet<ConnectionNumber>,
    /// Connections whose extension was restored.
    pub(super) extended: BTreeSet<ConnectionNumber>,
    /// Connections that were shut.
    pub(super) errors: Vec<(ConnectionId, ProtocolError)>,
    /// Domains whose record was restored.
    pub(super) described: BTreeSet<DomId>,
    /// Pairs of a domain and its target (SET_TARGET).
    pub(super) targets: Vec<(DomId, DomId)>,
    /// The generations of the last writes of the nodes to come.
    pub(super) generations: GenerationReader,
    /// The tree, while nodes come.
    builder: Option<TreeBuilder>,
    /// The permissions that came last, as they were and as they are restored. Most nodes have those of the one before.
    last_permissions: Option<(Permissions, Permissions)>,
    /// The owner of the last nodes, and their number not yet charged to it.
    charged: (DomId, NodeCount),
    pub(super) has_root: bool,
    pub(super) specials: [bool; Special::ALL.len()],
    /// Transactions of which only the nodes' records have been restored so far.
    pub(super) pending: BTreeMap<(ConnectionNumber, u32), PendingNodes>,
    /// Special nodes in transactions, from other servers' records.
    pub(super) pending_specials: BTreeMap<(ConnectionNumber, u32), Vec<(Special, PendingNode<'static>)>>,
    pub(super) fairness: Box<[u8]>,
    pub(super) postponed: Box<[u8]>,
    /// Domains whose maxima the stream has.
    pub(super) with_peaks: BTreeSet<DomId>,
}

impl Restorer {
    /// Creates a restorer without items. Quotas that the items do not name are those of `config`.
    #[must_use]
    pub fn new(config: &Config, now_ms: u64) -> Self {
        let mut engine = Engine::new(config.clone());
        engine.state = State::bare(config.privileged, config.quotas.clone());
        Self {
            engine,
            now_ms,
            left_out: BTreeSet::new(),
            extended: BTreeSet::new(),
            errors: Vec::new(),
            described: BTreeSet::new(),
            targets: Vec::new(),
            generations: GenerationReader::default(),
            builder: None,
            last_permissions: None,
            charged: (config.privileged, NodeCount::default()),
            has_root: false,
            specials: [false; Special::ALL.len()],
            pending: BTreeMap::new(),
            pending_specials: BTreeMap::new(),
            fairness: Box::default(),
            postponed: Box::default(),
            with_peaks: BTreeSet::new(),
        }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// [`RestoreError`] if the item is invalid. The earlier items stay valid and others may follow: a refused item only
    /// makes the domains in its permissions known. The exception is a connection whose output is refused: the restore
    /// has failed then.
    pub fn push(&mut self, item: &Item<'_>) -> Result<(), RestoreError> {
        match item {
            // A daemon's descriptors have no meaning here.
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

    /// Returns the connection of a number; `None` if its objects are left out.
    fn known(&self, number: ConnectionNumber) -> Result<Option<ConnectionId>, RestoreError> {
        let id = ConnectionId(number.0.into());
        if self.engine.connections.get(id).is_some() {
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
            log::warn!("restore: connection {} left out: it is a socket", item.number.0);
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
        if bound.is_some_and(|port| self.engine.connections.with_port(port).is_some()) {
            return Err(RestoreError::Port(port));
        }
        let mut connection = Connection::new(Peer::Domain { domid, port: bound }, Some(RingStart::Adopt));
        connection.is_mapped = false;
        self.engine.connections.restore(id, connection);
        let domain = self.engine.state.domains.learn(domid, 0);
        domain.connection = Some(id);
        domain.unique_id = item.unique_id.filter(|id| *id != 0);
        self.targets.extend(target.map(|target| (domid, target)));
        self.fill(id, item)
    }

    /// Gives a connection its input and output.
    fn fill(&mut self, id: ConnectionId, item: &ConnectionItem<'_>) -> Result<(), RestoreError> {
        let wrong = RestoreError::Output(item.output.len());
        let timeout_ms = self.engine.config.event_timeout_ms;
        let is_privileged = self.engine.connections.domain_of(id) == Some(self.engine.config.privileged);
        let deadline_ms = (timeout_ms > 0 && !is_privileged).then(|| self.now_ms.saturating_add(timeout_ms));
        let Some(session) = self.engine.connections.session_mut(id) else { return Ok(()) };
        session.input.restore(&item.input);
        session.output.restore(&item.output.to_block(), item.partial_bytes, deadline_ms).map_err(|_| wrong)
    }

    pub(super) fn domain(&mut self, item: &DomainItem<'_>) -> Result<(), RestoreError> {
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
        let path = AnyPath::parse(item.path.as_bytes(), domid, limits::ABSOLUTE_PATH_BYTES, &mut scratch);
        let path = path.map_err(|_| RestoreError::Path)?.as_str();
        if self.engine.state.watches.find(id, path, &item.token).is_some() {
            return Err(RestoreError::Watch);
        }
        if item.has_lost_depth {
            log::warn!(
                "restore: domain {domid}: watch of {}: the stream lacks its depth; it sees all levels from now on",
                item.path
            );
        }
        let relative = !item.path.starts_with(['/', '@']);
        self.engine.add_watch(id, path, &item.token, relative, item.depth.map(u32::from));
        Ok(())
    }

    fn transaction(&mut self, item: TransactionItem) -> Result<(), RestoreError> {
        let Some(id) = self.known(item.connection)? else { return Ok(()) };
        let session = self.engine.connections.session_mut(id);
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
        let permissions = item.permissions.as_ref().ok_or_else(|| RestoreError::NoPermissions(name()))?;
        let permissions = self.known_permissions(permissions);
        if item.path.starts_with('@') {
            return self.special(item, permissions);
        }
        let path = match self.builder.as_ref().and_then(|builder| builder.read_near(&item.path)) {
            Some(path) => path,
            None => absolute(&item.path)?,
        };
        let state = &mut self.engine.state;
        if path.is_root() && core::mem::replace(&mut self.has_root, true) {
            return Err(RestoreError::Node(name()));
        }
        let newest = state.generation();
        let generation = self.generations.next(newest).unwrap_or_else(|| state.next_generation());
        let owner = permissions.owner();
        let bytes = Node::memory_bytes(path, permissions.entries().len(), item.value.len());
        let builder = self.builder.get_or_insert_with(|| TreeBuilder::new(state.take_tree()));
        if path.is_root() {
            builder.replace_root(Node::new((*item.value).into(), permissions, generation));
        } else {
            let added = builder.add(path, |parent| {
                // Most nodes inherited their permissions, and share them again.
                let inherited = parent.permissions();
                let permissions = if *inherited == permissions { inherited.clone() } else { permissions };
                Node::new((*item.value).into(), permissions, generation)
            });
            added.map_err(|why| match why {
                Misplaced::NoParent => RestoreError::NoParent(name()),
                Misplaced::Exists => RestoreError::Node(name()),
            })?;
        }
        if owner != self.charged.0 {
            self.charge();
            self.charged.0 = owner;
        }
        self.charged.1 = self.charged.1.plus(NodeCount::one(bytes));
        Ok(())
    }

    /// Charges the nodes of `charged` to their owner.
    fn charge(&mut self) {
        let (owner, count) = (self.charged.0, core::mem::take(&mut self.charged.1));
        self.engine.state.domains.charge_nodes(owner, count);
    }

    /// Moves the built tree into the state, because the next step reads it.
    pub(super) fn settle_tree(&mut self) {
        self.charge();
        if let Some(builder) = self.builder.take() {
            self.engine.state.tree = builder.finish();
        }
    }

    fn special(&mut self, item: &NodeItem<'_>, permissions: Permissions) -> Result<(), RestoreError> {
        let Some(special) = Special::from_name(&item.path) else {
            log::warn!("restore: special node {} left out: unknown name", item.path);
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

    /// Restores the permissions of a node. The named domains become known.
    fn known_permissions(&mut self, permissions: &Permissions) -> Permissions {
        if let Some((_, restored)) = self.last_permissions.as_ref().filter(|(last, _)| last == permissions) {
            return restored.clone();
        }
        let restored = self.permissions(permissions);
        self.learn(&restored);
        self.last_permissions = Some((permissions.clone(), restored.clone()));
        restored
    }

    /// Restores permissions. A dead owner's node goes to the control domain.
    fn permissions(&self, permissions: &Permissions) -> Permissions {
        let privileged = self.engine.config.privileged;
        let can_be = |entry: &Entry| !entry.domid.is_reserved() || entry.domid == DomId::ANY;
        let entries = permissions.entries();
        if entries.iter().all(|entry| can_be(entry) && !entry.stale && !entry.access.contains(Access::OWNER)) {
            return permissions.clone();
        }
        let mut kept = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            let mut entry = Entry { access: entry.access & !Access::OWNER, ..*entry };
            entry.stale = entry.stale || !can_be(&entry);
            if at == 0 && entry.stale {
                log::warn!("restore: a node of domain {} goes to the control domain", entry.domid);
                entry = Entry { domid: privileged, stale: false, ..entry };
            }
            kept.push(entry);
        }
        Permissions::from_entries(&kept).unwrap_or_else(|| permissions.clone())
    }

    /// Makes the domains known that permissions name, and marks the entries of those that are not alive.
    pub(super) fn learn(&mut self, permissions: &Permissions) {
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
        let name = (transaction.connection, transaction.id);
        let permissions = item.permissions.as_ref().map(|permissions| self.permissions(permissions));
        let node = PendingNode { access, value: item.value.to_vec().into(), permissions };
        let nodes = self.pending.get_mut(&name).ok_or(RestoreError::UnknownTransaction(transaction.id))?;
        if item.path.starts_with('@') {
            let special = Special::from_name(&item.path).map(|special| (special, node));
            self.pending_specials.entry(name).or_default().extend(special);
        } else {
            nodes.push((absolute(&item.path)?.to_owned(), node));
        }
        Ok(())
    }

    /// Opens a transaction whose items are complete.
    pub(super) fn open(&mut self, connection: ConnectionNumber, number: u32, transaction: Transaction) {
        let id = ConnectionId(connection.0.into());
        if self.engine.connections.get(id).is_some_and(|connection| connection.session().is_some()) {
            self.engine.note_opened(id);
            self.engine.fairness.accesses.note_all(&transaction);
        }
        if let Some(session) = self.engine.connections.session_mut(id) {
            session.transactions.insert(number, Box::new(transaction));
        }
    }
}

/// Parses the absolute path of a node.
fn absolute(spelling: &str) -> Result<Path<'_>, RestoreError> {
    Path::parse_absolute(spelling.as_bytes(), limits::ABSOLUTE_PATH_BYTES).map_err(|_| RestoreError::Path)
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
        let why = match why {
            NotKept::Known => "the name is known",
            NotKept::BadName => "invalid name",
            NotKept::Full => "too many unknown quotas",
        };
        log::warn!("restore: quota {name:?} left out: {why}");
    }
}
