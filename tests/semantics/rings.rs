//! The ring: bytes that come and go in any pieces, and the treatment of a domain that breaks the rules.

use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES, RingPage as _};

use crate::log_lines;
use crate::support::random::{Random, Seed};
use crate::support::testbed::{Testbed, error, event, ok};

fn request(request_id: u32, kind: MessageType, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: kind.to_wire(),
        request_id,
        transaction_id: 0,
        payload_bytes: payload.len().try_into().unwrap(),
    };
    [&header.emit()[..], payload].concat()
}

/// Returns a testbed with an auto-introduced domain 5, whose indices are at these numbers.
fn with_indices(requests: u32, replies: u32) -> Testbed {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    for (field, value) in [
        (Field::RequestConsumer, requests),
        (Field::RequestProducer, requests),
        (Field::ReplyConsumer, replies),
        (Field::ReplyProducer, replies),
    ] {
        testbed.set_word(5, field, value);
    }
    testbed.server.handle_boot_domain(DomId(5), 1, &mut testbed.machine).unwrap();
    testbed.run();
    testbed.make_home(5);
    testbed
}

fn used(testbed: &Testbed, domid: u16) -> usize {
    testbed.word(domid, Field::ReplyProducer).wrapping_sub(testbed.word(domid, Field::ReplyConsumer)) as usize
}

#[test]
fn messages_cross_the_wrap_at_every_offset() {
    for offset in 0..RING_BYTES as u32 {
        let mut testbed = with_indices(offset, offset.wrapping_mul(7));
        let value = "v".repeat(700);
        assert_eq!(testbed.write(5, "data", &value), ok());
        assert_eq!(testbed.read(5, "data"), Ok(value.clone().into_bytes()));
        assert_eq!(testbed.read(5, "data"), Ok(value.into_bytes()));
    }
}

#[test]
fn indices_wrap_at_two_to_the_thirty_two() {
    for distance in (0..=2 * RING_BYTES as u32).step_by(13) {
        let mut testbed = with_indices(distance.wrapping_neg(), distance.wrapping_neg());
        for at in 0..12 {
            let value = format!("{at}").repeat(150);
            assert_eq!(testbed.write(5, "data", &value), ok());
            assert_eq!(testbed.read(5, "data"), Ok(value.into_bytes()));
        }
        assert!(testbed.word(5, Field::RequestConsumer) < 0x8000_0000);
    }
}

#[test]
fn requests_are_understood_however_they_are_split() {
    let all = [
        request(1, MessageType::Write, b"data\0value"),
        request(2, MessageType::Read, b"data\0"),
        request(3, MessageType::TransactionStart, b""),
        request(4, MessageType::Directory, b"\0"),
    ]
    .concat();
    for split in 0..=all.len() {
        let mut testbed = Testbed::with_homes([5]);
        testbed.send_bytes(5, &all[..split]);
        testbed.run();
        testbed.send_bytes(5, &all[split..]);
        expect_four(&mut testbed);
    }
    for step in 1..40 {
        let mut testbed = Testbed::with_homes([5]);
        for part in all.chunks(step) {
            testbed.send_bytes(5, part);
        }
        expect_four(&mut testbed);
    }
}

fn expect_four(testbed: &mut Testbed) {
    let expected = [&b"OK\0"[..], b"value", b"1\0", b"EINVAL\0"];
    for (at, payload) in expected.into_iter().enumerate() {
        let reply = testbed.message(5).unwrap();
        assert_eq!((reply.request_id, &reply.payload[..]), (at as u32 + 1, payload));
    }
    assert_eq!(testbed.message(5), None);
}

#[test]
fn replies_arrive_whole_however_slowly_they_are_read() {
    for step in [1, 2, 3, 15, 16, 17, 100, 1000, 1023] {
        let mut testbed = Testbed::with_homes([5]);
        let value: String = (0..2000).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        assert_eq!(testbed.write(0, "/local/domain/5/data", &value), ok());
        for _ in 0..4 {
            testbed.send(5, 0, MessageType::Read.to_wire(), b"data\0");
        }
        assert_eq!(used(&testbed, 5), RING_BYTES, "the server sends as much as fits");
        let mut seen = Vec::new();
        while used(&testbed, 5) > 0 {
            seen.extend(testbed.take_bytes(5, step));
        }
        assert_eq!(seen.len(), 4 * (HEADER_BYTES + value.len()));
        for reply in seen.chunks(HEADER_BYTES + value.len()) {
            assert_eq!(&reply[HEADER_BYTES..], value.as_bytes());
        }
    }
}

