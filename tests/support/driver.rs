//! An engine with dom0 and one guest. It takes requests as bytes and gives replies as bytes, without input or output.
//! The driver itself allocates nothing.

use xenstore::engine::Engine;
use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::{DomainInfo, DomainState, Hypervisor, Port};
use xenstore::engine::turn::Turn;
use xenstore::engine::work::Work;
use xenstore::store::domain::DomId;
use xenstore::store::watch::ConnectionId;
use xenstore::wire::errno::Errno;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};

/// The guest.
pub const GUEST: DomId = DomId(7);
/// Milliseconds that pass with each request, so that no limit on rates is reached.
const STEP_MS: u64 = 1000;

/// A hypervisor on which everything succeeds.
struct Host;

impl Hypervisor for Host {
    fn map_ring(&mut self, _: DomId) -> Result<(), Errno> {
        Ok(())
    }

    fn unmap_ring(&mut self, _: DomId) {}

    fn bind_port(&mut self, domid: DomId, _: u32) -> Result<Port, Errno> {
        Ok(Port(domid.0.into()))
    }

    fn adopt_port(&mut self, domid: DomId, _: u32) -> Result<Port, Errno> {
        Ok(Port(domid.0.into()))
    }

    fn close_port(&mut self, _: Port) {}

    fn next_domain(&mut self, _: DomId) -> Option<DomId> {
        None
    }

    fn domain_info(&mut self, _: DomId) -> DomainInfo {
        DomainInfo { state: DomainState::Running, unique_id: None }
    }
}

/// The requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A client of dom0's.
    Dom0,
    /// The guest.
    Guest,
}

/// A request as it is on the wire.
#[derive(Clone, Debug)]
pub struct Message {
    /// The requester.
    pub who: Who,
    bytes: Vec<u8>,
}

impl Message {
    /// Returns a request of this type.
    pub fn new(who: Who, kind: MessageType, payload: &[u8]) -> Self {
        let payload_bytes = payload.len() as u32;
        let header = Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes };
        Self { who, bytes: [&header.emit()[..], payload].concat() }
    }

    /// Puts the request into a transaction.
    pub fn set_transaction(&mut self, transaction: u32) {
        self.bytes[8..12].copy_from_slice(&transaction.to_le_bytes());
    }
}

/// The engine and its connections.
pub struct Driver {
    engine: Engine,
    work: Work,
    dom0: ConnectionId,
    guest: ConnectionId,
    now_ms: u64,
    reply: Vec<u8>,
}

impl Driver {
    /// Returns an engine with dom0's client and a guest that has a home with a few nodes.
    pub fn new() -> Self {
        let mut engine = Engine::new(Config::default());
        let dom0 = engine.handle_connected();
        let mut driver = Self {
            engine,
            work: Work::default(),
            dom0,
            guest: dom0,
            now_ms: STEP_MS,
            reply: Vec::with_capacity(1 << 16),
        };
        for (kind, payload) in [
            (MessageType::Mkdir, &b"/local/domain/7\0"[..]),
            (MessageType::SetPerms, b"/local/domain/7\0n7\0"),
            (MessageType::Introduce, b"7\x007\x001\0"),
            (MessageType::Mkdir, b"/local/domain/8\0"),
        ] {
            driver.succeed(&mut Message::new(Who::Dom0, kind, payload));
        }
        driver.guest = driver.engine.state().domains.connection(GUEST).expect("just introduced");
        for child in 0..100 {
            let path = format!("directory/child{child}\0");
            driver.succeed(&mut Message::new(Who::Guest, MessageType::Mkdir, path.as_bytes()));
        }
        driver.succeed(&mut Message::new(Who::Guest, MessageType::Write, b"data/value\0x"));
        driver.succeed(&mut Message::new(
            Who::Guest,
            MessageType::Write,
            &[&b"data/large\0"[..], &[b'x'; 1900]].concat(),
        ));
        driver
    }

    /// Makes a request and returns the header of its reply.
    pub fn ask(&mut self, message: &Message) -> Header {
        let id = match message.who {
            Who::Dom0 => self.dom0,
            Who::Guest => self.guest,
        };
        self.now_ms += STEP_MS;
        let mut rest = &message.bytes[..];
        while !rest.is_empty() {
            let connection = self.engine.connection_mut(id).expect("is connected");
            let (session, _) = connection.session_mut().expect("keeps the rules");
            let space = session.input.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            self.engine.handle_received(id, count, &mut Turn::new(&mut Host, self.now_ms, &mut self.work));
        }
        while self.engine.poll_starting().is_some() {}
        while let Some(ready) = self.engine.poll_ready() {
            self.take_output(ready, ready == id);
        }
        Header::parse(self.reply.first_chunk().expect("each request is answered"))
    }

    /// Returns the payload of the last reply.
    pub fn reply(&self) -> &[u8] {
        &self.reply[HEADER_BYTES..]
    }

    /// Makes a request that must succeed.
    pub fn succeed(&mut self, message: &mut Message) {
        let header = self.ask(message);
        let reply = self.reply().escape_ascii();
        assert_ne!(header.kind, MessageType::Error.to_wire(), "{}: {reply}", message.bytes.escape_ascii());
    }

    /// Takes a connection's pending output. The requester's reply is kept, and events are not.
    fn take_output(&mut self, id: ConnectionId, is_asking: bool) {
        loop {
            let Some((session, _)) = self.engine.connection_mut(id).and_then(|connection| connection.session_mut())
            else {
                return;
            };
            let bytes = session.output.bytes();
            let Some(header) = bytes.first_chunk().map(Header::parse) else { return };
            let count = HEADER_BYTES + header.payload_bytes as usize;
            if is_asking && !header.is_event() {
                self.reply.clear();
                self.reply.extend_from_slice(&bytes[..count]);
            }
            self.engine.handle_sent(id, count);
        }
    }
}
