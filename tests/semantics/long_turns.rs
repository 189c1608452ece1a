//! Work that takes more than a turn: the meter counts it, and the server continues it in later turns.

use std::time::{Duration, Instant};

use xenstore::engine::work;
use xenstore::limits;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::random::Random;
use crate::slow_reader::{LONG, lift_quotas, long, queued};
use crate::take_over::replace;
use crate::world::{World, error};

/// Returns the steps and the time of a request of domain 1.
fn cost(world: &mut World, kind: MessageType, transaction: u32, payload: &str) -> (u64, Duration) {
    let before = world.server.engine().steps();
    let started = Instant::now();
    world.send(1, transaction, kind.to_wire(), payload.as_bytes());
    let (taken, steps) = (started.elapsed(), world.server.engine().steps() - before);
    assert_ne!(world.reply(1).unwrap().kind, MessageType::Error.to_wire());
    (steps, taken)
}

/// Returns the path of a chain of nodes.
fn chain(levels: usize) -> String {
    vec!["d"; levels].join("/")
}

#[test]
fn the_removal_of_a_node_that_all_guests_watch_is_told_over_several_turns() {
    let guests = 2..=200_u16;
    let mut world = World::with_homes(1..=200);
    for name in ["a", "b"] {
        world.write(0, &format!("/shared/{name}"), "").unwrap();
        world.set_perms(0, &format!("/shared/{name}"), "b0").unwrap();
    }
    world.set_perms(0, "/shared", "b0").unwrap();
    for domid in guests {
        for token in 0..120 {
            world.watch(domid, "/shared", &format!("{token}")).unwrap();
        }
        world.events(domid);
    }
    let mut cost = |kind: MessageType, payload: &[u8]| {
        let header =
            Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes: payload.len() as u32 };
        world.put_bytes(1, &[&header.emit()[..], payload].concat());
        let port = world.port(1);
        world.server.handle_event(port);
        let before = world.server.engine().steps();
        world.server.poll(&mut world.machine, world.now_ms);
        let steps = world.server.engine().steps() - before;
        world.run();
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
fn the_meter_counts_the_nodes_that_a_removal_in_a_transaction_looks_at() {
    let mut world = World::with_homes([1]);
    world.mkdir(1, &chain(990)).unwrap();
    let transaction = world.begin(1);
    let (steps, taken) = cost(&mut world, MessageType::Rm, transaction, "d\0");
    assert!(steps >= 990, "{steps} steps in {taken:?}");
}

#[test]
fn the_meter_counts_the_nodes_that_a_commit_changes() {
    let mut world = World::with_homes([1]);
    world.mkdir(1, &chain(990)).unwrap();
    let transaction = world.begin(1);
    cost(&mut world, MessageType::Rm, transaction, "d\0");
    let (abort, abort_taken) = cost(&mut world, MessageType::TransactionEnd, transaction, "F\0");
    let transaction = world.begin(1);
    cost(&mut world, MessageType::Rm, transaction, "d\0");
    let (commit, commit_taken) = cost(&mut world, MessageType::TransactionEnd, transaction, "T\0");
    assert!(
        abort >= 990 && commit >= 990,
        "abort: {abort} steps in {abort_taken:?}, commit: {commit} steps in {commit_taken:?}"
    );
}

#[test]
fn a_turn_ends_after_a_costly_removal_in_a_transaction() {
    let mut world = World::with_homes([1]);
    world.mkdir(1, &chain(990)).unwrap();
    let first = world.begin(1);
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
    world.put_bytes(1, &bytes);
    let port = world.port(1);
    world.server.handle_event(port);
    let (before, started) = (world.server.requests_handled(), Instant::now());
    world.server.poll(&mut world.machine, world.now_ms);
    let requests = world.server.requests_handled() - before;
    assert!(requests < 8, "{requests} requests in {:?}", started.elapsed());
}

#[test]
fn the_meter_counts_what_a_replay_looks_at() {
    let mut world = World::with_homes([1]);
    world.write(1, "a", "").unwrap();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "a", "x").unwrap();
    let missing = format!("m/{}\0", chain(80));
    for _ in 0..20 {
        let outcome = world.request_in(1, transaction, MessageType::Read.to_wire(), &missing);
        assert_eq!(outcome, error("ENOENT"));
    }
    // A write outside of the transaction makes the server replay it.
    world.write(0, "/local/domain/1/a", "y").unwrap();
    let (steps, taken) = cost(&mut world, MessageType::TransactionEnd, transaction, "T\0");
    assert!(steps >= 3000, "{steps} steps in {taken:?}");
}

