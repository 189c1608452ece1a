//! The most expensive request of each type, turn and round of the main loop, and their bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use xenstore::engine::work;
use xenstore::limits;
use xenstore::wire::header::MessageType as T;

use super::step::{GUESTS, Step};

/// A quantity that the search maximizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objective {
    /// One request of a guest, outside of transactions.
    Request(T),
    /// One request of a guest in a transaction, or its end.
    Within(T),
    /// One turn of a guest's connection.
    Turn,
    /// One call of `Server::poll`, divided by the connections that had work and the domains that ended.
    Poll,
    /// One call of `Server::poll` with no such connection: postponed work.
    Postponed,
    /// One request of dom0. Dom0 is trusted: the search prints its costs, which have no bound.
    Privileged(T),
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub steps: u64,
    pub time: Duration,
    /// Connections that had work, and domains that ended; 1 for requests and turns.
    pub works: u64,
}

impl Objective {
    /// Returns the most steps that the objective may cost, or `None` if there is no bound.
    pub const fn bound(self, works: u64) -> Option<u64> {
        let turn = limits::TURN_STEPS + limits::REQUEST_STEPS_MOST;
        // Postponed work ends with the piece of work that uses up its steps. One call drops at most so many old events.
        let postponed = limits::POSTPONED_STEPS + limits::REQUEST_STEPS_MOST + limits::EXPIRED_AT_ONCE as u64;
        match self {
            // The quotas of all guests together bound the number of removed nodes.
            Self::Request(T::Rm) => Some(limits::PLAIN_REQUEST_STEPS_MOST + removal_of(GUESTS, 1000)),
            Self::Request(_) => Some(limits::PLAIN_REQUEST_STEPS_MOST),
            Self::Within(_) => Some(limits::REQUEST_STEPS_MOST),
            Self::Turn => Some(turn),
            Self::Poll | Self::Postponed => Some(works * turn + postponed),
            Self::Privileged(_) => None,
        }
    }
}

/// Returns the bound on the steps of a removal of nodes that guests have made.
pub const fn removal_of(guests: u16, nodes_each: u64) -> u64 {
    guests as u64 * nodes_each * work::REMOVAL_STEPS
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(kind) => write!(f, "{kind:?}"),
            Self::Within(kind) => write!(f, "in a transaction, {kind:?}"),
            Self::Privileged(kind) => write!(f, "dom0 {kind:?}"),
            Self::Turn => f.write_str("a turn"),
            Self::Poll => f.write_str("a poll, each connection"),
            Self::Postponed => f.write_str("postponed work"),
        }
    }
}

/// The greatest cost of an objective.
#[derive(Clone, Debug)]
pub struct Found {
    pub cost: Cost,
    /// The history that caused it; empty while that history is being played.
    pub steps: Vec<Step>,
}

/// The greatest costs of all objectives.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Whether the search compares time instead of steps.
    pub by_time: bool,
    pub found: BTreeMap<Objective, Found>,
    /// Measurements that exceed their bound: the first of each objective.
    pub exceeded: BTreeMap<Objective, Found>,
    pub histories: u64,
    pub requests: u64,
}

impl Worst {
    pub fn new(by_time: bool) -> Self {
        Self { by_time, ..Self::default() }
    }

    fn value(&self, cost: &Cost) -> u64 {
        let all = if self.by_time { cost.time.as_nanos() as u64 } else { cost.steps };
        all / cost.works.max(1)
    }

    fn is_dearer(&self, objective: Objective, cost: &Cost) -> bool {
        self.found.get(&objective).is_none_or(|found| self.value(cost) > self.value(&found.cost))
    }

    /// Notes a measurement of the history that is being played.
    pub fn note(&mut self, objective: Objective, cost: Cost) {
        if self.is_dearer(objective, &cost) {
            self.found.insert(objective, Found { cost, steps: Vec::new() });
        }
        if objective.bound(cost.works).is_some_and(|bound| cost.steps > bound) {
            self.exceeded.entry(objective).or_insert(Found { cost, steps: Vec::new() });
        }
    }

    /// Merges the measurements of a history, which `steps` reproduce.
    pub fn merge(&mut self, other: Self, steps: &[Step]) {
        let with_steps =
            |found: Found| Found { steps: if found.steps.is_empty() { steps.into() } else { found.steps }, ..found };
        for (objective, found) in other.found {
            if self.is_dearer(objective, &found.cost) {
                self.found.insert(objective, with_steps(found));
            }
        }
        for (objective, found) in other.exceeded {
            self.exceeded.entry(objective).or_insert_with(|| with_steps(found));
        }
        self.histories += other.histories;
        self.requests += other.requests;
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} histories, {} requests", self.histories, self.requests)?;
        writeln!(f, "{:<35}{:>10}{:>10}{:>10}{:>9}  history", "worst", "steps", "bound", "µs", "ns/step")?;
        let mut histories: Vec<&[Step]> = Vec::new();
        for (objective, Found { cost, steps }) in &self.found {
            let known = histories.iter().position(|history| history == steps);
            let number = known.unwrap_or(histories.len()) + 1;
            if known.is_none() {
                histories.push(steps);
            }
            let bound = objective.bound(cost.works).map_or_else(|| "-".to_owned(), |bound| bound.to_string());
            let each = cost.time.as_nanos() as f64 / cost.steps.max(1) as f64;
            let us = cost.time.as_nanos() as f64 / 1000.0;
            write!(f, "{:<35}{:>10}{bound:>10}{us:>10.1}{each:>9.1}  {number}", objective.to_string(), cost.steps)?;
            writeln!(f, "{}", if cost.works > 1 { format!(", {} with work", cost.works) } else { String::new() })?;
        }
        for (at, steps) in histories.iter().enumerate() {
            writeln!(f, "history {}: {}", at + 1, spell(steps))?;
        }
        Ok(())
    }
}

/// Returns a history in one line.
pub fn spell(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "the start of the guests".to_owned();
    }
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join("; ")
}
