//! The engine's questions to its host, mostly to the hypervisor. Each needs an answer at once.
//!
//! Three implementations: the kernel's, the hosted server's and the simulator's.

pub use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::header::Header;

/// The server's port of an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

/// The state of a domain, as the hypervisor reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// It exists and has not been shut down.
    Running,
    /// It exists and has been shut down (or has crashed or suspended); it may be resumed.
    Shutdown,
    /// It is being torn down and will not come back.
    Dying,
    /// There is no such domain.
    Absent,
}

/// A domain's state and identity, from one query of the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// The domain's state.
    pub state: DomainState,
    /// The hypervisor's unique ID of the domain; `None` if the hypervisor has none. No other domain has the same ID
    /// until the host boots again. Two successive domains with the same domid differ in it.
    pub unique_id: Option<u64>,
}

impl DomainInfo {
    /// The answer for a domain that does not exist.
    pub const ABSENT: Self = Self { state: DomainState::Absent, unique_id: None };
}

/// The hypervisor, as the engine sees it.
pub trait Hypervisor {
    /// Maps the ring page of `domid` (its grant reference 1) for reading and writing. At most one mapping per domain
    /// exists; mapping it again is a bug of the caller.
    ///
    /// # Errors
    /// The error code for the requester if the page cannot be mapped.
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno>;

    /// Undoes [`Hypervisor::map_ring`].
    fn unmap_ring(&mut self, domid: DomId);

    /// Binds a port of the server to `remote_port` of `domid`.
    ///
    /// # Errors
    /// The error code for the requester if the port cannot be bound.
    fn bind_port(&mut self, domid: DomId, remote_port: u32) -> Result<Port, Errno>;

    /// Adopts a port that a predecessor in the same domain bound to a port of `domid`. The other end may be gone.
    ///
    /// # Errors
    /// An error code if there is no such port. The port is not closed then.
    fn adopt_port(&mut self, domid: DomId, port: u32) -> Result<Port, Errno>;

    /// Returns the port that the mapped ring page of `domid` names for the server
    /// ([`crate::wire::ring::Field::EventPort`]); 0 for none. The domain may write anything there. The word is loaded
    /// once.
    fn port_in_ring(&self, _domid: DomId) -> u32 {
        0
    }

    /// Closes a port that [`Hypervisor::bind_port`] or [`Hypervisor::adopt_port`] returned.
    fn close_port(&mut self, port: Port);

    /// Returns the bytes of memory that the server can still allocate. The engine asks before anything may grow.
    fn free_memory(&self) -> usize {
        usize::MAX
    }

    /// Returns the existing domain with the lowest number from `from` on. Leaves out the server's own domain, unless
    /// that is the control domain.
    fn next_domain(&mut self, from: DomId) -> Option<DomId>;

    /// Returns the state and the unique ID of `domid`.
    fn domain_info(&mut self, domid: DomId) -> DomainInfo;

    /// Notes that a request is executed now, so that a crash report can name it. `payload` stays where it is until
    /// [`Hypervisor::request_ends`].
    ///
    /// The state does not change until [`Hypervisor::request_ends`]. A crash in between therefore leaves the state as
    /// it was before the request, except for a preparation ([`crate::engine::Engine::undo_preparation`]).
    fn request_begins(&mut self, _connection: ConnectionId, _header: Header, _payload: &[u8]) {}

    /// Notes that no request is executed now.
    fn request_ends(&mut self) {}

    /// Returns the state of `domid`.
    fn domain_state(&mut self, domid: DomId) -> DomainState {
        self.domain_info(domid).state
    }
}
