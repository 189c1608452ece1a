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
