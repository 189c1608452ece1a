//! Quotas of other servers: unknown names with their values.
//!
//! They limit nothing. They are kept for a successor that knows them. Their number and the length of their names are
//! bounded ([`limits::UNKNOWN_QUOTAS`], [`limits::QUOTA_NAME_BYTES`]).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::limits;
use crate::store::quota::Quota;

/// The reason why a quota is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotKept {
    /// The name is known, and the value belongs to [`crate::store::quota::Quotas`].
    Known,
    /// The name is empty, too long, or has a blank or a character outside printable ASCII. GET_QUOTA separates names by
    /// blanks.
    BadName,
    /// The table is full.
    Full,
}

/// Unknown quotas, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownQuotas(Vec<(Box<str>, u32)>);

impl UnknownQuotas {
    /// Creates an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets the value of a name.
    ///
    /// # Errors
    /// Fails if the quota cannot be kept. Nothing changes then.
    pub fn set(&mut self, name: &str, value: u32) -> Result<(), NotKept> {
        if Quota::from_protocol_name(name).is_some() {
            return Err(NotKept::Known);
        }
        let is_spelled_well = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > limits::QUOTA_NAME_BYTES || !is_spelled_well {
            return Err(NotKept::BadName);
        }
        if let Some((_, have)) = self.0.iter_mut().find(|(known, _)| **known == *name) {
            *have = value;
            return Ok(());
        }
        if self.0.len() >= limits::UNKNOWN_QUOTAS {
            return Err(NotKept::Full);
        }
        self.0.push((name.into(), value));
        Ok(())
    }

    /// Returns the value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u32> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Returns all names with their values, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::domain::DomId;
    use crate::store::domain_table::Domains;
    use alloc::format;

    #[test]
    fn values_are_kept_by_name_and_the_last_one_counts() {
        let mut unknown = UnknownQuotas::default();
        assert_eq!(unknown.set("colours", 3), Ok(()));
        assert_eq!(unknown.set("soft-nodes", 4), Ok(()));
        assert_eq!(unknown.set("colours", 0), Ok(()));
        assert!(unknown.iter().eq([("colours", 0), ("soft-nodes", 4)]));
        assert_eq!((unknown.get("colours"), unknown.get("nodes")), (Some(0), None));
    }

    #[test]
    fn known_names_and_names_that_cannot_be_listed_are_not_kept() {
        let mut unknown = UnknownQuotas::default();
        for name in ["nodes", "permissions", "path-length", "memory", "soft-memory"] {
            assert_eq!(unknown.set(name, 1), Err(NotKept::Known), "{name}");
        }
        let longest = "x".repeat(limits::QUOTA_NAME_BYTES);
        for name in ["", "two words", "nul\0", "\u{e9}", &format!("{longest}x")] {
            assert_eq!(unknown.set(name, 1), Err(NotKept::BadName), "{name}");
        }
        assert_eq!(unknown, UnknownQuotas::default());
        assert_eq!(unknown.set(&longest, 1), Ok(()));
    }

    #[test]
    fn those_of_a_domain_die_with_it_and_those_for_all_stay() {
        let mut domains = Domains::default();
        assert_eq!(domains.unknown_quotas.set("colours", 3), Ok(()));
        assert_eq!(domains.learn(DomId(7), 1).unknown_quotas.set("colours", 4), Ok(()));
        domains.forget(DomId(7));
        assert_eq!(domains.learn(DomId(7), 2).unknown_quotas, UnknownQuotas::default());
        assert_eq!(domains.unknown_quotas.get("colours"), Some(3));
    }

    #[test]
    fn one_more_than_the_bound_is_refused_and_those_kept_can_still_change() {
        let mut unknown = UnknownQuotas::default();
        for number in 0..limits::UNKNOWN_QUOTAS {
            assert_eq!(unknown.set(&format!("q{number}"), 1), Ok(()));
        }
        assert_eq!(unknown.set("more", 1), Err(NotKept::Full));
        assert_eq!(unknown.set("q0", 2), Ok(()));
        assert_eq!((unknown.iter().count(), unknown.get("q0")), (limits::UNKNOWN_QUOTAS, Some(2)));
    }
}
