//! Write credits. A guest pays for writes to nodes that open transactions have accessed. Without credits, the server does not
//! read from it (the C server's write rate limit; XSA-206).

use xenstore::server::reattach::Reattachment;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::Field;

use crate::reattach::replace;
use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed with guests that own a node "data" each and have the credits of a burst. The reserve is empty.
fn with_writers(guests: std::ops::Range<u16>) -> Testbed {
    let mut testbed = Testbed::with_homes(guests.clone());
    for domid in guests {
        assert_eq!(testbed.write(domid, "data", "old"), ok());
    }
    testbed
}

/// Opens a transaction that has accessed these paths, and leaves it open.
fn access(testbed: &mut Testbed, domid: u16, paths: &[&str]) -> u32 {
    let transaction = testbed.begin(domid);
    for path in paths {
        // A refused read is an access too.
        let _ = testbed.read_in(domid, transaction, path);
    }
    transaction
}

/// The node that guest 1 writes in most tests.
const DATA: &[&str] = &["/local/domain/1/data"];

/// Returns a guest's write credits.
fn credit(testbed: &Testbed, domid: u16) -> i64 {
    let thousandths = testbed.server.engine().write_credits().credit(DomId(domid)).unwrap();
    assert_eq!(thousandths % 1000, 0, "no time has passed");
    thousandths / 1000
}

/// Sends writes of a guest's own node without waiting for replies. Returns how many were executed.
fn send_writes(testbed: &mut Testbed, domid: u16, count: usize) -> usize {
    for _ in 0..count {
        testbed.send(domid, 0, MessageType::Write.to_wire(), b"data\0x");
    }
    count - waiting(testbed, domid)
}

/// Returns how many such writes are in a guest's ring.
fn waiting(testbed: &Testbed, domid: u16) -> usize {
    let bytes = testbed.word(domid, Field::RequestProducer).wrapping_sub(testbed.word(domid, Field::RequestConsumer));
    bytes as usize / (HEADER_BYTES + 6)
}

fn take_replies(testbed: &mut Testbed, domid: u16) -> usize {
    std::iter::from_fn(|| testbed.reply(domid)).count()
}

#[test]
fn ten_quick_writes_pass_and_the_one_after_next_waits() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 2, DATA);
    assert_eq!(send_writes(&mut testbed, 1, 10), 10);
    assert_eq!(credit(&testbed, 1), 0);
    assert!(!testbed.is_held_back(1));
    assert_eq!(send_writes(&mut testbed, 1, 15), 1, "the eleventh write causes the debt");
    assert_eq!(credit(&testbed, 1), -1);
    assert!(testbed.is_held_back(1) && !testbed.is_held_back(2));
}

#[test]
fn no_domain_pays_while_no_transaction_is_open() {
    let mut testbed = with_writers(1..3);
    for (domid, commit) in [(0, true), (1, false), (2, true)] {
        let transaction = access(&mut testbed, domid, DATA);
        testbed.end(domid, transaction, commit).unwrap();
    }
    for (domid, kind) in [(1, MessageType::ResetWatches), (2, MessageType::ResetWatches)] {
        access(&mut testbed, domid, DATA);
        testbed.request(domid, kind, "\0").unwrap();
    }
    for _ in 0..1000 {
        assert_eq!(testbed.write(1, "data", "x"), ok());
    }
    assert_eq!((credit(&testbed, 1), testbed.now_ms), (10, 1000));
}

#[test]
fn a_guests_own_transaction_counts_for_its_writes_outside() {
    let mut testbed = with_writers(1..2);
    access(&mut testbed, 1, DATA);
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(credit(&testbed, 1), 9);
}

