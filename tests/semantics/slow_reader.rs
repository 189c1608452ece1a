//! A control domain that reads slowly while guests commit, remove nodes, die and are replaced. No event is lost, every
//! guest continues, and counts remain correct.

use xenstore::engine::hypervisor::DomainState;
use xenstore::limits;
use xenstore::server::reattach::Reattachment;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::reattach::replace;
use crate::support::random::Random;
use crate::support::testbed::{Testbed, error, ok};

/// Bytes of a long name.
pub const LONG: usize = 1700;

pub fn queued(testbed: &Testbed, domid: u16) -> usize {
    let id = testbed.connection(domid).unwrap();
    testbed.server.engine().connection(id).unwrap().session().unwrap().output.queued_bytes()
}

pub fn long(name: &str, bytes: usize) -> String {
    format!("{name}{}", "n".repeat(bytes - name.len()))
}

/// Sets the quotas so high that they limit no guest.
pub fn lift_quotas(testbed: &mut Testbed) {
    for quota in ["nodes", "memory", "outstanding", "transaction-nodes", "node-size"] {
        testbed.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
}

/// Makes domain 1 commit writes to `count` nodes of dom0. Dom0 watches the nodes and does not read the events.
fn commit_to_nodes_of_dom0(testbed: &mut Testbed, count: usize) {
    for at in 0..count {
        let path = format!("/shared/{}", long(&format!("{at:06}"), LONG));
        testbed.write(0, &path, "").unwrap();
        testbed.set_perms(0, &path, "n0 b1").unwrap();
    }
    testbed.watch(0, "/shared", "t").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(1);
    for at in 0..count {
        let path = format!("/shared/{}", long(&format!("{at:06}"), LONG));
        testbed.write_in(1, transaction, &path, "x").unwrap();
    }
    assert_eq!(testbed.end(1, transaction, true), ok());
}

/// Kills guest 1 while dom0 does not read. Dom0 watches each of the guest's nodes below `/local/domain/1/state`, so that their
/// removal waits for dom0.
fn die_slowly(testbed: &mut Testbed) {
    for at in 0..300 {
        let path = format!("state/{}", long(&format!("{at:06}"), LONG));
        testbed.write(1, &path, "").unwrap();
        testbed.watch(0, &format!("/local/domain/1/{path}"), "node").unwrap();
        testbed.events(0);
    }
    testbed.set_perms(0, "/local/domain/1", "n0").unwrap();
    testbed.set_perms(0, "/local/domain/1/state", "n0").unwrap();
    testbed.events(0);
    testbed.kill(1);
    assert!(testbed.nodes(1) > 0, "the removal waits");
}

/// Makes domain 1 commit `count` new nodes below its `state`. Dom0 watches `state` and does not read the events.
fn commit_own(testbed: &mut Testbed, count: usize) {
    testbed.write(1, "state", "").unwrap();
    testbed.watch(0, "/local/domain/1/state", "t").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(1);
    for at in 0..count {
        testbed.write_in(1, transaction, &format!("state/{}", long(&format!("{at:06}"), LONG)), "").unwrap();
    }
    assert_eq!(testbed.end(1, transaction, true), ok());
}

#[test]
fn removals_by_guests_keep_within_the_room_of_the_control_domains_queue() {
    let guests = 1..=20_u16;
    let mut testbed = Testbed::with_homes(guests.clone());
    for domid in guests.clone() {
        for at in 0..20 {
            testbed.write(domid, &format!("state/{at}/{}", long("l", LONG)), "").unwrap();
        }
        testbed.watch(0, &format!("/local/domain/{domid}/state"), "t").unwrap();
    }
    testbed.events(0);
    let mut sent = 0;
    for at in 0..20 {
        for domid in guests.clone() {
            let id = testbed.connection(domid).unwrap();
            if testbed.server.engine().may_receive(id) {
                let path = format!("state/{at}/{}\0", long("l", LONG));
                testbed.send(domid, 0, MessageType::Rm.to_wire(), path.as_bytes());
                testbed.receive(domid);
                sent += 1;
            }
        }
    }
    assert!(queued(&testbed, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&testbed, 0));
    assert!((100..400).contains(&sent), "{sent}: the server holds back all guests in the end");
    assert_eq!(testbed.events(0).len(), sent);
}

#[test]
fn pending_events_of_long_paths_are_carried_to_a_successor() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    testbed.watch(0, "/long", "t").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(0);
    for at in 0..200 {
        testbed.write_in(0, transaction, &format!("/long/{}", long(&format!("{at:06}"), 2900)), "").unwrap();
    }
    testbed.events(0);
    testbed.send(0, transaction, MessageType::TransactionEnd.to_wire(), b"T\0");
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(testbed.reply(0).unwrap().payload, b"OK\0");
    assert_eq!(testbed.events(0).len(), 200);
}

