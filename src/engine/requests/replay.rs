//! The requests of a transaction that conflicts are made once more, on the state of now, in a transaction of their own. If
//! every reply is the same, the client can't tell the difference, and that transaction is committed instead of his.
//!
//! This is oxenstored's idea. Nothing is changed here: the new transaction, the generations that it took and the domains
//! that it made known are handed on, and become true with the commit or not at all.
//!
//! The generation in a reply to DIRECTORY_PART is compared like everything else. So a transaction that asked for a part
//! of a directory that was written meanwhile, by others or by itself, is not committed by a replay.

use alloc::vec::Vec;

use crate::engine::requests::change_set::ChangeSet;
use crate::engine::requests::view::View;
use crate::engine::requests::{Call, row};
use crate::engine::work;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::record::{RecordLimits, Recorded};
use crate::store::transaction::{Conflict, Transaction};
use crate::wire::errno::Errno;
use crate::wire::header::MessageType;

/// A transaction whose requests were made on the state of now, ready to be committed.
#[derive(Debug)]
pub struct Replayed {
    /// What it changes.
    pub transaction: Transaction,
    /// The newest generation that it used.
    pub generation: u64,
    /// Domains that become known, with the generation at which they do.
    pub domains: Vec<(DomId, u64)>,
}

/// Whether a request is kept with its transaction: it looks at nodes or changes them, and does nothing else.
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

/// How much of a client's transaction is kept.
pub(in crate::engine) const fn record_limits(is_privileged: bool) -> RecordLimits {
    if is_privileged {
        RecordLimits { requests: limits::REPLAY_REQUESTS_PRIVILEGED, bytes: limits::REPLAY_BYTES_PRIVILEGED }
    } else {
        RecordLimits { requests: limits::REPLAY_REQUESTS, bytes: limits::REPLAY_BYTES }
    }
}

/// Makes the requests of the call's transaction, which conflicts, once more.
///
/// # Errors
/// The generations of the writes that are in the way: those of the nodes that the first request with another reply looks
/// at, or of all nodes that conflict when that says nothing.
pub(super) fn replay(call: &mut Call<'_>, old: &Transaction) -> Result<Replayed, Vec<u64>> {
    let may_be_replayed = call.view.config.replay && is_cheap(call, old);
    let Some(requests) = old.record().requests().filter(|_| may_be_replayed) else {
        return Err(all_in_the_way(call, old));
    };
    let generation = call.view.state.generation();
    // The replay looks up its paths again, and so does the search for conflicts.
    call.view.spend(work::of_transaction(old).saturating_mul(2));
    let mut new = Replayed { transaction: Transaction::default(), generation, domains: Vec::new() };
    for request in requests {
        let is_same = is_same(call, request, &mut new) && !new.transaction.has_failed();
        if !is_same || !is_cheap(call, &new.transaction) {
            return Err(in_the_way(call, request, old));
        }
    }
    Ok(new)
}

/// Whether a transaction of the client has looked at few enough nodes that all can be done in one go.
const fn is_cheap(call: &Call<'_>, transaction: &Transaction) -> bool {
    call.view.requester.is_privileged() || transaction.looks() <= limits::REPLAY_LOOK_STEPS
}

/// Makes one request in the new transaction, and tells whether its reply is the same.
fn is_same(call: &mut Call<'_>, request: &Recorded, new: &mut Replayed) -> bool {
    let mut changes = ChangeSet::default();
    let outcome = run(call, request, &mut new.transaction, &mut changes);
    if outcome.map(|()| call.reply.as_slice()) != request.reply() {
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

/// Runs the handler of a recorded request in another transaction than the call's. The reply is the call's, and so is the
/// memory: the new transaction stands beside the old one until the end.
fn run(
    call: &mut Call<'_>,
    request: &Recorded,
    transaction: &mut Transaction,
    changes: &mut ChangeSet,
) -> Result<(), Errno> {
    let row = row(request.kind).ok_or(Errno::NoSys)?;
    call.reply.clear();
    let mut again = Call {
        view: View {
            state: call.view.state,
            config: call.view.config,
            requester: call.view.requester,
            transaction: Some(transaction),
            accesses: None,
            budget: call.view.budget,
            steps: 0,
        },
        connection: call.connection,
        domid: call.domid,
        open_transactions: call.open_transactions,
        lists: &[],
        history: call.history,
        payload: request.payload(),
        hypervisor: &mut *call.hypervisor,
        trace: call.trace,
        was_refused_memory: false,
        changes,
        reply: &mut *call.reply,
    };
    let outcome = (row.handler)(&mut again);
    let (spent, steps) = (again.view.budget, again.view.steps);
    call.view.budget.spend_like(&spent);
    call.view.spend(steps.saturating_add(work::REQUEST_STEPS));
    outcome
}

/// The writes that are in the way of one request: it is made alone, to see which nodes it looks at.
fn in_the_way(call: &mut Call<'_>, request: &Recorded, old: &Transaction) -> Vec<u64> {
    if !can_blame(call) {
        return Vec::new();
    }
    let mut alone = Transaction::default();
    // Only what it looks at counts.
    let _ = run(call, request, &mut alone, &mut ChangeSet::default());
    let concerned = old.conflicting(&call.view.state.tree).filter(|conflict| alone.seen(conflict.path).is_some());
    let mut found: Vec<u64> = concerned.map(|conflict| last_write(call, conflict)).collect();
    let specials = &call.view.state.specials;
    let concerned = old.conflicting_specials(specials).filter(|special| alone.special(*special).is_some());
    found.extend(concerned.map(|special| specials.get(special).generation));
    if found.is_empty() { all_in_the_way(call, old) } else { found }
}

/// The writes that conflict with any request of a transaction.
fn all_in_the_way(call: &Call<'_>, old: &Transaction) -> Vec<u64> {
    if !can_blame(call) {
        return Vec::new();
    }
    let specials = &call.view.state.specials;
    let nodes = old.conflicting(&call.view.state.tree).map(|conflict| last_write(call, conflict));
    nodes.chain(old.conflicting_specials(specials).map(|special| specials.get(special).generation)).collect()
}

/// The generation of the conflicting write. For a removed node that is its removal. If a live update lost that, it is the
/// last write of the nearest node above, which the removal also wrote.
fn last_write(call: &Call<'_>, conflict: Conflict<'_>) -> u64 {
    let accesses = call.view.accesses.as_ref().filter(|_| conflict.is_gone);
    accesses.and_then(|accesses| accesses.removed_at(conflict.path)).unwrap_or(conflict.last_write)
}

/// Whether the history holds a write of another guest, so that a search for the conflicting one makes sense.
fn can_blame(call: &Call<'_>) -> bool {
    call.history.has_others((!call.view.requester.is_privileged()).then_some(call.domid))
}
