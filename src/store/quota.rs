//! Quotas by name (`docs/misc/xenstore.txt`, and the names of the C server's `--quota` option).
//!
//! A quota of q allows q and refuses q + 1; 0 means no limit. Privileged clients are never limited.
//!
//! Each domain has its own values. They start as the defaults, which apply to all domains that become known later.

/// A resource that can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quota {
    /// Nodes that a domain owns.
    Nodes,
    /// Watches that a domain has set.
    Watches,
    /// Outstanding requests of a domain.
    Outstanding,
    /// Bytes of the server's memory that a domain uses.
    MemoryHard,
    /// Bytes of the server's memory that a domain uses, before a warning.
    MemorySoft,
    /// A domain's open transactions.
    Transactions,
    /// Paths that a transaction has seen.
    TransactionNodes,
    /// Entries in a node's permissions.
    NodePermissions,
    /// Bytes of a path.
    PathMax,
    /// Bytes of a node's record.
    NodeSize,
}

impl Quota {
    /// All quotas, in the order in which the C server 4.22 prints them.
    pub const ALL: [Self; 10] = [
        Self::Nodes,
        Self::Watches,
        Self::Outstanding,
        Self::MemoryHard,
        Self::MemorySoft,
        Self::Transactions,
        Self::TransactionNodes,
        Self::NodePermissions,
        Self::PathMax,
        Self::NodeSize,
    ];

    /// Returns a description of the quota, as CONTROL `quota` shows it.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Nodes => "Nodes per domain",
            Self::Watches => "Watches per domain",
            Self::Transactions => "Active transactions per domain",
            Self::TransactionNodes => "Max. number of accessed nodes per transaction",
            Self::Outstanding => "Outstanding requests per domain",
            Self::NodePermissions => "Max. number of permissions per node",
            Self::PathMax => "Max. length of a node path",
            Self::NodeSize => "Max. size of a node",
            Self::MemoryHard | Self::MemorySoft => "Total Xenstore memory per domain",
        }
    }

    /// Returns whether exceeding the quota only causes a warning.
    #[must_use]
    pub const fn is_soft(self) -> bool {
        matches!(self, Self::MemorySoft)
    }

    /// Returns the quota with this name in GET_QUOTA and SET_QUOTA. Soft quotas have the prefix `soft-`.
    #[must_use]
    pub fn from_protocol_name(name: &str) -> Option<Self> {
        match name.strip_prefix("soft-") {
            Some(name) => Self::from_name(name, true),
            None => Self::from_name(name, false),
        }
    }

    /// Returns the name, as the C server 4.22 prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Watches => "watches",
            Self::Transactions => "transactions",
            Self::TransactionNodes => "transaction-nodes",
            Self::Outstanding => "outstanding",
            Self::NodePermissions => "node-permissions",
            Self::PathMax => "path-max",
            Self::NodeSize => "node-size",
            Self::MemoryHard | Self::MemorySoft => "memory",
        }
    }

    /// Returns the quota with this name: a name of the C server's releases or of the protocol document. `memory` has
    /// two limits, of which `soft` chooses one. No other quota has a soft limit.
    #[must_use]
    pub fn from_name(name: &str, soft: bool) -> Option<Self> {
        match name {
            "memory" if soft => Some(Self::MemorySoft),
            _ if soft => None,
            "permissions" => Some(Self::NodePermissions),
            "path-length" => Some(Self::PathMax),
            _ => Self::ALL.into_iter().find(|quota| *quota != Self::MemorySoft && quota.name() == name),
        }
    }

    /// Returns the name as in GET_QUOTA and SET_QUOTA: [`Quota::name`], with the prefix of soft quotas.
    #[must_use]
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::MemorySoft => "soft-memory",
            _ => self.name(),
        }
    }

    /// Returns the value without any option: that of the C server, 4.14 to 4.22.
    #[must_use]
    pub const fn default_value(self) -> u32 {
        match self {
            Self::Nodes => 1000,
            Self::Watches => 128,
            Self::Transactions => 10,
            Self::TransactionNodes => 1024,
            Self::Outstanding => 20,
            Self::NodePermissions => 5,
            Self::PathMax | Self::NodeSize => 2048,
            Self::MemoryHard => 2_621_440,
            Self::MemorySoft => 2_097_152,
        }
    }
}

/// A value for each quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas([u32; Quota::ALL.len()]);

impl Default for Quotas {
    fn default() -> Self {
        Self(Quota::ALL.map(Quota::default_value))
    }
}

impl Quotas {
    /// Returns the value; 0 for no limit.
    #[must_use]
    pub fn get(&self, quota: Quota) -> u32 {
        self.0.get(quota as usize).copied().unwrap_or(0)
    }

    /// Returns the value as a limit; the greatest number for no limit.
    #[must_use]
    pub fn limit(&self, quota: Quota) -> usize {
        match self.get(quota) {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// Sets the value; 0 for no limit.
    pub fn set(&mut self, quota: Quota, value: u32) {
        if let Some(have) = self.0.get_mut(quota as usize) {
            *have = value;
        }
    }

    /// Returns whether `value` is within the quota.
    #[must_use]
    pub fn allows(&self, quota: Quota, value: usize) -> bool {
        value <= self.limit(quota)
    }
}

/// The maximum of each count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peaks([u32; Quota::ALL.len()]);

impl Peaks {
    /// Returns the maximum.
    #[must_use]
    pub fn get(&self, quota: Quota) -> u32 {
        self.0.get(quota as usize).copied().unwrap_or(0)
    }

    /// Updates the maximum with a new value.
    pub fn note(&mut self, quota: Quota, value: usize) {
        let value = u32::try_from(value).unwrap_or(u32::MAX);
        if let Some(have) = self.0.get_mut(quota as usize) {
            *have = value.max(*have);
        }
    }

    /// Updates the maxima with those of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (have, new) in self.0.iter_mut().zip(&other.0) {
            *have = (*new).max(*have);
        }
    }

    /// Clears all maxima.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_allows_its_value_and_refuses_one_more_and_zero_is_no_limit() {
        let mut quotas = Quotas::default();
        assert!(quotas.allows(Quota::Nodes, 1000));
        assert!(!quotas.allows(Quota::Nodes, 1001));
        quotas.set(Quota::Nodes, 0);
        assert!(quotas.allows(Quota::Nodes, usize::MAX));
        assert_eq!(quotas.get(Quota::Watches), 128);
    }

    #[test]
    fn every_quota_is_found_by_its_name_and_by_the_other_spellings() {
        for quota in Quota::ALL {
            assert_eq!(Quota::from_name(quota.name(), quota == Quota::MemorySoft), Some(quota));
        }
        assert_eq!(Quota::from_name("permissions", false), Some(Quota::NodePermissions));
        assert_eq!(Quota::from_name("path-length", false), Some(Quota::PathMax));
        assert_eq!(Quota::from_protocol_name("soft-memory"), Some(Quota::MemorySoft));
        assert_eq!(Quota::from_protocol_name("memory"), Some(Quota::MemoryHard));
        assert_eq!(Quota::from_protocol_name("soft-nodes"), None);
        assert_eq!(Quota::from_name("nodes", true), None);
        assert_eq!(Quota::from_name("", false), None);
    }
}