#[test]
fn all_events_of_a_dead_guests_commit_are_delivered() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_to_nodes_of_dom0(&mut testbed, 400);
    testbed.kill(1);
    assert_eq!(testbed.events(0).len(), 400);
}

#[test]
fn events_of_a_dead_guests_commit_are_carried_to_a_successor() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_to_nodes_of_dom0(&mut testbed, 400);
    testbed.kill(1);
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(testbed.events(0).len(), 400);
}

#[test]
fn the_control_domain_gets_the_events_of_a_commit_although_its_nodes_are_gone() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    testbed.kill(1);
    let events = testbed.events(0);
    let count = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/state/")).count();
    assert_eq!(count, 400);
}

#[test]
fn a_right_that_a_transaction_takes_from_a_node_during_a_removal_is_not_inherited() {
    let mut testbed = Testbed::with_homes([1, 2]);
    lift_quotas(&mut testbed);
    testbed.write(2, "p", "").unwrap();
    testbed.set_perms(2, "p", "n2 r1").unwrap();
    die_slowly(&mut testbed);
    let transaction = testbed.begin(2);
    testbed.write_in(2, transaction, "p/c", "secret").unwrap();
    testbed.events(0);
    assert_eq!(testbed.nodes(1), 0);
    assert_eq!(testbed.get_perms(2, "/local/domain/2/p"), Ok("n2".into()));
    testbed.start(1);
    let _ = testbed.end(2, transaction, true);
    assert!(testbed.read(1, "/local/domain/2/p/c") != Ok(b"secret".to_vec()), "the right was another domain's");
    testbed.check();
    assert_eq!(testbed.get_perms(2, "/local/domain/2/p"), Ok("n2".into()), "the removed right does not come back");
}

#[test]
fn a_commit_during_a_removal_of_a_domains_rights_keeps_the_counts_correct() {
    let mut testbed = Testbed::with_homes([1, 2]);
    lift_quotas(&mut testbed);
    testbed.write(2, "p", "").unwrap();
    testbed.set_perms(2, "p", "n2 r1").unwrap();
    let transaction = testbed.begin(2);
    testbed.write_in(2, transaction, "p", "x").unwrap();
    die_slowly(&mut testbed);
    assert_eq!(testbed.end(2, transaction, true), ok());
    testbed.check();
    testbed.events(0);
    testbed.check();
}

#[test]
fn a_node_that_a_transaction_makes_for_a_dying_domain_is_not_inherited() {
    let mut testbed = Testbed::with_homes([1, 2]);
    lift_quotas(&mut testbed);
    // Guest 2 may write in a directory of guest 1. The server removes this directory late.
    testbed.write(0, "/z/of1", "").unwrap();
    testbed.set_perms(0, "/z/of1", "n1 b2").unwrap();
    die_slowly(&mut testbed);
    let transaction = testbed.begin(2);
    testbed.write_in(2, transaction, "/z/of1/c", "x").unwrap();
    testbed.events(0);
    testbed.start(1);
    let outcome = testbed.end(2, transaction, true);
    assert_eq!(outcome, error("EAGAIN"));
    testbed.check();
}

