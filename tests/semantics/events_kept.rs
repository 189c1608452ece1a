//! A control domain that reads loses no events by guests, and one guest's events take no room from those of another.
//! The server holds back the guest that causes events, or drops them, before it drops an event of another domain.

use xenstore::limits;
use xenstore::server::reattach::Reattachment;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use xenstore::engine::hypervisor::DomainState;

use crate::log_lines;
use crate::reattach::replace;
use crate::slow_reader::{lift_quotas, queued};
use crate::support::testbed::{Testbed, event, ok};

/// Bytes of payload of the events that [`flood`] causes.
const EVENT_BYTES: usize = 2000;

/// Returns a testbed with homes of domains 1 to 3. Dom0 watches their `state` nodes. The quotas are high: only the room
/// for events limits the guests.
fn watched() -> Testbed {
    let mut testbed = Testbed::with_homes([1, 2, 3]);
    lift_quotas(&mut testbed);
    for domid in 1..4 {
        testbed.write(domid, "state", "").unwrap();
        testbed.watch(0, &format!("/local/domain/{domid}/state"), "t").unwrap();
    }
    testbed.events(0);
    testbed
}

/// Makes domain 1 write `count` nodes with long paths below its `state`, without waiting for replies.
fn flood(testbed: &mut Testbed, count: usize) {
    for at in 0..count {
        let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        testbed.send(1, 0, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
        testbed.receive(1);
    }
}

/// Returns how many nodes a domain owns.
fn owned(testbed: &Testbed, domid: u16) -> i64 {
    testbed.server.engine().state().count_nodes().get(&DomId(domid)).map_or(0, |count| count.nodes)
}

/// Commits `count` new nodes with long paths below domain 1's `state`.
fn commit_many(testbed: &mut Testbed, name: &str, count: usize) {
    let transaction = testbed.begin(1);
    for at in 0..count {
        let path = format!("state/{name}{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        testbed.write_in(1, transaction, &path, "").unwrap();
    }
    assert_eq!(testbed.end(1, transaction, true), ok());
}

#[test]
fn a_commit_with_more_events_than_fit_holds_back_its_sender_and_loses_none() {
    let mut testbed = watched();
    commit_many(&mut testbed, "a", 400);
    assert!(queued(&testbed, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&testbed, 0));
    // The server does not read from the sender, and has no work for it.
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(testbed.message(1).is_none(), "the sender is held back");
    assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy);
    // The server serves another guest, and delivers its event.
    assert_eq!(testbed.write(2, "state", "x"), ok());
    let events = testbed.events(0);
    assert_eq!(events.len(), 401);
    let innocent = events.iter().position(|(path, _)| path == "/local/domain/2/state").unwrap();
    assert!(innocent < 200, "the event does not wait for all of the flood: {innocent}");
    let mut flooded: Vec<_> = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/")).cloned().collect();
    assert!(flooded.is_sorted(), "the events come in the order of the changes");
    flooded.dedup();
    assert_eq!(flooded.len(), 400);
    assert!(testbed.reply(1).is_some(), "the sender continues");
    testbed.check();
}

#[test]
fn many_single_writes_hold_back_their_sender_and_lose_nothing() {
    let mut testbed = watched();
    flood(&mut testbed, 300);
    assert!(queued(&testbed, 0) <= limits::GUESTS_EVENTS_BYTES / 2 + 2 * EVENT_BYTES, "a lone guest takes half");
    let mut received = testbed.events(0).len();
    // The request ring had no room for all writes. Each write that the server took has an event.
    testbed.receive(1);
    received += testbed.events(0).len();
    let nodes = usize::try_from(testbed.nodes(1)).unwrap() - 2;
    assert_eq!(received, nodes, "an event for each node");
    assert!(nodes >= 60, "{nodes}");
    testbed.check();
}

#[test]
fn a_death_is_announced_although_a_guest_has_taken_all_the_room_that_it_may() {
    let mut testbed = watched();
    testbed.watch(0, "@releaseDomain", "end").unwrap();
    testbed.events(0);
    commit_many(&mut testbed, "a", 400);
    testbed.kill(3);
    let events = testbed.events(0);
    assert_eq!(events.iter().filter(|one| **one == event("@releaseDomain", "end")).count(), 1);
    assert!(events.contains(&event("/local/domain/3/state", "t")), "an event for the removal of its nodes");
    assert_eq!(events.len(), 402);
}

#[test]
fn the_death_of_a_guest_that_fills_the_queue_is_announced_before_the_events_of_its_nodes_are_all_queued() {
    let mut testbed = watched();
    let count = 300;
    for at in 0..count {
        let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        testbed.write(1, &path, "").unwrap();
        testbed.watch(0, &format!("/local/domain/1/{path}"), "node").unwrap();
        testbed.events(0);
    }
    testbed.watch(0, "@releaseDomain", "end").unwrap();
    testbed.events(0);
    // Dom0 owns the parents, so that the server removes each node of the domain by itself.
    testbed.set_perms(0, "/local/domain/1", "n0").unwrap();
    testbed.set_perms(0, "/local/domain/1/state", "n0").unwrap();
    testbed.events(0);
    testbed.kill(1);
    assert!(owned(&testbed, 1) > 0, "some nodes are left until dom0 reads");
    assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy, "the server has no work until then");
    let all = testbed.events(0);
    let end = all.iter().position(|one| *one == event("@releaseDomain", "end")).unwrap();
    assert!(end < all.len() / 2, "{end} of {}", all.len());
    assert_eq!(all.iter().filter(|(_, token)| token == "node").count(), count);
    assert_eq!(owned(&testbed, 1), 0);
    testbed.check();
}

