//! A client of the Xenstore that never rests and checks every answer, through `/dev/xen/xenbus`, in dom0 and in guests.
//!
//! `store-hammer NAME PREFIX` works below PREFIX until PREFIX/stop exists. Each round it writes a value, reads it back,
//! and waits for exactly one event for that write. It counts up in a transaction, makes and removes a node, and lists
//! it. A wrong answer ends it with a line that says FAILED. At the end it prints the rounds, requests, events and
//! retried commits, and the longest duration of a request.
//!
//! `initramfs.sh` compiles it with `rustc` alone, statically: dom0's C library may be older than the machine's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

// Message types (xen/include/public/io/xs_wire.h).
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const TRANSACTION_START: u32 = 6;
const TRANSACTION_END: u32 = 7;
const WRITE: u32 = 11;
const MKDIR: u32 = 12;
const RM: u32 = 13;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// Rounds between two reads of the node that ends the program.
const ROUNDS_BETWEEN_LOOKS: u64 = 8;
/// The largest part that a value adds to the number in it, so that messages have many sizes.
const PADDING_BYTES: u64 = 1500;

type Checked<T> = Result<T, String>;

/// One connection: Linux keeps transactions and watches of each open file apart.
struct Store {
    file: File,
    requests: u64,
    longest: Duration,
    next_request: u32,
    /// Events that came before a reply.
    events: Vec<Vec<u8>>,
}

impl Store {
    fn open() -> Checked<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus").map_err(|error| error.to_string())?;
        Ok(Self { file, requests: 0, longest: Duration::ZERO, next_request: 0, events: Vec::new() })
    }

    /// Sends a request and checks that the reply is this request's.
    fn request(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Checked<Result<Vec<u8>, String>> {
        self.next_request = self.next_request.wrapping_add(1);
        let header = [kind, self.next_request, transaction, payload.len() as u32];
        let mut message: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend_from_slice(payload);
        let begin = Instant::now();
        self.file.write_all(&message).map_err(|error| format!("request {kind} cannot be sent: {error}"))?;
        loop {
            let ([reply, number, of, _], payload) = self.receive()?;
            if reply == WATCH_EVENT {
                self.events.push(payload);
                continue;
            }
            self.requests += 1;
            self.longest = self.longest.max(begin.elapsed());
            if (number, of) != (self.next_request, transaction) {
                return Err(format!("request {header:?} got the reply of {number} in transaction {of}"));
            }
            return match reply {
                ERROR => Ok(Err(String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned())),
                _ if reply == kind => Ok(Ok(payload)),
                _ => Err(format!("request {header:?} got a reply of type {reply}")),
            };
        }
    }

    fn receive(&mut self) -> Checked<([u32; 4], Vec<u8>)> {
        let mut header = [0; 16];
        self.file.read_exact(&mut header).map_err(|error| format!("no message: {error}"))?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut payload = vec![0; word(12) as usize];
        self.file.read_exact(&mut payload).map_err(|error| format!("half a message: {error}"))?;
        Ok(([word(0), word(4), word(8), word(12)], payload))
    }

    /// Sends a request that must succeed, and returns its payload.
    fn demand(&mut self, kind: u32, transaction: u32, payload: &str) -> Checked<Vec<u8>> {
        let outcome = self.request(kind, transaction, payload.as_bytes())?;
        outcome.map_err(|error| format!("request {kind} of {payload:.60?} was refused: {error}"))
    }

    /// Returns the next event.
    fn event(&mut self) -> Checked<Vec<u8>> {
        while self.events.is_empty() {
            let ([kind, ..], payload) = self.receive()?;
            if kind != WATCH_EVENT {
                return Err(format!("a message of type {kind} and no request was sent"));
            }
            self.events.push(payload);
        }
        Ok(self.events.remove(0))
    }
}

/// The counts of one run.
#[derive(Default)]
struct Done {
    rounds: u64,
    events: u64,
    retries: u64,
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Checked<()> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}

