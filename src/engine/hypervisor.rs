//! The questions that the engine puts to its host, mostly to the hypervisor, and that need an answer at once.
//!
//! Three implementations: the kernel's, the hosted server's and the simulator's.

pub use crate::store::domain::DomId;
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::header::Header;

/// An event channel port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

/// What the hypervisor says about a domain.
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

/// What the hypervisor says about a domain, in one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// What state it is in.
    pub state: DomainState,
    /// A number that no other domain has or will have until the host boots again, where the hypervisor gives domains
    /// such numbers. Two domains with the same domid, one after the other, differ in it.
    pub unique_id: Option<u64>,
}

impl DomainInfo {
    /// There is no such domain.
    pub const ABSENT: Self = Self { state: DomainState::Absent, unique_id: None };
}

/// The hypervisor, as the engine sees it.
pub trait Hypervisor {
    /// Maps the ring page of `domid` (its grant reference 1) for reading and writing. At most one mapping per domain
    /// exists; mapping it again is a bug of the caller.
    ///
    /// # Errors
    /// The code for the one who asked, when the page can't be mapped.
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno>;

    /// Undoes [`Hypervisor::map_ring`].
    fn unmap_ring(&mut self, domid: DomId);

    /// Binds a port of ours to `remote_port` of `domid`.
    ///
    /// # Errors
    /// The code for the one who asked, when the port can't be bound.
    fn bind_port(&mut self, domid: DomId, remote_port: u32) -> Result<Port, Errno>;

    /// Takes over a port that a predecessor in the same domain bound to one of `domid`. Also one whose other end is gone.
    ///
    /// # Errors
    /// When that is no such port; it is not closed then.
    fn adopt_port(&mut self, domid: DomId, port: u32) -> Result<Port, Errno>;

    /// The port that the mapped ring page of `domid` names for the server ([`crate::wire::ring::Field::EventPort`]); 0 for
    /// none. The domain may write anything there, and the word is loaded once.
    fn port_in_ring(&self, _domid: DomId) -> u32 {
        0
    }

    /// Closes a port that [`Hypervisor::bind_port`] or [`Hypervisor::adopt_port`] returned.
    fn close_port(&mut self, port: Port);

    /// Bytes of memory that the server can still allocate. Asked before a request may make anything grow.
    fn free_memory(&self) -> usize {
        usize::MAX
    }

    /// The existing domain with the lowest number from `from` on. The one that the server runs in, if that is not the
    /// control domain, is left out.
    fn next_domain(&mut self, from: DomId) -> Option<DomId>;

    /// What state `domid` is in, and which domain it is.
    fn domain_info(&mut self, domid: DomId) -> DomainInfo;

    /// Notes that a request is executed now, so that a crash report can name it. `payload` stays where it is until
    /// [`Hypervisor::request_ends`].
    ///
    /// From here to there the state does not change. A crash in between therefore leaves the state of before the request,
    /// but for a preparation ([`crate::engine::Engine::undo_preparation`]).
    fn request_begins(&mut self, _connection: ConnectionId, _header: Header, _payload: &[u8]) {}

    /// Notes that no request is executed now.
    fn request_ends(&mut self) {}

    /// What state `domid` is in.
    fn domain_state(&mut self, domid: DomId) -> DomainState {
        self.domain_info(domid).state
    }
}
