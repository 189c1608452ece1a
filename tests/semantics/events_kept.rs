//! Guests cannot make a control domain that reads lose events, and one guest's events take no room from those of another. The
//! server holds back the guest that causes events, or drops them, before it drops an event of another domain.

use xenstore::limits;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use xenstore::engine::hypervisor::DomainState;

use crate::log_lines;
use crate::slow_reader::{lift_quotas, queued};
use crate::take_over::replace;
use crate::world::{World, event, ok};

/// Bytes of payload of the events that [`flood`] causes.
const EVENT_BYTES: usize = 2000;

/// Makes a testbed with homes of domains 1 to 3. Dom0 watches their `state` nodes. The quotas are high, so that only the room for
/// events limits the guests.
fn watched() -> World {
    let mut world = World::with_homes([1, 2, 3]);
    lift_quotas(&mut world);
    for domid in 1..4 {
        world.write(domid, "state", "").unwrap();
        world.watch(0, &format!("/local/domain/{domid}/state"), "t").unwrap();
    }
    world.events(0);
    world
}

/// Makes domain 1 write `count` nodes with long paths below its `state`, without waiting for replies.
fn flood(world: &mut World, count: usize) {
    for at in 0..count {
        let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        world.send(1, 0, MessageType::Write.to_wire(), format!("{path}\0").as_bytes());
        world.receive(1);
    }
}

/// Returns how many nodes a domain owns.
fn owned(world: &World, domid: u16) -> i64 {
    world.server.engine().state().count_nodes().get(&DomId(domid)).map_or(0, |count| count.nodes)
}

