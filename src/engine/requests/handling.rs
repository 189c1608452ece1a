//! One request from its bytes to its reply: the handler computes a change set, which is then applied or discarded.

use crate::engine::connection::Session;
use crate::engine::connection::output::{EventCause, Origin};
use crate::engine::fairness::memory::Budget;
use crate::engine::report::trace::Switches;
use crate::engine::requests::change_set::{Answer, UpdateCommand};
use crate::engine::requests::view::View;
use crate::engine::requests::{self, CommandSpec, Reply, RequestContext, replay};
use crate::engine::turn::{Cause, Turn};
use crate::engine::{Engine, work};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::permission::Requester;
use crate::store::quota::Quota;
use crate::store::record::Record;
use crate::store::transaction::Transaction;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::header::{Header, MessageType};
use alloc::boxed::Box;

/// A complete request.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Request<'a> {
    /// The connection that sent it.
    pub(in crate::engine) connection: ConnectionId,
    /// The identities whose rights it has.
    pub(in crate::engine) requester: Requester,
    pub(in crate::engine) header: Header,
    pub(in crate::engine) payload: &'a [u8],
}

/// The step that remains after a request's change set was applied.
pub(in crate::engine) enum Completion {
    /// The reply is sent.
    Reply,
    /// The reply is sent, and then the first event of the new watch.
    FirstEvent { path: Box<str>, token: Box<[u8]> },
    /// The host executes the command and replies later.
    Deferred(UpdateCommand),
}

/// A handler's outcome, and what it used.
struct Executed {
    outcome: Result<(), Errno>,
    /// The memory budget after the handler.
    budget: Budget,
    /// Whether the handler took memory.
    has_grown: bool,
    /// Whether the handler was refused memory.
    was_refused: bool,
}

impl Engine {
    /// Handles one request, and queues exactly one reply. `payload` is `None` if there was no memory for it.
    pub(in crate::engine) fn handle_request(
        &mut self,
        id: ConnectionId,
        header: Header,
        payload: Option<&[u8]>,
        turn: &mut Turn<'_>,
    ) {
        turn.work.begin_request();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let requester = connection.domid().map_or(Requester::Privileged, |domid| self.state.requester(domid));
        let origin = match &requester {
            Requester::Privileged => None,
            Requester::Domain { .. } => {
                // A ticket is never used again, not even by a later session of the same connection: messages that an
                // earlier session caused may still be pending.
                self.next_ticket = self.next_ticket.wrapping_add(1);
                connection.issue_ticket(self.next_ticket);
                Some(Origin { connection: id, ticket: self.next_ticket })
            }
        };
        // Only a guest's request has an origin.
        let event = EventCause { origin, originator: origin.map(|origin| origin.connection), subject: None };
        turn.cause = Cause { connection: Some(id), event };
        if self.trace.wants(Switches::IO) {
            self.trace_request(id, header);
        }
        let mut reply = Reply::new();
        let completion = match payload {
            Some(payload) => self.run(Request { connection: id, requester, header, payload }, &mut reply, turn),
            None => Err(Errno::NoSpc),
        };
        let outcome = completion.as_ref().map(|_| reply.as_slice()).map_err(|errno| *errno);
        if self.trace.wants(Switches::IO) || self.trace.wants(Switches::ACC) {
            self.trace_outcome(id, outcome.map(<[u8]>::len));
        }
        let cause = core::mem::take(&mut turn.cause);
        if let Ok(Completion::Deferred(command)) = completion {
            return self.defer(id, header, origin, command);
        }
        self.queue_reply(id, header, outcome, origin);
        if let Ok(Completion::FirstEvent { path, token }) = completion {
            self.announce_watch(id, &path, &token, cause.event.originator, turn);
        }
    }

    /// Logs a request before it is executed. Cold, so that it takes no room in the instruction cache.
    #[cold]
    #[inline(never)]
    fn trace_request(&self, id: ConnectionId, header: Header) {
        let Header { kind, request_id, transaction_id, payload_bytes } = header;
        let name = MessageType::from_wire(kind)
            .map_or_else(|| alloc::format!("unknown type {kind}"), |kind| alloc::format!("{kind:?}"));
        log::info!(
            "io: {} sends {name}, request {request_id}, transaction {transaction_id}, {payload_bytes} bytes",
            self.name(id)
        );
    }

