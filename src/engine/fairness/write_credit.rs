//! Write credits: a limit on how fast a guest may change nodes that others' transactions may have seen. The C server
//! has the same limit since XSA-206 (write rate limit).
//!
//! A request that writes a node accessed by an open transaction ([`crate::engine::fairness::accesses`]) costs its guest
//! one credit for each node that it writes. The server does not read from a guest in debt. All domains share a fixed
//! gain. The part that a domain does not need goes to a reserve, which pays debts, the oldest first.
//!
//! Nothing here has a clock, overflows, or loses a fraction of the gain. A domain at its burst costs nothing: only the
//! number of such domains counts.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::engine::snapshot::{Reader, Writer};
use crate::limits;
use crate::store::domain::DomId;

/// Amounts are counted in thousandths of a credit, so that the gain of a millisecond is a whole number.
const CREDIT: i64 = 1000;
/// The cost of one written node.
const COST: i64 = CREDIT;
/// Credits per second are thousandths per millisecond.
const GAIN_PER_MS: u64 = limits::WRITE_RATE_PER_SECOND as u64;
const BURST: i64 = limits::WRITE_BURST as i64 * CREDIT;
const RESERVE_MOST: i64 = limits::WRITE_RESERVE as i64 * CREDIT;
const RESERVE_LEAST: i64 = -(limits::WRITE_RESERVE_SHORTAGE as i64) * CREDIT;
/// The longest time that counts for the gain: after it, each account has its burst.
const PAUSE_MOST_MS: u64 = 1_000_000_000;

/// The accounts of all introduced domains, and the reserve.
#[derive(Debug, Default)]
pub struct WriteCredits {
    accounts: BTreeMap<DomId, i64>,
    /// Domains with less than a burst.
    below_burst: BTreeSet<DomId>,
    /// Domains with less than nothing, the longest in debt first.
    in_debt: VecDeque<DomId>,
    reserve: i64,
    /// The time at which the gain was last shared out; `None` before the first time.
    updated_ms: Option<u64>,
    /// Thousandths of the gain that could not be shared out evenly.
    remainder: u64,
    /// Domains that came out of debt since [`WriteCredits::take_recovered`].
    recovered: Vec<DomId>,
}

impl WriteCredits {
    /// Opens an account for a domain. It gets a burst from the reserve, as far as the reserve's lower limit allows. It
    /// shares in the gain since [`WriteCredits::advance`] was last called.
    pub fn add(&mut self, domid: DomId) {
        let first = self.reserve.saturating_sub(RESERVE_LEAST).clamp(0, BURST);
        self.reserve = self.reserve.saturating_sub(first);
        self.accounts.insert(domid, first);
        if first < BURST {
            self.below_burst.insert(domid);
        }
    }

    /// Closes an account. Its credit goes to the reserve, unless the reserve has a burst already.
    pub fn remove(&mut self, domid: DomId, now_ms: u64) {
        self.advance(now_ms);
        let Some(credit) = self.accounts.remove(&domid) else { return };
        let back = BURST.saturating_sub(self.reserve).clamp(0, credit.max(0));
        self.reserve = self.reserve.saturating_add(back);
        self.below_burst.remove(&domid);
        self.in_debt.retain(|other| *other != domid);
        self.pay_debts();
    }

    /// Charges a domain for `nodes` written nodes. Returns whether it is in debt now and was not before.
    pub fn debit(&mut self, domid: DomId, nodes: usize, now_ms: u64) -> bool {
        self.advance(now_ms);
        let Some(credit) = self.accounts.get_mut(&domid) else { return false };
        let was_in_debt = *credit < 0;
        let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
        *credit = credit.saturating_sub(nodes.saturating_mul(COST));
        if *credit < BURST {
            self.below_burst.insert(domid);
        }
        if *credit < 0 && !was_in_debt {
            self.in_debt.push_back(domid);
        }
        // A domain that was in debt for less than a millisecond has not been held back.
        let recovered = self.recovered.len();
        self.pay_debts();
        self.recovered.truncate(recovered);
        !was_in_debt && self.is_in_debt(domid)
    }

