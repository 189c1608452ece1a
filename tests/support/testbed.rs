//! A server with domains around it, all in one thread, and the actions of its clients.

use std::collections::BTreeMap;

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::{DomainState, Port};
use xenstore::server::{ConnectionId, Server};
use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage};

#[allow(unused_imports, reason = "not every test that shares this uses all")]
pub use super::machine::{BAD_PORT, DOM0, Machine, Page};

/// A received message: type, request and transaction number, payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub kind: u32,
    pub request_id: u32,
    pub transaction: u32,
    pub payload: Vec<u8>,
}

/// The outcome of a request: the payload of the reply, or the name of the error.
pub type Answer = Result<Vec<u8>, String>;

/// The server, dom0 and the guests.
pub struct Testbed {
    pub server: Server,
    pub machine: Machine,
    pub now_ms: u64,
    incoming: BTreeMap<DomId, Vec<u8>>,
    events: BTreeMap<DomId, Vec<(String, String)>>,
    next_request: u32,
}

impl Testbed {
    /// Returns a server with dom0 connected.
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        let mut testbed = Self::unconnected(config);
        testbed.build(DOM0);
        testbed.server.handle_boot_domain(DOM0, 1, &mut testbed.machine).unwrap();
        testbed.run();
        testbed
    }

    /// Returns a server without connections.
    pub fn unconnected(config: Config) -> Self {
        Self {
            server: Server::new(config),
            machine: Machine::default(),
            now_ms: 1000,
            incoming: BTreeMap::new(),
            events: BTreeMap::new(),
            next_request: 0,
        }
    }

    /// Returns a server that refuses conflicting commits without a replay, with dom0 and guests connected. Each guest
    /// has a home.
    pub fn without_replay(guests: impl IntoIterator<Item = u16>) -> Self {
        let mut testbed = Self::with(Config { replay: false, ..Config::default() });
        for domid in guests {
            testbed.start(domid);
            testbed.make_home(domid);
        }
        testbed
    }

    /// Returns a server with dom0 and guests connected.
    pub fn with_guests(guests: impl IntoIterator<Item = u16>) -> Self {
        let mut testbed = Self::new();
        for domid in guests {
            testbed.start(domid);
        }
        testbed
    }

    /// Returns a server with dom0 and guests connected. Each guest has a home directory `/local/domain/<domid>`.
    pub fn with_homes(guests: impl IntoIterator<Item = u16>) -> Self {
        let mut testbed = Self::new();
        for domid in guests {
            testbed.start(domid);
            testbed.make_home(domid);
        }
        testbed
    }

    /// Makes the home directory of a domain.
    pub fn make_home(&mut self, domid: u16) {
        let home = format!("/local/domain/{domid}");
        assert_eq!(self.write(0, &home, ""), ok());
        assert_eq!(self.set_perms(0, &home, &format!("n{domid}")), ok());
    }

    /// Creates a domain, which is not introduced yet.
    pub fn build(&mut self, domid: DomId) {
        self.machine.domains.insert(domid, DomainState::Running);
        self.machine.pages.insert(domid, Page::default());
        self.incoming.remove(&domid);
        self.events.remove(&domid);
    }

    /// Creates and introduces a domain.
    pub fn start(&mut self, domid: u16) {
        self.build(DomId(domid));
        self.start_built(domid);
    }

    /// Introduces a domain that was created before.
    pub fn start_built(&mut self, domid: u16) {
        assert_eq!(self.introduce(0, domid, 1), ok());
    }

    /// Changes a domain's state, and notifies the server.
    pub fn set_state(&mut self, domid: u16, state: DomainState) {
        self.machine.domains.insert(DomId(domid), state);
        self.server.handle_domain_exception();
        self.run();
    }

    /// Removes a domain, and notifies the server.
    pub fn kill(&mut self, domid: u16) {
        self.machine.domains.remove(&DomId(domid));
        self.machine.pages.remove(&DomId(domid));
        self.incoming.remove(&DomId(domid));
        self.events.remove(&DomId(domid));
        self.server.handle_domain_exception();
        self.run();
    }

    /// Lets time pass, and lets the server work.
    pub fn pass(&mut self, milliseconds: u64) {
        self.now_ms += milliseconds;
        self.run();
    }

    /// Returns a word of a domain's ring page.
    pub fn word(&self, domid: u16, field: Field) -> u32 {
        self.machine.pages[&DomId(domid)].load(field)
    }

    /// Sets a word of a domain's ring page, as the domain may.
    pub fn set_word(&mut self, domid: u16, field: Field, value: u32) {
        self.machine.pages[&DomId(domid)].store(field, value);
    }

    /// Lets the server work until it has nothing to do.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.server.poll(&mut self.machine, self.now_ms).busy {
                return;
            }
        }
        panic!("the server does not come to rest");
    }

    /// Signals the server's port of a domain, and lets the server work.
    pub fn signal(&mut self, domid: u16) {
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        if let Some(port) = port {
            self.server.handle_event(port);
        }
        self.run();
    }

    /// Sends a request outside of transactions.
    pub fn request(&mut self, domid: u16, kind: MessageType, payload: impl AsRef<[u8]>) -> Answer {
        self.request_in(domid, 0, kind.to_wire(), payload)
    }

    /// Sends a request in a transaction, and waits for its reply. Events before the reply are kept.
    pub fn request_in(&mut self, domid: u16, transaction: u32, kind: u32, payload: impl AsRef<[u8]>) -> Answer {
        let request_id = self.send(domid, transaction, kind, payload.as_ref());
        let message = self.reply_in_time(domid).expect("a reply");
        assert_eq!(
            (message.request_id, message.transaction),
            (request_id, transaction),
            "the reply belongs to the request"
        );
        if message.kind == MessageType::Error.to_wire() {
            return Err(string(&message.payload));
        }
        assert_eq!(message.kind, kind);
        Ok(message.payload)
    }

    /// Sends a request without waiting. Returns its number.
    pub fn send(&mut self, domid: u16, transaction: u32, kind: u32, payload: &[u8]) -> u32 {
        self.next_request += 1;
        let payload_bytes = payload.len() as u32;
        let header = Header { kind, request_id: self.next_request, transaction_id: transaction, payload_bytes };
        self.send_bytes(domid, &[&header.emit()[..], payload].concat());
        self.next_request
    }

    /// Writes bytes into a domain's ring as the server makes room. Stops when it makes no more.
    pub fn send_bytes(&mut self, domid: u16, mut bytes: &[u8]) -> usize {
        let page = self.machine.pages[&DomId(domid)].clone();
        let all = bytes.len();
        while !bytes.is_empty() {
            let producer = page.load(Field::RequestProducer);
            let used = producer.wrapping_sub(page.load(Field::RequestConsumer)) as usize;
            let at = producer as usize % RING_BYTES;
            let count = bytes.len().min(RING_BYTES - used).min(RING_BYTES - at);
            if count == 0 {
                break;
            }
            page.0.borrow_mut()[at..at + count].copy_from_slice(&bytes[..count]);
            page.store(Field::RequestProducer, producer.wrapping_add(count as u32));
            bytes = &bytes[count..];
            self.signal(domid);
        }
        all - bytes.len()
    }

    /// Writes bytes, which must fit, into a domain's ring without a signal.
    pub fn put_bytes(&mut self, domid: u16, bytes: &[u8]) {
        let page = self.machine.pages[&DomId(domid)].clone();
        let producer = page.load(Field::RequestProducer);
        for (index, byte) in bytes.iter().enumerate() {
            let at = producer.wrapping_add(index as u32) as usize % RING_BYTES;
            page.0.borrow_mut()[at] = *byte;
        }
        page.store(Field::RequestProducer, producer.wrapping_add(bytes.len() as u32));
    }

    /// Takes up to `most` bytes out of a domain's reply ring, and lets the server continue.
    pub fn take_bytes(&mut self, domid: u16, most: usize) -> Vec<u8> {
        let page = self.machine.pages[&DomId(domid)].clone();
        let consumer = page.load(Field::ReplyConsumer);
        let count = (page.load(Field::ReplyProducer).wrapping_sub(consumer)).min(most as u32);
        let at = |index: u32| RING_BYTES + consumer.wrapping_add(index) as usize % RING_BYTES;
        let taken = (0..count).map(|index| page.0.borrow()[at(index)]).collect();
        page.store(Field::ReplyConsumer, consumer.wrapping_add(count));
        self.signal(domid);
        taken
    }

    /// Forgets the unread received messages of a domain, as after a reset of its connection.
    pub fn forget_incoming(&mut self, domid: u16) {
        self.incoming.remove(&DomId(domid));
        self.events.remove(&DomId(domid));
    }

    /// Takes everything out of a domain's reply ring, and lets the server continue.
    pub fn receive(&mut self, domid: u16) {
        let page = self.machine.pages[&DomId(domid)].clone();
        loop {
            let consumer = page.load(Field::ReplyConsumer);
            let waiting = page.load(Field::ReplyProducer).wrapping_sub(consumer) as usize;
            if waiting == 0 {
                return;
            }
            let buffer = self.incoming.entry(DomId(domid)).or_default();
            for index in 0..waiting {
                let at = consumer.wrapping_add(index as u32) as usize % RING_BYTES;
                buffer.push(page.0.borrow()[RING_BYTES + at]);
            }
            page.store(Field::ReplyConsumer, consumer.wrapping_add(waiting as u32));
            self.signal(domid);
        }
    }

    /// Returns the next message to a domain.
    pub fn message(&mut self, domid: u16) -> Option<Message> {
        self.receive(domid);
        let buffer = self.incoming.entry(DomId(domid)).or_default();
        let header = Header::parse(buffer.get(..HEADER_BYTES)?.try_into().unwrap());
        let end = HEADER_BYTES + header.payload_bytes as usize;
        assert!(end <= HEADER_BYTES + 4096, "no message is longer than the protocol allows");
        let payload = buffer.get(HEADER_BYTES..end)?.to_vec();
        buffer.drain(..end);
        let Header { kind, request_id, transaction_id: transaction, .. } = header;
        Some(Message { kind, request_id, transaction, payload })
    }

    /// Returns the next reply to a domain. Events before it are kept.
    pub fn reply(&mut self, domid: u16) -> Option<Message> {
        loop {
            let message = self.message(domid)?;
            if message.kind != MessageType::WatchEvent.to_wire() {
                return Some(message);
            }
            self.keep_event(domid, &message.payload);
        }
    }

    /// Returns the next reply to a domain, which may be held back until then.
    pub fn reply_in_time(&mut self, domid: u16) -> Option<Message> {
        while self.word(domid, Field::RequestProducer) != self.word(domid, Field::RequestConsumer)
            && self.is_held_back(domid)
        {
            self.pass_until_due();
        }
        self.reply(domid)
    }

    /// Returns whether the server holds back a domain for its debt or its conflicts.
    pub fn is_held_back(&self, domid: u16) -> bool {
        self.connection(domid).is_some_and(|id| self.server.engine().is_held_back(id))
    }

    /// Lets time pass until the server's next deadline.
    pub fn pass_until_due(&mut self) {
        let due_ms = self.server.engine().poll_timeout().expect("something is due");
        self.pass(due_ms.saturating_sub(self.now_ms));
    }

    /// Returns all events of a domain until now: path and token.
    pub fn events(&mut self, domid: u16) -> Vec<(String, String)> {
        while let Some(message) = self.message(domid) {
            assert_eq!(message.kind, MessageType::WatchEvent.to_wire(), "no reply is due");
            self.keep_event(domid, &message.payload);
        }
        self.events.remove(&DomId(domid)).unwrap_or_default()
    }

    fn keep_event(&mut self, domid: u16, payload: &[u8]) {
        let mut strings = payload.split(|byte| *byte == 0).map(string);
        let event = (strings.next().unwrap(), strings.next().unwrap());
        self.events.entry(DomId(domid)).or_default().push(event);
    }

    pub fn read(&mut self, domid: u16, path: &str) -> Answer {
        self.request(domid, MessageType::Read, format!("{path}\0"))
    }

    pub fn write(&mut self, domid: u16, path: &str, value: &str) -> Answer {
        self.request(domid, MessageType::Write, format!("{path}\0{value}"))
    }

    pub fn mkdir(&mut self, domid: u16, path: &str) -> Answer {
        self.request(domid, MessageType::Mkdir, format!("{path}\0"))
    }

    pub fn rm(&mut self, domid: u16, path: &str) -> Answer {
        self.request(domid, MessageType::Rm, format!("{path}\0"))
    }

    pub fn directory(&mut self, domid: u16, path: &str) -> Result<Vec<String>, String> {
        self.request(domid, MessageType::Directory, format!("{path}\0")).map(|names| strings(&names))
    }

    pub fn get_perms(&mut self, domid: u16, path: &str) -> Result<String, String> {
        self.request(domid, MessageType::GetPerms, format!("{path}\0")).map(|entries| strings(&entries).join(" "))
    }

    /// Sets a node's permissions. `entries` are separated by spaces.
    pub fn set_perms(&mut self, domid: u16, path: &str, entries: &str) -> Answer {
        self.request(domid, MessageType::SetPerms, format!("{path}\0{}\0", entries.replace(' ', "\0")))
    }

    pub fn watch(&mut self, domid: u16, path: &str, token: &str) -> Answer {
        self.request(domid, MessageType::Watch, format!("{path}\0{token}\0"))
    }

    pub fn unwatch(&mut self, domid: u16, path: &str, token: &str) -> Answer {
        self.request(domid, MessageType::Unwatch, format!("{path}\0{token}\0"))
    }

    pub fn begin(&mut self, domid: u16) -> u32 {
        string(&self.request(domid, MessageType::TransactionStart, "\0").unwrap()).parse().unwrap()
    }

    pub fn end(&mut self, domid: u16, transaction: u32, commit: bool) -> Answer {
        let payload = if commit { "T\0" } else { "F\0" };
        self.request_in(domid, transaction, MessageType::TransactionEnd.to_wire(), payload)
    }

    pub fn write_in(&mut self, domid: u16, transaction: u32, path: &str, value: &str) -> Answer {
        self.request_in(domid, transaction, MessageType::Write.to_wire(), format!("{path}\0{value}"))
    }

    pub fn read_in(&mut self, domid: u16, transaction: u32, path: &str) -> Answer {
        self.request_in(domid, transaction, MessageType::Read.to_wire(), format!("{path}\0"))
    }

    pub fn mkdir_in(&mut self, domid: u16, transaction: u32, path: &str) -> Answer {
        self.request_in(domid, transaction, MessageType::Mkdir.to_wire(), format!("{path}\0"))
    }

    pub fn directory_in(&mut self, domid: u16, transaction: u32, path: &str) -> Result<Vec<String>, String> {
        let names = self.request_in(domid, transaction, MessageType::Directory.to_wire(), format!("{path}\0"));
        names.map(|names| strings(&names))
    }

    /// Sets a node's permissions in a transaction. `entries` are separated by spaces.
    pub fn set_perms_in(&mut self, domid: u16, transaction: u32, path: &str, entries: &str) -> Answer {
        let payload = format!("{path}\0{}\0", entries.replace(' ', "\0"));
        self.request_in(domid, transaction, MessageType::SetPerms.to_wire(), payload)
    }

    pub fn release(&mut self, domid: u16, whom: u16) -> Answer {
        self.request(domid, MessageType::Release, format!("{whom}\0"))
    }

    pub fn introduce(&mut self, domid: u16, whom: u16, port: u32) -> Answer {
        self.request(domid, MessageType::Introduce, format!("{whom}\x001\0{port}\0"))
    }

    pub fn set_target(&mut self, domid: u16, whom: u16, target: u16) -> Answer {
        self.request(domid, MessageType::SetTarget, format!("{whom}\0{target}\0"))
    }

    pub fn is_introduced(&mut self, domid: u16) -> bool {
        self.request(0, MessageType::IsDomainIntroduced, format!("{domid}\0")).unwrap() == b"T\0"
    }

    pub fn rm_in(&mut self, domid: u16, transaction: u32, path: &str) -> Answer {
        self.request_in(domid, transaction, MessageType::Rm.to_wire(), format!("{path}\0"))
    }

    /// Checks that the counts and indexes of the server agree with the stored state.
    pub fn check(&mut self) {
        assert_eq!(self.server.engine().state().check(), Ok(()));
        let (counted, found) = self.server.engine().open_transactions();
        assert_eq!(counted, found, "open transactions");
        assert!(self.server.engine().accesses_agree(), "accesses of open transactions");
    }

    /// Returns the number of outstanding requests of a domain.
    pub fn outstanding(&self, domid: u16) -> usize {
        let connection = self.server.engine().connection(self.connection(domid).unwrap()).unwrap();
        connection.outstanding()
    }

    /// Returns the number of nodes that a domain is charged for.
    pub fn nodes(&self, domid: u16) -> u64 {
        self.server.engine().state().domains.get(DomId(domid)).map_or(0, |domain| domain.nodes)
    }

    /// Makes nodes below a guest's home until it owns `total`, with at most a hundred in each directory.
    pub fn fill_nodes(&mut self, domid: u16, total: u64) {
        for at in 0.. {
            if self.nodes(domid) + 1 >= total {
                break;
            }
            assert_eq!(self.write(domid, &format!("fill{}/{at}", at / 100), ""), ok());
        }
        if self.nodes(domid) < total {
            assert_eq!(self.write(domid, "last", ""), ok());
        }
        assert_eq!(self.nodes(domid), total);
    }

    /// Returns the server's port of a domain's event channel.
    pub fn port(&self, domid: u16) -> Port {
        *self.machine.bound.iter().find(|(_, of)| **of == DomId(domid)).unwrap().0
    }

    /// Returns the connection of a domain.
    pub fn connection(&self, domid: u16) -> Option<ConnectionId> {
        self.server.engine().state().domains.connection(DomId(domid))
    }
}

/// Returns the payload of the reply to most requests that change something.
pub fn ok() -> Answer {
    Ok(b"OK\0".to_vec())
}

/// Returns a refusal.
pub fn error<T>(name: &str) -> Result<T, String> {
    Err(name.to_owned())
}

/// Returns bytes as text, without a NUL at the end.
pub fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.strip_suffix(b"\0").unwrap_or(bytes).to_vec()).unwrap()
}

/// Returns the strings of a payload, each ended by NUL.
pub fn strings(bytes: &[u8]) -> Vec<String> {
    match bytes.strip_suffix(b"\0") {
        None => Vec::new(),
        Some(all) => all.split(|byte| *byte == 0).map(string).collect(),
    }
}

/// Returns an event in the form of [`Testbed::events`].
pub fn event(path: &str, token: &str) -> (String, String) {
    (path.to_owned(), token.to_owned())
}