#[test]
fn the_events_of_a_dead_guests_nodes_count_for_it_although_its_number_is_checked() {
    let mut testbed = Testbed::with_homes([2]);
    testbed.machine.unique_ids.insert(DomId(1), 11);
    testbed.start(1);
    testbed.make_home(1);
    lift_quotas(&mut testbed);
    die_slowly(&mut testbed);
    let before = queued(&testbed, 0);
    assert!(before <= limits::GUESTS_EVENTS_BYTES, "{before}");
    testbed.machine.unique_ids.insert(DomId(1), 12);
    testbed.machine.domains.insert(DomId(1), DomainState::Running);
    testbed.send(2, 0, MessageType::SetPerms.to_wire(), b"/local/domain/2\0n2\0r1\0");
    testbed.run();
    assert!(queued(&testbed, 0) <= before + 4096, "{} after {before}", queued(&testbed, 0));
}

#[test]
fn the_events_of_a_dead_guests_nodes_count_for_it_after_an_update() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    die_slowly(&mut testbed);
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert!(queued(&testbed, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&testbed, 0));
    // The server still reads from dom0.
    testbed.send(0, 0, MessageType::Read.to_wire(), b"/local\0");
    assert_eq!(
        testbed.word(0, Field::RequestProducer),
        testbed.word(0, Field::RequestConsumer),
        "the server reads from dom0"
    );
}

#[test]
fn an_introduction_that_waits_for_a_removal_is_carried_to_a_successor() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    die_slowly(&mut testbed);
    testbed.build(DomId(1));
    testbed.send(0, 0, MessageType::Introduce.to_wire(), b"1\x001\x001\0");
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(testbed.reply(0).unwrap().payload, b"OK\0");
    assert!(testbed.is_introduced(1));
    assert_eq!(testbed.nodes(1), 0);
    testbed.make_home(1);
    assert_eq!(testbed.write(1, "a", ""), ok());
    testbed.check();
}

#[test]
fn a_sender_that_requests_a_reset_continues_when_its_events_are_queued() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    testbed.set_word(1, Field::Connection, 1);
    testbed.signal(1);
    assert_eq!(testbed.word(1, Field::Connection), 0);
    testbed.forget_incoming(1);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.message(1).is_none());
    assert_eq!(testbed.events(0).len(), 400);
    assert!(testbed.reply(1).is_some());
    assert_eq!(testbed.outstanding(1), 0);
    testbed.check();
}

#[test]
fn a_sender_that_is_introduced_again_continues_when_its_events_are_queued() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    testbed.send(0, 0, MessageType::Introduce.to_wire(), b"1\x001\x002\0");
    assert_eq!(testbed.reply(0).unwrap().payload, b"OK\0");
    testbed.forget_incoming(1);
    assert_eq!(testbed.events(0).len(), 400);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.reply(1).is_some());
    assert_eq!(testbed.outstanding(1), 0);
    testbed.check();
}

#[test]
fn nothing_stays_outstanding_when_all_events_are_delivered_after_two_updates() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    replace(&mut testbed, Reattachment::Live, |_| {});
    testbed.take_bytes(0, 1000);
    replace(&mut testbed, Reattachment::Live, |_| {});
    while !testbed.take_bytes(0, 1000).is_empty() {}
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.reply(1).is_some());
    assert_eq!(testbed.outstanding(1), 0);
    assert_eq!(queued(&testbed, 0), 0);
    testbed.check();
}

#[test]
fn a_receiver_that_is_introduced_again_releases_the_senders_that_waited_for_it() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    // Dom0 resets its own connection.
    testbed.set_word(0, Field::Connection, 1);
    testbed.signal(0);
    testbed.forget_incoming(0);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.reply(1).is_some(), "dom0's watches are gone");
    assert_eq!(testbed.outstanding(1), 0);
    testbed.check();
}

