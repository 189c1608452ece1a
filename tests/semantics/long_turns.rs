//! Work that takes more than a turn: the meter counts it, and the server continues it in later turns.

use std::time::{Duration, Instant};

use xenstore::engine::work;
use xenstore::limits;
use xenstore::server::reattach::Reattachment;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::reattach::replace;
use crate::slow_reader::{LONG, lift_quotas, long, queued};
use crate::support::random::Random;
use crate::support::testbed::{Testbed, error};

/// Returns the steps and the time of a request of domain 1.
fn cost(testbed: &mut Testbed, kind: MessageType, transaction: u32, payload: &str) -> (u64, Duration) {
    let before = testbed.server.steps();
    let started = Instant::now();
    testbed.send(1, transaction, kind.to_wire(), payload.as_bytes());
    let (taken, steps) = (started.elapsed(), testbed.server.steps() - before);
    assert_ne!(testbed.reply(1).unwrap().kind, MessageType::Error.to_wire());
    (steps, taken)
}

/// Returns the path of a chain of nodes.
fn chain(levels: usize) -> String {
    vec!["d"; levels].join("/")
}

#[test]
fn the_removal_of_a_node_that_all_guests_watch_is_announced_over_several_turns() {
    let guests = 2..=200_u16;
    let mut testbed = Testbed::with_homes(1..=200);
    for name in ["a", "b"] {
        testbed.write(0, &format!("/shared/{name}"), "").unwrap();
        testbed.set_perms(0, &format!("/shared/{name}"), "b0").unwrap();
    }
    testbed.set_perms(0, "/shared", "b0").unwrap();
    for domid in guests {
        for token in 0..120 {
            testbed.watch(domid, "/shared", &format!("{token}")).unwrap();
        }
        testbed.events(domid);
    }
    let mut cost = |kind: MessageType, payload: &[u8]| {
        let header =
            Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes: payload.len() as u32 };
        testbed.put_bytes(1, &[&header.emit()[..], payload].concat());
        let port = testbed.port(1);
        testbed.server.handle_event(port);
        let before = testbed.server.steps();
        testbed.server.poll(&mut testbed.machine, testbed.now_ms);
        let steps = testbed.server.steps() - before;
        testbed.run();
        steps
    };
    let most = limits::TURN_STEPS + limits::REQUEST_EVENT_STEPS + limits::POSTPONED_STEPS;
    let (write, removal) = (cost(MessageType::Write, b"/shared/a\0x"), cost(MessageType::Rm, b"/shared/b\0"));
    // Both parts of the work, the turn and the postponed one, end after the events for one client.
    let client = 120 * (work::EVENT_STEPS + 1);
    assert!(write <= most + 2 * client, "a write: {write}");
    assert!(removal <= most + 2 * client, "a removal: {removal}");
}

#[test]
fn the_meter_counts_the_nodes_that_a_removal_in_a_transaction_visits() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.mkdir(1, &chain(990)).unwrap();
    let transaction = testbed.begin(1);
    let (steps, taken) = cost(&mut testbed, MessageType::Rm, transaction, "d\0");
    assert!(steps >= 990, "{steps} steps in {taken:?}");
}

#[test]
fn the_meter_counts_the_nodes_that_a_commit_changes() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.mkdir(1, &chain(990)).unwrap();
    let transaction = testbed.begin(1);
    cost(&mut testbed, MessageType::Rm, transaction, "d\0");
    let (abort, abort_taken) = cost(&mut testbed, MessageType::TransactionEnd, transaction, "F\0");
    let transaction = testbed.begin(1);
    cost(&mut testbed, MessageType::Rm, transaction, "d\0");
    let (commit, commit_taken) = cost(&mut testbed, MessageType::TransactionEnd, transaction, "T\0");
    assert!(
        abort >= 990 && commit >= 990,
        "abort: {abort} steps in {abort_taken:?}, commit: {commit} steps in {commit_taken:?}"
    );
}

#[test]
fn a_turn_ends_after_a_costly_removal_in_a_transaction() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.mkdir(1, &chain(990)).unwrap();
    let first = testbed.begin(1);
    let mut bytes = Vec::new();
    let mut add = |kind: MessageType, transaction_id: u32, payload: &[u8]| {
        let payload_bytes = payload.len() as u32;
        let header = Header { kind: kind.to_wire(), request_id: 1, transaction_id, payload_bytes };
        bytes.extend([&header.emit()[..], payload].concat());
    };
    for transaction in first..first + 3 {
        add(MessageType::Rm, transaction, b"d\0");
        add(MessageType::TransactionEnd, transaction, b"F\0");
        add(MessageType::TransactionStart, 0, b"\0");
    }
    testbed.put_bytes(1, &bytes);
    let port = testbed.port(1);
    testbed.server.handle_event(port);
    let (before, started) = (testbed.server.requests_handled(), Instant::now());
    testbed.server.poll(&mut testbed.machine, testbed.now_ms);
    let requests = testbed.server.requests_handled() - before;
    assert!(requests < 8, "{requests} requests in {:?}", started.elapsed());
}

