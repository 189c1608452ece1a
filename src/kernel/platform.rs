//! The hypervisor as the server sees it: it maps rings by grant, binds ports, and reports on domains.

use alloc::collections::{BTreeMap, TryReserveError};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{Ordering, fence};

use xenstore::engine::hypervisor::{DomId, DomainInfo, DomainState, Hypervisor, Port};
use xenstore::server::{ConnectionId, Platform, UpdateFigures};
use xenstore::wire::errno::Errno;
use xenstore::wire::header::Header;
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::heap;
use super::in_flight;
use super::slots::Slots;
use super::update::{self, successor};
use super::work;
use crate::xen::abi::{GNTTAB_RESERVED_XENSTORE, XenError};
use crate::xen::domain_state::State;
use crate::xen::domctl::Interface;
use crate::xen::entry;
use crate::xen::event_channel;
use crate::xen::grant;
use crate::xen::memory::{Memory, WINDOW_SLOTS, WindowEntry};
use crate::xen::shared_page::{PAGE_BYTES, SharedPage};

/// Offset of the request queue in a ring page (`xen/include/public/io/xs_wire.h`).
const REQUESTS: usize = 0;
/// Offset of the reply queue.
const REPLIES: usize = RING_BYTES;

/// A domain's mapped ring page.
#[derive(Debug)]
pub(crate) struct MappedRing {
    page: SharedPage,
    slot: usize,
    at: WindowEntry,
    handle: u32,
}

impl RingPage for MappedRing {
    fn load(&self, field: Field) -> u32 {
        self.page.load32(field.offset())
    }

    fn store(&self, field: Field, value: u32) {
        self.page.store32(field.offset(), value);
    }

    fn copy_requests(&self, at: usize, to: &mut [u8]) {
        self.page.copy_out(REQUESTS + at, to);
    }

    fn copy_replies(&self, at: usize, from: &[u8]) {
        self.page.copy_in(REPLIES + at, from);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// A ring mapping, with all that a successor needs to undo it. A successor of another release reads a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RingMapping {
    /// Machine address of the page-table entry that maps the ring.
    pub(crate) entry_machine_address: u64,
    /// Xen's handle of the mapping.
    pub(crate) handle: u32,
    /// The domain that the ring belongs to.
    pub(crate) domain: u16,
    reserved: u16,
}

// The list has no version of its own, so the structure cannot change.
const _: () = {
    assert!(offset_of!(RingMapping, entry_machine_address) == 0);
    assert!(offset_of!(RingMapping, handle) == 8);
    assert!(offset_of!(RingMapping, domain) == 12);
    assert!(size_of::<RingMapping>() == 16);
};

/// The server's view of the hypervisor.
#[derive(Debug)]
pub(crate) struct XenPlatform {
    memory: Memory,
    domains: Interface,
    rings: BTreeMap<DomId, MappedRing>,
    slots: Slots,
    ports: usize,
}

impl XenPlatform {
    /// Creates a platform with nothing mapped or bound yet.
    pub(crate) fn new(memory: Memory, domains: Interface) -> Self {
        Self { memory, domains, rings: BTreeMap::new(), slots: Slots::new(WINDOW_SLOTS), ports: 0 }
    }

    /// Returns the domain's memory.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Adds some more of the predecessor's memory to the heap; see [`successor`]. Returns whether there was any.
    pub(crate) fn gain_memory(&mut self) -> bool {
        let is_missing = self.memory.missing_pages() > 0;
        if is_missing {
            successor::gain(&mut self.memory, successor::PAGES_A_TURN);
        }
        is_missing
    }

    /// Adds all of the predecessor's memory to the heap: a successor layout is made of all memory that there is.
    pub(crate) fn gain_all_memory(&mut self) {
        if self.memory.missing_pages() > 0 {
            successor::gain(&mut self.memory, usize::MAX);
        }
    }

    /// Returns the free bytes, including those that have not joined the heap yet.
    pub(crate) fn free_bytes(&self) -> usize {
        heap::usage().free + self.memory.missing_pages() * PAGE_BYTES
    }

    /// Returns all ring mappings.
    ///
    /// # Errors
    /// Fails if there is no memory for the list.
    pub(crate) fn ring_mappings(&self) -> Result<Vec<RingMapping>, TryReserveError> {
        let mapping = |(domid, ring): (&DomId, &MappedRing)| RingMapping {
            entry_machine_address: ring.at.entry_machine_address,
            handle: ring.handle,
            domain: domid.0,
            reserved: 0,
        };
        let mut all = Vec::new();
        all.try_reserve_exact(self.rings.len())?;
        all.extend(self.rings.iter().map(mapping));
        Ok(all)
    }

    /// Unmaps all rings, and no longer counts any port as the server's, so that another server can take the ports over.
    pub(crate) fn release_rings(&mut self) {
        let all: Vec<DomId> = self.rings.keys().copied().collect();
        all.into_iter().for_each(|domid| self.unmap_ring(domid));
        self.ports = 0;
    }

    /// Returns the number of mapped rings.
    pub(crate) fn ring_count(&self) -> usize {
        self.rings.len()
    }

    /// Returns the number of ports that are bound for the server.
    pub(crate) fn port_count(&self) -> usize {
        self.ports
    }

