//! A client of the Xenstore that speaks the protocol itself, through `/dev/xen/xenbus`, in dom0 and in guests.
//!
//! - `store-client fill` reaches every quota that a guest can reach through Linux. It prints one line for each: the
//!   number that was allowed, the error at the end, and whether the guest could work again after a clean-up.
//! - `store-client hold FILE` opens a transaction and writes in it, and commits it when FILE exists.
//! - `store-client nodes PREFIX COUNT [BYTES]` makes COUNT nodes, in directories of a hundred. Each has a value of
//!   BYTES bytes; 16 is the default and the least.
//! - `store-client rm PATH` removes a node with all below, in one request. The system's own tool does this in a
//!   transaction, which accesses each node and needs memory for it.
//! - `store-client latency FILE` reads a node repeatedly until FILE exists, and prints the durations.
//!
//! The outstanding quota is not covered: Linux sends a request only after the reply to the one before.
//! `initramfs.sh` compiles it with `rustc` alone, statically: dom0's C library may be older than the machine's.

#[allow(dead_code, reason = "shared by the programs of this folder")]
mod xenbus;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use xenbus::{READ, RM, SET_PERMS, Store, TRANSACTION_END, UNWATCH, WATCH, WRITE};

/// More than any quota's default allows: a client that gets this far has met no quota.
const ENOUGH: u32 = 5000;

/// Runs `act` with 0, 1, 2… until it is refused. Prints how often it succeeded, and the error.
fn until_refused(quota: &str, mut act: impl FnMut(u32) -> Result<Vec<u8>, String>) {
    let refused = (0..ENOUGH).find_map(|count| act(count).err().map(|error| (count, error)));
    match refused {
        Some((count, error)) => println!("{quota}: {count} then {error}"),
        None => println!("{quota}: {ENOUGH} and no end"),
    }
}

/// Prints whether an action succeeds after the clean-up.
fn works_again(quota: &str, outcome: Result<Vec<u8>, String>) {
    match outcome {
        Ok(_) => println!("{quota}: works again"),
        Err(error) => println!("{quota}: still refused with {error}"),
    }
}

/// Returns the number of a node's directory. The size of a directory is limited too, and the names in it count.
fn shelf(count: u32) -> u32 {
    count / 50
}

/// Accepts a missing node, where only the path counts.
fn or_missing(outcome: Result<Vec<u8>, String>) -> Result<Vec<u8>, String> {
    outcome.or_else(|error| if error == "ENOENT" { Ok(Vec::new()) } else { Err(error) })
}

fn fill() -> io::Result<()> {
    let mut store = Store::open()?;
    until_refused("nodes", |count| store.write(&format!("data/q/d{}/n{count}", shelf(count)), ""));
    let _ = store.request(RM, 0, b"data/q\0");
    works_again("nodes", store.write("data/q/again", ""));

    // Long paths and long values: the quota of bytes is reached before that of nodes.
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

/// Returns the first entry of a guest's own node: the guest remains the owner.
fn own_entry() -> String {
    let mut store = Store::open().expect("the store was opened before");
    let domid = store.request(READ, 0, b"domid\0").unwrap_or_default();
    format!("n{}\0", String::from_utf8_lossy(&domid))
}

/// The least number of reads: fewer are not meaningful.
const LEAST_READS: usize = 20;

fn latency(end: &Path) -> io::Result<()> {
    let mut store = Store::open()?;
    let mut taken: Vec<Duration> = Vec::new();
    while taken.len() < LEAST_READS || !end.exists() {
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

fn remove(path: &str) -> io::Result<()> {
    Store::open()?.request(RM, 0, format!("{path}\0").as_bytes()).map(drop).map_err(io::Error::other)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill"] => fill(),
        ["hold", end] => hold(Path::new(end)),
        ["latency", end] => latency(Path::new(end)),
        ["rm", path] => remove(path),
        ["nodes", prefix, count] => nodes(prefix, count, "0"),
        ["nodes", prefix, count, bytes] => nodes(prefix, count, bytes),
        _ => {
            eprintln!("usage: store-client fill | hold FILE | latency FILE | nodes PREFIX COUNT [BYTES] | rm PATH");
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