#[test]
fn the_meter_counts_the_nodes_that_a_replay_visits() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "a", "").unwrap();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "a", "x").unwrap();
    let missing = format!("m/{}\0", chain(80));
    for _ in 0..20 {
        let outcome = testbed.request_in(1, transaction, MessageType::Read.to_wire(), &missing);
        assert_eq!(outcome, error("ENOENT"));
    }
    // A write outside of the transaction makes the server replay it.
    testbed.write(0, "/local/domain/1/a", "y").unwrap();
    let (steps, taken) = cost(&mut testbed, MessageType::TransactionEnd, transaction, "T\0");
    assert!(steps >= 3000, "{steps} steps in {taken:?}");
}

#[test]
fn the_meter_counts_the_missing_levels_that_a_read_in_a_transaction_notes() {
    let mut testbed = Testbed::with_homes([1]);
    let transaction = testbed.begin(1);
    let missing = format!("m/{}\0", chain(980));
    let before = testbed.server.steps();
    let started = Instant::now();
    testbed.send(1, transaction, MessageType::Read.to_wire(), missing.as_bytes());
    let (taken, steps) = (started.elapsed(), testbed.server.steps() - before);
    assert!(steps >= 980, "{steps} steps in {taken:?}");
}

#[test]
fn many_deaths_at_once_are_handled_over_several_turns() {
    let guests = 1..=60_u16;
    let mut testbed = Testbed::with_homes(guests.clone());
    for domid in guests.clone() {
        testbed.fill_nodes(domid, 900);
    }
    for domid in guests {
        testbed.machine.domains.remove(&DomId(domid));
        testbed.machine.pages.remove(&DomId(domid));
    }
    testbed.server.handle_domain_exception();
    let before = testbed.server.steps();
    testbed.server.poll(&mut testbed.machine, testbed.now_ms);
    let steps = testbed.server.steps() - before;
    // Each of the two passes ends after the home that uses up its steps.
    let most = 2 * (limits::POSTPONED_STEPS + 900 * work::REMOVAL_STEPS);
    testbed.run();
    testbed.check();
    assert!(steps <= most, "{steps}");
}

