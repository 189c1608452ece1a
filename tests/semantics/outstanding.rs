//! The limit of outstanding requests. A request counts from its arrival until its reply and all events that it caused
//! are in the receivers' rings, or are dropped.

use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::support::testbed::{Testbed, event, ok};

const LIMIT: usize = 20;

/// Returns a testbed with homes of domains 1 to 3, and a large node that all domains may read.
fn with_large_node() -> Testbed {
    let mut testbed = Testbed::with_homes([1, 2, 3]);
    testbed.write(0, "/large", &"x".repeat(1500)).unwrap();
    testbed.set_perms(0, "/large", "r0").unwrap();
    testbed
}

/// Fills the reply ring of a guest, which then has one outstanding request.
fn stuff(testbed: &mut Testbed, domid: u16) {
    testbed.send(domid, 0, MessageType::Read.to_wire(), b"/large\0");
    let used = testbed.word(domid, Field::ReplyProducer).wrapping_sub(testbed.word(domid, Field::ReplyConsumer));
    assert_eq!(used as usize, RING_BYTES);
}

/// Lets domain 2, whose ring is full, watch the writes of domain 1. Nothing is outstanding for domain 1.
fn with_sleeping_watcher() -> Testbed {
    let mut testbed = with_large_node();
    testbed.set_perms(1, "/local/domain/1", "r1").unwrap();
    testbed.watch(2, "/local/domain/1", "t").unwrap();
    testbed.events(2);
    stuff(&mut testbed, 2);
    testbed
}

/// Returns how many requests of this length are in a guest's ring.
fn waiting(testbed: &Testbed, domid: u16, payload_bytes: usize) -> usize {
    let bytes = testbed.word(domid, Field::RequestProducer).wrapping_sub(testbed.word(domid, Field::RequestConsumer));
    bytes as usize / (HEADER_BYTES + payload_bytes)
}