#[test]
fn the_meter_counts_the_missing_levels_that_a_read_in_a_transaction_notes() {
    let mut world = World::with_homes([1]);
    let transaction = world.begin(1);
    let missing = format!("m/{}\0", chain(980));
    let before = world.server.engine().steps();
    let started = Instant::now();
    world.send(1, transaction, MessageType::Read.to_wire(), missing.as_bytes());
    let (taken, steps) = (started.elapsed(), world.server.engine().steps() - before);
    assert!(steps >= 980, "{steps} steps in {taken:?}");
}

#[test]
fn many_deaths_at_once_are_worked_off_over_several_turns() {
    let guests = 1..=60_u16;
    let mut world = World::with_homes(guests.clone());
    for domid in guests.clone() {
        world.fill_nodes(domid, 900);
    }
    for domid in guests {
        world.machine.domains.remove(&DomId(domid));
        world.machine.pages.remove(&DomId(domid));
    }
    world.server.handle_domain_exception();
    let before = world.server.engine().steps();
    world.server.poll(&mut world.machine, world.now_ms);
    let steps = world.server.engine().steps() - before;
    // Each of the two passes ends after the home that uses up its steps.
    let most = 2 * (limits::POSTPONED_STEPS + 900 * work::REMOVAL_STEPS);
    world.run();
    world.check();
    assert!(steps <= most, "{steps}");
}

