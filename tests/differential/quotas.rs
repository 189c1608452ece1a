//! The quotas of a comparison.
//!
//! Both servers must have each limit at the same number. Ours allows q and refuses q + 1. The C servers count
//! differently for some quotas, and need other numbers for the same limits.

use crate::server::Release;

/// Limits, as this project counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quotas {
    pub nodes: usize,
    pub node_bytes: usize,
    pub watches: usize,
    pub transactions: usize,
    pub permissions: usize,
    pub path_bytes: usize,
}

impl Quotas {
    /// The limits of servers without options.
    pub const DEFAULT: Self =
        Self { nodes: 1000, node_bytes: 2048, watches: 128, transactions: 10, permissions: 5, path_bytes: 2048 };

    /// Small limits, which are met often.
    pub const SMALL: Self =
        Self { nodes: 1000, node_bytes: 160, watches: 7, transactions: 2, permissions: 3, path_bytes: 60 };

    /// Few nodes, and large limits otherwise.
    pub const FEW_NODES: Self =
        Self { nodes: 14, node_bytes: 2048, watches: 128, transactions: 10, permissions: 5, path_bytes: 2048 };

    /// Returns the limits as options of our server.
    pub fn options_of_ours(&self) -> Vec<String> {
        options([self.nodes, self.node_bytes, self.watches, self.transactions, self.permissions, self.path_bytes])
    }

    /// Returns the quotas as options of a C server.
    pub fn options_of_c(&self, release: Release) -> Vec<String> {
        // The C server allows one watch and one transaction more than the quota.
        let (watches, transactions) = (self.watches - 1, self.transactions - 1);
        let node_bytes = match release {
            // A node's record is 8 bytes longer in 4.17, which refuses a record of the quota's size.
            Release::V4_17 => self.node_bytes + 8 + 1,
            Release::V4_20 => self.node_bytes,
        };
        options([self.nodes, node_bytes, watches, transactions, self.permissions, self.path_bytes])
    }
}

fn options(values: [usize; 6]) -> Vec<String> {
    let names = ["--entry-nb", "--entry-size", "--watch-nb", "--transaction", "--perm-nb", "--path-max"];
    names.iter().zip(values).flat_map(|(name, value)| [name.to_string(), value.to_string()]).collect()
}