#[test]
fn exactly_as_many_bytes_as_the_ring_holds_are_all_understood() {
    for offset in [0, 1, 500, 1023] {
        let mut testbed = with_indices(offset, 0);
        let one = request(7, MessageType::Write, b"data\0value-of-11");
        assert_eq!(one.len(), 32);
        let all = one.repeat(RING_BYTES / 32);
        testbed.put_bytes(5, &all);
        testbed.signal(5);
        for _ in 0..RING_BYTES / 32 {
            assert_eq!(testbed.message(5).unwrap().payload, b"OK\0");
        }
        assert_eq!(testbed.message(5), None);
        assert_eq!(testbed.word(5, Field::RequestConsumer), testbed.word(5, Field::RequestProducer));
    }
}

#[test]
fn a_request_without_payload_is_answered_at_once() {
    let mut testbed = Testbed::with_guests([5]);
    testbed.send_bytes(5, &request(9, MessageType::Read, b""));
    assert_eq!(testbed.message(5).unwrap().payload, b"EINVAL\0");
}

#[test]
fn the_largest_message_is_handled_and_a_larger_one_costs_the_connection() {
    let mut testbed = Testbed::with_homes([5]);
    let value = "x".repeat(4096 - 5);
    assert_eq!(testbed.write(5, "data", &value), error("ENOSPC"));
    assert_eq!(testbed.write(0, "data", &value), ok());
    assert_eq!(testbed.read(0, "data"), Ok(value.into_bytes()));
    for length in [4097, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let mut testbed = Testbed::with_homes([5]);
        let header = Header { kind: 2, request_id: 1, transaction_id: 0, payload_bytes: length };
        testbed.send_bytes(5, &header.emit());
        expect_protocol_error(&mut testbed, 3);
    }
}

#[test]
fn impossible_request_indices_cost_the_connection_at_any_offset() {
    for offset in (0..RING_BYTES as u32).step_by(61).chain([0xffff_fff0, 0xffff_ffff]) {
        for distance in [1025, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let mut testbed = with_indices(offset, 0);
            let consumer = testbed.word(5, Field::RequestConsumer);
            testbed.set_word(5, Field::RequestProducer, consumer.wrapping_add(distance));
            testbed.signal(5);
            expect_protocol_error(&mut testbed, 2);
        }
    }
}

#[test]
fn impossible_reply_indices_cost_the_connection_as_soon_as_there_is_something_to_send() {
    for offset in (0..RING_BYTES as u32).step_by(61).chain([0xffff_fff0, 0xffff_ffff]) {
        for distance in [1025, 4096, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let mut testbed = with_indices(0, offset);
            let producer = testbed.word(5, Field::ReplyProducer);
            testbed.set_word(5, Field::ReplyConsumer, producer.wrapping_sub(distance));
            testbed.send_bytes(5, &request(1, MessageType::Read, b"data\0"));
            expect_protocol_error(&mut testbed, 2);
        }
    }
}

/// Checks that domain 5's connection is shut for this reason, that the domain remains, and that others are served.
fn expect_protocol_error(testbed: &mut Testbed, reason: u32) {
    assert_eq!(testbed.word(5, Field::Error), reason);
    let page = testbed.machine.pages[&DomId(5)].bytes();
    testbed.signal(5);
    assert_eq!(testbed.write(0, "/local/domain/5/data", "x"), ok());
    assert_eq!(testbed.machine.pages[&DomId(5)].bytes(), page, "the server does not touch the ring any more");
    assert!(testbed.is_introduced(5));
    assert_eq!(testbed.read(0, "/local/domain/5"), Ok(vec![]));
    testbed.check();
}