/// Counts up in a transaction, and retries as often as the commit fails.
fn count_up(store: &mut Store, prefix: &str, round: u64, done: &mut Done) -> Checked<()> {
    loop {
        let id = store.demand(TRANSACTION_START, 0, "\0")?;
        let id: u32 = String::from_utf8_lossy(&id).trim_end_matches('\0').parse().map_err(|_| "a bad transaction id")?;
        let counter = store.demand(READ, id, &format!("{prefix}/counter\0"))?;
        expect("the counter", String::from_utf8_lossy(&counter).into_owned(), round.to_string())?;
        store.demand(WRITE, id, &format!("{prefix}/counter\0{}", round + 1))?;
        store.demand(WRITE, id, &format!("{prefix}/copy/{}\0{round}", round % 10))?;
        match store.request(TRANSACTION_END, id, b"T\0")? {
            Ok(_) => return Ok(()),
            Err(error) if error == "EAGAIN" => done.retries += 1,
            Err(error) => return Err(format!("a commit ended with {error}")),
        }
    }
}

fn round(store: &mut Store, watcher: &mut Store, prefix: &str, done: &mut Done) -> Checked<()> {
    let round = done.rounds;
    let value = format!("{round} {}", "x".repeat((round * 37 % PADDING_BYTES) as usize));
    store.demand(WRITE, 0, &format!("{prefix}/value\0{value}"))?;
    let found = store.demand(READ, 0, &format!("{prefix}/value\0"))?;
    expect("the value", String::from_utf8_lossy(&found).into_owned(), value)?;
    let event = watcher.event()?;
    expect("the event", String::from_utf8_lossy(&event).into_owned(), format!("{prefix}/value\0token\0"))?;
    done.events += 1;
    count_up(store, prefix, round, done)?;
    store.demand(MKDIR, 0, &format!("{prefix}/dir/n{round}\0"))?;
    let list = store.demand(DIRECTORY, 0, &format!("{prefix}/dir\0"))?;
    expect("the list", String::from_utf8_lossy(&list).into_owned(), format!("n{round}\0"))?;
    store.demand(RM, 0, &format!("{prefix}/dir/n{round}\0"))?;
    let gone = store.request(READ, 0, format!("{prefix}/dir/n{round}\0").as_bytes())?;
    expect("the removed node", gone, Err("ENOENT".to_owned()))?;
    done.rounds += 1;
    Ok(())
}

fn hammer(prefix: &str) -> Checked<(Done, u64, Duration)> {
    let (mut store, mut watcher, mut done) = (Store::open()?, Store::open()?, Done::default());
    store.demand(WRITE, 0, &format!("{prefix}/value\0"))?;
    store.demand(WRITE, 0, &format!("{prefix}/counter\00"))?;
    store.demand(MKDIR, 0, &format!("{prefix}/dir\0"))?;
    watcher.demand(WATCH, 0, &format!("{prefix}/value\0token\0"))?;
    watcher.event()?;
    loop {
        round(&mut store, &mut watcher, prefix, &mut done)?;
        if done.rounds % ROUNDS_BETWEEN_LOOKS == 0 && store.request(READ, 0, format!("{prefix}/stop\0").as_bytes())?.is_ok() {
            break;
        }
    }
    // Events come in order: after an event of another watch, none of the first watch can be missing.
    watcher.demand(WATCH, 0, &format!("{prefix}/value\0last\0"))?;
    let event = watcher.event()?;
    expect("the last event", String::from_utf8_lossy(&event).into_owned(), format!("{prefix}/value\0last\0"))?;
    let counter = store.demand(READ, 0, &format!("{prefix}/counter\0"))?;
    expect("the counter", String::from_utf8_lossy(&counter).into_owned(), done.rounds.to_string())?;
    Ok((done, store.requests + watcher.requests, store.longest))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, prefix] = &arguments[..] else {
        eprintln!("usage: store-hammer NAME PREFIX");
        return ExitCode::from(2);
    };
    match hammer(prefix) {
        Ok((Done { rounds, events, retries }, requests, longest)) => {
            let longest = longest.as_millis();
            println!("{name}: rounds={rounds} requests={requests} events={events} retries={retries} longest={longest} ms");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{name}: FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}