#[test]
fn whatever_happens_everybody_goes_on_and_nothing_stays_outstanding() {
    for seed in 1..=60_u64 {
        let mut random = Random::new(seed);
        let mut below = move |most: u64| random.below(most as usize) as u64;
        let mut world = World::with_homes(1..=4);
        lift_quotas(&mut world);
        for domid in 1..=4 {
            world.write(domid, "state", "").unwrap();
            world.watch(0, &format!("/local/domain/{domid}"), "t").unwrap();
            world.watch(0, &format!("/local/domain/{domid}/state"), "u").unwrap();
            world.set_perms(domid, &format!("/local/domain/{domid}"), &format!("b{domid}")).unwrap();
            world.watch(domid, &format!("/local/domain/{}", domid % 4 + 1), "v").unwrap();
        }
        world.watch(0, "@releaseDomain", "end").unwrap();
        let mut dead = [false; 5];
        for step in 0..120 {
            let domid = 1 + below(4) as u16;
            match below(14) {
                _ if dead[domid as usize] => {
                    if below(3) == 0 {
                        world.build(DomId(domid));
                        world.send(0, 0, MessageType::Introduce.to_wire(), format!("{domid}\x001\x001\0").as_bytes());
                        while !world.take_bytes(0, 1000).is_empty() {}
                        assert!(world.is_introduced(domid), "seed {seed}");
                        world.make_home(domid);
                        dead[domid as usize] = false;
                    }
                }
                0..=3 => {
                    let count = below(80);
                    world.send(domid, 0, MessageType::TransactionStart.to_wire(), b"\0");
                    let Some(reply) = world.reply_in_time(domid) else { continue };
                    let Ok(transaction) = crate::world::string(&reply.payload).parse() else { continue };
                    for at in 0..count {
                        let path = format!("state/{step}/{}", long(&format!("{at:06}"), LONG));
                        world.send(domid, transaction, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
                        world.reply_in_time(domid);
                    }
                    world.send(domid, transaction, MessageType::TransactionEnd.to_wire(), b"T\0");
                    world.receive(domid);
                }
                4 | 5 => {
                    let path = format!("state/{}", long(&format!("{step:06}"), LONG));
                    world.send(domid, 0, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
                    world.receive(domid);
                }
                6 => {
                    world.send(domid, 0, MessageType::Rm.to_wire(), b"state\0");
                    world.receive(domid);
                }
                7 => {
                    world.set_word(domid, Field::Connection, 1);
                    world.signal(domid);
                    world.forget_incoming(domid);
                }
                8 => {
                    world.kill(domid);
                    dead[domid as usize] = true;
                }
                9 => {
                    replace(&mut world, TakeOver::Live, |_| {});
                }
                10 => {
                    world.take_bytes(0, 20_000);
                }
                11 => world.pass(below(25_000)),
                12 => {
                    world.send(0, 0, MessageType::Introduce.to_wire(), format!("{domid}\x001\x001\0").as_bytes());
                    world.take_bytes(0, 1024);
                    world.run();
                    world.forget_incoming(domid);
                }
                _ => while world.message(domid).is_some() {},
            }
            world.check();
        }
        while !world.take_bytes(0, 1024).is_empty() {}
        for domid in 1..=4 {
            if dead[domid as usize] {
                assert_eq!(world.nodes(domid), 0, "seed {seed}");
                continue;
            }
            world.set_word(domid, Field::Connection, 1);
            world.signal(domid);
            assert_eq!(world.word(domid, Field::Connection), 0, "seed {seed}");
            world.forget_incoming(domid);
            world.send(domid, 0, MessageType::Read.to_wire(), b"state\0");
            while !world.take_bytes(0, 1024).is_empty() {}
            assert!(world.reply_in_time(domid).is_some(), "seed {seed} domain {domid}");
        }
        for domid in 0..=4 {
            while !dead[domid as usize] && !world.take_bytes(domid, 1024).is_empty() {}
        }
        for domid in 1..=4 {
            if !dead[domid as usize] {
                assert_eq!(world.outstanding(domid), 0, "seed {seed} domain {domid}");
            }
        }
        assert_eq!(queued(&world, 0), 0);
        assert!(!world.server.poll(&mut world.machine, world.now_ms).busy, "seed {seed}");
    }
}

#[test]
fn the_rights_of_a_dead_domain_on_many_nodes_are_removed_in_a_time_that_grows_with_their_number() {
    let polls = |guests: u16| {
        let mut world = World::with_homes(1..=guests);
        world.start(100);
        for domid in 1..=guests {
            world.set_perms(domid, &format!("/local/domain/{domid}"), &format!("n{domid} r100")).unwrap();
            world.fill_nodes(domid, 900);
        }
        world.machine.domains.remove(&DomId(100));
        world.machine.pages.remove(&DomId(100));
        world.server.handle_domain_exception();
        let mut polls = 1_u32;
        loop {
            let busy = world.server.poll(&mut world.machine, world.now_ms).busy;
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
    // Guests 3 to 40 have queues of many small events, and drop them when they request a new connection.
    let mut world = World::with_homes(1..=80);
    lift_quotas(&mut world);
    for name in ["/shared", "/other"] {
        world.write(0, name, "").unwrap();
        world.set_perms(0, name, "b0").unwrap();
    }
    for domid in 3..=80 {
        for token in 0..125 {
            world.watch(domid, if domid <= 40 { "/shared" } else { "/other" }, &format!("{token}")).unwrap();
        }
        world.events(domid);
    }
    for at in 0..100 {
        world.write(0, &format!("/shared/{at}"), "").unwrap();
    }
    for domid in 3..=40 {
        world.set_word(domid, Field::Connection, 1);
        let port = world.port(domid);
        world.server.handle_event(port);
    }
    // Guest 2 makes a change that fires 5,000 watches, and sends another request.
    let header = |kind: MessageType, payload: &[u8]| {
        let payload_bytes = payload.len() as u32;
        Header { kind: kind.to_wire(), request_id: 1, transaction_id: 0, payload_bytes }.emit()
    };
    for (kind, payload) in [(MessageType::Write, &b"/other/x\0"[..]), (MessageType::Read, &b"/other/x\0"[..])] {
        world.put_bytes(2, &[&header(kind, payload)[..], payload].concat());
    }
    let port = world.port(2);
    world.server.handle_event(port);
    let begin = world.word(2, Field::ReplyProducer);
    let mut turns = 0_u64;
    while world.word(2, Field::ReplyProducer).wrapping_sub(begin) < 16 + 3 + 16 {
        world.server.poll(&mut world.machine, world.now_ms);
        turns += 1;
        let own = 5000 * 8 / limits::POSTPONED_STEPS;
        assert!(turns <= own + 4, "the server drops the other guests' queues first: {turns} turns");
    }
}