/// A name, the cost, and the action.
type Cost = (&'static str, i64, fn(&mut Testbed));

#[test]
fn each_written_or_removed_node_costs_one_credit_parents_included() {
    let costs: [Cost; 12] = [
        ("write", 1, |testbed| drop(testbed.write(1, "data", "x").unwrap())),
        ("make", 2, |testbed| drop(testbed.mkdir(1, "new").unwrap())),
        ("make three levels", 4, |testbed| drop(testbed.write(1, "a/b/c", "x").unwrap())),
        ("make an existing node", 0, |testbed| drop(testbed.mkdir(1, "data").unwrap())),
        ("remove", 2, |testbed| drop(testbed.rm(1, "data").unwrap())),
        ("remove a missing node", 0, |testbed| drop(testbed.rm(1, "none").unwrap())),
        ("permissions", 1, |testbed| drop(testbed.set_perms(1, "data", "n1 r2").unwrap())),
        ("read", 0, |testbed| drop(testbed.read(1, "data").unwrap())),
        ("list", 0, |testbed| drop(testbed.directory(1, "data").unwrap())),
        ("watch", 0, |testbed| drop(testbed.watch(1, "data", "t").unwrap())),
        ("refused", 0, |testbed| assert_eq!(testbed.write(1, "/tool/x", ""), error("EACCES"))),
        ("wrong", 0, |testbed| assert_eq!(testbed.write(1, "//", ""), error("EINVAL"))),
    ];
    for (what, cost, make) in costs {
        let mut testbed = with_writers(1..3);
        access(&mut testbed, 2, &["/local/domain/1", "/local/domain/1/data"]);
        make(&mut testbed);
        assert_eq!(credit(&testbed, 1), 10 - cost, "{what}");
    }
    let mut testbed = with_writers(1..3);
    testbed.write(1, "data/a/b", "").unwrap();
    access(&mut testbed, 2, DATA);
    testbed.rm(1, "data").unwrap();
    assert_eq!(credit(&testbed, 1), 6, "three nodes and a parent");
}

#[test]
fn a_commit_costs_one_credit_if_another_transaction_accessed_any_of_its_nodes() {
    for (others, commit, cost) in [(true, true, 1), (false, true, 0), (true, false, 0)] {
        let mut testbed = with_writers(1..3);
        if others {
            access(&mut testbed, 2, &["/local/domain/1/c/d"]);
        }
        let transaction = testbed.begin(1);
        for name in ["a", "b", "c/d"] {
            testbed.write_in(1, transaction, name, "x").unwrap();
        }
        assert_eq!(credit(&testbed, 1), 10, "until its commit the transaction disturbs no other");
        assert_eq!(testbed.end(1, transaction, commit), ok());
        assert_eq!(credit(&testbed, 1), 10 - cost, "{others} {commit}");
    }
}

#[test]
fn a_commit_that_fails_costs_nothing() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 2, DATA);
    let transaction = testbed.begin(1);
    testbed.read_in(1, transaction, "data").unwrap();
    testbed.write_in(1, transaction, "data", "x").unwrap();
    testbed.write(0, "/local/domain/1/data", "theirs").unwrap();
    assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(credit(&testbed, 1), 10);
}

#[test]
fn a_guest_in_debt_resumes_to_the_millisecond_and_costs_nothing_until_then() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 2, DATA);
    assert_eq!(send_writes(&mut testbed, 1, 13), 11);
    take_replies(&mut testbed, 1);
    // Three domains share 200 credits a second. The reserve is short of three bursts, so that it gives nothing.
    let poll = testbed.server.poll(&mut testbed.machine, testbed.now_ms);
    assert_eq!((poll.busy, poll.deadline_ms), (false, Some(1015)));
    testbed.pass(14);
    assert_eq!(waiting(&testbed, 1), 2);
    assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy);
    testbed.pass(1);
    assert_eq!(waiting(&testbed, 1), 1, "one more write causes a debt again");
    assert_eq!(take_replies(&mut testbed, 1), 1);
}

#[test]
fn replies_and_events_reach_a_guest_in_debt() {
    let mut testbed = with_writers(1..3);
    testbed.watch(1, "data", "t").unwrap();
    testbed.events(1);
    access(&mut testbed, 2, DATA);
    assert_eq!(send_writes(&mut testbed, 1, 12), 11);
    assert_eq!(take_replies(&mut testbed, 1), 11);
    testbed.events(1);
    testbed.write(0, "/local/domain/1/data", "x").unwrap();
    assert_eq!(testbed.events(1), [event("data", "t")]);
    assert!(testbed.is_held_back(1));
}

