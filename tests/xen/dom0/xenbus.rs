//! A connection to the Xenstore through `/dev/xen/xenbus`, which speaks the protocol itself. For the programs of this folder.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

// Message types (xen/include/public/io/xs_wire.h).
pub(crate) const READ: u32 = 2;
pub(crate) const WATCH: u32 = 4;
pub(crate) const UNWATCH: u32 = 5;
pub(crate) const TRANSACTION_START: u32 = 6;
pub(crate) const TRANSACTION_END: u32 = 7;
pub(crate) const WRITE: u32 = 11;
pub(crate) const RM: u32 = 13;
pub(crate) const SET_PERMS: u32 = 14;
pub(crate) const WATCH_EVENT: u32 = 15;
pub(crate) const IS_DOMAIN_INTRODUCED: u32 = 17;
const ERROR: u32 = 16;

/// Names of the system's error numbers that a store may answer with.
const NAMES: [(i32, &str); 6] =
    [(22, "EINVAL"), (13, "EACCES"), (2, "ENOENT"), (12, "ENOMEM"), (28, "ENOSPC"), (7, "E2BIG")];

/// One connection: Linux keeps transactions and watches of each open file apart.
pub(crate) struct Store {
    file: File,
    /// Payloads of events that came before a reply.
    events: VecDeque<Vec<u8>>,
}

impl Store {
    pub(crate) fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus")?;
        Ok(Self { file, events: VecDeque::new() })
    }

    /// Sends a request. Returns the reply's payload, or the name of its error.
    pub(crate) fn request(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let header = [kind, 1, transaction, payload.len() as u32];
        let mut message: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend_from_slice(payload);
        // Linux answers some requests itself, and returns some of the store's errors as its own.
        self.file.write_all(&message).map_err(|error| name_of(&error))?;
        loop {
            let (reply, payload) = self.receive().map_err(|error| name_of(&error))?;
            match reply {
                WATCH_EVENT => self.events.push_back(payload),
                ERROR => return Err(String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned()),
                _ => return Ok(payload),
            }
        }
    }

    /// Returns the next event's payload. No reply may be outstanding.
    pub(crate) fn event(&mut self) -> io::Result<Vec<u8>> {
        match self.events.pop_front() {
            Some(payload) => Ok(payload),
            None => self.receive().map(|(_, payload)| payload),
        }
    }

    pub(crate) fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        self.file.read_exact(&mut header)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut payload = vec![0; word(12) as usize];
        self.file.read_exact(&mut payload)?;
        Ok((word(0), payload))
    }

    pub(crate) fn write(&mut self, path: &str, value: &str) -> Result<Vec<u8>, String> {
        self.request(WRITE, 0, format!("{path}\0{value}").as_bytes())
    }

    pub(crate) fn start(&mut self) -> Result<u32, String> {
        let id = self.request(TRANSACTION_START, 0, b"\0")?;
        String::from_utf8_lossy(&id).trim_end_matches('\0').parse().map_err(|_| "a bad transaction id".to_owned())
    }
}

fn name_of(error: &io::Error) -> String {
    let known = NAMES.iter().find(|(number, _)| error.raw_os_error() == Some(*number));
    known.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}
