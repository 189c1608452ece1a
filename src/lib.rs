//! The Xenstore server without Xen: all code that handles a guest's bytes. This crate is `no_std` with `alloc`, and
//! forbids `unsafe`. The kernel, the hosted server and the tests use it.
//!
//! # The layers
//!
//! From the outside in. No layer uses one above it (`tests/architecture/`).
//!
//! | Module | Task |
//! |---|---|
//! | [`server`] | moves bytes between rings and the engine, in turns; live update; restore from a stream |
//! | [`update`] | checks an uploaded kernel before a live update starts it |
//! | [`options`] | reads the boot options |
//! | [`stream`] | reads and writes the state as a migration stream |
//! | [`engine`] | executes requests; keeps connections, events, and the accounts of each domain |
//! | [`store`] | holds the tree, permissions, transactions, watches and quotas |
//! | [`wire`] | encodes messages; does the index arithmetic of a ring |
//! | [`log_throttle`] | limits log lines about events that a domain can cause without limit |
//! | [`limits`] | lists every bound with its reason; all layers use it |
//!
//! The host below all layers is a trait: [`engine::hypervisor::Hypervisor`] answers the engine's questions, and
//! [`server::Platform`] adds the mapped ring pages.
//!
//! # The path of a request
//!
//! 1. A domain writes a message into its ring page and signals its event channel. The host calls
//!    [`Server::handle_event`](server::Server::handle_event), which only queues the connection.
//! 2. [`Server::poll`](server::Server::poll) gives each queued connection a turn. [`wire::ring::Ring::read`] checks the
//!    domain's index and copies bytes out of the page.
//! 3. When the message is complete, [`engine::requests::command_spec`] finds its handler. The handler reads the state. It fills
//!    in a reply and a [`ChangeSet`](engine::requests::change_set::ChangeSet), and changes nothing itself.
//! 4. The engine applies the change set in a step that cannot fail, or discards it. It queues the reply for the client,
//!    and events for the watchers.
//! 5. The server copies queued messages into each ring as far as they fit, and signals the domain.
//!
//! # Three kinds of calls
//!
//! The crate does no input or output, and has no clock: time is an argument. [`server::Server`] and [`engine::Engine`]
//! have three kinds of methods:
//!
//! - `handle_*` take an input: a signal, bytes, the end of a domain.
//! - `poll_*` give output. [`Server::poll`](server::Server::poll) also does the pending work, a bounded amount at a
//!   time. It returns whether to call it again now, or at which time.
//! - All others only read, such as [`Server::engine`](server::Server::engine). The exceptions belong to live update and
//!   warm restart.
//!
//! # Example
//!
//! A server with two domains in memory. dom0 introduces domain 1 and makes its home directory. Domain 1 writes a node
//! there, and dom0 reads the node. `examples/server_in_memory.rs` also has watches, a refused request, and the end of a
//! domain.
//!
//! ```
//! use std::cell::RefCell;
//! use std::collections::BTreeMap;
//! use std::rc::Rc;
//!
//! use xenstore::engine::config::Config;
//! use xenstore::engine::hypervisor::{DomId, DomainInfo, DomainState, Hypervisor, Port};
//! use xenstore::server::{Platform, Server};
//! use xenstore::wire::errno::Errno;
//! use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
//! use xenstore::wire::ring::{Field, RING_BYTES, RingPage};
//!
//! /// A ring page: the request queue, the reply queue, then the words.
//! #[derive(Clone)]
//! struct Page(Rc<RefCell<[u8; 4096]>>);
//!
//! impl RingPage for Page {
//!     fn load(&self, field: Field) -> u32 {
//!         u32::from_le_bytes(self.0.borrow()[field.offset()..][..4].try_into().unwrap())
//!     }
//!     fn store(&self, field: Field, value: u32) {
//!         self.0.borrow_mut()[field.offset()..][..4].copy_from_slice(&value.to_le_bytes());
//!     }
//!     fn copy_requests(&self, at: usize, to: &mut [u8]) {
//!         to.copy_from_slice(&self.0.borrow()[at..][..to.len()]);
//!     }
//!     fn copy_replies(&self, at: usize, from: &[u8]) {
//!         self.0.borrow_mut()[RING_BYTES + at..][..from.len()].copy_from_slice(from);
//!     }
//!     fn fence(&self) {} // There is only one thread.
//! }
//!
//! /// A host: the ring page of each domain, and those that the server has mapped. Our port of domain N is N.
//! struct Host {
//!     pages: BTreeMap<DomId, Page>,
//!     mapped: BTreeMap<DomId, Page>,
//! }
//!
//! impl Hypervisor for Host {
//!     fn map_ring(&mut self, domid: DomId) -> Result<(), Errno> {
//!         let page = self.pages.get(&domid).ok_or(Errno::NoEnt)?;
//!         self.mapped.insert(domid, page.clone());
//!         Ok(())
//!     }
//!     fn unmap_ring(&mut self, domid: DomId) {
//!         self.mapped.remove(&domid);
//!     }
//!     fn bind_port(&mut self, domid: DomId, _remote_port: u32) -> Result<Port, Errno> {
//!         Ok(Port(domid.0.into()))
//!     }
//!     fn adopt_port(&mut self, _domid: DomId, _port: u32) -> Result<Port, Errno> {
//!         Err(Errno::Inval) // There is no predecessor.
//!     }
//!     fn close_port(&mut self, _port: Port) {}
//!     fn next_domain(&mut self, from: DomId) -> Option<DomId> {
//!         self.pages.range(from..).next().map(|(domid, _)| *domid)
//!     }
//!     fn domain_info(&mut self, domid: DomId) -> DomainInfo {
//!         let running = DomainInfo { state: DomainState::Running, unique_id: None };
//!         self.pages.get(&domid).map_or(DomainInfo::ABSENT, |_| running)
//!     }
//! }
//!
//! impl Platform for Host {
//!     type Page = Page;
//!     fn page(&self, domid: DomId) -> Option<&Page> {
//!         self.mapped.get(&domid)
//!     }
//!     fn notify(&mut self, _port: Port) {} // The domains below check the ring without a signal.
//! }
//!
//! /// Plays a domain: sends a request, lets the server work, and returns the payload of the reply.
//! fn request(server: &mut Server, host: &mut Host, domid: DomId, kind: MessageType, payload: &[u8]) -> Vec<u8> {
//!     let page = host.pages[&domid].clone();
//!     let payload_bytes = payload.len() as u32;
//!     let header = Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes };
//!     let mut index = page.load(Field::RequestProducer);
//!     for byte in header.emit().iter().chain(payload) {
//!         page.0.borrow_mut()[index as usize % RING_BYTES] = *byte;
//!         index = index.wrapping_add(1);
//!     }
//!     page.store(Field::RequestProducer, index);
//!
//!     server.handle_event(Port(domid.0.into()));
//!     while server.poll(host, 0).busy {}
//!
//!     let (from, to) = (page.load(Field::ReplyConsumer), page.load(Field::ReplyProducer));
//!     let reply: Vec<u8> = (from..to).map(|at| page.0.borrow()[RING_BYTES + at as usize % RING_BYTES]).collect();
//!     page.store(Field::ReplyConsumer, to);
//!     reply[HEADER_BYTES..].to_vec()
//! }
//!
//! let (dom0, guest) = (DomId(0), DomId(1));
//! let page = || Page(Rc::new(RefCell::new([0; 4096])));
//! let mut host = Host { pages: [(dom0, page()), (guest, page())].into(), mapped: BTreeMap::new() };
//! let mut server = Server::new(Config::default());
//! server.handle_boot_domain(dom0, 1, &mut host).expect("dom0 has a ring page");
//!
//! // Domain, frame and port of the introduction; the frame is not needed.
//! let mut ask = |domid, kind, payload: &[u8]| request(&mut server, &mut host, domid, kind, payload);
//! assert_eq!(ask(dom0, MessageType::Introduce, b"1\x000\x001\0"), b"OK\0");
//! assert_eq!(ask(dom0, MessageType::Mkdir, b"/local/domain/1\0"), b"OK\0");
//! assert_eq!(ask(dom0, MessageType::SetPerms, b"/local/domain/1\0n1\0"), b"OK\0");
//!
//! // A relative path begins at the home directory of the domain.
//! assert_eq!(ask(guest, MessageType::Write, b"name\0first guest"), b"OK\0");
//! assert_eq!(ask(dom0, MessageType::Read, b"/local/domain/1/name\0"), b"first guest");
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::todo,
        clippy::unimplemented
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod engine;
pub mod limits;
pub mod log_throttle;
pub mod options;
pub mod server;
pub mod store;
pub mod stream;
pub mod update;
pub mod wire;