#[test]
fn a_steady_stream_settles_at_the_rate_shared_among_the_writers() {
    let mut testbed = with_writers(1..5);
    let all: Vec<_> = (1..5).map(|domid| format!("/local/domain/{domid}/data")).collect();
    access(&mut testbed, 0, &all.iter().map(String::as_str).collect::<Vec<_>>());
    let mut handled = [0; 4];
    for at_ms in 0..12_000 {
        if at_ms == 2000 {
            handled = [0; 4];
        }
        for domid in 1..5 {
            if waiting(&testbed, domid) == 0 {
                testbed.send(domid, 0, MessageType::Write.to_wire(), b"data\0x");
            }
            handled[usize::from(domid) - 1] += take_replies(&mut testbed, domid);
        }
        testbed.pass(1);
    }
    println!("in 10 s: {handled:?}");
    assert!((1980..=2020).contains(&handled.iter().sum::<usize>()), "200 a second: {handled:?}");
    assert!(handled.iter().all(|count| (490..=510).contains(count)), "an equal share for each: {handled:?}");
}

#[test]
fn a_guest_that_rests_has_ten_credits_again() {
    let mut testbed = with_writers(1..3);
    let open = access(&mut testbed, 2, DATA);
    send_writes(&mut testbed, 1, 11);
    take_replies(&mut testbed, 1);
    testbed.end(2, open, true).unwrap();
    testbed.pass(10_000);
    access(&mut testbed, 2, DATA);
    assert_eq!(credit(&testbed, 1), 10);
}

#[test]
fn the_control_domain_never_waits_over_its_ring_nor_over_a_socket() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 1, DATA);
    for at in 0..1000 {
        assert_eq!(testbed.write(0, "/local/domain/1/data", &at.to_string()), ok());
    }
    assert!(!testbed.is_held_back(0));
    let socket = testbed.server.handle_connected();
    let payload = b"/local/domain/1/data\0x";
    let header = Header {
        kind: MessageType::Write.to_wire(),
        request_id: 1,
        transaction_id: 0,
        payload_bytes: payload.len() as u32,
    };
    let request = [&header.emit()[..], payload].concat();
    for _ in 0..1000 {
        assert_eq!(testbed.server.handle_received(socket, &request, &mut testbed.machine, 1000), request.len());
        let sent = testbed.server.poll_transmit(socket).map(<[u8]>::len).sum();
        testbed.server.handle_transmitted(socket, sent);
    }
    assert!(!testbed.server.engine().is_held_back(socket));
    assert_eq!((credit(&testbed, 0), credit(&testbed, 1), testbed.now_ms), (10, 10, 1000));
}

#[test]
fn a_debt_dies_with_its_domain_and_not_with_its_connection() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 2, DATA);
    send_writes(&mut testbed, 1, 11);
    testbed.introduce(0, 1, 1).unwrap();
    assert!(testbed.is_held_back(1), "a repeated introduction does not make a new domain");
    testbed.kill(1);
    testbed.start(1);
    assert_eq!(credit(&testbed, 1), 10);
    assert_eq!(testbed.server.engine().write_credits().next_ms(), None);
}

#[test]
fn a_large_removal_is_paid_off_over_time() {
    let mut testbed = with_writers(1..2);
    testbed.fill_nodes(1, 200);
    access(&mut testbed, 0, &["/local/domain/1/fill0/7"]);
    testbed.rm(1, "fill0").unwrap();
    let debt = -credit(&testbed, 1);
    assert_eq!(debt, 92, "101 nodes and a parent, less ten");
    // Two domains share 200 credits a second, and the reserve is short of 20: each gets 100 a second.
    testbed.pass(560);
    testbed.pass(1);
    assert!(!testbed.is_held_back(1), "the other's half helps once the reserve is full");
}

#[test]
fn guests_boot_at_full_speed_while_open_transactions_have_accessed_nothing_of_theirs() {
    let guests = 1..26;
    let mut testbed = Testbed::with_homes(guests.clone());
    testbed.begin(0);
    access(&mut testbed, 0, &["/tool/xenstored", "/local/domain/26/device", "/local/domain/0/backend/vif/7/0/state"]);
    for domid in guests.clone() {
        testbed.begin(domid);
        access(&mut testbed, domid, &["/tool"]);
    }
    let before: Vec<_> = guests.clone().map(|domid| credit(&testbed, domid)).collect();
    for domid in guests.clone() {
        for at in 0..40 {
            assert_eq!(testbed.write(domid, &format!("device/vif/{at}/state"), "1"), ok());
            assert_eq!(testbed.write(domid, &format!("device/vif/{at}/state"), "4"), ok());
            assert_eq!(testbed.rm(domid, &format!("device/vif/{at}")), ok());
            assert_eq!(testbed.set_perms(domid, "device", &format!("n{domid} r0")), ok());
        }
        let transaction = testbed.begin(domid);
        testbed.write_in(domid, transaction, "data/booted", "1").unwrap();
        assert_eq!(testbed.end(domid, transaction, true), ok());
        assert!(!testbed.is_held_back(domid));
    }
    assert_eq!(guests.map(|domid| credit(&testbed, domid)).collect::<Vec<_>>(), before);
    assert_eq!(testbed.server.engine().write_credits().next_ms(), None, "no guest waits");
    testbed.check();
}

