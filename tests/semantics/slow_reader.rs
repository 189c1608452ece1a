//! What a hostile reviewer found: each test states the right behaviour.

use std::time::{Duration, Instant};

use xenstore::engine::hypervisor::DomainState;
use xenstore::limits;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::random::Random;
use crate::take_over::replace;
use crate::world::{World, error, ok};

const LONG: usize = 1700;

fn queued(world: &World, domid: u16) -> usize {
    let id = world.connection(domid).unwrap();
    world.server.engine().connection(id).unwrap().session().unwrap().output.queued_bytes()
}

fn long(name: &str, bytes: usize) -> String {
    format!("{name}{}", "n".repeat(bytes - name.len()))
}

/// Guests may have what they want.
fn lift_quotas(world: &mut World) {
    for quota in ["nodes", "memory", "outstanding", "transaction-nodes", "node-size"] {
        world.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
}

/// Domain 1 commits writes to `count` nodes of dom0 that dom0 watches; dom0 reads nothing of it.
fn commit_to_nodes_of_dom0(world: &mut World, count: usize) {
    for at in 0..count {
        let path = format!("/shared/{}", long(&format!("{at:06}"), LONG));
        world.write(0, &path, "").unwrap();
        world.set_perms(0, &path, "n0 b1").unwrap();
    }
    world.watch(0, "/shared", "t").unwrap();
    world.events(0);
    let transaction = world.begin(1);
    for at in 0..count {
        let path = format!("/shared/{}", long(&format!("{at:06}"), LONG));
        world.write_in(1, transaction, &path, "x").unwrap();
    }
    assert_eq!(world.end(1, transaction, true), ok());
}

/// Guest 1 dies while the removal of what it owns has to wait for dom0: its nodes below `/local/domain/1/state`, each of
/// which dom0 watches.
fn die_slowly(world: &mut World) {
    for at in 0..300 {
        let path = format!("state/{}", long(&format!("{at:06}"), LONG));
        world.write(1, &path, "").unwrap();
        world.watch(0, &format!("/local/domain/1/{path}"), "node").unwrap();
        world.events(0);
    }
    world.set_perms(0, "/local/domain/1", "n0").unwrap();
    world.set_perms(0, "/local/domain/1/state", "n0").unwrap();
    world.events(0);
    world.kill(1);
    assert!(world.nodes(1) > 0, "it is not done with");
}

#[test]
fn removals_by_guests_keep_within_the_room_of_the_control_domains_queue() {
    let guests = 1..=20_u16;
    let mut world = World::with_homes(guests.clone());
    for domid in guests.clone() {
        for at in 0..20 {
            world.write(domid, &format!("state/{at}/{}", long("l", LONG)), "").unwrap();
        }
        world.watch(0, &format!("/local/domain/{domid}/state"), "t").unwrap();
    }
    world.events(0);
    let mut sent = 0;
    for at in 0..20 {
        for domid in guests.clone() {
            let id = world.connection(domid).unwrap();
            if world.server.engine().may_receive(id) {
                let path = format!("state/{at}/{}\0", long("l", LONG));
                world.send(domid, 0, MessageType::Rm.to_wire(), path.as_bytes());
                world.receive(domid);
                sent += 1;
            }
        }
    }
    assert!(queued(&world, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&world, 0));
    assert!((100..400).contains(&sent), "{sent}: all are held back in the end");
    assert_eq!(world.events(0).len(), sent);
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
    assert!(write <= most + most / 8, "a write: {write}");
    assert!(removal <= most + most / 8, "a removal: {removal}");
}

#[test]
fn events_of_long_paths_that_wait_go_over_to_a_successor() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    world.watch(0, "/long", "t").unwrap();
    world.events(0);
    let transaction = world.begin(0);
    for at in 0..200 {
        world.write_in(0, transaction, &format!("/long/{}", long(&format!("{at:06}"), 2900)), "").unwrap();
    }
    world.events(0);
    world.send(0, transaction, MessageType::TransactionEnd.to_wire(), b"T\0");
    replace(&mut world, TakeOver::Live, |_| {});
    assert_eq!(world.reply(0).unwrap().payload, b"OK\0");
    assert_eq!(world.events(0).len(), 200);
}

