//! A bound: however hard guests write, a read-modify-write loop commits within a stated number of tries.
//!
//! For the control domain, the bound is `CONFLICT_CREDITS` tries for each hostile guest, and one. Each failed commit
//! costs at least one guest a conflict credit. No guest regains one while the control domain tries, as its transactions
//! are shorter than `CONFLICT_PATIENCE_MS`. A guest without conflict credits cannot write.
//!
//! A guest regains one conflict credit every `CONFLICT_INTERVAL_MS`, which makes at most one more commit fail. With a
//! transaction of T ms there are at most (conflict credits of all guests + 1) / (1 − T / 50) failures.

use std::collections::VecDeque;

use xenstore::limits::{CONFLICT_CREDITS, CONFLICT_INTERVAL_MS, CONFLICT_PATIENCE_MS};
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType as T};

use crate::support::testbed::{Testbed, error, ok};

/// Requests that a guest sends for each request of another domain: more than a turn takes.
const BURST: usize = 40;

/// The requests that a hostile guest sends without pause.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Writes the node with another value each time.
    Write,
    /// Removes and makes the node.
    Remake,
    /// Changes the node's permissions.
    Permissions,
    /// Commits its own transactions over the node, which others may not make fail.
    Commit,
    /// Reads the node in a transaction that will fail, so that others pay for their writes. Then it writes the node.
    Accuse,
    /// Writes the node once, and then as much else as possible, so that the server forgets the first write.
    Bury,
}

const ATTACKS: [Attack; 6] =
    [Attack::Write, Attack::Remake, Attack::Permissions, Attack::Commit, Attack::Accuse, Attack::Bury];

/// A guest that sends requests without pause, and reads replies only for room in its ring.
struct Hostile {
    domid: u16,
    attack: Attack,
    requests: VecDeque<u8>,
    round: u32,
    transaction: u32,
}

impl Hostile {
    fn push(&mut self, transaction: u32, kind: T, payload: &str) {
        let payload_bytes = payload.len() as u32;
        let header = Header { kind: kind.to_wire(), request_id: 0, transaction_id: transaction, payload_bytes };
        self.requests.extend(header.emit());
        self.requests.extend(payload.as_bytes());
    }

    fn plan(&mut self) {
        self.round += 1;
        let (domid, round, transaction) = (self.domid, self.round, self.transaction + 1);
        let write = format!("/n/a\0{domid}-{round}");
        match self.attack {
            Attack::Write => self.push(0, T::Write, &write),
            Attack::Remake => {
                self.push(0, T::Rm, "/n/a\0");
                self.push(0, T::Write, &write);
                self.push(0, T::SetPerms, &format!("/n/a\0b{domid}\0"));
            }
            Attack::Permissions => {
                self.push(0, T::SetPerms, &format!("/n/a\0b{domid}\0r{round}\0"));
                self.push(0, T::Write, &write);
            }
            Attack::Commit | Attack::Accuse => {
                self.transaction = transaction;
                self.push(0, T::TransactionStart, "\0");
                if matches!(self.attack, Attack::Accuse) {
                    self.push(transaction, T::Read, "/n/a\0");
                }
                self.push(transaction, T::Write, &write);
                self.push(0, T::Write, &write);
                self.push(transaction, T::TransactionEnd, "T\0");
            }
            Attack::Bury => {
                self.push(0, T::Write, &write);
                for at in 0..BURST {
                    self.push(0, T::Write, &format!("data{at}\0{round}"));
                }
            }
        }
    }

    /// Sends as many requests as the server takes, up to a burst.
    fn go_on(&mut self, testbed: &mut Testbed) {
        for _ in 0..BURST {
            if self.requests.is_empty() {
                self.plan();
            }
            testbed.receive(self.domid);
            testbed.forget_incoming(self.domid);
            let taken = testbed.send_bytes(self.domid, self.requests.make_contiguous());
            self.requests.drain(..taken);
            if taken == 0 {
                return;
            }
        }
    }
}

/// Returns a testbed with hostile guests from 2 on, and a node that all domains may write.
fn with_hostile(count: u16, attack: impl Fn(u16) -> Attack) -> (Testbed, Vec<Hostile>) {
    let mut testbed = Testbed::with_homes(1..2 + count);
    testbed.write(0, "/n/a", "0").unwrap();
    testbed.set_perms(0, "/n", "b0").unwrap();
    testbed.set_perms(0, "/n/a", "b0").unwrap();
    // The host was idle: the reserve of write credits is full, which is best for the writers.
    testbed.pass(1_000_000);
    let hostile = |domid| Hostile { domid, attack: attack(domid), requests: VecDeque::new(), round: 0, transaction: 0 };
    (testbed, (2..2 + count).map(hostile).collect())
}

