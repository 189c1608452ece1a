//! A client of the Xenstore that speaks the protocol itself, through `/dev/xen/xenbus`, in dom0 and in guests.
//!
//! - `store-client fill` meets every quota that a guest can meet through Linux: one line for each, with how much was
//!   allowed, the error that ended it, and whether the guest could work again after it had cleaned up.
//! - `store-client hold FILE` opens a transaction and writes in it, and commits it when FILE exists.
//! - `store-client nodes PREFIX COUNT [BYTES]` makes so many nodes, in directories of a hundred, each with a value of so many
//!   bytes: 16 without that, which are the least.
//! - `store-client latency FILE` reads a node over and over until FILE exists, and prints how long that took each time.
//!
//! The outstanding quota is not here: Linux sends a request only when the one before it was answered.
//! Compiled by `initramfs.sh` with `rustc` alone, statically, as dom0's C library may be older than the machine's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

// Message types (xen/include/public/io/xs_wire.h).
const READ: u32 = 2;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const TRANSACTION_START: u32 = 6;
const TRANSACTION_END: u32 = 7;
const WRITE: u32 = 11;
const RM: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// More of anything than any quota's default allows: whoever gets so far has met no quota.
const ENOUGH: u32 = 5000;

/// Names of the system's error numbers that a store may answer with.
const NAMES: [(i32, &str); 6] =
    [(22, "EINVAL"), (13, "EACCES"), (2, "ENOENT"), (12, "ENOMEM"), (28, "ENOSPC"), (7, "E2BIG")];

/// One connection: Linux keeps transactions and watches of each open file apart.
struct Store(File);

