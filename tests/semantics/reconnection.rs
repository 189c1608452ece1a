//! "The ring reconnection feature" (`docs/misc/xenstore-ring.txt`).

use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::support::testbed::{Testbed, error, event, ok};

const INDICES: [Field; 4] =
    [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer];

/// Requests a reset of the connection, and waits for it.
fn reconnect(testbed: &mut Testbed, domid: u16) {
    testbed.set_word(domid, Field::Connection, 1);
    testbed.signal(domid);
    assert_eq!(testbed.word(domid, Field::Connection), 0);
    testbed.forget_incoming(domid);
}

fn is_as_new(testbed: &mut Testbed, domid: u16) {
    for field in INDICES {
        assert_eq!(testbed.word(domid, field), 0, "{field:?}");
    }
    assert_eq!(testbed.word(domid, Field::Error), 0);
    assert_eq!(testbed.outstanding(domid), 0);
    assert_eq!(testbed.events(domid), []);
    assert_eq!(testbed.write(domid, "data", "works"), ok());
    assert_eq!(testbed.read(domid, "data"), Ok(b"works".to_vec()));
    testbed.check();
}

#[test]
fn a_reset_drops_half_a_request_replies_events_watches_and_transactions() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.watch(5, "data", "old").unwrap();
    let transaction = testbed.begin(5);
    testbed.write_in(5, transaction, "data", "never").unwrap();
    testbed.write(0, "/local/domain/5/data", "an event").unwrap();
    let header = Header { kind: MessageType::Write.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 100 };
    testbed.put_bytes(5, &header.emit());
    testbed.put_bytes(5, b"half");
    testbed.signal(5);
    assert_eq!(
        testbed.word(5, Field::RequestConsumer),
        testbed.word(5, Field::RequestProducer),
        "the server has read the request"
    );

    reconnect(&mut testbed, 5);
    is_as_new(&mut testbed, 5);
    testbed.write(0, "/local/domain/5/data", "no event").unwrap();
    assert_eq!(testbed.events(5), []);
    assert_eq!(testbed.end(5, transaction, true), error("ENOENT"));
    assert_eq!(testbed.watch(5, "data", "old"), ok(), "no EEXIST");
    assert_eq!(testbed.events(5), [event("data", "old")]);
}

#[test]
fn a_reset_leaves_the_domains_nodes_rights_and_name_alone() {
    let mut testbed = Testbed::with_homes([5, 6]);
    testbed.write(5, "data", "kept").unwrap();
    testbed.set_target(0, 5, 6).unwrap();
    let before = testbed.nodes(5);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.watch(0, "@introduceDomain", "new").unwrap();
    testbed.events(0);
    reconnect(&mut testbed, 5);
    assert_eq!((testbed.nodes(5), testbed.is_introduced(5)), (before, true));
    assert_eq!(testbed.read(5, "data"), Ok(b"kept".to_vec()));
    assert_eq!(testbed.write(5, "/local/domain/6/data", "as its target"), ok());
    assert_eq!(testbed.events(0), []);
}

#[test]
fn a_reset_opens_a_shut_connection_again() {
    for (field, value, reason) in [(Field::RequestProducer, 3000, 2), (Field::ReplyConsumer, 3000, 2)] {
        let mut testbed = Testbed::with_homes([5]);
        let header =
            Header { kind: MessageType::ResetWatches.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 0 };
        testbed.put_bytes(5, &header.emit());
        testbed.set_word(5, field, value);
        testbed.signal(5);
        assert_eq!(testbed.word(5, Field::Error), reason, "{field:?}");
        reconnect(&mut testbed, 5);
        is_as_new(&mut testbed, 5);
    }
    let mut testbed = Testbed::with_homes([5]);
    let header = Header { kind: MessageType::Read.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 4097 };
    testbed.put_bytes(5, &header.emit());
    testbed.signal(5);
    assert_eq!(testbed.word(5, Field::Error), 3);
    reconnect(&mut testbed, 5);
    is_as_new(&mut testbed, 5);
}

#[test]
fn a_request_that_came_before_a_requested_reset_is_not_executed() {
    let mut testbed = Testbed::with_homes([5]);
    let payload = b"data\0x";
    let header = Header {
        kind: MessageType::Write.to_wire(),
        request_id: 9,
        transaction_id: 0,
        payload_bytes: u32::try_from(payload.len()).unwrap(),
    };
    testbed.put_bytes(5, &header.emit());
    testbed.put_bytes(5, payload);
    reconnect(&mut testbed, 5);
    assert_eq!(testbed.read(0, "/local/domain/5/data"), error("ENOENT"));
    is_as_new(&mut testbed, 5);
}