#[test]
fn what_a_dead_guest_committed_is_told_in_full() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_to_nodes_of_dom0(&mut world, 400);
    world.kill(1);
    assert_eq!(world.events(0).len(), 400);
}

#[test]
fn what_a_dead_guest_committed_goes_over_to_a_successor() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_to_nodes_of_dom0(&mut world, 400);
    world.kill(1);
    replace(&mut world, TakeOver::Live, |_| {});
    assert_eq!(world.events(0).len(), 400);
}

#[test]
fn what_was_committed_is_told_to_the_control_domain_although_the_nodes_are_gone_by_then() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    world.write(1, "state", "").unwrap();
    world.watch(0, "/local/domain/1/state", "t").unwrap();
    world.events(0);
    let transaction = world.begin(1);
    for at in 0..400 {
        world.write_in(1, transaction, &format!("state/{}", long(&format!("{at:06}"), LONG)), "").unwrap();
    }
    assert_eq!(world.end(1, transaction, true), ok());
    world.kill(1);
    let events = world.events(0);
    let told = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/state/")).count();
    assert_eq!(told, 400);
}

#[test]
fn a_right_that_a_transaction_takes_from_a_node_during_a_removal_is_not_a_later_domains() {
    let mut world = World::with_homes([1, 2]);
    lift_quotas(&mut world);
    world.write(2, "p", "").unwrap();
    world.set_perms(2, "p", "n2 r1").unwrap();
    die_slowly(&mut world);
    let transaction = world.begin(2);
    world.write_in(2, transaction, "p/c", "secret").unwrap();
    world.events(0);
    assert_eq!(world.nodes(1), 0);
    assert_eq!(world.get_perms(2, "/local/domain/2/p"), Ok("n2".into()));
    world.start(1);
    let _ = world.end(2, transaction, true);
    assert!(world.read(1, "/local/domain/2/p/c") != Ok(b"secret".to_vec()), "another domain's right");
    world.check();
    assert_eq!(world.get_perms(2, "/local/domain/2/p"), Ok("n2".into()), "what was removed does not come back");
}

#[test]
fn a_commit_during_a_removal_of_a_domains_rights_counts_right() {
    let mut world = World::with_homes([1, 2]);
    lift_quotas(&mut world);
    world.write(2, "p", "").unwrap();
    world.set_perms(2, "p", "n2 r1").unwrap();
    let transaction = world.begin(2);
    world.write_in(2, transaction, "p", "x").unwrap();
    die_slowly(&mut world);
    assert_eq!(world.end(2, transaction, true), ok());
    world.check();
    world.events(0);
    world.check();
}

#[test]
fn a_node_that_a_transaction_makes_for_a_dying_domain_is_not_a_later_domains() {
    let mut world = World::with_homes([1, 2]);
    lift_quotas(&mut world);
    // Guest 2 may write in a directory of guest 1, which is removed late.
    world.write(0, "/z/of1", "").unwrap();
    world.set_perms(0, "/z/of1", "n1 b2").unwrap();
    die_slowly(&mut world);
    let transaction = world.begin(2);
    world.write_in(2, transaction, "/z/of1/c", "x").unwrap();
    world.events(0);
    world.start(1);
    let outcome = world.end(2, transaction, true);
    assert_eq!(outcome, error("EAGAIN"));
    world.check();
}

#[test]
fn the_events_of_a_dead_guests_nodes_count_for_it_whoever_looks_at_its_number() {
    let mut world = World::with_homes([2]);
    world.machine.unique_ids.insert(DomId(1), 11);
    world.start(1);
    world.make_home(1);
    lift_quotas(&mut world);
    die_slowly(&mut world);
    let before = queued(&world, 0);
    assert!(before <= limits::GUESTS_EVENTS_BYTES, "{before}");
    world.machine.unique_ids.insert(DomId(1), 12);
    world.machine.domains.insert(DomId(1), DomainState::Running);
    world.send(2, 0, MessageType::SetPerms.to_wire(), b"/local/domain/2\0n2\0r1\0");
    world.run();
    assert!(queued(&world, 0) <= before + 4096, "{} after {before}", queued(&world, 0));
}