    /// Logs the bytes of a request's reply, or its error, and the nodes and watches of its domain.
    #[cold]
    #[inline(never)]
    fn trace_outcome(&self, id: ConnectionId, outcome: Result<usize, Errno>) {
        if self.trace.wants(Switches::IO) {
            match outcome {
                Ok(bytes) => log::info!("io: {} gets {bytes} bytes", self.name(id)),
                Err(errno) => log::info!("io: {} gets {}", self.name(id), errno.name()),
            }
        }
        if self.trace.wants(Switches::ACC)
            && let Some(domain) = self.state.domains.get(self.domid_of(id))
        {
            log::info!("acc: {} has {} nodes and {} watches", self.name(id), domain.nodes, domain.watches);
        }
    }

    /// Finds the handler of a request, executes it, and applies its change set or discards it.
    pub(in crate::engine) fn run(
        &mut self,
        request: Request<'_>,
        reply: &mut Reply,
        turn: &mut Turn<'_>,
    ) -> Result<Completion, Errno> {
        let Request { connection: id, requester, header, payload } = request;
        let kind = MessageType::from_wire(header.kind).ok_or(Errno::NoSys)?;
        let spec = requests::command_spec(kind).ok_or(Errno::NoSys)?;
        if spec.is_privileged && !requester.is_privileged() {
            return Err(Errno::Acces);
        }
        let mut transaction = self.take_transaction(id, spec, header.transaction_id)?;
        if let Some(transaction) =
            transaction.as_mut().filter(|_| spec.ends_transaction && payload.first() == Some(&b'T'))
        {
            self.forget_departing(transaction, turn.work);
        }
        let executed = self.execute(request, spec, transaction.as_deref_mut(), reply, turn)?;
        let Executed { outcome, mut budget, has_grown, was_refused } = executed;
        let used = budget.used();
        turn.work.begin_events();
        // The maxima already include the request's own growth.
        if has_grown {
            let domid = self.domid_of(id);
            if self.state.domains.get(domid).is_some_and(|domain| used > domain.memory_warned_from()) {
                self.state.domains.note_grown(domid);
            }
        }
        if let Some(transaction) = &mut transaction {
            self.record(transaction, kind, requester, payload, outcome.map(|()| reply.as_slice()), &mut budget);
        }
        let completion = self.finish(request, outcome, transaction, reply, turn);
        if was_refused {
            self.warn_of_refusal(id, used, turn);
        }
        completion
    }

    /// Runs a request's handler, and the step of its change set that can fail. The host knows the request as in flight
    /// meanwhile.
    ///
    /// # Errors
    /// [`Errno::NoEnt`] if the connection is gone.
    fn execute(
        &mut self,
        request: Request<'_>,
        spec: CommandSpec,
        transaction: Option<&mut Transaction>,
        reply: &mut Reply,
        turn: &mut Turn<'_>,
    ) -> Result<Executed, Errno> {
        let Request { connection: id, requester, header, payload } = request;
        let connection = self.connections.get(id).ok_or(Errno::NoEnt)?;
        let session = connection.session();
        let open_transactions = session.map_or(0, Session::open_transactions);
        let lists = session.map_or(&[][..], |session| &session.lists);
        let budget = self.budget(connection, transaction.as_deref(), turn.free_bytes);
        let used_before = budget.used();
        turn.hypervisor.request_begins(id, header, payload);
        let mut context = RequestContext {
            view: View {
                state: &self.state,
                config: &self.config,
                requester,
                transaction,
                accesses: Some(&mut self.fairness.accesses),
                budget,
                steps: 0,
            },
            connection: id,
            domid: connection.domid().unwrap_or(DomId::DOM0),
            open_transactions,
            lists,
            history: &self.fairness.history,
            trace: self.trace,
            was_refused_memory: false,
            payload,
            hypervisor: &mut *turn.hypervisor,
            changes: &mut self.changes,
            reply,
        };
        let mut outcome = (spec.handler)(&mut context);
        let has_grown = context.view.budget.used() > used_before;
        if outcome.is_ok() && context.reply.len() > limits::SMALL_REPLY_BYTES {
            outcome = context.grow_reply();
        }
        let (was_refused, budget, seen) = (context.was_refused_memory, context.view.budget, context.view.steps);
        let copied = work::of_bytes(reply.len().saturating_add(payload.len()));
        turn.work.spend(seen.saturating_add(copied));
        let outcome = outcome.and_then(|()| self.prepare(turn));
        turn.hypervisor.request_ends();
        Ok(Executed { outcome, budget, has_grown, was_refused })
    }

