//! dom0's clients, on a Unix socket. Each counts as the control domain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use xenstore::limits::{PAYLOAD_BYTES, PRIVILEGED_QUEUE_BYTES, REQUESTS_PER_TURN};
use xenstore::server::{ConnectionId, Server};

use crate::platform::FolderPlatform;

/// Bytes read from a client at once: a few requests of common size.
const READ_BYTES: usize = 16384;

/// Turns of the server that a client gets at once. One write then usually answers all requests of one read, and other
/// clients wait at most a few hundred microseconds. The replies of this many turns fit into the client's queue.
const TURNS: usize = 8;

/// Maximum number of messages in one write.
const PIECES: usize = 64;

const _: () = assert!(TURNS * REQUESTS_PER_TURN * PAYLOAD_BYTES <= PRIVILEGED_QUEUE_BYTES);

/// A client's connection.
struct Client {
    stream: UnixStream,
    id: ConnectionId,
    /// Bytes that the server has not taken yet.
    unread: Vec<u8>,
    /// Events that epoll reports for this client.
    waits_for: EventFlags,
}

/// All clients.
///
/// Dropping this removes the socket's file.
pub(crate) struct Clients {
    listener: UnixListener,
    path: PathBuf,
    /// Whether new clients are accepted: not while this process has as many open files as it may.
    takes_more: bool,
    epoll: OwnedFd,
    clients: BTreeMap<RawFd, Client>,
    descriptors: BTreeMap<ConnectionId, RawFd>,
    /// Clients that have sent more than the server took in one turn.
    unfinished: BTreeSet<RawFd>,
    /// Buffer for reads, lent to a client for its turn.
    room: Vec<u8>,
}

/// Values that epoll reports for these sources, in place of a client's descriptor.
pub(crate) const LISTENER: u64 = u64::MAX;
pub(crate) const CHANNEL: u64 = u64::MAX - 1;
pub(crate) const END: u64 = u64::MAX - 2;

/// Refuses a folder in which a server listens on `path`. Must be called before a file in the folder is replaced.
///
/// # Errors
/// Fails if a server listens there.
pub(crate) fn expect_no_server(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens on its socket")),
        Err(_) => Ok(()),
    }
}