#[test]
fn the_events_of_a_dead_guests_nodes_count_for_it_after_an_update() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    die_slowly(&mut world);
    replace(&mut world, TakeOver::Live, |_| {});
    assert!(queued(&world, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&world, 0));
    // It is read all the same.
    world.send(0, 0, MessageType::Read.to_wire(), b"/local\0");
    assert_eq!(world.word(0, Field::RequestProducer), world.word(0, Field::RequestConsumer), "it is read");
}

/// Domain 1 commits `count` new nodes below its `state`, which dom0 watches and does not read.
fn commit_own(world: &mut World, count: usize) {
    world.write(1, "state", "").unwrap();
    world.watch(0, "/local/domain/1/state", "t").unwrap();
    world.events(0);
    let transaction = world.begin(1);
    for at in 0..count {
        world.write_in(1, transaction, &format!("state/{}", long(&format!("{at:06}"), LONG)), "").unwrap();
    }
    assert_eq!(world.end(1, transaction, true), ok());
}

#[test]
fn an_introduction_that_waits_for_a_removal_goes_over_to_a_successor() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    die_slowly(&mut world);
    world.build(DomId(1));
    world.send(0, 0, MessageType::Introduce.to_wire(), b"1\x001\x001\0");
    replace(&mut world, TakeOver::Live, |_| {});
    assert_eq!(world.reply(0).unwrap().payload, b"OK\0");
    assert!(world.is_introduced(1));
    assert_eq!(world.nodes(1), 0);
    world.make_home(1);
    assert_eq!(world.write(1, "a", ""), ok());
    world.check();
}

#[test]
fn a_sender_that_asks_for_a_new_connection_goes_on_when_its_events_are_queued() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_own(&mut world, 400);
    world.set_word(1, Field::Connection, 1);
    world.signal(1);
    assert_eq!(world.word(1, Field::Connection), 0);
    world.forget_incoming(1);
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.message(1).is_none());
    assert_eq!(world.events(0).len(), 400);
    assert!(world.reply(1).is_some());
    assert_eq!(world.outstanding(1), 0);
    world.check();
}

#[test]
fn a_sender_that_is_introduced_again_goes_on_when_its_events_are_queued() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_own(&mut world, 400);
    world.send(0, 0, MessageType::Introduce.to_wire(), b"1\x001\x002\0");
    assert_eq!(world.reply(0).unwrap().payload, b"OK\0");
    world.forget_incoming(1);
    assert_eq!(world.events(0).len(), 400);
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.reply(1).is_some());
    assert_eq!(world.outstanding(1), 0);
    world.check();
}

#[test]
fn nothing_stays_outstanding_when_all_is_told_after_two_updates() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_own(&mut world, 400);
    replace(&mut world, TakeOver::Live, |_| {});
    world.take_bytes(0, 1000);
    replace(&mut world, TakeOver::Live, |_| {});
    while !world.take_bytes(0, 1000).is_empty() {}
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.reply(1).is_some());
    assert_eq!(world.outstanding(1), 0);
    assert_eq!(queued(&world, 0), 0);
    world.check();
}

#[test]
fn a_receiver_that_is_introduced_again_lets_those_go_on_that_waited_for_it() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_own(&mut world, 400);
    // Dom0's own connection starts afresh.
    world.set_word(0, Field::Connection, 1);
    world.signal(0);
    world.forget_incoming(0);
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.reply(1).is_some(), "its watches are gone");
    assert_eq!(world.outstanding(1), 0);
    world.check();
}

#[test]
fn a_reader_that_was_given_up_before_an_update_is_given_up_after_it() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    commit_own(&mut world, 400);
    world.pass(limits::PRIVILEGED_UNREAD_MS / 2);
    replace(&mut world, TakeOver::Live, |_| {});
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.message(1).is_none());
    world.pass(limits::PRIVILEGED_UNREAD_MS / 2);
    assert!(world.reply(1).is_some(), "after twenty seconds in all");
}