    /// Records a request with its transaction, for a replay. A request with another effect is not recorded. Without
    /// memory for the record there is no replay.
    fn record(
        &self,
        transaction: &mut Transaction,
        kind: MessageType,
        requester: Requester,
        payload: &[u8],
        reply: Result<&[u8], Errno>,
        budget: &mut Budget,
    ) {
        if !replay::is_recorded(kind) || self.changes.effect.is_some() {
            return;
        }
        let record = transaction.record_mut();
        if !self.config.replay {
            // A successor that replays must not take an empty record for a complete one.
            *record = Record::dropped();
        }
        if record.requests().is_none() {
            return;
        }
        match budget.take(Record::bytes_of(payload, reply)) {
            Ok(()) => record.push(kind, payload, reply, replay::record_limits(requester.is_privileged())),
            Err(_) => *record = Record::dropped(),
        }
    }

    /// Applies the change set or discards it, and puts the transaction back unless it has ended.
    fn finish(
        &mut self,
        request: Request<'_>,
        outcome: Result<(), Errno>,
        mut transaction: Option<Box<Transaction>>,
        reply: &mut Reply,
        turn: &mut Turn<'_>,
    ) -> Result<Completion, Errno> {
        let id = request.connection;
        // Before the transaction counts as ended: the end of the last one clears the history of writers.
        let in_the_way = core::mem::take(&mut self.changes.in_the_way);
        self.blame(id, &in_the_way, turn);
        if outcome.is_err() {
            self.changes.peaks.clear();
        }
        self.note_peaks(id, transaction.as_deref().map(Transaction::len));
        if outcome.is_ok() {
            self.learn_domains(turn);
            match &mut transaction {
                Some(transaction) => self.apply_in_transaction(transaction),
                None if self.changes.nodes.is_empty() => {}
                None => {
                    let before = self.state.generation();
                    let written = self.apply_nodes(turn);
                    self.account_write(id, before, written, turn);
                }
            }
            if let Some(change) = self.changes.list.take() {
                self.change_list(id, change, turn);
            }
        }
        let mut ended = None;
        if let Some(transaction) = transaction {
            if self.changes.ends_transaction {
                self.note_closed(id, &transaction);
                ended = Some(transaction);
            } else if let Some(session) = self.connections.session_mut(id) {
                session.transactions.insert(request.header.transaction_id, transaction);
            }
        }
        let effect = self.changes.effect.take();
        let answer = core::mem::take(&mut self.changes.answer);
        self.changes.clear();
        outcome?;
        let completion = match effect {
            Some(effect) => self.apply_effect(id, effect, ended, reply, turn),
            None => Completion::Reply,
        };
        Ok(match answer {
            Answer::Complete => completion,
            Answer::Report(report) => {
                self.report(report, reply);
                completion
            }
            Answer::Deferred(command) => Completion::Deferred(command),
        })
    }

    /// Raises the requester's maxima, now that the request is granted or refused.
    fn note_peaks(&mut self, id: ConnectionId, transaction_nodes: Option<usize>) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(domid) = connection.domid() else { return };
        self.changes.peaks.note(Quota::TransactionNodes, transaction_nodes.unwrap_or(0));
        self.changes.peaks.note(Quota::Outstanding, connection.outstanding());
        if let Some(domain) = self.state.domains.get_mut(domid) {
            domain.peaks.merge(&self.changes.peaks);
        }
        if domid != self.config.privileged {
            self.peaks.merge(&self.changes.peaks);
        }
    }

    /// Opens a transaction and writes its number into the reply.
    pub(in crate::engine) fn start_transaction(&mut self, id: ConnectionId, reply: &mut Reply, turn: &Turn<'_>) {
        let Some(session) = self.connections.session_mut(id) else { return };
        let transaction = session.free_transaction_id();
        session.transactions.insert(transaction, Box::new(Transaction::started(turn.now_ms)));
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} opens transaction {transaction}", self.name(id));
        }
        self.note_opened(id);
        reply.clear();
        // Ten digits and a NUL always fit.
        let _ = requests::number(reply, transaction);
    }

    /// Takes out the transaction that a request names, while the request is executed.
    fn take_transaction(
        &mut self,
        id: ConnectionId,
        spec: CommandSpec,
        number: u32,
    ) -> Result<Option<Box<Transaction>>, Errno> {
        if number == 0 || spec.ignores_transaction {
            return Ok(None);
        }
        let session = self.connections.session_mut(id).ok_or(Errno::NoEnt)?;
        session.transactions.remove(&number).map(Some).ok_or(Errno::NoEnt)
    }
}
