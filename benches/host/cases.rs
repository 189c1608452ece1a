//! The tests, by group. Each group prepares its state and measures requests on it.

use std::fs;
use std::io;

use crate::load::{Begin, Load};
use crate::peers::client::{Client, set_domain_state};
use crate::peers::names::{DIRECTORY, INTRODUCE, MKDIR, READ, RELEASE, RM, SET_PERMS, WATCH, WRITE};
use crate::results::{Group, Results, Test};
use crate::server::{Kind, Server};

/// Requests of one measurement of the plain tests and of those on a grown state.
const PLAIN_REQUESTS: usize = 40_000;
const GROWN_REQUESTS: usize = 20_000;
/// Transactions of one measurement.
const TRANSACTIONS: usize = 2_500;
/// Requests that are timed one by one.
const SINGLE_REQUESTS: usize = 8_000;

/// Sizes of the store: nodes in addition to the few of the preparation.
pub const NODES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// The size from which the C server gets one round: its cost of a node grows with the number of nodes.
const C_IN_ONE_ROUND: usize = 100_000;
/// Sizes of a directory.
pub const CHILDREN: [usize; 4] = [10, 100, 1_000, 10_000];
/// Numbers of watches, and watches of each client.
pub const WATCHES: [usize; 4] = [0, 300, 9_000, 90_000];
const WATCHES_OF_CLIENT: usize = 300;
/// Numbers of connected domains, of which one sends requests.
pub const DOMAINS: [usize; 3] = [10, 1_000, 4_000];

/// Deaths that are measured on each store, and the nodes that each dead domain owned.
const DEATHS: usize = 5;
const NODES_OF_DOMAIN: usize = 1_000;
/// The first domain that dies.
const FIRST_TO_DIE: u32 = 100;

const VALUE_BYTES: usize = 2000;

/// Runs a group once on a server.
pub fn run(group: Group, kind: Kind, round: usize, results: &mut Results) -> io::Result<()> {
    match group {
        Group::Plain => plain(kind, results),
        Group::Two => two(kind, results),
        Group::Nodes => NODES.into_iter().try_for_each(|size| {
            let is_left_out = size >= C_IN_ONE_ROUND && kind == Kind::C && round > 0;
            if is_left_out || is_too_large(&NODES, size, kind) { Ok(()) } else { nodes(kind, size, results) }
        }),
        Group::Children => children(kind, results),
        Group::Watches => watches(kind, results),
        Group::Domains => domains(kind, results),
    }
}

/// Returns whether a server skips the size: other servers than this project's need many minutes for the largest one.
fn is_too_large(sizes: &[usize], size: usize, kind: Kind) -> bool {
    kind != Kind::Ours && sizes.last() == Some(&size)
}

/// Starts a server, and makes the nodes for single requests.
fn prepared(kind: Kind) -> io::Result<(Server, Load)> {
    let server = Server::start(kind)?;
    let mut load = Load::connect(server.folder())?;
    load.ask(WRITE, b"/t/one\0x")?;
    load.ask(WRITE, &[&b"/t/big\0"[..], &[b'b'; VALUE_BYTES]].concat())?;
    for child in 0..100 {
        load.ask(MKDIR, format!("/t/dir/child{child}\0").as_bytes())?;
    }
    Ok((server, load))
}

/// Makes a payload of constant bytes.
fn constant(kind: u32, bytes: &[u8]) -> impl FnMut(usize, &mut Vec<u8>) -> u32 {
    move |_, payload| {
        payload.extend_from_slice(bytes);
        kind
    }
}

/// Makes payloads that alternately make and remove a node.
fn mkdir_rm(path: &str) -> impl FnMut(usize, &mut Vec<u8>) -> u32 {
    move |at, payload| {
        payload.extend_from_slice(path.as_bytes());
        payload.push(0);
        if at.is_multiple_of(2) { MKDIR } else { RM }
    }
}

/// Makes the requests of a transaction that reads and writes a node.
fn read_and_write(path: &str) -> Vec<(u32, Vec<u8>)> {
    let read = [path.as_bytes(), b"\0"].concat();
    let write = [&read[..], b"z"].concat();
    vec![(READ, read), (WRITE, write)]
}

fn plain(kind: Kind, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    single_kinds(Group::Plain, &server, &mut load, kind, results)?;
    let requests: [(&str, u32, &[u8]); 2] = [("read1", READ, b"/t/one\0"), ("write1", WRITE, b"/t/one\0x")];
    for (name, request, payload) in requests {
        results.note_latencies(name, kind, &load.latencies(SINGLE_REQUESTS, request, payload)?);
    }
    Ok(())
}

fn two(kind: Kind, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    single_kinds(Group::Two, &server, &mut load, kind, results)
}

/// Measures each kind of request by itself.
fn single_kinds(group: Group, server: &Server, load: &mut Load, kind: Kind, results: &mut Results) -> io::Result<()> {
    let big = [&b"/t/big\0"[..], &[b'b'; VALUE_BYTES]].concat();
    let requests: [(&str, u32, &[u8]); 5] = [
        ("read1", READ, b"/t/one\0"),
        ("read2000", READ, b"/t/big\0"),
        ("write1", WRITE, b"/t/one\0x"),
        ("write2000", WRITE, &big),
        ("dir100", DIRECTORY, b"/t/dir\0"),
    ];
    let test = |name| Test { group, name, size: 0 };
    for (name, request, payload) in requests {
        results.note(test(name), kind, load.pipelined(server, PLAIN_REQUESTS, constant(request, payload))?);
    }
    results.note(test("mkdir-rm"), kind, load.pipelined(server, PLAIN_REQUESTS, mkdir_rm("/t/new"))?);
    results.note(test("ta-empty"), kind, load.transactions(server, TRANSACTIONS, |_| Vec::new())?);
    results.note(test("ta-rmw"), kind, load.transactions(server, TRANSACTIONS, |_| read_and_write("/t/one"))?);
    Ok(())
}