/// What a request of domain 1 costs, in steps and time, and the length of its reply's payload.
fn cost(world: &mut World, kind: MessageType, transaction: u32, payload: &str) -> (u64, Duration) {
    let before = world.server.engine().steps();
    let started = Instant::now();
    world.send(1, transaction, kind.to_wire(), payload.as_bytes());
    let (taken, steps) = (started.elapsed(), world.server.engine().steps() - before);
    assert_ne!(world.reply(1).unwrap().kind, MessageType::Error.to_wire());
    (steps, taken)
}

/// The deepest chain of nodes that the quotas allow.
fn chain(levels: usize) -> String {
    vec!["d"; levels].join("/")
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
    // Written outside, so that it is replayed.
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
fn all_parts_of_a_list_that_is_too_long_to_be_kept_have_the_generation_of_now() {
    let mut world = World::new();
    for at in 0..(limits::LIST_BYTES / 2001) {
        world.mkdir(0, &format!("/big/{}", long(&format!("{at:06}"), 2000))).unwrap();
    }
    let part = |world: &mut World, offset: usize| {
        let reply = world.request(0, MessageType::DirectoryPart, format!("/big\0{offset}\0")).unwrap();
        let end = reply.iter().position(|byte| *byte == 0).unwrap();
        (String::from_utf8(reply[..end].to_vec()).unwrap(), reply.len() - end - 1)
    };
    // One program asks for a part and goes away; another one lists the directory when it has grown.
    part(&mut world, 0);
    world.mkdir(0, &format!("/big/{}", long("more", 2000))).unwrap();
    let (first, next) = part(&mut world, 0);
    let (second, _) = part(&mut world, next);
    assert_eq!(first, second);
}

#[test]
fn a_long_list_of_permissions_waits_for_a_removal_too() {
    let mut world = World::with_homes([1]);
    lift_quotas(&mut world);
    world.write(0, "/x", "").unwrap();
    die_slowly(&mut world);
    world.build(DomId(1));
    let others = (100..117).map(|domid| format!("r{domid}\0")).collect::<String>();
    for domid in 100..117 {
        world.build(DomId(domid));
    }
    world.send(0, 0, MessageType::SetPerms.to_wire(), format!("/x\0n0\0{others}r1\0").as_bytes());
    assert_eq!(world.reply(0).unwrap().payload, b"OK\0");
    world.events(0);
    world.start_built(1);
    assert_eq!(world.read(1, "/x"), Ok(Vec::new()));
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
    let most = 2 * limits::POSTPONED_STEPS + 4096;
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
fn rights_that_commits_gave_to_a_dead_domain_are_all_removed() {
    for seed in 1..=150_u64 {
        let mut random = Random::new(seed);
        let mut world = World::with_homes(1..=4);
        lift_quotas(&mut world);
        let mut paths = Vec::new();
        for round in 0..6 {
            let transaction = world.begin(1);
            for _ in 0..random.below(40) {
                let path: Vec<&str> = (0..=random.below(5)).map(|_| *random.one_of(&["a", "a-b", "b", "ab"])).collect();
                let path = path.join("/");
                match random.below(6) {
                    0 if round > 1 => drop(world.rm_in(1, transaction, &path)),
                    1..=2 => {
                        let whom = *random.one_of(&["n1", "n1 r2", "n1 r3", "n1 r3 r4", "n1 b4"]);
                        drop(world.set_perms_in(1, transaction, &path, whom));
                    }
                    3 => drop(world.write(1, &path, "outside")),
                    _ => drop(world.write_in(1, transaction, &path, "x")),
                }
                paths.push(path);
            }
            drop(world.end(1, transaction, random.below(5) > 0));
            if round == 3 {
                replace(&mut world, TakeOver::Live, |_| {});
            }
        }
        world.check();
        world.kill(3);
        world.check();
        for path in &paths {
            let permissions = world.get_perms(0, &format!("/local/domain/1/{path}")).unwrap_or_default();
            assert!(!permissions.contains('3'), "seed {seed}: {path} {permissions}");
        }
    }
}

#[test]
fn a_flood_of_new_connections_does_not_keep_a_sender_waiting_for_its_postponed_events() {
    // Guests 3 to 40 have queues of many small events, and drop them by asking for a new connection.
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
    // Guest 2 makes a change that 5,000 watches are told of, and asks something else.
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
        assert!(turns <= own + 4, "others' queues are dropped first");
    }
}
