//! A control domain that reads slowly while guests commit, remove nodes, die and are replaced. No event is lost, every guest
//! continues, and counts remain right.

use xenstore::engine::hypervisor::DomainState;
use xenstore::limits;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::random::Random;
use crate::take_over::replace;
use crate::world::{World, error, ok};

/// Bytes of a long name.
pub const LONG: usize = 1700;

pub fn queued(world: &World, domid: u16) -> usize {
    let id = world.connection(domid).unwrap();
    world.server.engine().connection(id).unwrap().session().unwrap().output.queued_bytes()
}

pub fn long(name: &str, bytes: usize) -> String {
    format!("{name}{}", "n".repeat(bytes - name.len()))
}

/// Sets the quotas so high that they limit no guest.
pub fn lift_quotas(world: &mut World) {
    for quota in ["nodes", "memory", "outstanding", "transaction-nodes", "node-size"] {
        world.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
}

/// Makes domain 1 commit writes to `count` nodes of dom0. Dom0 watches the nodes and does not read the events.
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

/// Kills guest 1 while dom0 does not read. Dom0 watches each of the guest's nodes below `/local/domain/1/state`, so that their
/// removal waits for dom0.
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
    assert!(world.nodes(1) > 0, "the removal waits");
}

/// Makes domain 1 commit `count` new nodes below its `state`. Dom0 watches `state` and does not read the events.
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
    assert!((100..400).contains(&sent), "{sent}: the server holds back all guests in the end");
    assert_eq!(world.events(0).len(), sent);
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
    commit_own(&mut world, 400);
    world.kill(1);
    let events = world.events(0);
    let count = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/state/")).count();
    assert_eq!(count, 400);
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
    assert_eq!(world.get_perms(2, "/local/domain/2/p"), Ok("n2".into()), "the removed right does not come back");
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
    // Guest 2 may write in a directory of guest 1. The server removes this directory late.
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
    // The server still reads from dom0.
    world.send(0, 0, MessageType::Read.to_wire(), b"/local\0");
    assert_eq!(world.word(0, Field::RequestProducer), world.word(0, Field::RequestConsumer), "it is read");
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
    // Dom0 resets its own connection.
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
    assert!(world.reply(1).is_some(), "the sender continues after twenty seconds in all");
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
    // One program reads a part and ends. Another program lists the directory after it has grown.
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