/// Commits `count` new nodes with long paths below domain 1's `state`.
fn commit_many(world: &mut World, name: &str, count: usize) {
    let transaction = world.begin(1);
    for at in 0..count {
        let path = format!("state/{name}{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        world.write_in(1, transaction, &path, "").unwrap();
    }
    assert_eq!(world.end(1, transaction, true), ok());
}

#[test]
fn a_commit_with_more_events_than_fit_holds_back_its_sender_and_loses_none() {
    let mut world = watched();
    commit_many(&mut world, "a", 400);
    assert!(queued(&world, 0) <= limits::GUESTS_EVENTS_BYTES, "{}", queued(&world, 0));
    // The server does not read from the sender, and has no work for it.
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    assert!(world.message(1).is_none(), "it is held back");
    assert!(!world.server.poll(&mut world.machine, world.now_ms).busy);
    // The server serves another guest, and delivers its event.
    assert_eq!(world.write(2, "state", "x"), ok());
    let events = world.events(0);
    assert_eq!(events.len(), 401);
    let innocent = events.iter().position(|(path, _)| path == "/local/domain/2/state").unwrap();
    assert!(innocent < 200, "the event does not wait for all of the flood: {innocent}");
    let mut flooded: Vec<_> = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/")).cloned().collect();
    assert!(flooded.is_sorted(), "the events come in the order of the changes");
    flooded.dedup();
    assert_eq!(flooded.len(), 400);
    assert!(world.reply(1).is_some(), "the sender continues");
    world.check();
}

#[test]
fn many_single_writes_hold_back_their_sender_and_lose_nothing() {
    let mut world = watched();
    flood(&mut world, 300);
    assert!(queued(&world, 0) <= limits::GUESTS_EVENTS_BYTES / 2 + 2 * EVENT_BYTES, "a lone guest takes half");
    let mut received = world.events(0).len();
    // The ring of requests had no room for all writes. Each write that the server took has an event.
    world.receive(1);
    received += world.events(0).len();
    let nodes = usize::try_from(world.nodes(1)).unwrap() - 2;
    assert_eq!(received, nodes, "an event for each node");
    assert!(nodes >= 60, "{nodes}");
    world.check();
}

#[test]
fn a_death_is_announced_although_a_guest_has_taken_all_the_room_that_it_may() {
    let mut world = watched();
    world.watch(0, "@releaseDomain", "end").unwrap();
    world.events(0);
    commit_many(&mut world, "a", 400);
    world.kill(3);
    let events = world.events(0);
    assert_eq!(events.iter().filter(|one| **one == event("@releaseDomain", "end")).count(), 1);
    assert!(events.contains(&event("/local/domain/3/state", "t")), "an event for the removal of its nodes");
    assert_eq!(events.len(), 402);
}

#[test]
fn the_death_of_a_guest_that_fills_the_queue_is_announced_before_the_events_of_its_nodes_are_all_queued() {
    let mut world = watched();
    let count = 300;
    for at in 0..count {
        let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        world.write(1, &path, "").unwrap();
        world.watch(0, &format!("/local/domain/1/{path}"), "node").unwrap();
        world.events(0);
    }
    world.watch(0, "@releaseDomain", "end").unwrap();
    world.events(0);
    // Dom0 owns the parents, so that the server removes each node of the domain by itself.
    world.set_perms(0, "/local/domain/1", "n0").unwrap();
    world.set_perms(0, "/local/domain/1/state", "n0").unwrap();
    world.events(0);
    world.kill(1);
    assert!(owned(&world, 1) > 0, "some nodes are left until dom0 reads");
    assert!(!world.server.poll(&mut world.machine, world.now_ms).busy, "the server has no work until then");
    let all = world.events(0);
    let end = all.iter().position(|one| *one == event("@releaseDomain", "end")).unwrap();
    assert!(end < all.len() / 2, "{end} of {}", all.len());
    assert_eq!(all.iter().filter(|(_, token)| token == "node").count(), count);
    assert_eq!(owned(&world, 1), 0);
    world.check();
}

#[test]
fn a_request_for_a_new_domain_of_a_number_waits_until_the_nodes_of_the_old_one_are_gone() {
    let mut world = watched();
    let count = 300;
    for at in 0..count {
        let path = format!("/shared/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
        world.write(0, &path, "").unwrap();
        world.set_perms(0, &path, "n1").unwrap();
        world.watch(0, &path, "node").unwrap();
        world.events(0);
    }
    world.kill(1);
    assert!(owned(&world, 1) > 0);
    // A guest that gives rights to the number waits. Other guests do not.
    world.send(2, 0, MessageType::SetPerms.to_wire(), b"state\0n2\0r1\0");
    assert!(world.message(2).is_none());
    assert_eq!(world.write(3, "state", "x"), ok());
    world.build(DomId(1));
    world.events(0);
    assert_eq!(owned(&world, 1), 0);
    assert_eq!(world.reply(2).unwrap().payload, b"OK\0");
    world.start_built(1);
    world.make_home(1);
    assert_eq!(world.nodes(1), 1);
    assert_eq!(world.read(1, "/local/domain/2/state"), Ok(Vec::new()), "the right is the new domain's");
    world.check();
}

#[test]
fn a_control_domain_that_reads_nothing_for_twenty_seconds_holds_back_nobody_any_longer() {
    let mut world = watched();
    world.watch(0, "@releaseDomain", "end").unwrap();
    world.events(0);
    commit_many(&mut world, "a", 400);
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    world.pass(limits::PRIVILEGED_UNREAD_MS - 1);
    assert!(world.message(1).is_none());
    world.pass(1);
    assert!(world.reply(1).is_some(), "the sender continues");
    let control = world.connection(0).unwrap();
    let dropped = world.server.engine().dropped_events(Some(DomId(1)), control);
    assert!(dropped > 200, "{dropped}");
    world.kill(3);
    let events = world.events(0);
    assert!(events.contains(&event("@releaseDomain", "end")), "special events still come");
    assert_eq!(events.iter().filter(|(path, _)| path.contains("/state/a")).count() as u64 + dropped, 400);
    // Once dom0 reads again, it loses no more events.
    commit_many(&mut world, "b", 400);
    assert_eq!(world.events(0).len(), 400);
    world.check();
}

#[test]
fn the_control_domain_is_read_and_answered_although_guests_have_filled_its_queue() {
    let mut world = watched();
    commit_many(&mut world, "a", 400);
    commit_by_others(&mut world);
    let before = queued(&world, 0);
    world.send(0, 0, MessageType::Read.to_wire(), b"/local/domain/2/state\0");
    assert_eq!(world.word(0, Field::RequestProducer), world.word(0, Field::RequestConsumer), "it is read");
    assert!(queued(&world, 0) > before, "the server queues its reply");
    assert!(before <= limits::GUESTS_EVENTS_BYTES, "the guests' events keep to their room");
    assert!(world.reply(0).is_some());
}

/// Makes domains 2 and 3 fill their shares of dom0's queue, too.
fn commit_by_others(world: &mut World) {
    for domid in [2, 3] {
        let transaction = world.begin(domid);
        for at in 0..200 {
            let path = format!("state/{at:06}{}", "n".repeat(EVENT_BYTES - 60));
            world.write_in(domid, transaction, &path, "").unwrap();
        }
        assert_eq!(world.end(domid, transaction, true), ok());
    }
}

#[test]
fn special_events_that_are_pending_come_once_for_each_watch_and_domain() {
    let mut world = watched();
    world.set_perms(0, "@releaseDomain", "n0 r3").unwrap();
    for token in ["one", "two"] {
        world.watch(3, "@releaseDomain", token).unwrap();
    }
    world.events(3);
    for _ in 0..50 {
        for domid in [1, 2] {
            world.set_state(domid, DomainState::Shutdown);
            world.set_state(domid, DomainState::Running);
            world.request(0, MessageType::Resume, format!("{domid}\0")).unwrap();
        }
    }
    let ends = world.events(3).len();
    // Events in the ring are not pending any more.
    let in_the_ring = 1024 / (16 + "@releaseDomain\0one\0".len());
    assert!((4..=4 + in_the_ring + 1).contains(&ends), "{ends}: two watches and two domains, besides {in_the_ring}");
}

#[test]
fn a_guest_that_floods_a_sleeping_receiver_leaves_room_for_the_events_of_others() {
    let mut world = World::with_homes([1, 2, 3]);
    for domid in [1, 2] {
        world.set_perms(domid, &format!("/local/domain/{domid}"), &format!("r{domid}")).unwrap();
        world.watch(3, &format!("/local/domain/{domid}"), "t").unwrap();
    }
    world.events(3);
    for quota in ["outstanding", "node-size"] {
        world.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
    world.request(0, MessageType::SetQuota, "3\0memory\x00100000\0").unwrap();
    for at in 0..900 {
        world.write(1, &format!("{at:04}{}", "n".repeat(400)), "").unwrap();
    }
    let sleeper = world.connection(3).unwrap();
    let dropped = world.server.engine().dropped_events(Some(DomId(1)), sleeper);
    assert!(dropped > 700, "{dropped}");
    for at in 0..40 {
        world.write(2, &format!("{at}"), "").unwrap();
    }
    assert_eq!(world.server.engine().dropped_events(Some(DomId(2)), sleeper), 0);
    let events = world.events(3);
    assert_eq!(events.iter().filter(|(path, _)| path.starts_with("/local/domain/2/")).count(), 40);
    let flooded = events.iter().filter(|(path, _)| path.starts_with("/local/domain/1/")).count();
    assert_eq!(flooded as u64 + dropped, 900, "each event is delivered or counted");
}

#[test]
fn of_the_heap_each_guest_may_hold_as_much_as_is_left_so_that_one_that_holds_little_can_grow() {
    const HEAP: usize = 8 * 1024 * 1024;
    for hogs in [1, 10, 100] {
        let mut world = World::with_homes(1..=hogs + 1);
        world.machine.free_memory = Some(HEAP);
        world.request(0, MessageType::Control, "quota\0set\0nodes\x00100000000\0").unwrap();
        world.request(0, MessageType::Control, "quota\0set\0memory\x00100000000\0").unwrap();
        let taken = |world: &World| (1..=hogs + 1).map(|domid| world.server.engine().memory_of(DomId(domid))).sum();
        // The heap of this machine shrinks by twice the counted bytes.
        let mut has_grown = true;
        let mut round = 0;
        while has_grown {
            has_grown = false;
            for domid in 1..=hogs {
                has_grown |= world.write(domid, &format!("{round}"), &"v".repeat(1900)).is_ok();
                let taken: usize = taken(&world);
                world.machine.free_memory = Some(HEAP.saturating_sub(2 * taken));
            }
            round += 1;
        }
        let left = HEAP - 2 * taken(&world) - limits::GUEST_RESERVE_BYTES;
        let fair = HEAP / usize::from(hogs + 1) / 8;
        assert!(left >= fair, "{hogs} guests leave {left} bytes, fewer than {fair}");
        let innocent = hogs + 1;
        for at in 0..fair / 2 / 2500 + 1 {
            assert_eq!(world.write(innocent, &format!("{at}"), &"v".repeat(900)), ok(), "besides {hogs} guests");
            let taken: usize = taken(&world);
            world.machine.free_memory = Some(HEAP - 2 * taken);
        }
    }
}

#[test]
fn a_held_back_sender_and_the_rest_of_its_events_go_over_to_a_successor() {
    let mut world = watched();
    commit_many(&mut world, "a", 400);
    world.send(1, 0, MessageType::Read.to_wire(), b"state\0");
    replace(&mut world, TakeOver::Live, |_| {});
    assert!(world.message(1).is_none(), "it is held back");
    let events = world.events(0);
    assert_eq!(events.iter().filter(|(path, _)| path.contains("/state/a")).count(), 400);
    assert!(world.reply(1).is_some(), "the sender continues");
    world.check();
}

#[test]
fn dropped_events_are_logged_once_a_minute_for_each_domain_that_causes_them() {
    let mut world = World::with_homes([1, 3]);
    world.set_perms(1, "/local/domain/1", "r1").unwrap();
    world.watch(3, "/local/domain/1", "t").unwrap();
    world.events(3);
    for quota in ["outstanding", "node-size"] {
        world.request(0, MessageType::Control, format!("quota\0set\0{quota}\x00100000000\0")).unwrap();
    }
    world.request(0, MessageType::SetQuota, "3\0memory\x00100000\0").unwrap();
    let mut dropped_lines = |work: &mut dyn FnMut(&mut World)| {
        let lines = log_lines::of(|| work(&mut world));
        lines.into_iter().filter(|line| line.contains("dropped")).collect::<Vec<_>>()
    };
    let lines = dropped_lines(&mut |world| {
        for at in 0..900 {
            world.write(1, &format!("{at:04}{}", "n".repeat(400)), "").unwrap();
        }
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("domain 1: 1 events for domain 3 dropped, memory "), "{}", lines[0]);
    assert!(lines[0].ends_with(" of 100,000"), "{}", lines[0]);
    assert_eq!(dropped_lines(&mut |world| world.pass(limits::DROP_LOG_INTERVAL_MS - 1)), [""; 0]);
    let lines = dropped_lines(&mut |world| world.pass(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let count: u64 = lines[0].split(' ').nth(2).unwrap().replace(',', "").parse().unwrap();
    let sleeper = world.connection(3).unwrap();
    assert_eq!(
        1 + count,
        world.server.engine().dropped_events(Some(DomId(1)), sleeper),
        "the lines count all dropped events"
    );
    assert!(count > 800, "{count}");
}
