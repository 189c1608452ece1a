//! A client: a client of dom0 on the server's socket, or a domain on its ring.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::page::Page;

/// The time limit for one answer, far more than a server needs: reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The server's event channel port that signals that a domain shut down or died.
const EXCEPTION_PORT: u32 = 1;
/// The server's port of domain 0.
const FIRST_PORT: u32 = 1000;

const HEADER_BYTES: usize = 16;
pub const WATCH_EVENT: u32 = 15;

/// A message that a server sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: u32,
    pub request: u32,
    pub transaction: u32,
    pub payload: Vec<u8>,
}

/// One connection to one server.
pub struct Client {
    link: Link,
    received: Vec<u8>,
}

enum Link {
    Socket(UnixStream),
    Ring { page: Page, channel: UnixDatagram, server: PathBuf, port: u32 },
}

impl Client {
    /// Connects a client of dom0 to the socket.
    pub fn connect(folder: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(folder.join("socket"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { link: Link::Socket(stream), received: Vec::new() })
    }

    /// Connects to dom0's ring, which exists since the server started.
    pub fn dom0(folder: &Path) -> io::Result<Self> {
        Self::on_ring(folder, 0, Page::open(&folder.join("ring.0"))?)
    }

    /// Creates domain `domid`, with an empty ring.
    pub fn create_domain(folder: &Path, domid: u32) -> io::Result<Self> {
        destroy_domain(folder, domid);
        let page = Page::create(&folder.join(format!("ring.{domid}")))?;
        let client = Self::on_ring(folder, domid, page)?;
        set_domain_state(folder, domid, "r")?;
        Ok(client)
    }

    fn on_ring(folder: &Path, domid: u32, page: Page) -> io::Result<Self> {
        let channel = UnixDatagram::bind(folder.join(format!("dom.{domid}")))?;
        channel.set_read_timeout(Some(PATIENCE))?;
        let link = Link::Ring { page, channel, server: folder.join("server"), port: FIRST_PORT + domid };
        Ok(Self { link, received: Vec::new() })
    }

    /// Sends one request.
    pub fn request(&mut self, kind: u32, request: u32, transaction: u32, payload: &[u8]) -> io::Result<()> {
        self.send(kind, request, transaction, payload.len() as u32, payload)
    }

    /// Sends a header with the length `payload_bytes`, and a payload.
    pub fn send(
        &mut self,
        kind: u32,
        request: u32,
        transaction: u32,
        payload_bytes: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        for word in [kind, request, transaction, payload_bytes] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        match &mut self.link {
            Link::Socket(stream) => stream.write_all(&bytes),
            Link::Ring { page, channel, server, port } => {
                let mut rest = &bytes[..];
                loop {
                    let count = page.send(rest);
                    rest = &rest[count..];
                    notify(channel, server, *port)?;
                    if rest.is_empty() {
                        return Ok(());
                    }
                    wait(channel)?;
                }
            }
        }
    }

    /// Receives the next message. A shut connection is [`io::ErrorKind::UnexpectedEof`].
    pub fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.take_message() {
                return Ok(message);
            }
            match &mut self.link {
                Link::Socket(stream) => {
                    let mut bytes = [0; 8192];
                    match stream.read(&mut bytes) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        Err(error) => return Err(error),
                    }
                }
                Link::Ring { page, channel, server, port } => {
                    let before = self.received.len();
                    if page.receive(&mut self.received) {
                        notify(channel, server, *port)?;
                    }
                    if self.received.len() == before {
                        wait(channel)?;
                    }
                }
            }
        }
    }

    /// Waits until the server has shut this connection: it closes a socket, and sets the error word of a ring.
    pub fn wait_until_shut(&mut self) -> io::Result<u32> {
        if let Link::Ring { page, channel, .. } = &self.link {
            // The server signals when it takes the header, which is just before it shuts the connection.
            let give_up = Instant::now() + PATIENCE;
            channel.set_read_timeout(Some(Duration::from_millis(1)))?;
            while page.error() == 0 {
                let _ = wait(channel);
                if Instant::now() > give_up {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            channel.set_read_timeout(Some(PATIENCE))?;
            return Ok(page.error());
        }
        match self.receive() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
            Ok(message) => Err(io::Error::other(format!("answered {message:?} instead of closing"))),
        }
    }

    fn take_message(&mut self) -> Option<Message> {
        let header = self.received.get(..HEADER_BYTES)?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let end = HEADER_BYTES + word(12) as usize;
        let payload = self.received.get(HEADER_BYTES..end)?.to_vec();
        let message = Message { kind: word(0), request: word(4), transaction: word(8), payload };
        self.received.drain(..end);
        Some(message)
    }
}

fn notify(channel: &UnixDatagram, server: &Path, port: u32) -> io::Result<()> {
    channel.send_to(&port.to_ne_bytes(), server).map(|_| ())
}

/// Waits for the server's signal.
fn wait(channel: &UnixDatagram) -> io::Result<()> {
    match channel.recv(&mut [0; 4]) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        outcome => outcome.map(|_| ()),
    }
}

/// Sets a domain's state: running (`r`), shut down (`s`) or dying (`d`).
pub fn set_domain_state(folder: &Path, domid: u32, state: &str) -> io::Result<()> {
    // The change is atomic, as the server reads the state at any time.
    let new = folder.join("state.new");
    fs::write(&new, state)?;
    fs::rename(new, folder.join(format!("state.{domid}")))
}

/// Removes a domain.
pub fn destroy_domain(folder: &Path, domid: u32) {
    for name in ["state", "ring", "dom"] {
        let _ = fs::remove_file(folder.join(format!("{name}.{domid}")));
    }
}

/// Signals the server that a domain shut down or died.
pub fn raise_exception(folder: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(&EXCEPTION_PORT.to_ne_bytes(), folder.join("server")).map(|_| ())
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.payload.escape_ascii().to_string();
        let length = self.payload.len();
        let text = if text.len() > 400 { format!("{}… ({length} bytes)", &text[..400]) } else { text };
        write!(f, "{} tx {} \"{text}\"", super::names::kind(self.kind), self.transaction)
    }
}

/// Returns the number in a line of CONTROL's answer about a domain.
pub fn counted(shown: &[u8], name: &str) -> Option<u64> {
    let shown = String::from_utf8_lossy(shown);
    let line = shown.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the names after the generation in a reply to DIRECTORY_PART.
pub fn without_generation(message: &Message) -> Option<&[u8]> {
    let end = message.payload.iter().position(|byte| *byte == 0)?;
    let (generation, rest) = message.payload.split_at(end);
    let is_number = !generation.is_empty() && generation.iter().all(u8::is_ascii_digit);
    is_number.then_some(rest)
}
