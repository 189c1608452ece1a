//! Quotas by name (`docs/misc/xenstore.txt`, and the names of the C server's `--quota` option).
//!
//! A quota of q allows q and refuses q + 1; 0 means no limit. Privileged clients are never limited.

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quota {
    /// Nodes that a domain owns.
    Nodes,
    /// Watches that a domain has set.
    Watches,
    /// Transactions that a domain has open.
    Transactions,
    /// Paths that a transaction has seen.
    TransactionNodes,
    /// Requests whose reply or events have not been read.
    Outstanding,
    /// Entries in a node's permissions.
    NodePermissions,
    /// Bytes of a path.
    PathMax,
    /// Bytes of a node's record.
    NodeSize,
    /// Bytes that a domain makes the server keep.
    MemoryHard,
    /// Bytes that a domain makes the server keep, before a warning.
    MemorySoft,
}

impl Quota {
    /// Every quota.
    pub const ALL: [Self; 10] = [
        Self::Nodes,
        Self::Watches,
        Self::Transactions,
        Self::TransactionNodes,
        Self::Outstanding,
        Self::NodePermissions,
        Self::PathMax,
        Self::NodeSize,
        Self::MemoryHard,
        Self::MemorySoft,
    ];

    /// The name, as the C server's 4.22 prints it.
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

    /// The quota of a name: those of the C server's releases and those of the protocol document. `memory` has two
    /// limits; `soft` chooses, and no other quota has a soft one.
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

    /// The value without any option: those of the C server, 4.14 to 4.22.
    #[must_use]
    pub const fn default_value(self) -> usize {
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
pub struct Quotas([usize; Quota::ALL.len()]);

impl Default for Quotas {
    fn default() -> Self {
        Self(Quota::ALL.map(Quota::default_value))
    }
}

impl Quotas {
    /// The value; 0 for no limit.
    #[must_use]
    pub fn get(&self, quota: Quota) -> usize {
        self.0.get(quota as usize).copied().unwrap_or(0)
    }

    /// Sets the value; 0 for no limit.
    pub fn set(&mut self, quota: Quota, value: usize) {
        if let Some(have) = self.0.get_mut(quota as usize) {
            *have = value;
        }
    }

    /// Whether `value` is within the quota.
    #[must_use]
    pub fn allows(&self, quota: Quota, value: usize) -> bool {
        let limit = self.get(quota);
        limit == 0 || value <= limit
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
        assert_eq!(Quota::from_name("nodes", true), None);
        assert_eq!(Quota::from_name("", false), None);
    }
}
