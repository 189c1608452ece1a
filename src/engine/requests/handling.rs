//! One request from its bytes to its reply: the handler computes a change set, and that is made true or dropped.

use crate::engine::connection::Session;
use crate::engine::connection::output::{EventCause, Origin};
use crate::engine::fairness::memory::Budget;
use crate::engine::hypervisor::Hypervisor;
use crate::engine::report::trace::Switches;
use crate::engine::requests::change_set::Effect;
use crate::engine::requests::in_flight;
use crate::engine::requests::view::View;
use crate::engine::requests::{self, CommandSpec, Reply, RequestContext, replay};
use crate::engine::{Cause, Engine, work};
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

impl Engine {
    /// Handles one request, and queues exactly one reply. `payload` is `None` if there was no memory for it.
    pub(in crate::engine) fn handle_request(
        &mut self,
        id: ConnectionId,
        header: Header,
        payload: Option<&[u8]>,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) {
        self.free_for_events = hypervisor.free_memory();
        self.work.begin_request();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let requester = connection.domid().map_or(Requester::Privileged, |domid| self.state.requester(domid));
        let origin = match &requester {
            Requester::Privileged => None,
            Requester::Domain { .. } => {
                // Never used again, not even by a later session of the same connection: messages that an earlier one
                // caused may still wait somewhere.
                self.next_ticket = self.next_ticket.wrapping_add(1);
                connection.issue_ticket(self.next_ticket);
                Some(Origin { connection: id, ticket: self.next_ticket })
            }
        };
        // Only a guest's request has an origin.
        let event = EventCause { origin, originator: origin.map(|origin| origin.connection), subject: None };
        self.cause = Cause { connection: Some(id), event };
        if self.trace.wants(Switches::IO) {
            self.trace_request(id, header);
        }
        let mut reply = Reply::new();
        let outcome = match payload {
            Some(payload) => self.run(id, requester, header, payload, &mut reply, hypervisor, now_ms),
            None => Err(Errno::NoSpc),
        };
        if self.trace.wants(Switches::IO) || self.trace.wants(Switches::ACC) {
            self.trace_outcome(id, outcome.as_ref().map(|_| reply.len()).map_err(|errno| *errno));
        }
        let cause = core::mem::take(&mut self.cause);
        let origin = cause.event.origin;
        if let Ok(Some(Effect::Update(command))) = outcome {
            return self.defer(id, header, origin, command);
        }
        self.queue_reply(id, header, outcome.as_ref().map(|_| reply.as_slice()).map_err(|errno| *errno), origin);
        if let Ok(Some(Effect::Watch { path, token, .. })) = outcome {
            self.announce_watch(id, &path, &token, cause.event.originator, now_ms);
        }
    }

    /// Logs a request before it is handled. Cold, so that it takes no room in the instruction cache beside what runs.
    #[cold]
    #[inline(never)]
    fn trace_request(&self, id: ConnectionId, header: Header) {
        let kind = MessageType::from_wire(header.kind);
        log::info!("io: {} asks {kind:?}, {header:?}", self.name(id));
    }

    /// Logs the bytes of a request's reply, or its error, and what its domain has now.
    #[cold]
    #[inline(never)]
    fn trace_outcome(&self, id: ConnectionId, outcome: Result<usize, Errno>) {
        if self.trace.wants(Switches::IO) {
            log::info!("io: {} gets {outcome:?}", self.name(id));
        }
        if self.trace.wants(Switches::ACC)
            && let Some(domain) = self.state.domains.get(self.domid_of(id))
        {
            log::info!("acc: {} has {} nodes and {} watches", self.name(id), domain.nodes, domain.watches);
        }
    }

    /// Finds the handler, runs it, and makes its changes true or drops them. Returns the effect that took place.
    #[expect(clippy::too_many_arguments, reason = "one request's circumstances, used once")]
    pub(in crate::engine) fn run(
        &mut self,
        id: ConnectionId,
        requester: Requester,
        header: Header,
        payload: &[u8],
        reply: &mut Reply,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) -> Result<Option<Effect>, Errno> {
        let spec = MessageType::from_wire(header.kind).and_then(requests::command_spec).ok_or(Errno::NoSys)?;
        if spec.is_privileged && !requester.is_privileged() {
            return Err(Errno::Acces);
        }
        let mut transaction = self.take_transaction(id, spec, header.transaction_id)?;
        if let Some(transaction) =
            transaction.as_mut().filter(|_| spec.ends_transaction && payload.first() == Some(&b'T'))
        {
            self.forget_departing(transaction);
        }
        let connection = self.connections.get(&id).ok_or(Errno::NoEnt)?;
        let session = connection.session();
        let open_transactions = session.map_or(0, Session::open_transactions);
        let lists = session.map_or(&[][..], |session| &session.lists);
        let budget = self.budget(connection, transaction.as_deref(), hypervisor);
        let used_before = budget.used();
        let domid = connection.domid().unwrap_or(DomId::DOM0);
        let mut context = RequestContext {
            view: View {
                state: &self.state,
                config: &self.config,
                requester,
                transaction: transaction.as_deref_mut(),
                accesses: Some(&mut self.fairness.accesses),
                budget,
                steps: 0,
            },
            connection: id,
            domid,
            open_transactions,
            lists,
            history: &self.fairness.history,
            trace: self.trace,
            was_refused_memory: false,
            payload,
            hypervisor,
            changes: &mut self.changes,
            reply,
        };
        in_flight::begin(id, header, payload);
        #[cfg(feature = "boot-test")]
        in_flight::crash_if_asked(&mut context);
        let mut outcome = (spec.handler)(&mut context);
        in_flight::end();
        let has_grown = context.view.budget.used() > used_before;
        if outcome.is_ok() && context.reply.len() > limits::SMALL_REPLY_BYTES {
            outcome = context.grow_reply();
        }
        let (was_refused, used, mut budget) =
            (context.was_refused_memory, context.view.budget.used(), context.view.budget);
        let (seen, answered) = (context.view.steps, work::of_bytes(context.reply.len().saturating_add(payload.len())));
        self.work.spend(seen.saturating_add(answered));
        self.work.begin_events();
        // The maxima already include the request's own growth.
        if has_grown && self.state.domains.get(domid).is_some_and(|domain| used > domain.memory_warned_from()) {
            self.state.domains.note_grown(domid);
        }
        if let (Some(transaction), Some(kind)) = (&mut transaction, MessageType::from_wire(header.kind)) {
            self.record(transaction, kind, requester, payload, outcome.map(|()| reply.as_slice()), &mut budget);
        }
        let outcome = self.finish(id, header, outcome, transaction, reply, hypervisor, now_ms);
        if was_refused {
            self.warn_of_refusal(id, used, now_ms);
        }
        outcome
    }

