//! Load on a server's socket: a fixed number of requests in flight, or one request at a time.
//!
//! As in libxenstore, each request is a write call of its own. One read call takes all available replies.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::peers::names::{ERROR, TRANSACTION_END, TRANSACTION_START};
use crate::server::Server;

/// Requests in flight, except in tests with one request at a time.
pub const IN_FLIGHT: usize = 32;
/// The longest time of one measurement. A slow server is measured with fewer requests.
const MOST: Duration = Duration::from_secs(1);
/// The longest time for one reply, which may include the end of a removal in a large store.
const PATIENCE: Duration = Duration::from_secs(300);

const HEADER_BYTES: usize = 16;
const WATCH_EVENT: u32 = 15;
const READ_BYTES: usize = 65536;
/// Bytes of the longest message.
const SEEN_BYTES: usize = 8192;

/// The cost of one request, as the mean of a measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// The server's CPU time for one request, in microseconds.
    pub cpu_us: f64,
    /// Time for one request, in microseconds: the reciprocal of the throughput.
    pub wall_us: f64,
}

/// One request.
pub struct Request<'a> {
    /// The message type's number.
    pub kind: u32,
    /// The transaction's number; 0 for none.
    pub transaction: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Request<'a> {
    /// Creates a request outside of transactions.
    pub const fn new(kind: u32, payload: &'a [u8]) -> Self {
        Self { kind, transaction: 0, payload }
    }
}