impl Store {
    fn open() -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus")?))
    }

    /// Sends a request; the reply's payload, or the name of its error.
    fn request(&mut self, kind: u32, transaction: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let header = [kind, 1, transaction, payload.len() as u32];
        let mut message: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend_from_slice(payload);
        // Linux answers some requests itself, and tells some of the store's errors as its own.
        self.0.write_all(&message).map_err(|error| name_of(&error))?;
        loop {
            let (reply, payload) = self.receive().map_err(|error| name_of(&error))?;
            match reply {
                WATCH_EVENT => {}
                ERROR => return Err(String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned()),
                _ => return Ok(payload),
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        self.0.read_exact(&mut header)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut payload = vec![0; word(12) as usize];
        self.0.read_exact(&mut payload)?;
        Ok((word(0), payload))
    }

    fn write(&mut self, path: &str, value: &str) -> Result<Vec<u8>, String> {
        self.request(WRITE, 0, format!("{path}\0{value}").as_bytes())
    }

    fn start(&mut self) -> Result<u32, String> {
        let id = self.request(TRANSACTION_START, 0, b"\0")?;
        String::from_utf8_lossy(&id).trim_end_matches('\0').parse().map_err(|_| "a bad transaction id".to_owned())
    }
}

fn name_of(error: &io::Error) -> String {
    let known = NAMES.iter().find(|(number, _)| error.raw_os_error() == Some(*number));
    known.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

/// Does something with 0, 1, 2… until it is refused; prints how often it worked and why it ended.
fn until_refused(quota: &str, mut act: impl FnMut(u32) -> Result<Vec<u8>, String>) {
    let refused = (0..ENOUGH).find_map(|count| act(count).err().map(|error| (count, error)));
    match refused {
        Some((count, error)) => println!("{quota}: {count} then {error}"),
        None => println!("{quota}: {ENOUGH} and no end"),
    }
}

/// Prints whether something works, now that room was made.
fn works_again(quota: &str, outcome: Result<Vec<u8>, String>) {
    match outcome {
        Ok(_) => println!("{quota}: works again"),
        Err(error) => println!("{quota}: still refused with {error}"),
    }
}

/// The number of the directory for a node: a directory's size is limited as well, and the names in it count.
fn shelf(count: u32) -> u32 {
    count / 50
}

/// A missing node's path is as good as another where only the path counts.
fn or_missing(outcome: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    outcome.or_else(|error| if error == "ENOENT" { Ok(Vec::new()) } else { Err(error) })
}

fn fill() -> io::Result<()> {
    let mut store = Store::open()?;
    until_refused("nodes", |count| store.write(&format!("data/q/d{}/n{count}", shelf(count)), ""));
    let _ = store.request(RM, 0, b"data/q\0");
    works_again("nodes", store.write("data/q/again", ""));

    // Long paths and long values: the bytes run out before the nodes do.
    let (name, value) = ("p".repeat(1000), "v".repeat(1900));
    until_refused("memory", |count| store.write(&format!("data/q/{name}/d{}/m{count}", shelf(count)), &value));
    let _ = store.request(RM, 0, b"data/q\0");
    works_again("memory", store.write("data/q/again", &value));

    until_refused("node-size", |count| store.write("data/q/size", &"v".repeat(2000 + count as usize)));
    works_again("node-size", store.write("data/q/size", ""));
    until_refused("path-max", |count| {
        let path = format!("data/q/{name}/{}\0", "p".repeat(1000 + count as usize));
        or_missing(store.request(READ, 0, path.as_bytes()))
    });
    until_refused("node-permissions", |count| {
        let entries: String = (0..=count).map(|entry| if entry == 0 { own_entry() } else { "r0\0".to_owned() }).collect();
        store.request(SET_PERMS, 0, format!("data/q/size\0{entries}").as_bytes())
    });

    until_refused("watches", |count| store.request(WATCH, 0, format!("data/q\0w{count}\0").as_bytes()));
    let _ = store.request(UNWATCH, 0, b"data/q\0w0\0");
    works_again("watches", store.request(WATCH, 0, b"data/q\0again\0"));

    let mut open = Vec::new();
    until_refused("transactions", |_| {
        open.push(store.start()?);
        Ok(Vec::new())
    });
    let Some(first) = open.pop() else { return Ok(()) };
    until_refused("transaction-nodes", |count| {
        or_missing(store.request(READ, first, format!("data/q/t{count}\0").as_bytes()))
    });
    for id in open.iter().chain([&first]) {
        let _ = store.request(TRANSACTION_END, *id, b"F\0");
    }
    works_again("transactions", store.start().map(|_| Vec::new()));
    let _ = store.request(RM, 0, b"data/q\0");
    Ok(())
}

/// The first entry of a guest's own node: it stays the owner.
fn own_entry() -> String {
    let mut store = Store::open().expect("it was opened before");
    let domid = store.request(READ, 0, b"domid\0").unwrap_or_default();
    format!("n{}\0", String::from_utf8_lossy(&domid))
}

fn latency(end: &Path) -> io::Result<()> {
    let mut store = Store::open()?;
    let mut taken: Vec<Duration> = Vec::new();
    while !end.exists() {
        let begin = Instant::now();
        store.request(READ, 0, b"/tool/xenstored\0").map_err(io::Error::other)?;
        taken.push(begin.elapsed());
    }
    taken.sort_unstable();
    let at = |share: usize| taken.get(taken.len() * share / 1000).map_or(0, Duration::as_micros);
    let longest = taken.last().map_or(0, Duration::as_micros);
    println!("reads={} median={} p99={} p99.9={} longest={longest} us", taken.len(), at(500), at(990), at(999));
    Ok(())
}

fn hold(end: &Path) -> io::Result<()> {
    let mut store = Store::open()?;
    let id = store.start().map_err(io::Error::other)?;
    store.request(WRITE, id, b"/held\0in a transaction").map_err(io::Error::other)?;
    println!("held");
    while !end.exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    store.request(TRANSACTION_END, id, b"T\0").map_err(io::Error::other)?;
    println!("committed");
    Ok(())
}

fn nodes(prefix: &str, count: &str, bytes: &str) -> io::Result<()> {
    let count: u32 = count.parse().map_err(|_| io::Error::other("COUNT is a number"))?;
    let bytes: usize = bytes.parse().map_err(|_| io::Error::other("BYTES is a number"))?;
    let mut store = Store::open()?;
    for node in 0..count {
        let path = format!("{prefix}/{:04}/node{:04}", node / 100, node % 100);
        store.write(&path, &format!("{:.<bytes$}", format!("value {node:010}"))).map_err(io::Error::other)?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill"] => fill(),
        ["hold", end] => hold(Path::new(end)),
        ["latency", end] => latency(Path::new(end)),
        ["nodes", prefix, count] => nodes(prefix, count, "0"),
        ["nodes", prefix, count, bytes] => nodes(prefix, count, bytes),
        _ => {
            eprintln!("usage: store-client fill | hold FILE | latency FILE | nodes PREFIX COUNT [BYTES]");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store-client: {error}");
            ExitCode::FAILURE
        }
    }
}
