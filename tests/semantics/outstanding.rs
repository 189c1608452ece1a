//! How many requests a domain may have going on: from their arrival until the reply and all events that they caused are
//! in the receivers' rings, or are dropped.

use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::world::{World, event, ok};

const LIMIT: usize = 20;

/// A world with homes of 1 to 3 and a large node that everybody may read.
fn with_large_node() -> World {
    let mut world = World::with_homes([1, 2, 3]);
    world.write(0, "/large", &"x".repeat(1500)).unwrap();
    world.set_perms(0, "/large", "r0").unwrap();
    world
}

/// Fills the reply ring of a guest, which has then one request outstanding.
fn stuff(world: &mut World, domid: u16) {
    world.send(domid, 0, MessageType::Read.to_wire(), b"/large\0");
    let used = world.word(domid, Field::ReplyProducer).wrapping_sub(world.word(domid, Field::ReplyConsumer));
    assert_eq!(used as usize, RING_BYTES);
}

/// Lets 2 watch what 1 writes, with a ring that is full; nothing of it is outstanding for 1.
fn with_sleeping_watcher() -> World {
    let mut world = with_large_node();
    world.set_perms(1, "/local/domain/1", "r1").unwrap();
    world.watch(2, "/local/domain/1", "t").unwrap();
    world.events(2);
    stuff(&mut world, 2);
    world
}

/// How many requests of a guest wait in its ring, when all are of this length.
fn waiting(world: &World, domid: u16, payload_bytes: usize) -> usize {
    let bytes = world.word(domid, Field::RequestProducer).wrapping_sub(world.word(domid, Field::RequestConsumer));
    bytes as usize / (HEADER_BYTES + payload_bytes)
}

