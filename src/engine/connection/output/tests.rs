//! The queue of a connection's messages: order, duplicates, deadlines, counts.

use super::*;

const KEY: HashKey = HashKey(1, 2);
const A: ConnectionId = ConnectionId(1);
const BY_A: EventCause =
    EventCause { origin: Some(Origin { connection: A, ticket: 1 }), originator: Some(A), subject: None };
const BY_NOBODY: EventCause = EventCause { origin: None, originator: None, subject: None };

fn header(payload: &[u8]) -> Header {
    Header { kind: 2, request_id: 1, transaction_id: 0, payload_bytes: payload.len() as u32 }
}

/// Queues an event unless it is pending; returns whether it was queued.
fn push(output: &mut Output, payload: &[u8], subject: Option<DomId>) -> bool {
    let is_new = !output.has_event(payload, subject, KEY);
    if is_new {
        output.push_event(payload, EventCause { subject, ..BY_A }, None);
    }
    is_new
}

#[test]
fn messages_leave_in_order_however_they_are_split() {
    let mut output = Output::default();
    output.push_reply(Vec::new(), header(b"one"), b"one", None);
    output.push_event(b"two\0t\0", BY_NOBODY, None);
    let mut sent = Vec::new();
    while !output.is_empty() {
        let part = &output.bytes()[..output.bytes().len().min(5)];
        sent.extend_from_slice(part);
        let count = part.len();
        output.advance(count);
    }
    assert_eq!(&sent[16..19], b"one");
    assert_eq!(&sent[35..], b"two\0t\0");
    assert_eq!(sent[19], 15);
}

#[test]
fn an_identical_pending_event_is_found_in_a_short_queue_and_in_a_long_one() {
    for others in [0, limits::SCANNED_MESSAGES - 3, limits::SCANNED_MESSAGES, 1000] {
        let mut output = Output::default();
        for other in 0..others {
            assert!(push(&mut output, alloc::format!("{other}").as_bytes(), None));
        }
        assert!(push(&mut output, b"a", None));
        assert!(!push(&mut output, b"a", None));
        assert!(push(&mut output, b"a", Some(DomId(0))), "about a domain");
        assert!(push(&mut output, b"a", Some(DomId(7))), "about another");
        assert!(!push(&mut output, b"a", Some(DomId(7))));
        assert_eq!(output.pending.is_indexed(), output.len() > limits::SCANNED_MESSAGES);
        while !output.is_empty() {
            output.advance(usize::MAX);
        }
        assert!(!output.pending.is_indexed() && output.pending.is_empty());
        assert!(push(&mut output, b"a", None), "it may come again once it is sent");
    }
}

#[test]
fn a_share_is_what_a_guest_caused_and_is_pending() {
    let mut output = Output::default();
    output.push_event(b"four", BY_A, None);
    output.push_event(b"five!", EventCause { originator: Some(ConnectionId(2)), ..BY_NOBODY }, None);
    output.push_event(b"six", BY_NOBODY, None);
    output.push_reply(Vec::new(), header(b"reply"), b"reply", None);
    let shares = |output: &Output| (output.bytes_by(A), output.bytes_by(ConnectionId(2)), output.bytes_by_guests());
    assert_eq!(shares(&output), (20, 21, 41));
    output.advance(20);
    assert_eq!(shares(&output), (0, 21, 21));
    output.expire(0, 9);
    output.advance(21);
    assert_eq!(shares(&output), (0, 0, 0));
}

#[test]
fn what_a_predecessor_had_to_send_is_sent_from_where_it_stopped() {
    let mut before = Output::default();
    before.push_event(b"a\0t\0", BY_NOBODY, Some(10));
    before.push_reply(Vec::new(), header(b"reply"), b"reply", None);
    before.advance(18);
    let bytes: Vec<u8> = before.pieces().flatten().copied().collect();
    for knows_beginning in [true, false] {
        let mut output = Output::default();
        output.restore(&bytes, before.partial_bytes(), Some(99)).unwrap();
        output.restore_sent(if knows_beginning { before.sent() } else { &[] });
        assert_eq!((output.bytes(), output.partial_bytes()), (&b"\0t\0"[1..], 2));
        assert_eq!(push(&mut output, b"a\0t\0", None), !knows_beginning, "it is pending already, if known");
        assert_eq!(output.expire(100, 9), []);
        output.advance(2);
        assert_eq!(output.bytes()[16..], *b"reply");
        assert_eq!((output.partial_bytes(), output.queued_bytes()), (0, output.count_bytes()));
    }
    for wrong in [1, 16, 22] {
        assert_eq!(Output::default().restore(&bytes[..wrong], 2, None), Err(NoMessages), "{wrong}");
    }
    assert_eq!(Output::default().restore(&bytes, bytes.len() + 1, None), Err(NoMessages));
}

#[test]
fn events_time_out_unless_a_part_was_sent_and_replies_never() {
    let mut output = Output::default();
    output.push_event(b"a", BY_A, Some(10));
    output.push_reply(Vec::new(), header(b""), b"", None);
    output.push_event(b"b", BY_A, Some(20));
    output.push_event(b"b2", BY_A, Some(20));
    output.push_event(b"c", BY_NOBODY, Some(30));
    output.advance(1);
    assert_eq!(output.next_deadline_ms(), Some(20));
    let dropped = Dropped { origin: BY_A.origin, originator: Some(A) };
    assert_eq!(output.expire(25, 1), [dropped], "as many as may be");
    assert_eq!(output.expire(25, 9), [dropped]);
    assert_eq!(output.expire(25, 9), []);
    let mut cause = |count| output.advance(count).map(|(cause, _)| cause);
    assert_eq!((cause(16), cause(16)), (Some(BY_A.origin), Some(None)));
    assert_eq!(output.bytes()[16..], *b"c");
}
