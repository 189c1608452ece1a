//! Conflict credits: writers that cause conflicts pay for them (oxenstored's idea).
//!
//! Each domain has a few credits. When a commit fails, each domain whose write caused the conflict loses one. The server
//! does not read from a domain without credits. One domain at a time gets one credit back, those without credits first. A
//! write costs one credit at most, however many commits it makes fail. Otherwise a guest could stop another one by
//! opening many transactions over its nodes.
//!
//! [`History`] returns the domain of a write. It is bounded, and kept only while a transaction is open. It holds only
//! writes of nodes that open transactions have accessed.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::engine::snapshot::{Reader, Writer};
use crate::limits;
use crate::store::domain::DomId;

/// The conflict credits of all domains.
#[derive(Debug, Default)]
pub struct ConflictCredits {
    /// The credits of domains that have lost some.
    credits: BTreeMap<DomId, i8>,
    /// Domains without credits, in the order in which each gets one back.
    paused: VecDeque<DomId>,
    /// Domains that have lost some of their credits, in the order in which each gets one back.
    reduced: VecDeque<DomId>,
    /// The time at which the next credit is given back.
    next_ms: Option<u64>,
    /// Whether the next credit was due and was kept back.
    is_late: bool,
}

impl ConflictCredits {
    /// Takes a credit from a domain. Returns whether that was its last one.
    pub fn charge(&mut self, domid: DomId, now_ms: u64) -> bool {
        let credits = self.credits.entry(domid).or_insert(limits::CONFLICT_CREDITS);
        let before = *credits;
        *credits = before.saturating_sub(1).max(limits::CONFLICT_CREDITS_LEAST);
        let is_paused = *credits <= 0;
        let pauses_now = is_paused && before > 0;
        let restarts = pauses_now && self.paused.is_empty();
        if pauses_now {
            self.reduced.retain(|other| *other != domid);
            self.paused.push_back(domid);
        } else if !is_paused && before == limits::CONFLICT_CREDITS {
            self.reduced.push_back(domid);
        }
        if restarts || self.next_ms.is_none() {
            self.restart_wait(now_ms);
        }
        pauses_now
    }

    /// Restarts the wait for the next credit after a failed commit of the control domain. No guest gets a credit before
    /// the control domain had time to try again.
    pub fn restart(&mut self, now_ms: u64) {
        if self.next_ms.is_some() {
            self.restart_wait(now_ms);
        }
    }

    const fn restart_wait(&mut self, now_ms: u64) {
        self.next_ms = Some(now_ms.saturating_add(limits::CONFLICT_INTERVAL_MS));
        self.is_late = false;
    }

    /// Gives back the credits that are due, and returns the domains that have credits again. While the control domain has
    /// a transaction open (`is_kept_back`), a credit comes up to [`limits::CONFLICT_PATIENCE_MS`] later.
    pub fn advance(&mut self, now_ms: u64, is_kept_back: bool) -> Vec<DomId> {
        let mut recovered = Vec::new();
        if is_kept_back {
            self.is_late = self.next_ms.is_some_and(|due_ms| due_ms <= now_ms);
        } else if core::mem::take(&mut self.is_late) {
            // The others come at the usual pace from here on.
            self.next_ms = self.next_ms.map(|_| now_ms);
        }
        // It ends with the last lost credit.
        while let Some(due_ms) = self.next_ms(is_kept_back).filter(|due_ms| *due_ms <= now_ms) {
            recovered.extend(self.give_back());
            let any_lost = !(self.paused.is_empty() && self.reduced.is_empty());
            self.next_ms = any_lost.then(|| due_ms.saturating_add(limits::CONFLICT_INTERVAL_MS));
        }
        recovered
    }

    /// Gives one credit to one domain. Returns it if it can be read again.
    fn give_back(&mut self) -> Option<DomId> {
        let domid = self.paused.pop_front().or_else(|| self.reduced.pop_front())?;
        let credits = self.credits.get_mut(&domid)?;
        let before = *credits;
        *credits = before.saturating_add(1);
        if *credits <= 0 {
            self.paused.push_back(domid);
        } else if *credits < limits::CONFLICT_CREDITS {
            self.reduced.push_back(domid);
        } else {
            self.credits.remove(&domid);
        }
        (before <= 0 && self.credits(domid) > 0).then_some(domid)
    }

