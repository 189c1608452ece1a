//! TRANSACTION_START and TRANSACTION_END.

use crate::engine::change_set::Effect;
use crate::engine::requests::Call;
use crate::store::quota::Quota;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// TRANSACTION_START answers the number of a new transaction. Any payload will do.
pub(super) fn start(call: &mut Call<'_>) -> Result<(), Errno> {
    if call.view.transaction.is_some() {
        return Err(Errno::Busy);
    }
    if call.exceeds(Quota::Transactions, call.open_transactions.saturating_add(1)) {
        return Err(Errno::NoSpc);
    }
    call.changes.effect = Some(Effect::StartTransaction);
    Ok(())
}

/// TRANSACTION_END `T|` commits, `F|` aborts. The transaction is over after any answer but EINVAL.
pub(super) fn end(call: &mut Call<'_>) -> Result<(), Errno> {
    let commit = match payload::only_string(call.payload) {
        Some(b"T") => true,
        Some(b"F") => false,
        _ => return Err(Errno::Inval),
    };
    let is_privileged = call.view.requester.is_privileged();
    let Some(transaction) = call.view.transaction.as_deref() else { return Err(Errno::NoEnt) };
    call.changes.ends_transaction = true;
    if commit {
        if transaction.has_failed() {
            return Err(Errno::NoMem);
        }
        let quotas = &call.view.config.quotas;
        let domains = &call.view.state.domains;
        for (domid, count) in transaction.counts().filter(|(_, count)| *count > 0) {
            // An owner that is gone by now can't own anything.
            let domain = domains.get(domid).ok_or(Errno::NoMem)?;
            let after = usize::try_from(domain.nodes.saturating_add_signed(count)).unwrap_or(usize::MAX);
            let is_limited = !is_privileged && domid != call.view.config.privileged;
            if is_limited && transaction.has_created() && !quotas.allows(Quota::Nodes, after) {
                return Err(Errno::NoSpc);
            }
        }
        if transaction.conflicts(&call.view.state.tree) {
            return Err(Errno::Again);
        }
        call.changes.effect = Some(Effect::Commit);
    }
    call.ok()
}
