//! Counts of dropped events, by originating domain and receiving connection.
//!
//! Each drop is counted. The log has at most one line a minute for each domain that causes drops.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::snapshot::{ConnectionNumber, Reader, Writer};
use crate::engine::turn::Turn;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::quota::Quota;
use crate::store::watch::ConnectionId;

/// The domain that caused events, and the connection that was to receive them. The domain is `None` for the control
/// domain, the hypervisor, and guests that are gone.
type Pair = (Option<DomId>, ConnectionId);

/// Stands for the other receivers of an originator if the table is full. No connection has this number.
const OTHERS: ConnectionId = ConnectionId(0);

/// The counts of dropped events, and the times of their log lines.
#[derive(Debug, Default)]
pub(in crate::engine) struct Drops {
    counts: BTreeMap<Pair, Count>,
    /// The time of each originator's last log line.
    logged_ms: BTreeMap<Option<DomId>, u64>,
    /// The time at which the next line about unlogged drops is due.
    next_log_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    all: u64,
    unlogged: u64,
}

impl Drops {
    /// Counts a drop, and returns the pair that it was counted for.
    fn count(&mut self, pair: Pair) -> Pair {
        let is_full = self.counts.len() >= limits::DROP_PAIRS && !self.counts.contains_key(&pair);
        let pair = if is_full { (pair.0, OTHERS) } else { pair };
        let count = self.counts.entry(pair).or_default();
        count.all = count.all.saturating_add(1);
        count.unlogged = count.unlogged.saturating_add(1);
        pair
    }

    /// Returns the time from which an originator may be logged again.
    fn due_ms(&self, originator: Option<DomId>) -> u64 {
        let logged_ms = self.logged_ms.get(&originator);
        logged_ms.map_or(0, |logged_ms| logged_ms.saturating_add(limits::DROP_LOG_INTERVAL_MS))
    }

    /// Takes the number of unlogged drops of a pair, to log them now.
    fn take_unlogged(&mut self, pair: Pair, now_ms: u64) -> u64 {
        self.logged_ms.insert(pair.0, now_ms);
        self.counts.get_mut(&pair).map_or(0, |count| core::mem::take(&mut count.unlogged))
    }

    /// Forgets a receiver that is gone.
    pub(in crate::engine) fn forget_receiver(&mut self, receiver: ConnectionId) {
        self.counts.retain(|(_, to), _| *to != receiver);
    }

    /// Forgets an originator that is gone. A later domain of the same number begins at zero.
    pub(in crate::engine) fn forget_originator(&mut self, originator: DomId) {
        self.counts.retain(|(by, _), _| *by != Some(originator));
        self.logged_ms.remove(&Some(originator));
    }

    /// Writes the counts, with times relative to `now_ms`. `number` names the receivers; those without one are left
    /// out.
    pub(in crate::engine) fn save(
        &self,
        now_ms: u64,
        body: &mut Writer,
        number: impl Fn(ConnectionId) -> Option<ConnectionNumber>,
    ) {
        let number = |to| if to == OTHERS { Some(ConnectionNumber(0)) } else { number(to) };
        let known = || self.counts.iter().filter_map(|((by, to), count)| Some((*by, number(*to)?, *count)));
        body.size(known().count());
        for (originator, receiver, count) in known() {
            body.optional(originator.map(|domid| domid.0.into()));
            body.number(receiver.0.into());
            body.number(count.all);
            body.number(count.unlogged);
        }
        body.size(self.logged_ms.len());
        for (originator, logged_ms) in &self.logged_ms {
            body.optional(originator.map(|domid| domid.0.into()));
            body.number(now_ms.saturating_sub(*logged_ms));
        }
    }

    /// Reads the output of [`Drops::save`].
    pub(in crate::engine) fn restore(body: &mut Reader<'_>, now_ms: u64) -> Option<Self> {
        let mut drops = Self::default();
        for _ in 0..body.count()? {
            let originator = read_originator(body)?;
            let receiver = ConnectionId(body.small::<u32>()?.into());
            let count = Count { all: body.number()?, unlogged: body.number()? };
            if drops.counts.len() < limits::DROP_PAIRS {
                drops.counts.insert((originator, receiver), count);
            }
        }
        for _ in 0..body.count()? {
            let originator = read_originator(body)?;
            drops.logged_ms.insert(originator, now_ms.saturating_sub(body.number()?));
        }
        drops.next_log_ms = drops.first_due_ms();
        Some(drops)
    }

