//! The machine around the server: ring pages in memory, ports as flags, domains as a table.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use xenstore::engine::hypervisor::{DomainInfo, DomainState, Hypervisor, Port};
use xenstore::server::Platform;
use xenstore::store::domain::DomId;
use xenstore::wire::errno::Errno;
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

use super::random::Random;

thread_local! {
    /// The number of stores to all pages, which shows their order.
    static STORES: Cell<u64> = const { Cell::new(0) };
}

/// An operation on a page.
pub enum Touch<'a> {
    /// The server reads requests.
    Took(&'a [u8]),
    /// The server writes replies.
    Put(&'a [u8]),
    /// The server stores a word.
    Stored(Field, u32),
}

/// A receiver of these operations.
pub type Onlooker = Rc<dyn Fn(Touch<'_>)>;

/// A page that both sides share, with the times of the last store to each of its words.
#[derive(Clone)]
pub struct Page(
    pub Rc<RefCell<[u8; 4096]>>,
    Rc<RefCell<BTreeMap<usize, u64>>>,
    Rc<RefCell<Option<Random>>>,
    Rc<RefCell<Option<Onlooker>>>,
);

impl Default for Page {
    fn default() -> Self {
        Self(Rc::new(RefCell::new([0; 4096])), Rc::default(), Rc::default(), Rc::default())
    }
}

impl Page {
    /// Returns when a word was last stored, or 0.
    pub fn stored_at(&self, field: Field) -> u64 {
        self.1.borrow().get(&field.offset()).copied().unwrap_or(0)
    }

    /// Makes each load of an index return another value, as if the domain wrote it without pause.
    pub fn scribble(&self, random: Option<Random>) {
        *self.2.borrow_mut() = random;
    }

    /// Returns whether each load of an index returns another value.
    pub fn is_scribbled(&self) -> bool {
        self.2.borrow().is_some()
    }

    /// Reports the later operations on the page to this receiver, in order.
    pub fn watch(&self, onlooker: Onlooker) {
        *self.3.borrow_mut() = Some(onlooker);
    }

    fn tell(&self, touch: Touch<'_>) {
        if let Some(onlooker) = &*self.3.borrow() {
            onlooker(touch);
        }
    }

    /// Returns all bytes of the page.
    pub fn bytes(&self) -> [u8; 4096] {
        *self.0.borrow()
    }
}

impl RingPage for Page {
    fn load(&self, field: Field) -> u32 {
        let at = |field: Field| {
            let at = field.offset();
            u32::from_le_bytes(self.0.borrow()[at..at + 4].try_into().unwrap())
        };
        let Some(random) = &mut *self.2.borrow_mut() else { return at(field) };
        // Most distances are possible ones, so that the connection stays open for a while.
        let distance = if random.once_in(100) { random.next() as u32 } else { random.below(RING_BYTES + 1) as u32 };
        match field {
            Field::RequestProducer => at(Field::RequestConsumer).wrapping_add(distance),
            Field::ReplyConsumer => at(Field::ReplyProducer).wrapping_sub(distance),
            _ => at(field),
        }
    }

    fn store(&self, field: Field, value: u32) {
        let at = field.offset();
        let now = STORES.with(|stores| stores.replace(stores.get() + 1)) + 1;
        self.1.borrow_mut().insert(at, now);
        self.0.borrow_mut()[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.tell(Touch::Stored(field, value));
    }

    fn copy_requests(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= RING_BYTES);
        to.copy_from_slice(&self.0.borrow()[at..at + to.len()]);
        self.tell(Touch::Took(to));
    }

    fn copy_replies(&self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= RING_BYTES);
        self.0.borrow_mut()[RING_BYTES + at..RING_BYTES + at + from.len()].copy_from_slice(from);
        self.tell(Touch::Put(from));
    }

    fn fence(&self) {}
}

/// The hypervisor, and the pages of all domains.
#[derive(Default)]
pub struct Machine {
    pub domains: BTreeMap<DomId, DomainState>,
    /// The unique id of each domain; empty if the hypervisor reports none.
    pub unique_ids: BTreeMap<DomId, u64>,
    pub pages: BTreeMap<DomId, Page>,
    pub mapped: BTreeMap<DomId, Page>,
    pub bound: BTreeMap<Port, DomId>,
    pub notified: BTreeSet<DomId>,
    /// The other end of each of the server's ports.
    pub remote: BTreeMap<Port, (DomId, u32)>,
    /// The free memory that the server gets reported; `None` for unlimited memory.
    pub free_memory: Option<usize>,
    /// A function that reports the free memory instead, at each question.
    pub free_probe: Option<fn() -> usize>,
    /// A function that is called each time that the server asks about a domain.
    pub info_probe: Option<fn(DomId)>,
    /// Called before a port is bound.
    pub bind_probe: Option<fn(DomId)>,
    /// The change that a domain's other processor makes to its ring at the moment of a signal, without a signal of its
    /// own.
    pub meanwhile: Option<fn(&Page)>,
    last_port: u32,
}

impl Machine {
    /// Never binds ports up to this one.
    pub fn leave_out_ports(&mut self, last: u32) {
        self.last_port = last;
    }
}

impl Hypervisor for Machine {
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno> {
        let page = self.pages.get(&domid).ok_or(Errno::NoEnt)?;
        assert!(self.mapped.insert(domid, page.clone()).is_none(), "{domid} mapped twice");
        Ok(())
    }

    fn unmap_ring(&mut self, domid: DomId) {
        assert!(self.mapped.remove(&domid).is_some(), "{domid} was not mapped");
    }

    fn bind_port(&mut self, domid: DomId, remote_port: u32) -> Result<Port, Errno> {
        if let Some(probe) = self.bind_probe {
            probe(domid);
        }
        if remote_port == BAD_PORT || self.remote.values().any(|remote| *remote == (domid, remote_port)) {
            return Err(Errno::Inval);
        }
        self.last_port += 1;
        self.remote.insert(Port(self.last_port), (domid, remote_port));
        self.bound.insert(Port(self.last_port), domid);
        Ok(Port(self.last_port))
    }

    fn adopt_port(&mut self, domid: DomId, port: u32) -> Result<Port, Errno> {
        let is_bound = self.bound.get(&Port(port)) == Some(&domid);
        if is_bound { Ok(Port(port)) } else { Err(Errno::Inval) }
    }

    fn port_in_ring(&self, domid: DomId) -> u32 {
        self.page(domid).map_or(0, |page| page.load(Field::EventPort))
    }

    fn close_port(&mut self, port: Port) {
        assert!(self.bound.remove(&port).is_some(), "{port:?} was not bound");
        self.remote.remove(&port);
    }

    fn free_memory(&self) -> usize {
        self.free_probe.map_or(self.free_memory.unwrap_or(usize::MAX), |probe| probe())
    }

    fn next_domain(&mut self, from: DomId) -> Option<DomId> {
        self.domains.range(from..).next().map(|(domid, _)| *domid)
    }

    fn domain_info(&mut self, domid: DomId) -> DomainInfo {
        assert!(!domid.is_reserved(), "{domid} has a meaning for the hypervisor");
        if let Some(probe) = self.info_probe {
            probe(domid);
        }
        match self.domains.get(&domid) {
            Some(state) => DomainInfo { state: *state, unique_id: self.unique_ids.get(&domid).copied() },
            None => DomainInfo::ABSENT,
        }
    }
}

impl Platform for Machine {
    type Page = Page;

    fn page(&self, domid: DomId) -> Option<&Page> {
        self.mapped.get(&domid)
    }

    fn notify(&mut self, port: Port) {
        let domid = self.bound[&port];
        self.notified.insert(domid);
        if let (Some(meanwhile), Some(page)) = (self.meanwhile, self.mapped.get(&domid)) {
            meanwhile(page);
        }
    }
}

pub const DOM0: DomId = DomId(0);

/// A port that no domain has.
pub const BAD_PORT: u32 = 666;
