//! Moves bytes between rings and the engine: the main loop's body, shared by the kernel, the hosted server and the simulator.

use crate::engine::hypervisor::{Hypervisor, Port};
use crate::store::domain::DomId;
use crate::wire::ring::RingPage;

/// What the server needs beside the engine's questions: the mapped pages, and a way to wake their owners.
pub trait Platform: Hypervisor {
    /// A mapped ring page.
    type Page: RingPage;

    /// The ring page that [`Hypervisor::map_ring`] mapped for `domid`, while it is mapped.
    fn page(&self, domid: DomId) -> Option<&Self::Page>;

    /// Signals the other end of `port`.
    fn notify(&mut self, port: Port);
}
