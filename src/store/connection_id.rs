//! The number of a connection. The store names watchers and the connections of domains by it, and knows nothing else of
//! connections.

/// A connection: a domain's, or that of a client of the hosted server. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);