#[test]
fn a_reset_does_not_rid_a_domain_of_the_events_that_it_caused_for_others() {
    for is_shut_before in [false, true] {
        let mut testbed = Testbed::with_homes([1, 2]);
        testbed.set_perms(0, "/local/domain/1", "r1").unwrap();
        testbed.watch(2, "/local/domain/1", &"t".repeat(900)).unwrap();
        testbed.events(2);
        let mut handled = 0;
        for round in 0..50 {
            for at in 0..10 {
                testbed.send(1, 0, MessageType::Write.to_wire(), format!("data{round}-{at}\0").as_bytes());
            }
            handled = testbed.directory(0, "/local/domain/1").unwrap().len();
            if is_shut_before {
                testbed.set_word(1, Field::RequestProducer, testbed.word(1, Field::RequestConsumer).wrapping_add(5000));
                testbed.signal(1);
            }
            reconnect(&mut testbed, 1);
        }
        // Twenty pending events, and the first one, which went into the ring at once.
        assert_eq!((handled, testbed.outstanding(1)), (21, 20), "shut before: {is_shut_before}");
        assert_eq!(testbed.events(2).len(), 21);
        assert_eq!(testbed.outstanding(1), 0);
        assert_eq!(testbed.write(1, "data", "x"), ok());
        testbed.check();
    }
}

#[test]
fn a_reset_writes_the_connection_word_last_and_signals_the_domain() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "data", "x").unwrap();
    testbed.machine.notified.clear();
    reconnect(&mut testbed, 5);
    assert!(testbed.machine.notified.contains(&DomId(5)));
    let page = testbed.machine.pages[&DomId(5)].clone();
    for field in INDICES.into_iter().chain([Field::Features, Field::Error]) {
        assert!(page.stored_at(field) < page.stored_at(Field::Connection), "{field:?}");
    }
}

#[test]
fn a_partly_sent_message_is_not_continued_after_a_reset() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "data", &"v".repeat(1500)).unwrap();
    testbed.send(5, 0, MessageType::Read.to_wire(), b"data\0");
    let sent = testbed.word(5, Field::ReplyProducer).wrapping_sub(testbed.word(5, Field::ReplyConsumer));
    assert_eq!(sent, 1024, "the rest is pending");
    reconnect(&mut testbed, 5);
    is_as_new(&mut testbed, 5);
}

#[test]
fn a_held_back_domain_is_reset_too() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "data", &"v".repeat(1500)).unwrap();
    for _ in 0..30 {
        testbed.send(5, 0, MessageType::Read.to_wire(), b"data\0");
    }
    assert_eq!(testbed.outstanding(5), 20, "the domain reads no replies");
    reconnect(&mut testbed, 5);
    is_as_new(&mut testbed, 5);
}

#[test]
fn a_reset_requested_in_the_ring_of_an_auto_introduced_domain_is_done() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    for field in INDICES {
        testbed.set_word(5, field, 0xdead_beef);
    }
    testbed.set_word(5, Field::Connection, 1);
    testbed.set_word(5, Field::Error, 2);
    testbed.machine.notified.clear();
    testbed.server.handle_boot_domain(DomId(5), 1, &mut testbed.machine).unwrap();
    testbed.run();
    assert_eq!((testbed.word(5, Field::Connection), testbed.word(5, Field::Features)), (0, 15));
    assert!(testbed.machine.notified.contains(&DomId(5)));
    testbed.make_home(5);
    is_as_new(&mut testbed, 5);
}

#[test]
fn a_reset_requested_before_the_introduction_is_done() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.set_word(5, Field::Connection, 1);
    for field in INDICES {
        testbed.set_word(5, field, 0xdead_beef);
    }
    testbed.start_built(5);
    assert_eq!(testbed.word(5, Field::Connection), 0);
    testbed.make_home(5);
    is_as_new(&mut testbed, 5);
}

#[test]
fn another_value_of_the_connection_word_requests_no_reset_and_stays() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.watch(5, "data", "t").unwrap();
    testbed.events(5);
    for value in [2, 3, 0x100, u32::MAX] {
        testbed.set_word(5, Field::Connection, value);
        testbed.signal(5);
        assert_eq!(testbed.word(5, Field::Connection), value);
        assert_eq!(testbed.write(5, "data", "x"), ok());
        assert_eq!(testbed.events(5), [event("data", "t")]);
    }
}

#[test]
fn a_domain_without_the_reconnection_feature_is_not_reset() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.request(0, MessageType::SetFeature, "5\x0014\0").unwrap();
    testbed.start_built(5);
    testbed.make_home(5);
    testbed.watch(5, "data", "t").unwrap();
    testbed.events(5);
    testbed.set_word(5, Field::Connection, 1);
    testbed.signal(5);
    assert_eq!(testbed.word(5, Field::Connection), 1);
    assert_eq!(testbed.write(5, "data", "x"), ok());
    assert_eq!(testbed.events(5), [event("data", "t")]);
}

#[test]
fn resets_without_pause_harm_no_other_domain() {
    let mut testbed = Testbed::with_homes([5, 6]);
    for round in 0..1000 {
        testbed.begin(5);
        testbed.watch(5, "data", &round.to_string()).unwrap();
        reconnect(&mut testbed, 5);
        if round % 100 == 0 {
            assert_eq!(testbed.write(6, "data", "x"), ok());
        }
    }
    is_as_new(&mut testbed, 5);
}