#[test]
fn a_guest_with_twenty_unread_replies_is_held_back_until_it_reads() {
    let mut testbed = with_large_node();
    stuff(&mut testbed, 1);
    for _ in 0..30 {
        testbed.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(testbed.outstanding(1), LIMIT);
    assert_eq!(waiting(&testbed, 1, 7), 31 - LIMIT);
    for _ in 0..31 {
        assert_eq!(testbed.reply(1).unwrap().payload.len(), 1500);
    }
    assert_eq!(testbed.message(1), None);
    assert_eq!(testbed.outstanding(1), 0);
}

#[test]
fn no_other_client_waits_for_a_guest_that_does_not_read() {
    let mut testbed = with_large_node();
    stuff(&mut testbed, 1);
    for _ in 0..30 {
        testbed.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(testbed.write(2, "data", "x"), ok());
    assert_eq!(testbed.write(0, "/local/domain/1/data", "x"), ok());
    assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy, "a held-back guest causes no work");
}

#[test]
fn the_control_domain_is_not_held_back_by_a_number_of_requests() {
    let mut testbed = with_large_node();
    for _ in 0..150 {
        testbed.send(0, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    assert_eq!(waiting(&testbed, 0, 7), 0);
    for _ in 0..150 {
        assert_eq!(testbed.reply(0).unwrap().payload.len(), 1500);
    }
}

#[test]
fn a_request_counts_until_the_events_that_it_caused_are_delivered() {
    let mut testbed = with_sleeping_watcher();
    for at in 0..30 {
        testbed.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
    }
    let mut replies = 0;
    while testbed.reply(1).is_some() {
        replies += 1;
    }
    assert_eq!(replies, LIMIT, "the replies are delivered");
    assert_eq!(testbed.outstanding(1), LIMIT);
    assert_eq!(waiting(&testbed, 1, 7), 10);
    assert_eq!(testbed.reply(2).unwrap().payload.len(), 1500);
    assert_eq!(testbed.events(2).len(), 30, "all arrive when the watcher reads");
    for _ in 0..10 {
        assert!(testbed.reply(1).is_some());
    }
    assert_eq!(testbed.outstanding(1), 0);
}

#[test]
fn events_that_time_out_release_their_sender() {
    let mut testbed = with_sleeping_watcher();
    for at in 0..30 {
        testbed.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
    }
    while testbed.reply(1).is_some() {}
    testbed.pass(19_999);
    assert_eq!(waiting(&testbed, 1, 7), 10);
    testbed.pass(1);
    assert_eq!(waiting(&testbed, 1, 7), 0);
    assert_eq!(testbed.outstanding(1), 10);
    testbed.pass(20_000);
    assert_eq!(testbed.outstanding(1), 0);
    assert_eq!(testbed.reply(2).unwrap().payload.len(), 1500);
    assert_eq!(testbed.events(2), []);
}

#[test]
fn a_receiver_that_is_gone_releases_the_senders() {
    for way in ["death", "release", "repeated introduction", "protocol error"] {
        let mut testbed = with_sleeping_watcher();
        for at in 0..30 {
            testbed.send(1, 0, MessageType::Write.to_wire(), format!("data{at:02}\0").as_bytes());
        }
        match way {
            "death" => testbed.kill(2),
            "release" => assert_eq!(testbed.release(0, 2), ok()),
            "repeated introduction" => assert_eq!(testbed.introduce(0, 2, 1), ok()),
            _ => {
                let producer = testbed.word(2, Field::RequestConsumer).wrapping_add(2000);
                testbed.set_word(2, Field::RequestProducer, producer);
                testbed.signal(2);
            }
        }
        for _ in 0..30 {
            assert!(testbed.reply(1).is_some(), "{way}");
        }
        assert_eq!(testbed.outstanding(1), 0, "{way}");
    }
}

#[test]
fn events_that_collapse_do_not_count() {
    let mut testbed = with_sleeping_watcher();
    for _ in 0..1000 {
        assert_eq!(testbed.write(1, "data", "x"), ok());
    }
    assert_eq!(testbed.outstanding(1), 1, "the first event is pending");
}

#[test]
fn events_that_the_control_domain_causes_count_for_no_client() {
    let mut testbed = with_sleeping_watcher();
    for at in 0..100 {
        assert_eq!(testbed.write(0, &format!("/local/domain/1/{at}"), "x"), ok());
    }
    assert_eq!((testbed.outstanding(0), testbed.outstanding(1)), (0, 0));
    assert_eq!(testbed.write(1, "data", "x"), ok());
}

#[test]
fn the_first_event_of_a_watch_does_not_count() {
    let mut testbed = Testbed::with_homes([1]);
    let token = "t".repeat(900);
    for at in 0..2 {
        testbed.send(1, 0, MessageType::Watch.to_wire(), format!("data{at}\0{token}\0").as_bytes());
    }
    let used = testbed.word(1, Field::ReplyProducer).wrapping_sub(testbed.word(1, Field::ReplyConsumer));
    assert_eq!(used as usize, RING_BYTES, "the second event is partly written");
    assert_eq!(testbed.outstanding(1), 0);
    assert_eq!(testbed.reply(1).unwrap().payload, b"OK\0");
    assert_eq!(testbed.reply(1).unwrap().payload, b"OK\0");
    assert_eq!(testbed.events(1), [event("data0", &token), event("data1", &token)]);
}

#[test]
fn events_of_a_request_before_a_repeated_introduction_do_not_settle_one_after_it() {
    let mut testbed = with_sleeping_watcher();
    assert_eq!(testbed.write(1, "before", "x"), ok());
    assert_eq!(testbed.introduce(0, 1, 1), ok());
    assert_eq!(testbed.outstanding(1), 0);
    testbed.pass(10_000);
    // As many requests as before: a count that starts again would have the same number.
    for at in 0..20 {
        testbed.send(1, 0, MessageType::Write.to_wire(), format!("after{at}\0").as_bytes());
    }
    assert_eq!(testbed.outstanding(1), LIMIT);
    testbed.pass(10_000);
    assert_eq!(testbed.outstanding(1), LIMIT, "only the old event has expired");
    testbed.pass(10_000);
    assert_eq!(testbed.outstanding(1), 0);
}

#[test]
fn guests_that_wait_for_each_other_all_continue_when_one_reads() {
    let mut testbed = with_large_node();
    for domid in 1..4 {
        testbed.set_perms(domid, &format!("/local/domain/{domid}"), &format!("b{domid}")).unwrap();
    }
    for domid in 1..4 {
        testbed.watch(domid, "/local/domain", "t").unwrap();
        testbed.events(domid);
    }
    for at in 0..60 {
        for domid in 1..4 {
            testbed.send(domid, 0, MessageType::Write.to_wire(), format!("data{at}\0").as_bytes());
        }
    }
    for domid in 1..4 {
        assert_eq!(testbed.outstanding(domid), LIMIT);
    }
    let mut replies = [0; 3];
    for _ in 0..100 {
        for domid in 1..4 {
            while testbed.reply(domid).is_some() {
                replies[usize::from(domid) - 1] += 1;
            }
        }
    }
    // A guest's request ring may be full as well: requests that did not fit were not sent.
    for domid in 1..4 {
        assert_eq!(testbed.outstanding(domid), 0);
        assert!(replies[usize::from(domid) - 1] > LIMIT, "{replies:?}");
        let connection = testbed.server.engine().connection(testbed.connection(domid).unwrap()).unwrap();
        assert!(connection.session().unwrap().output.is_empty());
        assert_eq!(
            connection.peer,
            xenstore::engine::connection::Peer::Domain {
                domid: DomId(domid),
                port: testbed.machine.bound.iter().find(|(_, of)| **of == DomId(domid)).map(|(port, _)| *port),
            }
        );
    }
}

#[test]
fn events_that_a_domain_caused_before_it_was_introduced_again_count_for_no_client() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.set_perms(0, "/", "b0").unwrap();
    testbed.watch(4, "/", "t").unwrap();
    for at in 0..60 {
        testbed.send(3, 0, MessageType::Write.to_wire(), format!("/node{at}\0").as_bytes());
        testbed.receive(3);
    }
    assert_eq!(testbed.outstanding(3), 20, "the events wait for domain 4");
    testbed.introduce(0, 3, 2).unwrap();
    assert_eq!(testbed.outstanding(3), 0);
    assert_eq!(testbed.request(0, MessageType::Control, "check\0"), Ok(b"OK\0".to_vec()));
}

#[test]
fn a_held_back_guest_whose_limit_is_raised_is_read_at_once() {
    for command in
        [(MessageType::SetQuota, "1\0outstanding\x0025\0"), (MessageType::Control, "quota\0set\0outstanding\x0025\0")]
    {
        let mut testbed = with_large_node();
        stuff(&mut testbed, 1);
        for _ in 0..30 {
            testbed.send(1, 0, MessageType::Read.to_wire(), b"/large\0");
        }
        assert_eq!(testbed.outstanding(1), LIMIT);
        testbed.request(0, command.0, command.1).unwrap();
        assert_eq!((testbed.outstanding(1), waiting(&testbed, 1, 7)), (25, 31 - 25), "without another signal");
    }
}