#[test]
fn the_time_that_a_control_domain_reads_nothing_is_carried_to_a_successor() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    commit_own(&mut testbed, 400);
    testbed.pass(limits::PRIVILEGED_UNREAD_MS / 2);
    replace(&mut testbed, Reattachment::Live, |_| {});
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.message(1).is_none());
    testbed.pass(limits::PRIVILEGED_UNREAD_MS / 2);
    assert!(testbed.reply(1).is_some(), "the sender continues after twenty seconds in all");
}

#[test]
fn all_parts_of_a_list_that_is_too_long_to_be_kept_have_the_current_generation() {
    let mut testbed = Testbed::new();
    for at in 0..(limits::LIST_BYTES / 2001) {
        testbed.mkdir(0, &format!("/big/{}", long(&format!("{at:06}"), 2000))).unwrap();
    }
    let part = |testbed: &mut Testbed, offset: usize| {
        let reply = testbed.request(0, MessageType::DirectoryPart, format!("/big\0{offset}\0")).unwrap();
        let end = reply.iter().position(|byte| *byte == 0).unwrap();
        (String::from_utf8(reply[..end].to_vec()).unwrap(), reply.len() - end - 1)
    };
    // One program reads a part and ends. Another program lists the directory after it has grown.
    part(&mut testbed, 0);
    testbed.mkdir(0, &format!("/big/{}", long("more", 2000))).unwrap();
    let (first, next) = part(&mut testbed, 0);
    let (second, _) = part(&mut testbed, next);
    assert_eq!(first, second);
}

#[test]
fn a_long_list_of_permissions_waits_for_a_removal_too() {
    let mut testbed = Testbed::with_homes([1]);
    lift_quotas(&mut testbed);
    testbed.write(0, "/x", "").unwrap();
    die_slowly(&mut testbed);
    testbed.build(DomId(1));
    let others = (100..117).map(|domid| format!("r{domid}\0")).collect::<String>();
    for domid in 100..117 {
        testbed.build(DomId(domid));
    }
    testbed.send(0, 0, MessageType::SetPerms.to_wire(), format!("/x\0n0\0{others}r1\0").as_bytes());
    assert_eq!(testbed.reply(0).unwrap().payload, b"OK\0");
    testbed.events(0);
    testbed.start_built(1);
    assert_eq!(testbed.read(1, "/x"), Ok(Vec::new()));
}

#[test]
fn rights_that_commits_gave_to_a_dead_domain_are_all_removed() {
    for seed in 1..=150_u64 {
        let mut random = Random::new(seed);
        let mut testbed = Testbed::with_homes(1..=4);
        lift_quotas(&mut testbed);
        let mut paths = Vec::new();
        for round in 0..6 {
            let transaction = testbed.begin(1);
            for _ in 0..random.below(40) {
                let path: Vec<&str> = (0..=random.below(5)).map(|_| *random.one_of(&["a", "a-b", "b", "ab"])).collect();
                let path = path.join("/");
                match random.below(6) {
                    0 if round > 1 => drop(testbed.rm_in(1, transaction, &path)),
                    1..=2 => {
                        let whom = *random.one_of(&["n1", "n1 r2", "n1 r3", "n1 r3 r4", "n1 b4"]);
                        drop(testbed.set_perms_in(1, transaction, &path, whom));
                    }
                    3 => drop(testbed.write(1, &path, "outside")),
                    _ => drop(testbed.write_in(1, transaction, &path, "x")),
                }
                paths.push(path);
            }
            drop(testbed.end(1, transaction, random.below(5) > 0));
            if round == 3 {
                replace(&mut testbed, Reattachment::Live, |_| {});
            }
        }
        testbed.check();
        testbed.kill(3);
        testbed.check();
        for path in &paths {
            let permissions = testbed.get_perms(0, &format!("/local/domain/1/{path}")).unwrap_or_default();
            assert!(!permissions.contains('3'), "seed {seed}: {path} {permissions}");
        }
    }
}