    /// Keeps a request with its transaction, so that it can be replayed; one that did something else as well is not. Without
    /// memory for it there will be no replay.
    fn record(
        &self,
        transaction: &mut Transaction,
        kind: MessageType,
        requester: Requester,
        payload: &[u8],
        reply: Result<&[u8], Errno>,
        budget: &mut Budget,
    ) {
        if !self.config.replay || !replay::is_recorded(kind) || self.changes.effect.is_some() {
            return;
        }
        let record = transaction.record_mut();
        if record.requests().is_none() {
            return;
        }
        match budget.take(Record::bytes_of(payload, reply)) {
            Ok(()) => record.push(kind, payload, reply, replay::record_limits(requester.is_privileged())),
            Err(_) => *record = Record::dropped(),
        }
    }

    /// Makes the changes true, or drops them, and puts the transaction back unless it is over.
    #[expect(clippy::too_many_arguments, reason = "one request's circumstances, used once")]
    fn finish(
        &mut self,
        id: ConnectionId,
        header: Header,
        outcome: Result<(), Errno>,
        mut transaction: Option<Box<Transaction>>,
        reply: &mut Reply,
        hypervisor: &mut dyn Hypervisor,
        now_ms: u64,
    ) -> Result<Option<Effect>, Errno> {
        // Before the transaction counts as over: with the last one of all it is forgotten who wrote what.
        let in_the_way = core::mem::take(&mut self.changes.in_the_way);
        self.blame(id, &in_the_way, now_ms);
        if outcome.is_err() {
            self.changes.peaks.clear();
        }
        self.note_peaks(id, transaction.as_deref().map(Transaction::len));
        let mut effect = None;
        if outcome.is_ok() {
            self.learn_domains(hypervisor);
            match &mut transaction {
                Some(transaction) => self.apply_in_transaction(transaction),
                None if self.changes.nodes.is_empty() => {}
                None => {
                    let before = self.state.generation();
                    let written = self.apply_nodes(now_ms);
                    self.account_write(id, before, written, now_ms);
                }
            }
            effect = self.changes.effect.take();
            if let Some(change) = self.changes.list.take() {
                self.change_list(id, change, now_ms);
            }
        }
        let mut ended = None;
        if let Some(transaction) = transaction {
            if self.changes.ends_transaction {
                self.note_closed(id, &transaction);
                ended = Some(transaction);
            } else if let Some(session) = self.session_mut(id) {
                session.transactions.insert(header.transaction_id, transaction);
            }
        }
        self.changes.clear();
        outcome?;
        match effect {
            Some(Effect::StartTransaction) => {
                self.start_transaction(id, reply, now_ms);
                Ok(None)
            }
            Some(Effect::Watch { path, token, relative, depth }) => {
                self.add_watch(id, &path, &token, relative, depth);
                Ok(Some(Effect::Watch { path, token, relative, depth }))
            }
            Some(Effect::Report(report)) => {
                self.report(report, reply);
                Ok(None)
            }
            Some(Effect::Update(command)) => Ok(Some(Effect::Update(command))),
            Some(effect) => {
                self.apply_effect(id, effect, ended, hypervisor, now_ms);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Notes how much a request's client has had, now that the request is granted or refused.
    fn note_peaks(&mut self, id: ConnectionId, transaction_nodes: Option<usize>) {
        let Some(connection) = self.connections.get(&id) else { return };
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

    /// Opens a transaction and answers its number.
    fn start_transaction(&mut self, id: ConnectionId, reply: &mut Reply, now_ms: u64) {
        let Some(session) = self.session_mut(id) else { return };
        let transaction = session.free_transaction_id();
        session.transactions.insert(transaction, Box::new(Transaction::started(now_ms)));
        if self.trace.wants(Switches::OBJ) {
            log::info!("obj: {} opens transaction {transaction}", self.name(id));
        }
        self.note_opened(id);
        reply.clear();
        // Ten digits and a NUL always fit.
        let _ = requests::number(reply, transaction);
    }

    /// The transaction that a request names, taken out while the request is handled.
    fn take_transaction(
        &mut self,
        id: ConnectionId,
        spec: CommandSpec,
        number: u32,
    ) -> Result<Option<Box<Transaction>>, Errno> {
        if number == 0 || spec.ignores_transaction {
            return Ok(None);
        }
        let session = self.session_mut(id).ok_or(Errno::NoEnt)?;
        session.transactions.remove(&number).map(Some).ok_or(Errno::NoEnt)
    }
}