    /// Returns whether a domain has no credits, so that the server must not read from it.
    #[must_use]
    pub fn is_paused(&self, domid: DomId) -> bool {
        !self.paused.is_empty() && self.credits(domid) <= 0
    }

    /// Returns a domain's credits.
    #[must_use]
    pub fn credits(&self, domid: DomId) -> i8 {
        self.credits.get(&domid).copied().unwrap_or(limits::CONFLICT_CREDITS)
    }

    /// Returns the time at which the next credit is given back.
    #[must_use]
    pub fn next_ms(&self, is_kept_back: bool) -> Option<u64> {
        let patience_ms = if is_kept_back { limits::CONFLICT_PATIENCE_MS } else { 0 };
        self.next_ms.map(|next_ms| next_ms.saturating_add(patience_ms))
    }

    /// Writes all credits, with times relative to `now_ms`.
    pub(in crate::engine) fn save(&self, now_ms: u64, body: &mut Writer) {
        body.size(self.credits.len());
        for (domid, credits) in &self.credits {
            body.number(domid.0.into());
            body.signed((*credits).into());
        }
        for queue in [&self.paused, &self.reduced] {
            body.size(queue.len());
            queue.iter().for_each(|domid| body.number(domid.0.into()));
        }
        body.flag(self.next_ms.is_some());
        body.signed(self.next_ms.unwrap_or(now_ms).cast_signed().saturating_sub_unsigned(now_ms));
        body.flag(self.is_late);
    }

    /// Reads the output of [`ConflictCredits::save`] for the domains that `is_known`. Credits out of range are limited
    /// to it.
    pub(in crate::engine) fn restore(
        body: &mut Reader<'_>,
        now_ms: u64,
        is_known: impl Fn(DomId) -> bool,
    ) -> Option<Self> {
        let mut all = Self::default();
        for _ in 0..body.count()? {
            let (domid, credits) = (DomId(body.small()?), i8::try_from(body.signed()?).ok()?);
            if is_known(domid) && credits < limits::CONFLICT_CREDITS {
                all.credits.insert(domid, credits.max(limits::CONFLICT_CREDITS_LEAST));
            }
        }
        let mut queued = BTreeSet::new();
        for is_paused in [true, false] {
            for _ in 0..body.count()? {
                let domid = DomId(body.small()?);
                if all.credits.get(&domid).is_some_and(|credits| (*credits <= 0) == is_paused) && queued.insert(domid) {
                    if is_paused { all.paused.push_back(domid) } else { all.reduced.push_back(domid) }
                }
            }
        }
        all.credits.retain(|domid, _| queued.contains(domid));
        let (has_next, after_ms) = (body.flag()?, body.signed()?);
        let is_needed = has_next || !all.credits.is_empty();
        all.next_ms = is_needed.then(|| now_ms.saturating_add_signed(after_ms));
        all.is_late = body.flag()?;
        Some(all)
    }

    /// Forgets a domain.
    pub fn remove(&mut self, domid: DomId) {
        self.credits.remove(&domid);
        self.paused.retain(|other| *other != domid);
        self.reduced.retain(|other| *other != domid);
        if self.credits.is_empty() {
            self.next_ms = None;
        }
    }
}

/// A request that wrote nodes, with the generations that it gave them.
#[derive(Debug)]
struct Written {
    first: u64,
    last: u64,
    domid: DomId,
    /// Whether its domain has paid for it.
    is_paid: bool,
}

/// The domain whose write made a commit fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The writer.
    pub domid: DomId,
    /// Whether the write has been paid for because of another commit.
    pub was_paid: bool,
}

/// The newest writes of guests, by generation.
#[derive(Debug, Default)]
pub struct History(VecDeque<Written>);

