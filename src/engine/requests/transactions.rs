//! TRANSACTION_START and TRANSACTION_END.

use alloc::boxed::Box;

use crate::engine::requests::RequestContext;
use crate::engine::requests::change_set::Effect;
use crate::engine::requests::replay::replay;
use crate::engine::work;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::quota::Quota;
use crate::store::transaction::Transaction;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// TRANSACTION_START answers the number of a new transaction. Any payload is accepted.
pub(super) fn start(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    if context.view.transaction.is_some() {
        return Err(Errno::Busy);
    }
    if context.exceeds(Quota::Transactions, context.open_transactions.saturating_add(1)) {
        return Err(Errno::NoSpc);
    }
    context.grow(limits::TRANSACTION_ENTRY_BYTES)?;
    context.changes.effect = Some(Effect::StartTransaction);
    Ok(())
}

/// TRANSACTION_END `T|` commits, `F|` aborts. Any answer but EINVAL ends the transaction.
pub(super) fn end(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let commit = match payload::only_string(context.payload) {
        Some(b"T") => true,
        Some(b"F") => false,
        _ => return Err(Errno::Inval),
    };
    let Some(transaction) = context.view.transaction.take() else { return Err(Errno::NoEnt) };
    // The index of accessed paths forgets the paths of the transaction.
    context.view.spend(work::of_transaction(transaction));
    context.changes.ends_transaction = true;
    if commit {
        self::commit(context, transaction)?;
    }
    context.ok()
}

/// Commits a transaction, or the result of a replay.
fn commit(context: &mut RequestContext<'_>, transaction: &Transaction) -> Result<(), Errno> {
    if transaction.has_failed() {
        return Err(Errno::NoMem);
    }
    if transaction.is_outdated() {
        return Err(Errno::Again);
    }
    check_counts(context, transaction)?;
    context.view.spend(work::of_transaction(transaction));
    let state = context.view.state;
    if !transaction.conflicts(&state.tree) && transaction.conflicting_specials(&state.specials).next().is_none() {
        context.changes.effect = Some(Effect::Commit);
        return Ok(());
    }
    let outcome = replay(context, transaction);
    context.reply.clear();
    match outcome {
        // The counts are checked again for the replay's result. The client learns of a refusal when it tries again.
        Ok(replayed) if check_counts(context, &replayed.transaction).is_ok() => {
            context.changes.effect = Some(Effect::CommitReplayed(Box::new(replayed)));
            Ok(())
        }
        Ok(_) => Err(Errno::Again),
        Err(in_the_way) => {
            context.changes.in_the_way = in_the_way;
            Err(Errno::Again)
        }
    }
}

/// Refuses more nodes than their owners may have after the commit.
fn check_counts(context: &RequestContext<'_>, transaction: &Transaction) -> Result<(), Errno> {
    let privileged = context.view.config.privileged;
    for (domid, count) in transaction.counts().filter(|(domid, count)| *count > 0 && *domid != DomId::ANY) {
        // A dead domain owns nothing. The client learns that when it tries again; libxl repeats only EAGAIN.
        let domain = context.view.state.domains.get(domid).ok_or(Errno::Again)?;
        let after = usize::try_from(domain.nodes.saturating_add_signed(count)).unwrap_or(usize::MAX);
        let is_limited = !context.view.requester.is_privileged() && domid != privileged;
        if is_limited
            && transaction.has_created()
            && !context.view.state.domains.quotas(domid).allows(Quota::Nodes, after)
        {
            return Err(Errno::NoSpc);
        }
    }
    Ok(())
}
