//! Replay: a conflicting transaction's requests are executed again on the current state, in a second transaction. If
//! every reply is the same, the client cannot tell the difference, and the second transaction is committed instead.
//!
//! This is oxenstored's idea. A replay itself changes nothing. It returns the new transaction, its generations, and the
//! domains that became known. All of them take effect with the commit, or not at all.
//!
//! The generation in a reply to DIRECTORY_PART is compared like everything else. A transaction may have read a part of
//! a directory that was written since, by itself or by others. No replay commits such a transaction.

use alloc::vec::Vec;

use crate::engine::requests::change_set::{ChangeSet, Replayed};
use crate::engine::requests::view::View;
use crate::engine::requests::{RequestContext, command_spec};
use crate::engine::work;
use crate::limits;
use crate::store::record::{RecordLimits, Recorded};
use crate::store::transaction::{Conflict, Transaction};
use crate::wire::errno::Errno;
use crate::wire::header::MessageType;

/// Returns whether a request is recorded with its transaction: it reads or changes nodes, and does nothing else.
pub(in crate::engine) const fn is_recorded(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::Directory
            | MessageType::DirectoryPart
            | MessageType::Read
            | MessageType::Write
            | MessageType::Mkdir
            | MessageType::Rm
            | MessageType::GetPerms
            | MessageType::SetPerms
    )
}

/// Returns the limits of the record that a client's transaction keeps.
pub(in crate::engine) const fn record_limits(is_privileged: bool) -> RecordLimits {
    if is_privileged {
        RecordLimits { requests: limits::REPLAY_REQUESTS_PRIVILEGED, bytes: limits::REPLAY_BYTES_PRIVILEGED }
    } else {
        RecordLimits { requests: limits::REPLAY_REQUESTS, bytes: limits::REPLAY_BYTES }
    }
}

/// Executes the requests of a conflicting transaction again. `old` is the transaction.
///
/// # Errors
/// The generations of the conflicting writes. They concern the nodes that the first request with a different reply
/// accesses. If that gives none, they concern all conflicting nodes.
pub(super) fn replay(context: &mut RequestContext<'_>, old: &Transaction) -> Result<Replayed, Vec<u64>> {
    let may_be_replayed = context.view.config.replay && is_cheap(context, old);
    let Some(requests) = old.record().requests().filter(|_| may_be_replayed) else {
        return Err(all_in_the_way(context, old));
    };
    let generation = context.view.state.generation();
    // The replay looks up its paths again, and so does the search for conflicts.
    context.view.spend(work::of_transaction(old).saturating_mul(2));
    let mut new = Replayed { transaction: Transaction::default(), generation, domains: Vec::new() };
    for request in requests {
        let is_same = is_same(context, request, &mut new) && !new.transaction.has_failed();
        if !is_same || !is_cheap(context, &new.transaction) {
            return Err(in_the_way(context, request, old));
        }
    }
    Ok(new)
}

/// Returns whether a client's transaction has accessed few enough nodes for a replay without a pause.
const fn is_cheap(context: &RequestContext<'_>, transaction: &Transaction) -> bool {
    context.view.requester.is_privileged() || transaction.looks() <= limits::REPLAY_LOOK_STEPS
}

/// Executes one request in the new transaction. Returns whether its reply is the same.
fn is_same(context: &mut RequestContext<'_>, request: &Recorded, new: &mut Replayed) -> bool {
    let mut changes = ChangeSet::default();
    let outcome = run(context, request, &mut new.transaction, &mut changes);
    if outcome.map(|()| context.reply.as_slice()) != request.reply() {
        return false;
    }
    if outcome.is_ok() {
        let mut take_generations = |count: usize| {
            new.generation = new.generation.saturating_add(count as u64);
            new.generation
        };
        for domid in changes.domains.drain(..) {
            new.domains.push((domid, take_generations(1)));
        }
        for change in changes.nodes.drain(..) {
            let generation = take_generations(change.generations());
            new.transaction.apply(change, generation);
        }
    }
    true
}

/// Executes a recorded request in another transaction than the request's own. The reply and the memory are the present
/// request's: both transactions exist until the end.
fn run(
    context: &mut RequestContext<'_>,
    request: &Recorded,
    transaction: &mut Transaction,
    changes: &mut ChangeSet,
) -> Result<(), Errno> {
    let spec = command_spec(request.kind).ok_or(Errno::NoSys)?;
    context.reply.clear();
    let mut again = RequestContext {
        view: View {
            state: context.view.state,
            config: context.view.config,
            requester: context.view.requester,
            transaction: Some(transaction),
            accesses: None,
            budget: context.view.budget,
            steps: 0,
        },
        connection: context.connection,
        domid: context.domid,
        open_transactions: context.open_transactions,
        lists: &[],
        history: context.history,
        payload: request.payload(),
        hypervisor: &mut *context.hypervisor,
        trace: context.trace,
        was_refused_memory: false,
        changes,
        reply: &mut *context.reply,
    };
    let outcome = (spec.handler)(&mut again);
    let (spent, steps) = (again.view.budget, again.view.steps);
    context.view.budget.spend_like(&spent);
    context.view.spend(steps.saturating_add(work::REQUEST_STEPS));
    outcome
}

/// Returns the writes that conflict with one request. It executes the request alone, to see which nodes it accesses.
fn in_the_way(context: &mut RequestContext<'_>, request: &Recorded, old: &Transaction) -> Vec<u64> {
    if !can_blame(context) {
        return Vec::new();
    }
    let mut alone = Transaction::default();
    // Only the accessed nodes matter.
    let _ = run(context, request, &mut alone, &mut ChangeSet::default());
    let concerned = old.conflicting(&context.view.state.tree).filter(|conflict| alone.seen(conflict.path).is_some());
    let mut found: Vec<u64> = concerned.map(|conflict| last_write(context, conflict)).collect();
    let specials = &context.view.state.specials;
    let concerned = old.conflicting_specials(specials).filter(|special| alone.special(*special).is_some());
    found.extend(concerned.map(|special| specials.get(special).generation));
    if found.is_empty() { all_in_the_way(context, old) } else { found }
}

/// Returns the writes that conflict with any request of a transaction.
fn all_in_the_way(context: &RequestContext<'_>, old: &Transaction) -> Vec<u64> {
    if !can_blame(context) {
        return Vec::new();
    }
    let specials = &context.view.state.specials;
    let nodes = old.conflicting(&context.view.state.tree).map(|conflict| last_write(context, conflict));
    nodes.chain(old.conflicting_specials(specials).map(|special| specials.get(special).generation)).collect()
}

/// Returns the generation of the conflicting write. For a removed node, that is its removal. If a live update lost
/// that, it is the last write of the nearest existing ancestor, which the removal also wrote.
fn last_write(context: &RequestContext<'_>, conflict: Conflict<'_>) -> u64 {
    let accesses = context.view.accesses.as_ref().filter(|_| conflict.is_gone);
    accesses.and_then(|accesses| accesses.removed_at(conflict.path)).unwrap_or(conflict.last_write)
}

/// Returns whether the history holds a write of another guest, so that a search for the conflicting one makes sense.
fn can_blame(context: &RequestContext<'_>) -> bool {
    context.history.has_others((!context.view.requester.is_privileged()).then_some(context.domid))
}