#[test]
fn a_request_for_a_new_domain_waits_until_the_nodes_of_the_old_one_with_its_number_are_gone() {
    let mut testbed = watched();
    let count = 300;
    for at in 0..count {
        let path = format!("/shared/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        testbed.write(0, &path, "").unwrap();
        testbed.set_perms(0, &path, "n1").unwrap();
        testbed.watch(0, &path, "node").unwrap();
        testbed.events(0);
    }
    testbed.kill(1);
    assert!(owned(&testbed, 1) > 0);
    // A guest that gives rights to the number waits. Other guests do not.
    testbed.send(2, 0, MessageType::SetPerms.to_wire(), b"state\0n2\0r1\0");
    assert!(testbed.message(2).is_none());
    assert_eq!(testbed.write(3, "state", "x"), ok());
    testbed.build(DomId(1));
    testbed.events(0);
    assert_eq!(owned(&testbed, 1), 0);
    assert_eq!(testbed.reply(2).unwrap().payload, b"OK\0");
    testbed.start_built(1);
    testbed.make_home(1);
    assert_eq!(testbed.nodes(1), 1);
    assert_eq!(testbed.read(1, "/local/domain/2/state"), Ok(Vec::new()), "the right is the new domain's");
    testbed.check();
}

#[test]
fn a_control_domain_that_reads_nothing_for_twenty_seconds_no_longer_holds_back_guests() {
    let mut testbed = watched();
    testbed.watch(0, "@releaseDomain", "end").unwrap();
    testbed.events(0);
    commit_many(&mut testbed, "a", 400);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    testbed.pass(limits::PRIVILEGED_UNREAD_MS - 1);
    assert!(testbed.message(1).is_none());
    testbed.pass(1);
    assert!(testbed.reply(1).is_some(), "the sender continues");
    let control = testbed.connection(0).unwrap();
    let dropped = testbed.server.engine().dropped_events(Some(DomId(1)), control);
    assert!(dropped > 200, "{dropped}");
    testbed.kill(3);
    let events = testbed.events(0);
    assert!(events.contains(&event("@releaseDomain", "end")), "special events still come");
    assert_eq!(events.iter().filter(|(path, _)| path.contains("/state/a")).count() as u64 + dropped, 400);
    // Once dom0 reads again, it loses no more events.
    commit_many(&mut testbed, "b", 400);
    assert_eq!(testbed.events(0).len(), 400);
    testbed.check();
}

#[test]
fn the_control_domain_is_read_and_answered_although_guests_have_filled_its_queue() {
    let mut testbed = watched();
    commit_many(&mut testbed, "a", 400);
    commit_by_others(&mut testbed);
    let before = queued(&testbed, 0);
    testbed.send(0, 0, MessageType::Read.to_wire(), b"/local/domain/2/state\0");
    assert_eq!(
        testbed.word(0, Field::RequestProducer),
        testbed.word(0, Field::RequestConsumer),
        "the server reads from dom0"
    );
    assert!(queued(&testbed, 0) > before, "the server queues its reply");
    assert!(before <= limits::GUESTS_EVENTS_BYTES, "the guests' events keep to their room");
    assert!(testbed.reply(0).is_some());
}

/// Makes domains 2 and 3 fill their shares of dom0's queue, too.
fn commit_by_others(testbed: &mut Testbed) {
    for domid in [2, 3] {
        let transaction = testbed.begin(domid);
        for at in 0..200 {
            let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
            testbed.write_in(domid, transaction, &path, "").unwrap();
        }
        assert_eq!(testbed.end(domid, transaction, true), ok());
    }
}

#[test]
fn special_events_that_are_pending_come_once_for_each_watch_and_domain() {
    let mut testbed = watched();
    testbed.set_perms(0, "@releaseDomain", "n0 r3").unwrap();
    for token in ["one", "two"] {
        testbed.watch(3, "@releaseDomain", token).unwrap();
    }
    testbed.events(3);
    for _ in 0..50 {
        for domid in [1, 2] {
            testbed.set_state(domid, DomainState::Shutdown);
            testbed.set_state(domid, DomainState::Running);
            testbed.request(0, MessageType::Resume, format!("{domid}\0")).unwrap();
        }
    }
    let ends = testbed.events(3).len();
    // Events in the ring are no longer pending.
    let in_the_ring = 1024 / (16 + "@releaseDomain\0one\0".len());
    assert!((4..=4 + in_the_ring + 1).contains(&ends), "{ends}: two watches and two domains, besides {in_the_ring}");
}

#[test]
fn a_guest_that_floods_a_sleeping_receiver_leaves_room_for_the_events_of_others() {
    let mut testbed = Testbed::with_homes([1, 2, 3]);
    for domid in [1, 2] {
        testbed.set_perms(domid, &format!("/local/domain/{domid}"), &format!("r{domid}")).unwrap();
        testbed.watch(3, &format!("/local/domain/{domid}"), "t").unwrap();
    }
    testbed.events(3);
    for quota in ["outstanding", "node-size"] {
        testbed.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
    testbed.request(0, MessageType::SetQuota, "3\0memory\x00100000\0").unwrap();
    for at in 0..900 {
        testbed.write(1, &format!("{at:04}{}", "n".repeat(400)), "").unwrap();
    }
    let sleeper = testbed.connection(3).unwrap();
    let dropped = testbed.server.engine().dropped_events(Some(DomId(1)), sleeper);
    assert!(dropped > 700, "{dropped}");
    for at in 0..40 {
        testbed.write(2, &format!("{at}"), "").unwrap();
    }
    assert_eq!(testbed.server.engine().dropped_events(Some(DomId(2)), sleeper), 0);
    let events = testbed.events(3);
    assert_eq!(events.iter().filter(|(path, _)| path.starts_with("/local/domain/2/")).count(), 40);
    let flooded = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/")).count();
    assert_eq!(flooded as u64 + dropped, 900, "each event is delivered or counted");
}

#[test]
fn each_guest_may_hold_as_much_of_the_heap_as_is_left() {
    const HEAP: usize = 8 * 1024 * 1024;
    for hogs in [1, 10, 100] {
        let mut testbed = Testbed::with_homes(1..=hogs + 1);
        testbed.machine.free_memory = Some(HEAP);
        testbed.request(0, MessageType::Control, "quota\0set\0nodes\x00100000000\0").unwrap();
        testbed.request(0, MessageType::Control, "quota\0set\0memory\x00100000000\0").unwrap();
        let taken =
            |testbed: &Testbed| (1..=hogs + 1).map(|domid| testbed.server.engine().memory_of(DomId(domid))).sum();
        // The heap of this machine shrinks by twice the counted bytes.
        let mut has_grown = true;
        let mut round = 0;
        while has_grown {
            has_grown = false;
            for domid in 1..=hogs {
                has_grown |= testbed.write(domid, &format!("{round}"), &"v".repeat(1900)).is_ok();
                let taken: usize = taken(&testbed);
                testbed.machine.free_memory = Some(HEAP.saturating_sub(2 * taken));
            }
            round += 1;
        }
        let left = HEAP - 2 * taken(&testbed) - limits::GUEST_RESERVE_BYTES;
        let fair = HEAP / usize::from(hogs + 1) / 8;
        assert!(left >= fair, "{hogs} guests leave {left} bytes, fewer than {fair}");
        let innocent = hogs + 1;
        for at in 0..fair / 2 / 2500 + 1 {
            assert_eq!(testbed.write(innocent, &format!("{at}"), &"v".repeat(900)), ok(), "besides {hogs} guests");
            let taken: usize = taken(&testbed);
            testbed.machine.free_memory = Some(HEAP - 2 * taken);
        }
    }
}

#[test]
fn a_held_back_sender_and_the_rest_of_its_events_are_carried_to_a_successor() {
    let mut testbed = watched();
    commit_many(&mut testbed, "a", 400);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert!(testbed.message(1).is_none(), "the sender is held back");
    let events = testbed.events(0);
    assert_eq!(events.iter().filter(|(path, _)| path.contains("/state/a")).count(), 400);
    assert!(testbed.reply(1).is_some(), "the sender continues");
    testbed.check();
}

#[test]
fn dropped_events_are_logged_once_a_minute_for_each_domain_that_causes_them() {
    let mut testbed = Testbed::with_homes([1, 3]);
    testbed.set_perms(1, "/local/domain/1", "r1").unwrap();
    testbed.watch(3, "/local/domain/1", "t").unwrap();
    testbed.events(3);
    for quota in ["outstanding", "node-size"] {
        testbed.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
    testbed.request(0, MessageType::SetQuota, "3\0memory\x00100000\0").unwrap();
    let mut dropped_lines = |work: &mut dyn FnMut(&mut Testbed)| {
        let lines = log_lines::of(|| work(&mut testbed));
        lines.into_iter().filter(|line| line.contains("dropped")).collect::<Vec<_>>()
    };
    let lines = dropped_lines(&mut |testbed| {
        for at in 0..900 {
            testbed.write(1, &format!("{at:04}{}", "n".repeat(400)), "").unwrap();
        }
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("domain 1: 1 events for domain 3 dropped, memory "), "{}", lines[0]);
    assert!(lines[0].ends_with(" of 100,000"), "{}", lines[0]);
    assert_eq!(dropped_lines(&mut |testbed| testbed.pass(limits::DROP_LOG_INTERVAL_MS - 1)), [""; 0]);
    let lines = dropped_lines(&mut |testbed| testbed.pass(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let count: u64 = lines[0].split(' ').nth(2).unwrap().replace(',', "").parse().unwrap();
    let sleeper = testbed.connection(3).unwrap();
    assert_eq!(
        1 + count,
        testbed.server.engine().dropped_events(Some(DomId(1)), sleeper),
        "the lines count all dropped events"
    );
    assert!(count > 800, "{count}");
}