/// Takes the time of one step of a transaction, in which each hostile guest sends every millisecond.
fn step(testbed: &mut Testbed, hostiles: &mut [Hostile], step_ms: u64) {
    for at_ms in 0..=step_ms {
        hostiles.iter_mut().for_each(|hostile| hostile.go_on(testbed));
        testbed.pass(u64::from(at_ms < step_ms));
    }
}

/// Reads and writes the node in transactions until one is committed. Returns the number of tries.
fn read_modify_write(testbed: &mut Testbed, domid: u16, hostiles: &mut [Hostile], step_ms: u64, bound: usize) -> usize {
    for tries in 1..=bound {
        let transaction = testbed.begin(domid);
        step(testbed, hostiles, step_ms);
        let value = testbed.read_in(domid, transaction, "/n/a");
        step(testbed, hostiles, step_ms);
        let value = value.map_or(0, |value| value.len());
        testbed.write_in(domid, transaction, "/n/a", &format!("it had {value} bytes")).unwrap();
        step(testbed, hostiles, step_ms);
        match testbed.end(domid, transaction, true) {
            Ok(_) => return tries,
            refusal => assert_eq!(refusal, error("EAGAIN")),
        }
    }
    panic!("not committed in {bound} tries");
}

fn points_of_all(hostiles: &[Hostile]) -> usize {
    hostiles.len() * CONFLICT_CREDITS as usize
}

#[test]
fn xsa_206_dom0_commits_within_five_tries_for_each_hostile_guest_and_one() {
    for attack in ATTACKS {
        for (guests, step_ms) in [(1, 0), (1, 10), (2, 1), (5, 0), (5, 3), (5, 100), (10, 1), (3, 300)] {
            assert!(3 * step_ms < CONFLICT_PATIENCE_MS);
            let (mut testbed, mut hostiles) = with_hostile(guests, |_| attack);
            let bound = points_of_all(&hostiles) + 1;
            let tries: Vec<usize> =
                (0..5).map(|_| read_modify_write(&mut testbed, 0, &mut hostiles, step_ms, bound)).collect();
            println!("dom0, {guests} × {attack:?}, {} ms: tries {tries:?}, bound {bound}", 3 * step_ms);
            testbed.check();
        }
    }
}

#[test]
fn dom0_commits_within_the_bound_when_guests_attack_in_different_ways() {
    let (mut testbed, mut hostiles) = with_hostile(12, |domid| ATTACKS[usize::from(domid) % ATTACKS.len()]);
    let bound = points_of_all(&hostiles) + 1;
    let tries: Vec<usize> = (0..30).map(|_| read_modify_write(&mut testbed, 0, &mut hostiles, 2, bound)).collect();
    println!("dom0, 12 of all kinds, 6 ms: tries {tries:?}, bound {bound}");
    assert!(tries.iter().any(|tries| *tries > 1), "the guests were hostile");
}

#[test]
fn a_guest_commits_within_a_bound_too() {
    for attack in ATTACKS {
        for (guests, step_ms) in [(1, 0), (1, 3), (4, 1), (4, 3)] {
            let (mut testbed, mut hostiles) = with_hostile(guests, |_| attack);
            let spare_ms = CONFLICT_INTERVAL_MS - 3 * step_ms;
            let bound = ((points_of_all(&hostiles) + 1) as u64 * CONFLICT_INTERVAL_MS).div_ceil(spare_ms) as usize + 1;
            let tries: Vec<usize> =
                (0..10).map(|_| read_modify_write(&mut testbed, 1, &mut hostiles, step_ms, bound)).collect();
            println!("guest, {guests} × {attack:?}, {} ms: tries {tries:?}, bound {bound}", 3 * step_ms);
            testbed.check();
        }
    }
}

#[test]
fn a_hostile_guest_is_served_as_before_when_it_stops() {
    let (mut testbed, mut hostiles) = with_hostile(3, |_| Attack::Write);
    for _ in 0..5 {
        read_modify_write(&mut testbed, 0, &mut hostiles, 1, 16);
    }
    testbed.pass(5000);
    for hostile in &hostiles {
        testbed.receive(hostile.domid);
        testbed.forget_incoming(hostile.domid);
        assert!(!testbed.is_held_back(hostile.domid));
        assert_eq!(testbed.server.engine().conflict_credits().credits(DomId(hostile.domid)), CONFLICT_CREDITS);
    }
    assert_eq!(testbed.write(1, "data", "x"), ok());
}