#[test]
fn a_guest_that_does_not_read_replies_is_not_read_from_twenty_on_and_goes_on_when_it_reads() {
    let mut world = with_large_node();
    stuff(&mut world, 1);
    for _ in 0..30 {
        world.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(world.outstanding(1), LIMIT);
    assert_eq!(waiting(&world, 1, 7), 31 - LIMIT);
    for _ in 0..31 {
        assert_eq!(world.reply(1).unwrap().payload.len(), 1500);
    }
    assert_eq!(world.message(1), None);
    assert_eq!(world.outstanding(1), 0);
}

#[test]
fn nobody_else_waits_for_a_guest_that_does_not_read() {
    let mut world = with_large_node();
    stuff(&mut world, 1);
    for _ in 0..30 {
        world.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(world.write(2, "data", "x"), ok());
    assert_eq!(world.write(0, "/local/domain/1/data", "x"), ok());
    assert!(!world.server.poll(&mut world.machine, world.now_ms).busy, "a guest that waits costs nothing");
}

#[test]
fn the_control_domain_is_not_stopped_by_a_number_of_requests() {
    let mut world = with_large_node();
    for _ in 0..150 {
        world.send(0, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(waiting(&world, 0, 7), 0);
    for _ in 0..150 {
        assert_eq!(world.reply(0).unwrap().payload.len(), 1500);
    }
}

#[test]
fn a_request_counts_until_the_events_that_it_caused_are_delivered() {
    let mut world = with_sleeping_watcher();
    for at in 0..30 {
        world.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
    }
    let mut replies = 0;
    while world.reply(1).is_some() {
        replies += 1;
    }
    assert_eq!(replies, LIMIT, "the replies are delivered");
    assert_eq!(world.outstanding(1), LIMIT);
    assert_eq!(waiting(&world, 1, 7), 10);
    assert_eq!(world.reply(2).unwrap().payload.len(), 1500);
    assert_eq!(world.events(2).len(), 30, "all arrive when the watcher reads");
    for _ in 0..10 {
        assert!(world.reply(1).is_some());
    }
    assert_eq!(world.outstanding(1), 0);
}

#[test]
fn events_that_time_out_set_their_sender_free() {
    let mut world = with_sleeping_watcher();
    for at in 0..30 {
        world.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
    }
    while world.reply(1).is_some() {}
    world.pass(19_999);
    assert_eq!(waiting(&world, 1, 7), 10);
    world.pass(1);
    assert_eq!(waiting(&world, 1, 7), 0);
    assert_eq!(world.outstanding(1), 10);
    world.pass(20_000);
    assert_eq!(world.outstanding(1), 0);
    assert_eq!(world.reply(2).unwrap().payload.len(), 1500);
    assert_eq!(world.events(2), []);
}

#[test]
fn a_receiver_that_is_gone_sets_the_senders_free() {
    for way in ["death", "release", "repeated introduction", "fault"] {
        let mut world = with_sleeping_watcher();
        for at in 0..30 {
            world.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
        }
        match way {
            "death" => world.kill(2),
            "release" => assert_eq!(world.release(0, 2), ok()),
            "repeated introduction" => assert_eq!(world.introduce(0, 2, 1), ok()),
            _ => {
                let producer = world.word(2, Field::RequestConsumer).wrapping_add(2000);
                world.set_word(2, Field::RequestProducer, producer);
                world.signal(2);
            }
        }
        for _ in 0..30 {
            assert!(world.reply(1).is_some(), "{way}");
        }
        assert_eq!(world.outstanding(1), 0, "{way}");
    }
}

#[test]
fn events_that_collapse_do_not_count() {
    let mut world = with_sleeping_watcher();
    for _ in 0..1000 {
        assert_eq!(world.write(1, "data", "x"), ok());
    }
    assert_eq!(world.outstanding(1), 1, "the first one waits");
}

#[test]
fn events_that_the_control_domain_causes_count_for_nobody() {
    let mut world = with_sleeping_watcher();
    for at in 0..100 {
        assert_eq!(world.write(0, &format!("/local/domain/1/{at}"), "x"), ok());
    }
    assert_eq!((world.outstanding(0), world.outstanding(1)), (0, 0));
    assert_eq!(world.write(1, "data", "x"), ok());
}

#[test]
fn the_first_event_of_a_watch_does_not_count() {
    let mut world = World::with_homes([1]);
    let token = "t".repeat(900);
    for at in 0..2 {
        world.send(1, 0, MessageType::Watch.to_wire(), format!("data{at}\0{token}\0").as_bytes());
    }
    let used = world.word(1, Field::ReplyProducer).wrapping_sub(world.word(1, Field::ReplyConsumer));
    assert_eq!(used as usize, RING_BYTES, "the second event is on its way");
    assert_eq!(world.outstanding(1), 0);
    assert_eq!(world.reply(1).unwrap().payload, b"OK\0");
    assert_eq!(world.reply(1).unwrap().payload, b"OK\0");
    assert_eq!(world.events(1), [event("data0", &token), event("data1", &token)]);
}

#[test]
fn events_of_a_request_before_a_repeated_introduction_do_not_settle_one_after_it() {
    let mut world = with_sleeping_watcher();
    assert_eq!(world.write(1, "before", "x"), ok());
    assert_eq!(world.introduce(0, 1, 1), ok());
    assert_eq!(world.outstanding(1), 0);
    world.pass(10_000);
    // As many requests as before, so that a count that starts again would be at the same number.
    for at in 0..20 {
        world.send(1, 0, MessageType::Write.to_wire(), format!("after{at}\0").as_bytes());
    }
    assert_eq!(world.outstanding(1), LIMIT);
    world.pass(10_000);
    assert_eq!(world.outstanding(1), LIMIT, "only the old event's time is over");
    world.pass(10_000);
    assert_eq!(world.outstanding(1), 0);
}

#[test]
fn guests_that_wait_for_each_other_all_go_on_when_one_reads() {
    let mut world = with_large_node();
    for domid in 1..4 {
        world.set_perms(domid, &format!("/local/domain/{domid}"), &format!("b{domid}")).unwrap();
    }
    for domid in 1..4 {
        world.watch(domid, "/local/domain", "t").unwrap();
        world.events(domid);
    }
    for at in 0..60 {
        for domid in 1..4 {
            world.send(domid, 0, MessageType::Write.to_wire(), format!("data{at}\0").as_bytes());
        }
    }
    for domid in 1..4 {
        assert_eq!(world.outstanding(domid), LIMIT);
    }
    let mut replies = [0; 3];
    for _ in 0..100 {
        for domid in 1..4 {
            while world.reply(domid).is_some() {
                replies[usize::from(domid) - 1] += 1;
            }
        }
    }
    // A guest's ring of requests may be full as well: what did not fit was not sent.
    for domid in 1..4 {
        assert_eq!(world.outstanding(domid), 0);
        assert!(replies[usize::from(domid) - 1] > LIMIT, "{replies:?}");
        let connection = world.server.engine().connection(world.connection(domid).unwrap()).unwrap();
        assert!(connection.session().unwrap().output.is_empty());
        assert_eq!(
            connection.peer,
            xenstore::engine::connection::Peer::Domain {
                domid: DomId(domid),
                port: world.machine.bound.iter().find(|(_, of)| **of == DomId(domid)).map(|(port, _)| *port),
            }
        );
    }
}

#[test]
fn what_a_domain_caused_before_it_was_introduced_again_counts_for_nobody() {
    let mut world = World::with_homes([3, 4]);
    world.set_perms(0, "/", "b0").unwrap();
    world.watch(4, "/", "t").unwrap();
    for at in 0..60 {
        world.send(3, 0, MessageType::Write.to_wire(), format!("/node{at}\0").as_bytes());
        world.receive(3);
    }
    assert_eq!(world.outstanding(3), 20, "the events wait for domain 4");
    world.introduce(0, 3, 2).unwrap();
    assert_eq!(world.outstanding(3), 0);
    assert_eq!(world.request(0, MessageType::Control, "check\0"), Ok(b"OK\0".to_vec()));
}

#[test]
fn a_guest_that_may_have_more_outstanding_from_now_on_is_read_at_once() {
    for command in
        [(MessageType::SetQuota, "1\0outstanding\x0025\0"), (MessageType::Control, "quota\0set\0outstanding\x0025\0")]
    {
        let mut world = with_large_node();
        stuff(&mut world, 1);
        for _ in 0..30 {
            world.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
        }
        assert_eq!(world.outstanding(1), LIMIT);
        world.request(0, command.0, command.1).unwrap();
        assert_eq!((world.outstanding(1), waiting(&world, 1, 7)), (25, 31 - 25), "without another signal");
    }
}