#[test]
fn only_a_write_that_an_access_can_conflict_with_costs_something() {
    let accessed = ["/local/domain/1/data/a", "/local/domain/1/missing/x"];
    let costs: [Cost; 11] = [
        ("write it", 1, |testbed| drop(testbed.write(1, "data/a", "x").unwrap())),
        ("write above", 0, |testbed| drop(testbed.write(1, "data", "x").unwrap())),
        ("write a sibling", 0, |testbed| drop(testbed.write(1, "data/b", "x").unwrap())),
        ("write below", 0, |testbed| drop(testbed.write(1, "data/a/c", "x").unwrap())),
        ("make below", 2, |testbed| drop(testbed.write(1, "data/a/new", "x").unwrap())),
        ("make a sibling", 0, |testbed| drop(testbed.write(1, "data/a-", "x").unwrap())),
        ("make a node that it saw missing", 3, |testbed| drop(testbed.write(1, "missing/x", "x").unwrap())),
        ("remove it", 3, |testbed| drop(testbed.rm(1, "data/a").unwrap())),
        ("remove above", 5, |testbed| drop(testbed.rm(1, "data").unwrap())),
        ("remove below", 2, |testbed| drop(testbed.rm(1, "data/a/c").unwrap())),
        ("remove a sibling", 0, |testbed| drop(testbed.rm(1, "data/b").unwrap())),
    ];
    for (what, cost, make) in costs {
        let mut testbed = with_writers(1..3);
        for path in ["data/a/c", "data/b"] {
            testbed.write(1, path, "").unwrap();
        }
        // A read of a missing node also accesses its ancestors up to the first that exists: the home.
        access(&mut testbed, 0, &accessed);
        make(&mut testbed);
        assert_eq!(credit(&testbed, 1), 10 - cost, "{what}");
        testbed.check();
    }
}

/// A name, and a function that ends guest 2's transaction.
type End = (&'static str, fn(&mut Testbed, u32));

#[test]
fn an_access_counts_until_its_transaction_ends() {
    let ends: [End; 5] = [
        ("commit", |testbed, transaction| drop(testbed.end(2, transaction, true).unwrap())),
        ("abort", |testbed, transaction| drop(testbed.end(2, transaction, false).unwrap())),
        ("reset", |testbed, _| drop(testbed.request(2, MessageType::ResetWatches, "\0").unwrap())),
        ("death", |testbed, _| testbed.kill(2)),
        ("release", |testbed, _| drop(testbed.release(0, 2).unwrap())),
    ];
    for (what, end) in ends {
        let mut testbed = with_writers(1..4);
        access(&mut testbed, 3, &["/tool"]);
        let transaction = access(&mut testbed, 2, DATA);
        testbed.write(1, "data", "x").unwrap();
        assert_eq!(credit(&testbed, 1), 9, "{what}");
        end(&mut testbed, transaction);
        testbed.check();
        testbed.write(1, "data", "y").unwrap();
        assert_eq!(credit(&testbed, 1), 9, "{what}");
    }
}

#[test]
fn an_access_counts_after_a_live_update() {
    let mut testbed = with_writers(1..3);
    access(&mut testbed, 0, DATA);
    testbed.write(1, "data", "x").unwrap();
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(credit(&testbed, 1), 9);
    testbed.write(1, "elsewhere", "x").unwrap();
    assert_eq!(credit(&testbed, 1), 9);
    testbed.write(1, "data", "y").unwrap();
    assert_eq!(credit(&testbed, 1), 8);
}