impl History {
    /// Notes a domain's request that wrote nodes that an open transaction has accessed. Its generations are those after
    /// `before` up to `last`.
    pub fn note(&mut self, domid: DomId, before: u64, last: u64) {
        if last <= before {
            return;
        }
        if self.0.len() >= limits::CONFLICT_HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(Written { first: before.saturating_add(1), last, domid, is_paid: false });
    }

    /// Returns the writer at `generation`, and marks the write as paid for. `None` if that is `committer` itself, or if
    /// the history no longer has the write.
    pub fn blame(&mut self, generation: u64, committer: Option<DomId>) -> Option<Blame> {
        let at = self.0.partition_point(|written| written.last < generation);
        let written = self.0.get_mut(at).filter(|written| written.first <= generation)?;
        if Some(written.domid) == committer {
            return None;
        }
        let was_paid = core::mem::replace(&mut written.is_paid, true);
        Some(Blame { domid: written.domid, was_paid })
    }

    /// Returns whether the history holds a write of a domain other than `committer`.
    #[must_use]
    pub fn has_others(&self, committer: Option<DomId>) -> bool {
        self.0.iter().rev().any(|written| Some(written.domid) != committer)
    }

    /// Writes the history.
    pub(in crate::engine) fn save(&self, body: &mut Writer) {
        body.size(self.0.len());
        let mut before = 0;
        for written in &self.0 {
            body.number(written.first.saturating_sub(before));
            body.number(written.last.saturating_sub(written.first));
            body.number(written.domid.0.into());
            body.flag(written.is_paid);
            before = written.first;
        }
    }

    /// Reads the output of [`History::save`]; `None` if it contains a generation newer than `generation`.
    pub(in crate::engine) fn restore(body: &mut Reader<'_>, generation: u64) -> Option<Self> {
        let mut history = Self::default();
        let mut before = 0_u64;
        for _ in 0..body.count()? {
            let first = before.checked_add(body.number()?)?;
            let last = first.checked_add(body.number()?).filter(|last| *last <= generation)?;
            let (domid, is_paid) = (DomId(body.small()?), body.flag()?);
            if history.0.len() < limits::CONFLICT_HISTORY {
                history.0.push_back(Written { first, last, domid, is_paid });
            }
            before = first;
        }
        Some(history)
    }

    /// Forgets a domain's writes.
    pub fn remove(&mut self, domid: DomId) {
        self.0.retain(|written| written.domid != domid);
    }