#[test]
fn in_any_history_every_client_continues_and_nothing_stays_outstanding() {
    for seed in 1..=60_u64 {
        let mut random = Random::new(seed);
        let mut below = move |most: u64| random.below(most as usize) as u64;
        let mut testbed = Testbed::with_homes(1..=4);
        lift_quotas(&mut testbed);
        for domid in 1..=4 {
            testbed.write(domid, "state", "").unwrap();
            testbed.watch(0, &format!("/local/domain/{domid}"), "t").unwrap();
            testbed.watch(0, &format!("/local/domain/{domid}/state"), "u").unwrap();
            testbed.set_perms(domid, &format!("/local/domain/{domid}"), &format!("b{domid}")).unwrap();
            testbed.watch(domid, &format!("/local/domain/{}", domid % 4 + 1), "v").unwrap();
        }
        testbed.watch(0, "@releaseDomain", "end").unwrap();
        let mut dead = [false; 5];
        for step in 0..120 {
            let domid = 1 + below(4) as u16;
            match below(14) {
                _ if dead[domid as usize] => {
                    if below(3) == 0 {
                        testbed.build(DomId(domid));
                        testbed.send(0, 0, MessageType::Introduce.to_wire(), format!("{domid}\x001\x001\0").as_bytes());
                        while !testbed.take_bytes(0, 1000).is_empty() {}
                        assert!(testbed.is_introduced(domid), "seed {seed}");
                        testbed.make_home(domid);
                        dead[domid as usize] = false;
                    }
                }
                0..=3 => {
                    let count = below(80);
                    testbed.send(domid, 0, MessageType::TransactionStart.to_wire(), b"\0");
                    let Some(reply) = testbed.reply_in_time(domid) else { continue };
                    let Ok(transaction) = crate::support::testbed::string(&reply.payload).parse() else { continue };
                    for at in 0..count {
                        let path = format!("state/{step}/{}", long(&format!("{at:06}"), LONG));
                        testbed.send(domid, transaction, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
                        testbed.reply_in_time(domid);
                    }
                    testbed.send(domid, transaction, MessageType::TransactionEnd.to_wire(), b"T\0");
                    testbed.receive(domid);
                }
                4 | 5 => {
                    let path = format!("state/{}", long(&format!("{step:06}"), LONG));
                    testbed.send(domid, 0, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
                    testbed.receive(domid);
                }
                6 => {
                    testbed.send(domid, 0, MessageType::Rm.to_wire(), b"state\0");
                    testbed.receive(domid);
                }
                7 => {
                    testbed.set_word(domid, Field::Connection, 1);
                    testbed.signal(domid);
                    testbed.forget_incoming(domid);
                }
                8 => {
                    testbed.kill(domid);
                    dead[domid as usize] = true;
                }
                9 => {
                    replace(&mut testbed, Reattachment::Live, |_| {});
                }
                10 => {
                    testbed.take_bytes(0, 20_000);
                }
                11 => testbed.pass(below(25_000)),
                12 => {
                    testbed.send(0, 0, MessageType::Introduce.to_wire(), format!("{domid}\x001\x001\0").as_bytes());
                    testbed.take_bytes(0, 1024);
                    testbed.run();
                    testbed.forget_incoming(domid);
                }
                _ => while testbed.message(domid).is_some() {},
            }
            testbed.check();
        }
        while !testbed.take_bytes(0, 1024).is_empty() {}
        for domid in 1..=4 {
            if dead[domid as usize] {
                assert_eq!(testbed.nodes(domid), 0, "seed {seed}");
                continue;
            }
            testbed.set_word(domid, Field::Connection, 1);
            testbed.signal(domid);
            assert_eq!(testbed.word(domid, Field::Connection), 0, "seed {seed}");
            testbed.forget_incoming(domid);
            testbed.send(domid, 0, MessageType::Read.to_wire(), b"state\0");
            while !testbed.take_bytes(0, 1024).is_empty() {}
            assert!(testbed.reply_in_time(domid).is_some(), "seed {seed} domain {domid}");
        }
        for domid in 0..=4 {
            while !dead[domid as usize] && !testbed.take_bytes(domid, 1024).is_empty() {}
        }
        for domid in 1..=4 {
            if !dead[domid as usize] {
                assert_eq!(testbed.outstanding(domid), 0, "seed {seed} domain {domid}");
            }
        }
        assert_eq!(queued(&testbed, 0), 0);
        assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy, "seed {seed}");
    }
}

#[test]
fn the_rights_of_a_dead_domain_on_many_nodes_are_removed_in_a_time_that_grows_with_their_number() {
    let polls = |guests: u16| {
        let mut testbed = Testbed::with_homes(1..=guests);
        testbed.start(100);
        for domid in 1..=guests {
            testbed.set_perms(domid, &format!("/local/domain/{domid}"), &format!("n{domid} r100")).unwrap();
            testbed.fill_nodes(domid, 900);
        }
        testbed.machine.domains.remove(&DomId(100));
        testbed.machine.pages.remove(&DomId(100));
        testbed.server.handle_domain_exception();
        let mut polls = 1_u32;
        loop {
            let busy = testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy;
            if !busy || polls > 500 {
                break;
            }
            polls += 1;
        }
        polls
    };
    let (few, many) = (polls(10), polls(40));
    assert!(many <= 8 * few + 8, "{few} and {many}");
}

#[test]
fn a_flood_of_new_connections_does_not_keep_a_sender_waiting_for_its_postponed_events() {
    // Guests 3 to 40 have queues of many small events, and drop them by a reset.
    let mut testbed = Testbed::with_homes(1..=80);
    lift_quotas(&mut testbed);
    for name in ["/shared", "/other"] {
        testbed.write(0, name, "").unwrap();
        testbed.set_perms(0, name, "b0").unwrap();
    }
    for domid in 3..=80 {
        for token in 0..125 {
            testbed.watch(domid, if domid <= 40 { "/shared" } else { "/other" }, &format!("{token}")).unwrap();
        }
        testbed.events(domid);
    }
    for at in 0..100 {
        testbed.write(0, &format!("/shared/{at}"), "").unwrap();
    }
    for domid in 3..=40 {
        testbed.set_word(domid, Field::Connection, 1);
        let port = testbed.port(domid);
        testbed.server.handle_event(port);
    }
    // Guest 2 makes a change that fires 5,000 watches, and sends another request.
    let header = |kind: MessageType, payload: &[u8]| {
        let payload_bytes = payload.len() as u32;
        Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes }.emit()
    };
    for (kind, payload) in [(MessageType::Write, &b"/other/x\0"[..]), (MessageType::Read, &b"/other/x\0"[..])] {
        testbed.put_bytes(2, &[&header(kind, payload)[..], payload].concat());
    }
    let port = testbed.port(2);
    testbed.server.handle_event(port);
    let begin = testbed.word(2, Field::ReplyProducer);
    let mut turns = 0_u64;
    while testbed.word(2, Field::ReplyProducer).wrapping_sub(begin) < 16 + 3 + 16 {
        testbed.server.poll(&mut testbed.machine, testbed.now_ms);
        turns += 1;
        let own = 5000 * 8 / limits::POSTPONED_STEPS;
        assert!(turns <= own + 4, "the server drops the other guests' queues first: {turns} turns");
    }
}