/// Returns the path of a node of the large tree, in which each directory has a hundred nodes.
fn node(number: usize) -> String {
    format!("/load/{}/{}/{}", number / 10_000, number / 100 % 100, number % 100)
}

/// Pseudo-random numbers, the same in each run.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * limit as u64) >> 32) as usize
    }
}

fn nodes(kind: Kind, size: usize, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    let before = server.resident_bytes()?;
    let test = |name| Test { group: Group::Nodes, name, size };
    let build = load.all(&server, size, |at, payload| {
        payload.extend_from_slice(node(at).as_bytes());
        payload.extend_from_slice(b"\x000123456789abcdef");
        WRITE
    })?;
    results.note(test("build"), kind, build);
    results.note_memory(size, kind, server.resident_bytes()?.saturating_sub(before) as f64 / size as f64);

    let mut random = Random(1);
    let read = load.pipelined(&server, GROWN_REQUESTS, |_, payload| {
        payload.extend_from_slice(node(random.below(size)).as_bytes());
        payload.push(0);
        READ
    })?;
    results.note(test("read"), kind, read);
    let write = load.pipelined(&server, GROWN_REQUESTS, |_, payload| {
        payload.extend_from_slice(node(random.below(size)).as_bytes());
        payload.extend_from_slice(b"\0y");
        WRITE
    })?;
    results.note(test("write"), kind, write);
    let transactions = load.transactions(&server, TRANSACTIONS, |_| read_and_write(&node(random.below(size))))?;
    results.note(test("ta-rmw"), kind, transactions);
    deaths(&server, &mut load, test("death"), kind, results)
}

/// Measures the release of a domain that owns a thousand nodes.
fn deaths(server: &Server, load: &mut Load, test: Test, kind: Kind, results: &mut Results) -> io::Result<()> {
    for domid in (FIRST_TO_DIE..).take(DEATHS) {
        introduce(server, load, domid)?;
        for number in 1..NODES_OF_DOMAIN {
            let path = format!("/local/domain/{domid}/{}/{}\0value", number / 100, number % 100);
            load.ask(WRITE, path.as_bytes())?;
        }
        let begin = Begin::now(server)?;
        load.ask(RELEASE, format!("{domid}\0").as_bytes())?;
        results.note(test, kind, begin.cost(server, 1)?);
    }
    Ok(())
}

/// Creates a domain with a home directory, and introduces it.
fn introduce(server: &Server, load: &mut Load, domid: u32) -> io::Result<()> {
    let ring = server.folder().join(format!("ring.{domid}"));
    if !ring.exists() {
        fs::write(ring, [0; 4096])?;
        set_domain_state(server.folder(), domid, "r")?;
    }
    load.ask(MKDIR, format!("/local/domain/{domid}\0").as_bytes())?;
    load.ask(SET_PERMS, format!("/local/domain/{domid}\0n{domid}\0").as_bytes())?;
    load.ask(INTRODUCE, format!("{domid}\0{domid}\0{domid}\0").as_bytes())?;
    Ok(())
}

fn children(kind: Kind, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    for size in CHILDREN {
        let build = |at: usize, payload: &mut Vec<u8>| {
            payload.extend_from_slice(format!("/wide{size}/{at}\0").as_bytes());
            MKDIR
        };
        load.all(&server, size, build)?;
        let cost = load.pipelined(&server, GROWN_REQUESTS, mkdir_rm(&format!("/wide{size}/new")))?;
        results.note(Test { group: Group::Children, name: "mkdir-rm", size }, kind, cost);
    }
    Ok(())
}

fn watches(kind: Kind, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    let mut clients: Vec<Load> = Vec::new();
    for size in WATCHES {
        if is_too_large(&WATCHES, size, kind) {
            break;
        }
        while clients.len() * WATCHES_OF_CLIENT < size {
            let mut client = Load::connect(server.folder())?;
            for watch in 0..WATCHES_OF_CLIENT {
                let payload = format!("/local/domain/{}/device/{watch}\0token\0", clients.len());
                client.ask(WATCH, payload.as_bytes())?;
            }
            client.shrink();
            clients.push(client);
        }
        let cost = load.pipelined(&server, GROWN_REQUESTS, constant(WRITE, b"/t/one\0x"))?;
        results.note(Test { group: Group::Watches, name: "write", size }, kind, cost);
    }
    Ok(())
}

fn domains(kind: Kind, results: &mut Results) -> io::Result<()> {
    let (server, mut load) = prepared(kind)?;
    let failed = |error: io::Error| io::Error::other(format!("domain 1: {error}"));
    let mut busy = Client::create_domain(server.folder(), 1)?;
    let mut introduced = 0;
    for size in DOMAINS {
        if is_too_large(&DOMAINS, size, kind) {
            break;
        }
        while introduced < size {
            introduced += 1;
            introduce(&server, &mut load, introduced as u32)?;
        }
        busy.request(WRITE, 1, 0, b"data\0value").and_then(|()| busy.receive()).map_err(failed)?;
        let begin = Begin::now(&server)?;
        let mut requests = 0;
        while requests < GROWN_REQUESTS && !begin.is_over() {
            requests += 1;
            busy.request(READ, 1, 0, b"data\0").map_err(failed)?;
            busy.receive().map_err(failed)?;
        }
        results.note(Test { group: Group::Domains, name: "read", size }, kind, begin.cost(&server, requests)?);
    }
    Ok(())
}