    /// Returns the time at which the first originator with unlogged drops may be logged.
    fn first_due_ms(&self) -> Option<u64> {
        let unlogged = self.counts.iter().filter(|(_, count)| count.unlogged > 0);
        unlogged.map(|((by, _), _)| self.due_ms(*by)).min()
    }
}

fn read_originator(body: &mut Reader<'_>) -> Option<Option<DomId>> {
    match body.optional()? {
        Some(domid) => Some(Some(DomId(u16::try_from(domid).ok()?))),
        None => Some(None),
    }
}

impl Engine {
    /// Returns the number of dropped events that `originator` caused for a connection. `None` is the control domain,
    /// the hypervisor, and guests that are gone.
    #[must_use]
    pub fn dropped_events(&self, originator: Option<DomId>, receiver: ConnectionId) -> u64 {
        self.drops.counts.get(&(originator, receiver)).map_or(0, |count| count.all)
    }

    /// Counts a dropped event, and logs it at most once per [`limits::DROP_LOG_INTERVAL_MS`] and originator.
    pub(in crate::engine) fn note_dropped(
        &mut self,
        originator: Option<ConnectionId>,
        receiver: ConnectionId,
        turn: &Turn<'_>,
    ) {
        let originator = originator.and_then(|id| self.connections.domain_of(id));
        let pair = self.drops.count((originator, receiver));
        let due_ms = self.drops.due_ms(pair.0);
        if due_ms <= turn.now_ms {
            self.log_dropped(pair, turn);
        } else {
            self.drops.next_log_ms = Some(self.drops.next_log_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
        }
    }

    fn log_dropped(&mut self, pair: Pair, turn: &Turn<'_>) {
        let count = self.drops.take_unlogged(pair, turn.now_ms);
        let (originator, receiver) = pair;
        let events = Grouped(count);
        let to = if receiver == OTHERS { "various receivers".into() } else { self.name(receiver) };
        let by =
            originator.map_or_else(|| "control domain, Xen or past domain".into(), |by| alloc::format!("domain {by}"));
        match self.guest_of(receiver) {
            Some(domid) => {
                let has = Grouped(self.memory_of(domid) as u64);
                let limit = Grouped(self.state.domains.quotas(domid).get(Quota::MemoryHard).into());
                log::warn!("{by}: {events} events for {to} dropped, memory {has} of {limit}");
            }
            None if receiver == OTHERS => log::warn!("{by}: {events} events for {to} dropped"),
            None => log::warn!("{by}: {events} events for {to} dropped, the receiver does not read"),
        }
    }

    /// Logs earlier drops whose log line is due by now: one line for each originator, for its receiver with most drops.
    pub(in crate::engine) fn log_drops(&mut self, turn: &Turn<'_>) {
        if self.drops.next_log_ms.is_none_or(|due_ms| due_ms > turn.now_ms) {
            return;
        }
        let mut largest = BTreeMap::<Option<DomId>, (u64, ConnectionId)>::new();
        for ((by, to), count) in self.drops.counts.iter().filter(|(_, count)| count.unlogged > 0) {
            let most = largest.entry(*by).or_insert((0, *to));
            *most = (*most).max((count.unlogged, *to));
        }
        let due: Vec<Pair> = largest.iter().map(|(by, (_, to))| (*by, *to)).collect();
        for pair in due.into_iter().filter(|(by, _)| self.drops.due_ms(*by) <= turn.now_ms).collect::<Vec<_>>() {
            self.log_dropped(pair, turn);
        }
        self.drops.next_log_ms = self.drops.first_due_ms();
    }

    /// Returns the time at which [`Engine::log_drops`] has something to log.
    pub(in crate::engine) const fn next_drop_log_ms(&self) -> Option<u64> {
        self.drops.next_log_ms
    }
}

/// A number, displayed with its digits in groups of three.
struct Grouped(u64);

impl core::fmt::Display for Grouped {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let digits = alloc::format!("{}", self.0);
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && digits.len().saturating_sub(at).is_multiple_of(3) {
                f.write_str(",")?;
            }
            core::fmt::Write::write_char(f, digit)?;
        }
        Ok(())
    }
}
