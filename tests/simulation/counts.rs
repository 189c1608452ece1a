//! Counts of the events in histories, by name.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub fn add(&mut self, what: impl AsRef<str>, count: u64) {
        if count == 0 {
            return;
        }
        match self.0.get_mut(what.as_ref()) {
            Some(have) => *have += count,
            None => drop(self.0.insert(what.as_ref().to_owned(), count)),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }

    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:10} {what}"))
    }
}
