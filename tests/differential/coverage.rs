//! The coverage of a comparison: one that covers too little fails.

use std::collections::BTreeMap;
use std::fmt;

use crate::peers::client::Message;
use crate::peers::names;

/// Counts of outcomes.
#[derive(Default)]
pub struct Coverage {
    pub requests: usize,
    pub events: usize,
    pub barriers: usize,
    /// The number of comparisons of a guest's counts.
    pub usages: usize,
    /// The number of starts of both servers.
    pub starts: usize,
    /// Requests by type and outcome: `OK` or the error.
    outcomes: BTreeMap<(u32, String), usize>,
    /// Steps that are no requests.
    steps: BTreeMap<&'static str, usize>,
    /// Accepted differences, by their reason.
    accepted: BTreeMap<&'static str, usize>,
}

/// Every error that the server can answer here.
const CODES: [&str; 12] =
    ["EINVAL", "EACCES", "EEXIST", "ENOENT", "ENOMEM", "ENOSPC", "ENOSYS", "EBUSY", "EAGAIN", "E2BIG", "EPERM", "OK"];

/// Outcomes that only certain requests have, and that must occur.
const PAIRS: [(u32, &str); 24] = [
    (names::READ, "ENOENT"),
    (names::READ, "EACCES"),
    (names::DIRECTORY, "E2BIG"),
    (names::WRITE, "ENOSPC"),
    (names::WRITE, "EACCES"),
    (names::MKDIR, "ENOSPC"),
    (names::RM, "ENOENT"),
    (names::RM, "EINVAL"),
    (names::SET_PERMS, "EPERM"),
    (names::SET_PERMS, "ENOSPC"),
    (names::SET_PERMS, "ENOENT"),
    (names::SET_PERMS, "EACCES"),
    (names::WATCH, "EEXIST"),
    (names::WATCH, "EINVAL"),
    (names::UNWATCH, "ENOENT"),
    (names::TRANSACTION_START, "EBUSY"),
    (names::TRANSACTION_START, "ENOSPC"),
    (names::TRANSACTION_END, "EAGAIN"),
    (names::TRANSACTION_END, "ENOENT"),
    (names::INTRODUCE, "ENOENT"),
    (names::INTRODUCE, "EACCES"),
    (names::RELEASE, "ENOENT"),
    (names::SET_TARGET, "ENOENT"),
    (names::CONTROL, "EINVAL"),
];

impl Coverage {
    /// Counts a request and the first server's reply.
    pub fn count(&mut self, kind: u32, reply: &Message) {
        self.requests += 1;
        let kind = if (kind as usize) < names::KINDS.len() { kind } else { u32::MAX };
        *self.outcomes.entry((kind, outcome(reply))).or_default() += 1;
    }

    pub fn count_step(&mut self, name: &'static str) {
        *self.steps.entry(name).or_default() += 1;
    }

    pub fn count_accepted(&mut self, reason: &'static str) {
        *self.accepted.entry(reason).or_default() += 1;
    }

    /// Returns how often a difference was accepted for this reason.
    pub fn times_accepted(&self, reason: &str) -> usize {
        self.accepted.get(reason).copied().unwrap_or(0)
    }

    /// Returns everything that should have occurred and did not.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for kind in 0..names::KINDS.len() as u32 {
            if !self.outcomes.keys().any(|(seen, _)| *seen == kind) {
                missing.push(format!("no {}", names::kind(kind)));
            }
            let is_request = ![15, 16, 20].contains(&kind);
            if is_request && !self.outcomes.contains_key(&(kind, "OK".into())) {
                missing.push(format!("no granted {}", names::kind(kind)));
            }
        }
        for code in CODES {
            if !self.outcomes.keys().any(|(_, seen)| seen == code) {
                missing.push(format!("no answer {code}"));
            }
        }
        for (kind, code) in PAIRS {
            if !self.outcomes.contains_key(&(kind, code.into())) {
                missing.push(format!("no {} answered {code}", names::kind(kind)));
            }
        }
        for step in ["create", "shut down", "die", "destroy", "break the protocol"] {
            if !self.steps.contains_key(step) {
                missing.push(format!("no domain or client did: {step}"));
            }
        }
        missing
    }

    /// Adds another comparison's counts.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.events += other.events;
        self.barriers += other.barriers;
        self.usages += other.usages;
        self.starts += other.starts;
        for (key, count) in other.outcomes {
            *self.outcomes.entry(key).or_default() += count;
        }
        for (key, count) in other.steps {
            *self.steps.entry(key).or_default() += count;
        }
        for (key, count) in other.accepted {
            *self.accepted.entry(key).or_default() += count;
        }
    }
}

/// Returns `OK`, or an error's code.
pub fn outcome(reply: &Message) -> String {
    if reply.kind == names::ERROR {
        String::from_utf8_lossy(reply.payload.strip_suffix(b"\0").unwrap_or(&reply.payload)).into_owned()
    } else {
        "OK".into()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, events, barriers, usages, starts, .. } = self;
        writeln!(f, "{requests} requests and {barriers} barriers compared, {events} watch events, {starts} starts,")?;
        writeln!(f, "the counts of a guest compared {usages} times")?;
        let mut last = None;
        for ((kind, outcome), count) in &self.outcomes {
            if last != Some(kind) {
                write!(f, "{}  {:<20}", if last.is_some() { "\n" } else { "" }, names::kind(*kind))?;
                last = Some(kind);
            }
            write!(f, " {outcome} {count}")?;
        }
        write!(f, "\n  steps:")?;
        for (step, count) in &self.steps {
            write!(f, " {step} {count}")?;
        }
        writeln!(f)?;
        for (reason, count) in &self.accepted {
            writeln!(f, "  accepted {count}: {reason}")?;
        }
        Ok(())
    }
}