    /// Forgets everything, after the last transaction that could fail. Frees the memory of a long history.
    pub fn clear(&mut self) {
        if self.0.capacity() > limits::KEPT_CONFLICT_HISTORY {
            self.0 = VecDeque::new();
        } else {
            self.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DomId = DomId(1);
    const B: DomId = DomId(2);

    #[test]
    fn the_fifth_point_is_the_last() {
        let mut credits = ConflictCredits::default();
        for left in (1..5).rev() {
            assert!(!credits.charge(A, 0));
            assert_eq!(credits.credits(A), left);
        }
        assert!(credits.charge(A, 0));
        assert!(credits.is_paused(A) && !credits.is_paused(B));
        for _ in 0..3 {
            assert!(!credits.charge(A, 0));
            assert_eq!(credits.credits(A), -1, "it goes no lower");
        }
    }

    #[test]
    fn a_point_comes_back_every_fifty_milliseconds_to_one_domain_and_first_to_those_without() {
        let mut credits = ConflictCredits::default();
        credits.charge(B, 100);
        for _ in 0..5 {
            credits.charge(A, 120);
        }
        assert_eq!(credits.next_ms(false), Some(170), "counted from the first pause");
        assert_eq!(credits.advance(169, false), []);
        assert_eq!(credits.advance(170, false), [A]);
        assert_eq!((credits.credits(A), credits.credits(B)), (1, 4));
        assert_eq!(credits.advance(220, false), []);
        assert_eq!((credits.credits(A), credits.credits(B)), (1, 5), "then those with fewer than all, in turns");
        assert_eq!(credits.advance(100_000, false), []);
        assert_eq!((credits.credits(A), credits.next_ms(false)), (5, None), "and then nothing is due any more");
    }

    #[test]
    fn domains_without_points_get_them_in_turns() {
        let mut credits = ConflictCredits::default();
        for _ in 0..6 {
            credits.charge(A, 0);
            credits.charge(B, 0);
        }
        assert_eq!(credits.advance(100, false), []);
        assert_eq!((credits.credits(A), credits.credits(B)), (0, 0));
        assert_eq!(credits.advance(200, false), [A, B]);
    }

    #[test]
    fn points_are_kept_back_for_the_control_domain_but_not_for_ever() {
        let mut credits = ConflictCredits::default();
        for _ in 0..5 {
            credits.charge(A, 0);
        }
        assert_eq!((credits.next_ms(true), credits.next_ms(false)), (Some(1050), Some(50)));
        assert_eq!(credits.advance(1049, true), []);
        assert_eq!(credits.advance(99, false), [A], "the transaction is over");
        credits.charge(A, 99);
        assert_eq!(credits.advance(1148, true), []);
        assert_eq!(credits.advance(1149, true), [A], "or it goes on for too long");
        credits.charge(A, 1149);
        assert_eq!(credits.advance(1900, true), []);
        assert_eq!(credits.advance(1900, false), [A]);
        assert_eq!(credits.next_ms(false), Some(1950), "what was kept back does not come all at once");
    }

    #[test]
    fn each_failure_of_the_control_domain_makes_everybody_restart_wait() {
        let mut credits = ConflictCredits::default();
        credits.restart(0);
        assert_eq!(credits.next_ms(false), None, "nothing is due");
        credits.charge(A, 0);
        credits.charge(B, 5);
        assert_eq!(credits.next_ms(false), Some(50));
        credits.advance(60, true);
        credits.restart(70);
        assert_eq!((credits.next_ms(false), credits.advance(119, false)), (Some(120), Vec::new()));
    }

    #[test]
    fn a_domain_that_is_forgotten_leaves_nothing() {
        let mut credits = ConflictCredits::default();
        for _ in 0..5 {
            credits.charge(A, 0);
        }
        credits.remove(A);
        assert_eq!((credits.credits(A), credits.is_paused(A), credits.next_ms(false)), (5, false, None));
    }

    #[test]
    fn a_write_is_paid_for_once_and_never_by_the_victim() {
        let mut history = History::default();
        history.note(A, 10, 13);
        history.note(B, 13, 14);
        history.note(A, 14, 14);
        history.note(A, 20, 21);
        let blame = |domid, was_paid| Some(Blame { domid, was_paid });
        assert!(history.has_others(None) && history.has_others(Some(A)) && history.has_others(Some(B)));
        assert_eq!(history.blame(10, None), None);
        assert_eq!(history.blame(12, None), blame(A, false));
        assert_eq!(history.blame(13, None), blame(A, true), "the same request");
        assert_eq!(history.blame(14, Some(B)), None);
        assert_eq!(history.blame(14, Some(A)), blame(B, false));
        assert_eq!(history.blame(17, None), None, "nobody's");
        assert_eq!(history.blame(21, Some(B)), blame(A, false));
        assert_eq!(history.blame(22, None), None);
    }

    #[test]
    fn the_history_keeps_the_newest() {
        let mut history = History::default();
        let writes = limits::CONFLICT_HISTORY as u64 + 5;
        (0..writes).for_each(|at| history.note(A, at, at + 1));
        assert_eq!(history.0.len(), limits::CONFLICT_HISTORY);
        assert_eq!(history.blame(5, None), None);
        assert_eq!(history.blame(6, None).map(|blame| blame.domid), Some(A));
        assert!(history.has_others(None) && history.has_others(Some(B)) && !history.has_others(Some(A)));
        history.remove(A);
        assert!(history.0.is_empty() && !history.has_others(None));
        history.clear();
        assert_eq!(history.0.capacity(), 0, "the room of a long one is given back");
        history.note(A, 1, 2);
        history.clear();
        assert!((1..=limits::KEPT_CONFLICT_HISTORY).contains(&history.0.capacity()), "that of a short one is kept");
    }
}