    /// Shares out the gain up to now.
    pub fn advance(&mut self, now_ms: u64) {
        let since_ms = self.updated_ms.unwrap_or(now_ms);
        let elapsed_ms = now_ms.saturating_sub(since_ms).min(PAUSE_MOST_MS);
        self.updated_ms = Some(now_ms.max(since_ms));
        let domains = self.accounts.len() as u64;
        if elapsed_ms == 0 || domains == 0 {
            return;
        }
        let all = elapsed_ms.saturating_mul(GAIN_PER_MS).saturating_add(self.remainder);
        let share = all.checked_div(domains).unwrap_or(0);
        self.remainder = all.checked_rem(domains).unwrap_or(0);
        let share = i64::try_from(share).unwrap_or(i64::MAX);
        let at_burst = i64::try_from(self.at_burst()).unwrap_or(i64::MAX);
        self.reserve = self.reserve.saturating_add(share.saturating_mul(at_burst));

        let Self { accounts, below_burst, reserve, .. } = self;
        below_burst.retain(|domid| {
            let Some(credit) = accounts.get_mut(domid) else { return false };
            let with_share = credit.saturating_add(share);
            *credit = with_share.min(BURST);
            *reserve = reserve.saturating_add(with_share.saturating_sub(*credit));
            *credit < BURST
        });
        self.pay_debts();
        self.reserve = self.reserve.min(RESERVE_MOST);
    }

    /// Shares out the gain if a domain in debt waits for it, or if none was shared out for a while. The cost is a visit
    /// to each domain with less than a burst. Only domains in debt notice the time at which it is shared out.
    pub fn advance_if_due(&mut self, now_ms: u64) {
        let is_old = |updated_ms: u64| now_ms.saturating_sub(updated_ms) >= limits::WRITE_SHARE_MS;
        if !self.in_debt.is_empty() || self.updated_ms.is_none_or(is_old) {
            self.advance(now_ms);
        }
    }

    /// Returns whether a domain is in debt, so that the server must not read from it.
    #[must_use]
    pub fn is_in_debt(&self, domid: DomId) -> bool {
        !self.in_debt.is_empty() && self.accounts.get(&domid).is_some_and(|credit| *credit < 0)
    }