#[test]
fn a_domain_whose_connection_was_shut_keeps_its_nodes_until_its_real_death() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.watch(5, "data", "t").unwrap();
    let transaction = testbed.begin(5);
    testbed.write_in(5, transaction, "data", "x").unwrap();
    testbed.write(5, "kept", "x").unwrap();
    testbed.set_word(5, Field::RequestProducer, testbed.word(5, Field::RequestConsumer).wrapping_add(1025));
    testbed.signal(5);
    expect_protocol_error(&mut testbed, 2);
    assert_eq!(testbed.events(0), [], "no release yet");
    assert_eq!(testbed.server.engine().state().watches.len(), 1, "its watches are gone");
    assert_eq!(testbed.nodes(5), 3, "its nodes remain");
    assert_eq!(testbed.machine.mapped.len(), 2);
    testbed.kill(5);
    assert_eq!(testbed.events(0), [event("@releaseDomain", "gone")]);
    assert_eq!((testbed.nodes(5), testbed.machine.mapped.len(), testbed.machine.bound.len()), (0, 1, 1));
    testbed.check();
}

#[test]
fn a_domain_whose_connection_was_shut_is_served_again_after_a_repeated_introduction() {
    let mut testbed = Testbed::with_homes([5]);
    let transaction = testbed.begin(5);
    testbed.set_word(5, Field::RequestProducer, testbed.word(5, Field::RequestConsumer).wrapping_add(1025));
    testbed.signal(5);
    assert_eq!(testbed.introduce(0, 5, 1), ok());
    assert_eq!(testbed.write(5, "data", "x"), ok());
    assert_eq!(testbed.end(5, transaction, true), error("ENOENT"));
    testbed.check();
}

#[test]
fn a_domain_cannot_move_the_servers_own_indices() {
    let mut testbed = Testbed::with_homes([5]);
    for garbage in [0, 1, 1024, 0x8000_0000, 0xffff_ffff] {
        assert_eq!(testbed.write(5, "data", "x"), ok());
        let one = request(3, MessageType::Read, b"data\0");
        testbed.put_bytes(5, &one);
        testbed.set_word(5, Field::RequestConsumer, garbage);
        testbed.set_word(5, Field::ReplyProducer, garbage);
        testbed.signal(5);
        assert_eq!(testbed.word(5, Field::RequestConsumer), testbed.word(5, Field::RequestProducer));
        assert_eq!(testbed.message(5).unwrap().payload, b"x");
    }
    assert_eq!(testbed.word(5, Field::Error), 0);
}

#[test]
fn a_domain_that_writes_its_indices_without_pause_harms_no_other_domain() {
    let (mut rounds, mut errors) = (0, 0);
    for seed in 1..200 {
        let _seed = Seed(seed);
        let mut random = Random::new(seed);
        let mut testbed = Testbed::with_homes([5, 6]);
        // Mostly headers of requests without a payload, at any position where the server begins to read.
        for at in 0..RING_BYTES {
            let byte = if random.once_in(60) { *random.one_of(&[1, 2, 11, 16, b'/', b'a', 0xff]) } else { 0 };
            testbed.machine.pages[&DomId(5)].0.borrow_mut()[at] = byte;
        }
        testbed.machine.pages[&DomId(5)].scribble(Some(Random::new(seed)));
        while testbed.server.is_open(testbed.connection(5).unwrap()) && rounds < 100_000 {
            testbed.server.handle_event(testbed.port(5));
            testbed.server.poll(&mut testbed.machine, 0);
            rounds += 1;
        }
        errors += usize::from(!testbed.server.is_open(testbed.connection(5).unwrap()));
        testbed.machine.pages[&DomId(5)].scribble(None);
        assert_eq!(testbed.write(6, "data", "x"), ok());
        assert!(testbed.is_introduced(5));
        testbed.check();
        testbed.kill(5);
        assert_eq!(testbed.nodes(5), 0);
        testbed.check();
    }
    println!("{rounds} turns, {errors} connections shut");
    assert!(errors > 100 && rounds > 2 * errors);
}

#[test]
fn a_signal_without_a_change_costs_nothing_and_is_not_answered() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "data", "x").unwrap();
    testbed.machine.notified.clear();
    for _ in 0..1000 {
        testbed.signal(5);
    }
    assert!(testbed.machine.notified.is_empty());
}

