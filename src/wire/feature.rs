//! Features of a server that a domain may use (`XENSTORE_SERVER_FEATURE_*`, `xen/include/public/io/xs_wire.h`).

use bitflags::bitflags;

bitflags! {
    /// Features, as in the ring's feature word and in GET_FEATURE.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The domain may request a reconnection by the ring's connection word.
        const RECONNECTION = 1;
        /// The ring's error word gives the reason why a connection was shut.
        const ERROR = 2;
        /// WATCH takes a depth, and special events can name their domain.
        const WATCH_DEPTH = 4;
        /// An entry of a node's permissions may mean all domains.
        const DOMID_ANY = 8;
    }
}