    /// Maps the ring of `domid` at `slot`.
    fn map_at(&self, domid: DomId, slot: usize) -> Result<MappedRing, Errno> {
        let at = self.memory.window_entry(slot, heap::give_page).map_err(|error| {
            log::warn!("domain {domid}: no page table for its ring: {error}");
            Errno::NoMem
        })?;
        let handle = grant::map(domid.0, GNTTAB_RESERVED_XENSTORE, at).map_err(|error| {
            log::debug!("domain {domid}: its ring cannot be mapped: {error}");
            Errno::Inval
        })?;
        let base = NonNull::new(ptr::with_exposed_provenance_mut(at.address)).ok_or(Errno::Inval)?;
        // SAFETY: Xen has just mapped the granted page there for reading and writing. The mapping stays until
        // `unmap_ring` drops this value. The window is used for nothing else.
        let page = unsafe { SharedPage::new(base) };
        Ok(MappedRing { page, slot, at, handle })
    }
}

impl Hypervisor for XenPlatform {
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno> {
        if self.rings.contains_key(&domid) {
            return Err(Errno::Exist);
        }
        let slot = self.slots.take().ok_or(Errno::NoMem)?;
        match self.map_at(domid, slot) {
            Ok(ring) => {
                self.rings.insert(domid, ring);
                Ok(())
            }
            Err(error) => {
                self.slots.give_back(slot);
                Err(error)
            }
        }
    }

    fn unmap_ring(&mut self, domid: DomId) {
        let Some(MappedRing { page: _, slot, at, handle }) = self.rings.remove(&domid) else { return };
        // SAFETY: the only value through which the page was used is gone.
        match unsafe { grant::unmap(handle, at.entry_machine_address) } {
            Ok(()) => self.slots.give_back(slot),
            // The slot is not used again: the page may still be mapped there.
            Err(error) => log::error!("domain {domid}: its ring cannot be unmapped: {error}"),
        }
    }

    fn bind_port(&mut self, domid: DomId, remote_port: u32) -> Result<Port, Errno> {
        let port = event_channel::bind_interdomain(domid.0, remote_port).map_err(|error| {
            log::debug!("domain {domid}: port {remote_port} cannot be bound: {error}");
            errno(error)
        })?;
        self.ports += 1;
        Ok(Port(port))
    }

    fn adopt_port(&mut self, domid: DomId, port: u32) -> Result<Port, Errno> {
        let other = event_channel::other_end(port).map_err(errno)?;
        if other != Some(domid.0) {
            log::warn!("domain {domid}: port {port} is not bound to it");
            return Err(Errno::Inval);
        }
        self.ports += 1;
        Ok(Port(port))
    }

    fn close_port(&mut self, port: Port) {
        match event_channel::close(port.0) {
            Ok(()) => self.ports = self.ports.saturating_sub(1),
            Err(error) => log::error!("port {} cannot be closed: {error}", port.0),
        }
    }

    fn free_memory(&self) -> usize {
        heap::usage().free
    }

    fn request_begins(&mut self, connection: ConnectionId, header: Header, payload: &[u8]) {
        in_flight::begin(connection, header, payload);
    }

    fn request_ends(&mut self) {
        in_flight::end();
    }

    fn port_in_ring(&self, domid: DomId) -> u32 {
        self.page(domid).map_or(0, |page| page.load(Field::EventPort))
    }

    fn next_domain(&mut self, from: DomId) -> Option<DomId> {
        self.domains.next(from.0, DomId::FIRST_RESERVED.0).map(DomId)
    }

    fn domain_info(&mut self, domid: DomId) -> DomainInfo {
        let description = self.domains.describe(domid.0);
        let state = match description.state {
            State::Running => DomainState::Running,
            State::Shutdown => DomainState::Shutdown,
            State::Dying => DomainState::Dying,
            State::Absent => DomainState::Absent,
        };
        DomainInfo { state, unique_id: description.unique_id }
    }
}

impl Platform for XenPlatform {
    type Page = MappedRing;

    fn page(&self, domid: DomId) -> Option<&MappedRing> {
        self.rings.get(&domid)
    }

    /// Estimates the figures of an update, on the assumption that a new kernel is as large as this one.
    fn update_figures(&self, stream_bytes: usize) -> Option<UpdateFigures> {
        let without_stream =
            update::bytes_without_stream(&self.memory, entry::image_bytes(), self.rings.len(), heap::usage().used);
        let needed_bytes = without_stream + stream_bytes.next_multiple_of(PAGE_BYTES);
        Some(UpdateFigures {
            needed_bytes,
            free_bytes: self.free_bytes(),
            pause_ms: update::expected_pause_ms(stream_bytes),
        })
    }

    fn notify(&mut self, port: Port) {
        work::NOTIFICATIONS.count();
        if let Err(error) = event_channel::send(port.0) {
            log::debug!("port {} cannot be signalled: {error}", port.0);
        }
    }
}

/// Converts Xen's error number to one that a reply can carry.
fn errno(error: XenError) -> Errno {
    match error {
        XenError::EPERM => Errno::Perm,
        XenError::EACCES => Errno::Acces,
        XenError::ENOSPC => Errno::NoSpc,
        XenError::ESRCH => Errno::NoEnt,
        _ => Errno::Inval,
    }
}