/// A client of a server, on its socket.
pub struct Load {
    stream: UnixStream,
    outgoing: Vec<u8>,
    incoming: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Load {
    /// Connects to the server of a folder.
    pub fn connect(folder: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(folder.join("socket"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let incoming = vec![0; READ_BYTES].into();
        Ok(Self { stream, outgoing: Vec::new(), incoming, from: 0, to: 0 })
    }

    /// Sends a request and returns the reply's payload. A refusal is an error.
    pub fn ask(&mut self, kind: u32, payload: &[u8]) -> io::Result<&[u8]> {
        self.ask_in(0, kind, payload)
    }

    /// Does the same in a transaction.
    pub fn ask_in(&mut self, transaction: u32, kind: u32, payload: &[u8]) -> io::Result<&[u8]> {
        self.send(&Request { kind, transaction, payload })?;
        self.receive()
    }

    /// Measures up to `count` requests, for at most [`MOST`], with up to [`IN_FLIGHT`] in flight. `next` writes each
    /// payload to the buffer and returns the request's type.
    pub fn pipelined(
        &mut self,
        server: &Server,
        count: usize,
        next: impl FnMut(usize, &mut Vec<u8>) -> u32,
    ) -> io::Result<Cost> {
        self.pipelined_for(server, count, MOST, next)
    }

    /// Measures all `count` requests, without a limit of time.
    pub fn all(
        &mut self,
        server: &Server,
        count: usize,
        next: impl FnMut(usize, &mut Vec<u8>) -> u32,
    ) -> io::Result<Cost> {
        self.pipelined_for(server, count, Duration::MAX, next)
    }

    fn pipelined_for(
        &mut self,
        server: &Server,
        count: usize,
        most: Duration,
        mut next: impl FnMut(usize, &mut Vec<u8>) -> u32,
    ) -> io::Result<Cost> {
        let begin = Begin::now(server)?;
        let mut payload = Vec::new();
        let (mut sent, mut done) = (0, 0);
        loop {
            while sent < count && sent - done < IN_FLIGHT && begin.at.elapsed() < most {
                payload.clear();
                let kind = next(sent, &mut payload);
                self.send(&Request::new(kind, &payload))?;
                sent += 1;
            }
            if done == sent {
                return begin.cost(server, done);
            }
            self.receive()?;
            done += 1;
        }
    }

    /// Sends up to `count` requests, one at a time. Returns the nanoseconds of each.
    pub fn latencies(&mut self, count: usize, kind: u32, payload: &[u8]) -> io::Result<Vec<u64>> {
        let mut all = Vec::with_capacity(count);
        let first = Instant::now();
        while all.len() < count && first.elapsed() < MOST {
            let begin = Instant::now();
            self.ask(kind, payload)?;
            all.push(begin.elapsed().as_nanos() as u64);
        }
        Ok(all)
    }

    /// Measures up to `count` transactions, one request at a time. `next` makes the requests of each transaction.
    pub fn transactions(
        &mut self,
        server: &Server,
        count: usize,
        mut next: impl FnMut(usize) -> Vec<(u32, Vec<u8>)>,
    ) -> io::Result<Cost> {
        let begin = Begin::now(server)?;
        let mut requests = 0;
        for at in 0..count {
            if begin.is_over() {
                break;
            }
            let id = self.ask(TRANSACTION_START, b"\0")?;
            let id = str::from_utf8(id).ok().and_then(|id| id.trim_end_matches('\0').parse().ok());
            let id = id.ok_or_else(|| io::Error::other("the transaction's number is missing"))?;
            for (kind, payload) in next(at) {
                self.ask_in(id, kind, &payload)?;
                requests += 1;
            }
            self.ask_in(id, TRANSACTION_END, b"T\0")?;
            requests += 2;
        }
        begin.cost(server, requests)
    }

    /// Releases the buffers, as for a client that rarely sends requests.
    pub fn shrink(&mut self) {
        self.incoming = vec![0; SEEN_BYTES].into();
        (self.from, self.to) = (0, 0);
    }

    fn send(&mut self, request: &Request<'_>) -> io::Result<()> {
        self.outgoing.clear();
        for word in [request.kind, 7, request.transaction, request.payload.len() as u32] {
            self.outgoing.extend_from_slice(&word.to_le_bytes());
        }
        self.outgoing.extend_from_slice(request.payload);
        self.stream.write_all(&self.outgoing)
    }

    /// Returns the next reply's payload, and skips events.
    fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            self.fill(HEADER_BYTES)?;
            let word = |at: usize| {
                let at = self.from + at;
                u32::from_le_bytes([
                    self.incoming[at],
                    self.incoming[at + 1],
                    self.incoming[at + 2],
                    self.incoming[at + 3],
                ])
            };
            let (kind, bytes) = (word(0), word(12) as usize);
            self.fill(HEADER_BYTES + bytes)?;
            let payload = self.from + HEADER_BYTES..self.from + HEADER_BYTES + bytes;
            self.from = payload.end;
            match kind {
                WATCH_EVENT => {}
                ERROR => {
                    let refusal = String::from_utf8_lossy(&self.incoming[payload]).into_owned();
                    return Err(io::Error::other(format!("a request was refused: {refusal}")));
                }
                _ => return Ok(&self.incoming[payload]),
            }
        }
    }

    /// Reads until `bytes` bytes are available.
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        while self.to - self.from < bytes {
            if self.from == self.to || self.incoming.len() - self.from < bytes {
                self.incoming.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            match self.stream.read(&mut self.incoming[self.to..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.to += count,
            }
        }
        Ok(())
    }
}

/// The start of a measurement.
pub struct Begin {
    cpu_ns: u64,
    at: Instant,
}

impl Begin {
    /// Starts a measurement now.
    pub fn now(server: &Server) -> io::Result<Self> {
        Ok(Self { cpu_ns: server.cpu_ns()?, at: Instant::now() })
    }

    /// Returns whether the measurement's time is over.
    pub fn is_over(&self) -> bool {
        self.at.elapsed() >= MOST
    }

    /// Returns the mean cost of `requests` since the start.
    pub fn cost(&self, server: &Server, requests: usize) -> io::Result<Cost> {
        let wall_us = self.at.elapsed().as_secs_f64() * 1e6 / requests as f64;
        let cpu_us = (server.cpu_ns()? - self.cpu_ns) as f64 / 1000.0 / requests as f64;
        Ok(Cost { cpu_us, wall_us })
    }
}