#[test]
fn a_flood_from_one_domain_does_not_keep_another_from_its_turn() {
    let mut testbed = Testbed::with_homes([5, 6]);
    let one = request(1, MessageType::Read, b"\0");
    testbed.put_bytes(5, &one.repeat(RING_BYTES / one.len()));
    testbed.put_bytes(6, &request(1, MessageType::Write, b"data\0x"));
    for domid in [5, 6] {
        testbed.server.handle_event(testbed.port(domid));
    }
    testbed.server.poll(&mut testbed.machine, 0);
    assert!(used(&testbed, 6) > 0, "one turn is enough for the other domain");
    let left = testbed.word(5, Field::RequestProducer).wrapping_sub(testbed.word(5, Field::RequestConsumer));
    assert!(left > 0, "one turn is not enough for the flood");
}

#[test]
fn odd_words_in_a_header_are_returned_in_the_reply() {
    let mut testbed = Testbed::with_homes([5]);
    for odd in [0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        for (kind, transaction_id, name) in [(odd, 0, "ENOSYS\0"), (odd, odd, "ENOSYS\0"), (2, odd, "ENOENT\0")] {
            let header = Header { kind, request_id: odd, transaction_id, payload_bytes: 5 };
            testbed.send_bytes(5, &[&header.emit()[..], b"data\0"].concat());
            let reply = testbed.message(5).unwrap();
            assert_eq!((reply.request_id, reply.transaction, string(&reply.payload)), (odd, transaction_id, name));
            assert_eq!(testbed.message(5), None);
        }
    }
}

fn string(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_change_that_a_domain_makes_to_its_ring_during_a_signal_is_not_overlooked() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.write(5, "data", &"v".repeat(1900)).unwrap();
    // The domain reads everything, and sends no signal: it checked before the ring was full.
    testbed.machine.meanwhile = Some(|page| page.store(Field::ReplyConsumer, page.load(Field::ReplyProducer)));
    let before = testbed.word(5, Field::ReplyProducer);
    let read = request(1, MessageType::Read, b"data\0");
    for _ in 0..3 {
        testbed.put_bytes(5, &read);
    }
    testbed.signal(5);
    testbed.run();
    let replied = testbed.word(5, Field::ReplyProducer).wrapping_sub(before) as usize;
    assert_eq!(replied, 3 * (HEADER_BYTES + 1900), "all replies went out without another signal");

    // The domain has written a part of a request, and writes the rest while the server takes the first part.
    testbed.machine.meanwhile = Some(|page| {
        if page.load(Field::RequestProducer) % 2 == 0 {
            page.store(Field::RequestProducer, page.load(Field::RequestProducer).wrapping_add(1));
        }
    });
    let consumed = testbed.word(5, Field::RequestConsumer);
    let odd = 1 + consumed % 2;
    testbed.set_word(5, Field::RequestProducer, consumed.wrapping_add(odd));
    testbed.signal(5);
    testbed.run();
    let taken = testbed.word(5, Field::RequestConsumer).wrapping_sub(consumed);
    assert_eq!(taken, odd + (consumed.wrapping_add(odd) + 1) % 2, "the server took the rest without another signal");
}

#[test]
fn a_domain_that_breaks_the_rules_in_a_loop_is_logged_once_in_ten_seconds() {
    let mut testbed = Testbed::with_homes([5]);
    let lines = log_lines::of(|| {
        for _ in 0..100 {
            let impossible = testbed.word(5, Field::RequestConsumer).wrapping_add(RING_BYTES as u32 + 1);
            testbed.set_word(5, Field::RequestProducer, impossible);
            testbed.signal(5);
            testbed.set_word(5, Field::Connection, 1);
            testbed.signal(5);
            assert_eq!(testbed.word(5, Field::Connection), 0, "the domain is connected again each time");
            testbed.pass(250);
        }
    });
    let logged = lines.iter().filter(|line| line.contains("ring index out of range")).count();
    assert_eq!(logged, 3, "in 25 seconds: {lines:?}");
}
