//! Saves the engine's state as items. The items borrow from the state: there is no second copy of the tree.
//!
//! Clients of the hosted server are left out: they do not outlive its process.
//!
//! A save has no request's budget. It checks for memory before it builds anything whose size grows with the state of
//! guests, and fails with [`NoMemory`]. Two small parts of [`crate::limits::PRIVILEGED_WORK_BYTES`] are not checked.
//! They are the permissions of one node, which came in one message, and one domain's quotas
//! ([`crate::limits::UNKNOWN_QUOTAS`]).

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::connection::output::{self, MessageDetails, Origin, Output};
use crate::engine::connection::{Connection, Peer, Reading};
use crate::engine::snapshot::extension::{self, ConnectionState, DomainState, GenerationWriter, ServerState};
use crate::engine::snapshot::pending::{self, PendingNode};
use crate::engine::snapshot::{
    Bytes, ConnectionItem, ConnectionNumber, DomainItem, Global, GlobalQuotas, Item, NamedQuotas, NoMemory, NodeItem,
    StreamPeer, TransactionItem, WatchItem,
};
use crate::store::domain::DomId;
use crate::store::domain_table::Domain;
use crate::store::permission::Permissions;
use crate::store::quota::Quota;
use crate::store::special::Special;
use crate::store::unknown_quotas::UnknownQuotas;
use crate::store::watch::ConnectionId;

/// The greatest depth of a watch that a record can hold; the next number means all levels. No path is that deep.
const DEPTH_MOST: u16 = u16::MAX - 1;

/// The parameters of a save.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions<'a> {
    /// The present time, in milliseconds of the clock that the engine's times are from.
    pub now_ms: u64,
    /// Whole messages to send to a connection after its pending ones: the reply to the client that requested the
    /// update, which only the successor may send.
    pub reply: Option<(ConnectionId, &'a [u8])>,
}

impl Engine {
    /// Passes the whole state to `visit`, item by item. The same state gives the same items.
    ///
    /// # Errors
    /// The first error of `visit`, which is not called again then; [`NoMemory`] if memory for the save is missing. The
    /// state stays unchanged.
    pub fn save<E: From<NoMemory>>(
        &self,
        options: &SaveOptions<'_>,
        visit: &mut dyn FnMut(&Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_domain = |connection: &Connection| connection.peer != Peer::Socket;
        let connections = self.connections.iter().filter(|(_, connection)| is_domain(connection));
        let mut numbers = Vec::new();
        numbers.try_reserve_exact(self.connections.len()).map_err(NoMemory::from)?;
        numbers.extend(connections.map(|(id, _)| id));
        let saver = Saver { engine: self, options, numbers };
        visit(&Item::Global(Global::NONE))?;
        visit(&saver.global_quotas())?;
        visit(&saver.server().write()?)?;
        for id in &saver.numbers {
            saver.connection(*id, visit)?;
        }
        saver.watches(visit)?;
        saver.nodes(visit)?;
        for id in &saver.numbers {
            saver.transactions(*id, visit)?;
        }
        visit(&saver.fairness()?)?;
        visit(&saver.postponed()?)?;
        visit(&saver.drops()?)?;
        saver.domains(visit)
    }
}

/// Returns whether a stream may have a record of a domain. The C server accepts one only for a domain known from
/// earlier records: by a connection, or by a node that the domain owns. Any other domain is in an extension.
pub(in crate::engine) const fn has_record(domain: &Domain) -> bool {
    domain.connection.is_some() || domain.nodes > 0
}

/// A save in progress.
pub(super) struct Saver<'a> {
    pub(super) engine: &'a Engine,
    options: &'a SaveOptions<'a>,
    /// The connections in the order of their numbers, the first of which is 1.
    pub(super) numbers: Vec<ConnectionId>,
}