impl Clients {
    /// Listens on `path`. Replaces a socket that another server left.
    ///
    /// `channel` is readable when a port fired, and `end` when this process must end.
    pub(crate) fn listen(path: PathBuf, channel: &impl AsFd, end: &impl AsFd) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, channel, EventData::new_u64(CHANNEL), EventFlags::IN)?;
        epoll::add(&epoll, end, EventData::new_u64(END), EventFlags::IN)?;
        Ok(Self {
            listener,
            path,
            takes_more: true,
            epoll,
            clients: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            room: Vec::new(),
        })
    }

    /// Returns the epoll descriptor to wait on.
    pub(crate) const fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Accepts new clients.
    pub(crate) fn accept(&mut self, server: &mut Server) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream, server),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        // Waiting clients keep the listener readable, so it is left out until a client disconnects.
                        log::warn!("no client accepted in addition to {} clients: {error}", self.clients.len());
                        return self.take_more(false);
                    }
                },
            }
        }
    }

    /// Sets whether epoll reports new clients.
    fn take_more(&mut self, takes_more: bool) {
        let wanted = if takes_more { EventFlags::IN } else { EventFlags::empty() };
        if epoll::modify(&self.epoll, &self.listener, EventData::new_u64(LISTENER), wanted).is_ok() {
            self.takes_more = takes_more;
        }
    }

    fn add(&mut self, stream: UnixStream, server: &mut Server) {
        let descriptor = stream.as_raw_fd();
        let data = EventData::new_u64(descriptor as u64);
        let ready =
            stream.set_nonblocking(true).is_ok() && epoll::add(&self.epoll, &stream, data, EventFlags::IN).is_ok();
        if ready {
            let id = server.handle_connected();
            let client = Client { stream, id, unread: Vec::new(), waits_for: EventFlags::IN };
            self.clients.insert(descriptor, client);
            self.descriptors.insert(id, descriptor);
        }
    }

    /// Serves the client whose descriptor epoll reported.
    pub(crate) fn serve(&mut self, descriptor: u64, server: &mut Server, platform: &mut FolderPlatform, now_ms: u64) {
        let Ok(descriptor) = RawFd::try_from(descriptor) else { return };
        let Some(client) = self.clients.get_mut(&descriptor) else { return };
        if client.unread.is_empty() {
            std::mem::swap(&mut client.unread, &mut self.room);
        }
        let is_alive = client.read().is_ok();
        self.go_on(descriptor, server, platform, now_ms);
        if let Some(client) = self.clients.get_mut(&descriptor).filter(|client| client.unread.is_empty()) {
            self.room = std::mem::take(&mut client.unread);
        }
        if !is_alive {
            self.remove(descriptor, server);
        }
    }

    /// Serves clients that others' requests concern, and clients with input that the server has not taken yet. Returns
    /// whether one of them can continue at once.
    pub(crate) fn serve_waiting(&mut self, server: &mut Server, platform: &mut FolderPlatform, now_ms: u64) -> bool {
        let unfinished = std::mem::take(&mut self.unfinished);
        for descriptor in unfinished {
            self.go_on(descriptor, server, platform, now_ms);
        }
        while let Some(id) = server.poll_socket() {
            if let Some(descriptor) = self.descriptors.get(&id) {
                self.go_on(*descriptor, server, platform, now_ms);
            }
        }
        !self.unfinished.is_empty()
    }

    /// Passes a client's input to the server, and sends the client's pending output.
    fn go_on(&mut self, descriptor: RawFd, server: &mut Server, platform: &mut FolderPlatform, now_ms: u64) {
        let Some(client) = self.clients.get_mut(&descriptor) else { return };
        client.handle(server, platform, now_ms);
        if client.write(server).is_err() || !server.is_open(client.id) {
            return self.remove(descriptor, server);
        }
        client.wait(&self.epoll, server);
        if client.can_go_on(server) {
            self.unfinished.insert(descriptor);
        }
    }

    fn remove(&mut self, descriptor: RawFd, server: &mut Server) {
        if let Some(client) = self.clients.remove(&descriptor) {
            self.descriptors.remove(&client.id);
            server.handle_disconnected(client.id);
            drop(client);
            if !self.takes_more {
                self.take_more(true);
            }
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // If the file cannot be removed, the next server replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    /// Reads available input, unless enough is unread already.
    ///
    /// # Errors
    /// Fails if the client has disconnected.
    fn read(&mut self) -> io::Result<()> {
        if self.unread.len() >= READ_BYTES {
            return Ok(());
        }
        self.unread.reserve(READ_BYTES);
        match rustix::io::read(&self.stream, rustix::buffer::spare_capacity(&mut self.unread)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes the unread input to the server, for up to [`TURNS`] turns.
    fn handle(&mut self, server: &mut Server, platform: &mut FolderPlatform, now_ms: u64) {
        let mut taken = 0;
        for _ in 0..TURNS {
            let count = server.handle_received(self.id, &self.unread[taken..], platform, now_ms);
            taken += count;
            if count == 0 {
                break;
            }
        }
        self.unread.drain(..taken);
    }

    /// Sends pending output.
    ///
    /// # Errors
    /// Fails if the client has disconnected.
    fn write(&mut self, server: &mut Server) -> io::Result<()> {
        while server.has_to_transmit(self.id) {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (piece, bytes) in pieces.iter_mut().zip(server.poll_transmit(self.id)) {
                *piece = IoSlice::new(bytes);
                count += 1;
            }
            match self.stream.write_vectored(&pieces[..count]) {
                Ok(count) => server.handle_transmitted(self.id, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns whether the server would take unread input or execute a complete request now. It does neither while
    /// output is pending.
    fn can_go_on(&self, server: &Server) -> bool {
        let engine = server.engine();
        let is_complete = engine.has_complete_request(self.id);
        (is_complete || !self.unread.is_empty() && engine.may_receive(self.id)) && !server.has_to_transmit(self.id)
    }

    /// Makes epoll report room when output is pending, and input when little is unread.
    fn wait(&mut self, epoll: &OwnedFd, server: &Server) {
        let mut wanted = EventFlags::empty();
        if self.unread.len() < READ_BYTES {
            wanted |= EventFlags::IN;
        }
        if server.has_to_transmit(self.id) {
            wanted |= EventFlags::OUT;
        }
        let data = EventData::new_u64(self.stream.as_raw_fd() as u64);
        if wanted != self.waits_for && epoll::modify(epoll, &self.stream, data, wanted).is_ok() {
            self.waits_for = wanted;
        }
    }
}