    /// Returns the time at which the next domain comes out of debt, if nothing else happens before.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        let debt = |domid: &DomId| self.accounts.get(domid).map_or(0, |credit| credit.saturating_neg().max(0) as u64);
        let smallest = self.in_debt.iter().map(debt).min()?;
        // The first one gets the part that domains at their burst do not need, once the reserve is no longer short.
        let shortage = self.reserve.saturating_neg().max(0) as u64;
        let givers = (self.at_burst() as u64).saturating_add(1);
        let first = self.in_debt.front().map_or(0, debt).saturating_add(shortage).div_ceil(givers);
        let gain = smallest.min(first).saturating_mul(self.accounts.len() as u64).saturating_sub(self.remainder);
        Some(self.updated_ms.unwrap_or(0).saturating_add(gain.div_ceil(GAIN_PER_MS)))
    }

    /// Takes the domains that came out of debt, by time or by the end of another domain.
    pub fn take_recovered(&mut self) -> Vec<DomId> {
        core::mem::take(&mut self.recovered)
    }

    /// Writes all accounts, with times relative to `now_ms`.
    pub(in crate::engine) fn save(&self, now_ms: u64, body: &mut Writer) {
        body.size(self.accounts.len());
        for (domid, credit) in &self.accounts {
            body.number(domid.0.into());
            body.signed(*credit);
        }
        body.size(self.in_debt.len());
        self.in_debt.iter().for_each(|domid| body.number(domid.0.into()));
        body.signed(self.reserve);
        body.optional(self.updated_ms.map(|updated_ms| now_ms.saturating_sub(updated_ms)));
        body.number(self.remainder);
    }

    /// Reads the output of [`WriteCredits::save`] for the domains that `has_account`. Amounts out of range are limited
    /// to it.
    pub(in crate::engine) fn restore(
        body: &mut Reader<'_>,
        now_ms: u64,
        has_account: impl Fn(DomId) -> bool,
    ) -> Option<Self> {
        let mut credits = Self::default();
        for _ in 0..body.count()? {
            let (domid, credit) = (DomId(body.small()?), body.signed()?);
            if has_account(domid) {
                credits.accounts.insert(domid, credit.min(BURST));
            }
        }
        for _ in 0..body.count()? {
            let domid = DomId(body.small()?);
            if credits.accounts.get(&domid).is_some_and(|credit| *credit < 0) && !credits.in_debt.contains(&domid) {
                credits.in_debt.push_back(domid);
            }
        }
        credits.reserve = body.signed()?.clamp(RESERVE_LEAST, RESERVE_MOST);
        credits.updated_ms = body.optional()?.map(|elapsed_ms| now_ms.saturating_sub(elapsed_ms));
        credits.remainder = body.number()?.min(limits::RESTORED_GENERATION);
        let Self { accounts, below_burst, in_debt, .. } = &mut credits;
        below_burst.extend(accounts.iter().filter(|(_, credit)| **credit < BURST).map(|(domid, _)| *domid));
        let forgotten = accounts.iter().filter(|(domid, credit)| **credit < 0 && !in_debt.contains(domid));
        let forgotten: Vec<DomId> = forgotten.map(|(domid, _)| *domid).collect();
        in_debt.extend(forgotten);
        Some(credits)
    }

    /// Returns a domain's credit in thousandths.
    #[must_use]
    pub fn credit(&self, domid: DomId) -> Option<i64> {
        self.accounts.get(&domid).copied()
    }

    /// Returns the reserve in thousandths.
    #[must_use]
    pub const fn reserve(&self) -> i64 {
        self.reserve
    }

    /// Returns the number of domains at their burst.
    fn at_burst(&self) -> usize {
        self.accounts.len().saturating_sub(self.below_burst.len())
    }

    /// Pays debts from the reserve, and notes the domains that are out of debt.
    fn pay_debts(&mut self) {
        let Self { accounts, in_debt, reserve, recovered, .. } = self;
        in_debt.retain(|domid| {
            let Some(credit) = accounts.get_mut(domid) else { return false };
            let debt = credit.saturating_neg().max(0);
            let paid = debt.min((*reserve).max(0));
            *credit = credit.saturating_add(paid);
            *reserve = reserve.saturating_sub(paid);
            if *credit >= 0 {
                recovered.push(*domid);
            }
            *credit < 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: DomId = DomId(1);
    const B: DomId = DomId(2);

    fn credits(domains: u16) -> WriteCredits {
        let mut credits = WriteCredits::default();
        for domid in 1..=domains {
            credits.add(DomId(domid));
        }
        credits.advance(0);
        credits
    }

    /// Lets a domain write one node each time it may, for a while; returns how many.
    fn writes(credits: &mut WriteCredits, domids: &[DomId], from_ms: u64, to_ms: u64) -> usize {
        let mut count = 0;
        for now_ms in from_ms..to_ms {
            credits.advance(now_ms);
            for domid in domids {
                while !credits.is_in_debt(*domid) {
                    credits.debit(*domid, 1, now_ms);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn new_domains_get_a_burst_until_the_reserve_is_fifty_short() {
        let credits = credits(7);
        let have: Vec<_> = (1..8).map(|domid| credits.credit(DomId(domid)).unwrap()).collect();
        assert_eq!(have, [10_000, 10_000, 10_000, 10_000, 10_000, 0, 0]);
        assert_eq!(credits.reserve(), -50_000);
    }

    #[test]
    fn ten_writes_pass_at_once_and_one_more_is_let_through_that_makes_the_debt() {
        let mut credits = credits(1);
        for _ in 0..10 {
            assert!(!credits.debit(A, 1, 0));
        }
        assert!(!credits.is_in_debt(A));
        assert!(credits.debit(A, 1, 0));
        assert!(credits.is_in_debt(A));
        assert!(!credits.debit(A, 1, 0), "it was in debt before");
    }

    #[test]
    fn the_time_of_recovery_is_exact() {
        for (domains, nodes) in [(1, 11), (1, 1000), (3, 11), (3, 12), (7, 900)] {
            let mut credits = credits(domains);
            for domid in 1..=domains {
                credits.debit(DomId(domid), nodes, 5);
            }
            let recovery_ms = credits.next_ms().unwrap();
            credits.advance(recovery_ms - 1);
            assert!(credits.take_recovered().is_empty(), "{domains} {nodes}");
            assert_eq!(credits.next_ms(), Some(recovery_ms), "looking does not move it");
            credits.advance(recovery_ms);
            assert!(!credits.take_recovered().is_empty(), "{domains} {nodes}");
        }
    }

    #[test]
    fn the_time_of_recovery_is_exact_when_others_give_what_they_do_not_need() {
        for (domains, others, nodes) in [(2, 0, 1), (5, 0, 77), (5, 2, 77), (40, 3, 500), (7, 6, 1)] {
            let mut credits = credits(domains);
            credits.advance(1_000_000);
            credits.debit(A, 1010, 1_000_000);
            for domid in 1..=others + 1 {
                credits.debit(DomId(domid), 10 + nodes, 1_000_000);
            }
            let recovery_ms = credits.next_ms().unwrap();
            credits.advance(recovery_ms - 1);
            assert!(credits.take_recovered().is_empty(), "{domains} {others} {nodes}");
            credits.advance(recovery_ms);
            assert!(!credits.take_recovered().is_empty(), "{domains} {others} {nodes}");
        }
    }

    #[test]
    fn a_debt_of_one_write_is_over_after_its_share_of_the_rate() {
        let mut credits = credits(4);
        for domid in 1..=4 {
            credits.debit(DomId(domid), 11, 0);
        }
        assert_eq!(credits.next_ms(), Some(20), "200 a second among four: one in 20 ms");
    }

    #[test]
    fn a_steady_stream_settles_at_the_rate_divided_by_the_domains() {
        let all: Vec<_> = (1..=4).map(DomId).collect();
        let mut credits = credits(4);
        writes(&mut credits, &all, 0, 10_000);
        for domid in &all {
            let before = credits.credit(*domid).unwrap();
            assert!(before <= 0);
        }
        let count = writes(&mut credits, &all, 10_000, 20_000);
        assert!((1990..=2010).contains(&count), "{count} in 10 s");
    }

    #[test]
    fn what_others_do_not_need_pays_a_writers_debts() {
        let mut credits = credits(4);
        writes(&mut credits, &[A], 0, 10_000);
        let count = writes(&mut credits, &[A], 10_000, 20_000);
        assert!((1990..=2010).contains(&count), "all of 200 a second: {count} in 10 s");
    }

    #[test]
    fn the_reserve_takes_up_to_a_thousand_and_a_debt_up_to_that_is_paid_at_once() {
        let mut credits = credits(2);
        credits.advance(1_000_000);
        assert_eq!((credits.reserve(), credits.credit(A)), (1_000_000, Some(10_000)));
        assert!(!credits.debit(A, 1010, 1_000_000));
        assert_eq!((credits.reserve(), credits.credit(A)), (0, Some(0)));
        assert!(credits.debit(A, 1, 1_000_000));
    }

    #[test]
    fn debts_are_paid_oldest_first() {
        let mut credits = credits(3);
        credits.advance(1_000_000);
        credits.debit(B, 1012, 1_000_000);
        credits.debit(A, 12, 1_000_000);
        credits.advance(credits.next_ms().unwrap());
        assert_eq!(credits.take_recovered(), [B]);
    }

    #[test]
    fn what_a_domain_leaves_goes_to_a_reserve_of_less_than_a_burst() {
        let mut credits = credits(2);
        credits.remove(A, 0);
        assert_eq!(credits.reserve(), -10_000);
        credits.debit(B, 2000, 0);
        credits.remove(B, 0);
        assert_eq!((credits.next_ms(), credits.reserve()), (None, -10_000), "debts die with their domain");
    }

    #[test]
    fn nothing_is_shared_out_early_unless_somebody_waits_and_nothing_is_lost_by_that() {
        let mut credits = credits(7);
        credits.advance_if_due(limits::WRITE_SHARE_MS - 1);
        assert_eq!((credits.credit(DomId(7)), credits.updated_ms), (Some(0), Some(0)), "nobody waits");
        let mut often = self::credits(7);
        (1..=limits::WRITE_SHARE_MS).for_each(|now_ms| often.advance(now_ms));
        credits.advance_if_due(limits::WRITE_SHARE_MS);
        assert_eq!((credits.credit(DomId(7)), credits.reserve()), (often.credit(DomId(7)), often.reserve()));
        assert!(credits.debit(A, 50, limits::WRITE_SHARE_MS));
        credits.advance_if_due(limits::WRITE_SHARE_MS + 1);
        assert_eq!(credits.updated_ms, Some(limits::WRITE_SHARE_MS + 1), "somebody waits");
    }

    #[test]
    fn no_fraction_of_the_gain_is_lost_however_often_it_is_shared_out() {
        let (mut often, mut once) = (credits(7), credits(7));
        for domid in 1..=7 {
            often.debit(DomId(domid), 100, 0);
            once.debit(DomId(domid), 100, 0);
        }
        (1..=999).for_each(|now_ms| often.advance(now_ms));
        once.advance(999);
        assert_eq!(often.credit(B), once.credit(B));
    }

    #[test]
    fn extreme_amounts_and_times_do_no_harm() {
        let mut credits = credits(3);
        for now_ms in [0, u64::MAX, 0, 5, u64::MAX] {
            for nodes in [usize::MAX, 0, usize::MAX, 1] {
                credits.debit(A, nodes, now_ms);
                credits.debit(B, nodes, now_ms);
                assert!(credits.is_in_debt(A) && credits.next_ms().is_some());
            }
        }
        credits.debit(DomId(99), 5, 0);
        assert_eq!(credits.credit(DomId(99)), None);
    }
}
