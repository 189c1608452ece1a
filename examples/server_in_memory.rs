//! A Xenstore with dom0 and one guest in memory. Prints each message that a domain sends or receives.
//!
//! ```text
//! cargo run --example server_in_memory
//! ```
//!
//! `>` marks a request, `<` a reply, an error or an event. `|` stands for NUL.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::{DomId, DomainInfo, DomainState, Hypervisor, Port};
use xenstore::server::{Platform, Server};
use xenstore::wire::errno::Errno;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

const DOM0: DomId = DomId(0);
const GUEST: DomId = DomId(1);

fn main() {
    let mut testbed = Testbed { server: Server::new(Config::default()), host: Host::default(), now_ms: 0 };
    testbed.build(DOM0);
    testbed.server.handle_boot_domain(DOM0, 1, &mut testbed.host).expect("dom0 has a ring page");

    println!("dom0 introduces domain 1: domid, frame (not needed), port");
    testbed.build(GUEST);
    testbed.request(DOM0, MessageType::Introduce, "1\x000\x001\0");

    println!("dom0 gives domain 1 a home directory, and watches the directory");
    testbed.request(DOM0, MessageType::Mkdir, "/local/domain/1\0");
    testbed.request(DOM0, MessageType::SetPerms, "/local/domain/1\0n1\0");
    testbed.request(DOM0, MessageType::Watch, "/local/domain/1\0home\0");

    println!("domain 1 writes a node; a relative path begins at its home");
    testbed.request(GUEST, MessageType::Write, "name\0first guest");
    testbed.print_messages(DOM0);
    testbed.request(DOM0, MessageType::Read, "/local/domain/1/name\0");

    println!("domain 1 has no rights elsewhere");
    testbed.request(GUEST, MessageType::Write, "/tool/name\0mine");

    println!("domain 1 is destroyed; the server removes its nodes");
    testbed.destroy(GUEST);
    testbed.print_messages(DOM0);
    testbed.request(DOM0, MessageType::Read, "/local/domain/1/name\0");

    println!("{} requests were handled", testbed.server.requests_handled());
}

/// A server and its host.
struct Testbed {
    server: Server,
    host: Host,
    now_ms: u64,
}

impl Testbed {
    /// Creates a domain, like a domain builder.
    fn build(&mut self, domid: DomId) {
        self.host.pages.insert(domid, Page(Rc::new(RefCell::new([0; 4096]))));
    }

    /// Destroys a domain. The hypervisor signals that some domain has ended.
    fn destroy(&mut self, domid: DomId) {
        self.host.pages.remove(&domid);
        self.server.handle_domain_exception();
        self.run();
    }

    /// Runs the server's main loop until the server may sleep.
    fn run(&mut self) {
        while self.server.poll(&mut self.host, self.now_ms).busy {}
    }

    /// Sends a request as a domain, and prints the reply and the events.
    fn request(&mut self, domid: DomId, kind: MessageType, payload: &str) {
        println!("  domain {domid} > {kind:?} {}", visible(payload.as_bytes()));
        let payload_bytes = u32::try_from(payload.len()).expect("a short payload");
        let header = Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes };
        self.host.pages[&domid].put(&[&header.emit()[..], payload.as_bytes()].concat());
        self.signal(domid);
        self.print_messages(domid);
    }

    /// Signals the event channel of a domain.
    fn signal(&mut self, domid: DomId) {
        self.server.handle_event(Host::port(domid));
        self.run();
    }

    /// Takes all messages for a domain out of its ring, and prints them.
    fn print_messages(&mut self, domid: DomId) {
        let bytes = self.host.pages[&domid].take();
        let mut rest = &bytes[..];
        while let Some((header, behind)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(header);
            let (payload, behind) = behind.split_at(header.payload_bytes as usize);
            let kind = MessageType::from_wire(header.kind).expect("the server's messages have a type");
            println!("  domain {domid} < {kind:?} {}", visible(payload));
            rest = behind;
        }
        // The ring has room again.
        self.signal(domid);
    }
}

/// Returns a payload as text.
fn visible(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).replace('\0', "|")
}

/// A ring page, shared by its domain and the server: the request queue, the reply queue, then the words.
#[derive(Clone)]
struct Page(Rc<RefCell<[u8; 4096]>>);

/// The domain's side.
impl Page {
    /// Puts bytes into the request queue, which must have room for them.
    fn put(&self, bytes: &[u8]) {
        let mut index = self.load(Field::RequestProducer);
        for byte in bytes {
            self.0.borrow_mut()[index as usize % RING_BYTES] = *byte;
            index = index.wrapping_add(1);
        }
        self.store(Field::RequestProducer, index);
    }

    /// Takes all bytes out of the reply queue.
    fn take(&self) -> Vec<u8> {
        let (from, to) = (self.load(Field::ReplyConsumer), self.load(Field::ReplyProducer));
        let at = |index: u32| RING_BYTES + index as usize % RING_BYTES;
        let bytes = (from..to).map(|index| self.0.borrow()[at(index)]).collect();
        self.store(Field::ReplyConsumer, to);
        bytes
    }
}

/// The server's side. With several processors, `load`, `store` and `fence` need the memory orders that the trait names.
impl RingPage for Page {
    fn load(&self, field: Field) -> u32 {
        u32::from_le_bytes(self.0.borrow()[field.offset()..][..4].try_into().expect("four bytes"))
    }

    fn store(&self, field: Field, value: u32) {
        self.0.borrow_mut()[field.offset()..][..4].copy_from_slice(&value.to_le_bytes());
    }

    fn copy_requests(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[at..][..to.len()]);
    }

    fn copy_replies(&self, at: usize, from: &[u8]) {
        self.0.borrow_mut()[RING_BYTES + at..][..from.len()].copy_from_slice(from);
    }

    fn fence(&self) {}
}

/// A hypervisor: the domains with their ring pages, and the pages that the server has mapped.
#[derive(Default)]
struct Host {
    pages: BTreeMap<DomId, Page>,
    mapped: BTreeMap<DomId, Page>,
}

impl Host {
    /// Returns the server's port of a domain. A real hypervisor chooses a port at each bind.
    fn port(domid: DomId) -> Port {
        Port(domid.0.into())
    }
}

impl Hypervisor for Host {
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno> {
        let page = self.pages.get(&domid).ok_or(Errno::NoEnt)?;
        self.mapped.insert(domid, page.clone());
        Ok(())
    }

    fn unmap_ring(&mut self, domid: DomId) {
        self.mapped.remove(&domid);
    }

    fn bind_port(&mut self, domid: DomId, _remote_port: u32) -> Result<Port, Errno> {
        Ok(Self::port(domid))
    }

    fn adopt_port(&mut self, _domid: DomId, _port: u32) -> Result<Port, Errno> {
        // Only a successor adopts ports.
        Err(Errno::Inval)
    }

    fn close_port(&mut self, _port: Port) {}

    fn next_domain(&mut self, from: DomId) -> Option<DomId> {
        self.pages.range(from..).next().map(|(domid, _)| *domid)
    }

    fn domain_info(&mut self, domid: DomId) -> DomainInfo {
        let running = DomainInfo { state: DomainState::Running, unique_id: None };
        self.pages.get(&domid).map_or(DomainInfo::ABSENT, |_| running)
    }
}

impl Platform for Host {
    type Page = Page;

    fn page(&self, domid: DomId) -> Option<&Page> {
        self.mapped.get(&domid)
    }

    fn notify(&mut self, port: Port) {
        println!("    (the server signals domain {})", port.0);
    }
}