/// The function that receives the items.
type Visit<'v, E> = &'v mut dyn FnMut(&Item<'_>) -> Result<(), E>;

impl<'a> Saver<'a> {
    pub(super) fn number(&self, id: ConnectionId) -> Option<ConnectionNumber> {
        let at = self.numbers.binary_search(&id).ok()?;
        u32::try_from(at).ok()?.checked_add(1).map(ConnectionNumber)
    }

    fn global_quotas(&self) -> Item<'a> {
        let domains = &self.engine.state.domains;
        let known = Quota::ALL.map(|quota| (quota.protocol_name().into(), domains.default_quotas().get(quota)));
        let mut defaults: NamedQuotas<'_> = known.into();
        defaults.extend(unknown(&domains.unknown_quotas));
        let global = unknown(&domains.unknown_global_quotas).collect();
        Item::GlobalQuotas(GlobalQuotas { defaults, global })
    }

    fn server(&self) -> ServerState {
        let engine = self.engine;
        ServerState {
            generation: engine.state.generation(),
            next_ticket: engine.next_ticket,
            trace: engine.trace,
            peaks: engine.peaks.clone(),
            stream_limit: engine.stream_limit,
        }
    }

    /// Saves a domain's connection.
    fn connection<E: From<NoMemory>>(&self, id: ConnectionId, visit: Visit<'_, E>) -> Result<(), E> {
        let (Some(number), Some(connection)) = (self.number(id), self.engine.connection(id)) else { return Ok(()) };
        let Peer::Domain { domid, port } = connection.peer else { return Ok(()) };
        let domain = self.engine.state.domains.get(domid);
        let session = connection.session();
        let output = session.map(|session| &session.output);
        let reply = self.options.reply.filter(|(receiver, _)| *receiver == id && output.is_some());
        let reply = reply.map_or(&[][..], |(_, reply)| reply);
        visit(&Item::Connection(ConnectionItem {
            number,
            peer: StreamPeer::Ring { domid, target: self.target(domid), port: port.map_or(0, |port| port.0) },
            input: session.map(|session| session.input.received()).unwrap_or_default().into(),
            output: Bytes::waiting(output, reply),
            partial_bytes: output.map_or(0, Output::partial_bytes),
            unique_id: domain.and_then(|domain| domain.unique_id),
        }))?;
        let state = ConnectionState {
            number,
            ring: connection.ring,
            ring_start: connection.ring_start,
            error: connection.error(),
            deadline_ms: connection.deadline_ms.map(|at_ms| at_ms.saturating_sub(self.options.now_ms)),
            next_transaction: session.map_or(0, |session| session.next_transaction),
            sent: output.map_or(&[][..], Output::sent),
            is_shut_out: connection.is_shut_out,
            reading: Reading {
                unread_since_ms: connection
                    .reading
                    .unread_since_ms
                    .map(|at_ms| self.options.now_ms.saturating_sub(at_ms)),
                ..connection.reading
            },
        };
        let waiting = output.into_iter().flat_map(Output::messages).map(|details| self.relative(details));
        let replies = output::count(reply);
        let count = output.map_or(0, Output::len).saturating_add(replies);
        visit(&state.write(count, waiting.chain(core::iter::repeat_n(MessageDetails::default(), replies)))?)
    }

    /// Returns the present target of a domain (SET_TARGET).
    fn target(&self, domid: DomId) -> Option<DomId> {
        let domains = &self.engine.state.domains;
        domains.get(domid)?.target.filter(|target| domains.is_current(*target)).map(|target| target.domid)
    }

    /// Converts a message's details to those in an extension: numbered connections, and relative times.
    fn relative(&self, details: MessageDetails) -> MessageDetails {
        let origin = details.origin.and_then(|origin| {
            let connection = self.engine.connection(origin.connection)?;
            let number = self.number(origin.connection)?;
            // A request that is no longer outstanding has ticket 0. Its event is still charged to the connection.
            let ticket = if connection.has_ticket(origin.ticket) { origin.ticket } else { 0 };
            Some(Origin { connection: ConnectionId(number.0.into()), ticket })
        });
        let deadline_ms = details.deadline_ms.map(|deadline_ms| deadline_ms.saturating_sub(self.options.now_ms));
        MessageDetails { origin, deadline_ms, subject: details.subject }
    }

    fn domains<E: From<NoMemory>>(&self, visit: Visit<'_, E>) -> Result<(), E> {
        let domains = &self.engine.state.domains;
        for (domid, domain) in domains.iter() {
            let (quotas, own_quotas) = (domains.quotas(domid), domains.own_quotas(domid));
            let is_saved = |quota: &Quota| {
                own_quotas & (1 << *quota as u16) != 0 || quotas.get(*quota) != domains.default_quotas().get(*quota)
            };
            let saved = Quota::ALL.into_iter().filter(is_saved);
            let named = saved.map(|quota| (quota.protocol_name().into(), quotas.get(quota)));
            let item = DomainItem {
                domid,
                features: Some(domain.features.bits()),
                quotas: named.chain(unknown(&domain.unknown_quotas)).collect(),
            };
            let item = if has_record(domain) { Item::Domain(item) } else { extension::write_named_domain(&item)? };
            visit(&item)?;
            let state = DomainState {
                domid,
                born: domain.born,
                shutdown: domain.shutdown,
                unique_id: domain.unique_id,
                own_quotas,
                target: self.target(domid),
                peaks: domain.peaks.clone(),
            };
            visit(&state.write()?)?;
        }
        Ok(())
    }

    fn watches<E>(&self, visit: Visit<'_, E>) -> Result<(), E> {
        for id in &self.numbers {
            let Some(connection) = self.number(*id) else { continue };
            for watch in self.engine.state.watches.of_connection(*id) {
                let depth =
                    watch.depth.map(|depth| u16::try_from(depth).map_or(DEPTH_MOST, |depth| depth.min(DEPTH_MOST)));
                visit(&Item::Watch(WatchItem {
                    connection,
                    path: watch.reported(&watch.path).into(),
                    token: (&*watch.token).into(),
                    depth,
                    has_lost_depth: false,
                }))?;
            }
        }
        Ok(())
    }

    /// Saves the special nodes and the tree, after the generations of all nodes.
    fn nodes<E: From<NoMemory>>(&self, visit: Visit<'_, E>) -> Result<(), E> {
        let state = &self.engine.state;
        let mut generations = GenerationWriter::default();
        for special in Special::ALL {
            generations.push(state.specials.get(special).generation);
        }
        state.tree.try_visit(|node| generations.push(node.generation())).map_err(NoMemory::from)?;
        visit(&generations.finish()?)?;
        for special in Special::ALL {
            let node = state.specials.get(special);
            self.node(special.name(), &[], &node.permissions, node.generation, visit)?;
        }
        let mut walk = state.tree.try_walk().map_err(NoMemory::from)?;
        while let Some((path, node)) = walk.next() {
            self.node(path.as_str(), node.value(), node.permissions(), node.generation(), visit)?;
        }
        Ok(())
    }

    fn node<E>(
        &self,
        path: &str,
        value: &[u8],
        permissions: &Permissions,
        generation: u64,
        visit: Visit<'_, E>,
    ) -> Result<(), E> {
        let permissions = Some(self.engine.state.domains.adjusted(permissions, generation));
        visit(&Item::Node(NodeItem { pending: None, path: path.into(), value: value.into(), permissions }))
    }

    fn transactions<E: From<NoMemory>>(&self, id: ConnectionId, visit: Visit<'_, E>) -> Result<(), E> {
        let session = self.engine.connection(id).and_then(Connection::session);
        let (Some(connection), Some(session)) = (self.number(id), session) else { return Ok(()) };
        let state = &self.engine.state;
        for (number, transaction) in &session.transactions {
            let item = TransactionItem { connection, id: *number };
            visit(&Item::Transaction(item))?;
            let accesses = transaction.accesses().map_err(NoMemory::from)?;
            for (path, accessed) in &accesses {
                let PendingNode { access, value, permissions } = PendingNode::of(accessed, &state.domains);
                let pending = Some((item, access));
                visit(&Item::Node(NodeItem { pending, path: path.as_str().into(), value, permissions }))?;
            }
            visit(&pending::write(item, transaction, &accesses, state, self.options.now_ms)?)?;
        }
        Ok(())
    }

    fn drops(&self) -> Result<Item<'static>, NoMemory> {
        let mut body = extension::body();
        self.engine.drops.save(self.options.now_ms, &mut body, |id| self.number(id));
        extension::item(extension::DROPS, body)
    }

    fn fairness(&self) -> Result<Item<'static>, NoMemory> {
        let (fairness, now_ms) = (&self.engine.fairness, self.options.now_ms);
        let mut body = extension::body();
        fairness.writes.save(now_ms, &mut body);
        fairness.conflicts.save(now_ms, &mut body);
        fairness.history.save(&mut body);
        extension::item(extension::FAIRNESS, body)
    }
}

fn unknown(quotas: &UnknownQuotas) -> impl Iterator<Item = (Cow<'_, str>, u32)> {
    quotas.iter().map(|(name, value)| (name.into(), value))
}
