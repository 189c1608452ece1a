//! After a crash in a request, the requester pays, and no other client notices.

use std::panic::{AssertUnwindSafe, catch_unwind};

use xenstore::engine::config::Config;
use xenstore::engine::report::crash::Crash;
use xenstore::engine::requests::in_flight::InFlight;
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::{Field, RingPage as _};

use crate::live_update::{answer, kernel, start, upload};
use crate::support::testbed::{Testbed, event, ok};

const NODE: &str = "/tool/xenstored/crash";

/// Ends the server while it executes a request of `domid`, and continues with another one.
fn crash(testbed: &mut Testbed, domid: u16, is_repeated: bool) {
    let connection = testbed.server.engine().state().domains.connection(DomId(domid)).expect("the domain is connected");
    let kind = MessageType::Write.to_wire();
    let header = Header { kind, request_id: 77, transaction_id: 0, payload_bytes: 5 };
    let request = InFlight { connection, header, payload: 0 };
    assert_eq!(testbed.server.domain_in_flight(&request), DomId(domid));
    let mut stream = Vec::new();
    testbed.server.save_after_crash(&request, &mut stream, testbed.now_ms).unwrap();
    testbed.machine.mapped.clear();
    testbed.machine.notified.clear();
    testbed.server = Server::restored(load(&stream, &Config::default(), testbed.now_ms).unwrap());
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    let crash = Crash { domid: DomId(domid), is_repeated, report: "it broke", node: NODE };
    testbed.server.handle_crash(&crash, &mut testbed.machine, testbed.now_ms);
    testbed.run();
    testbed.check();
}

#[test]
fn a_crash_in_a_guests_request_costs_only_its_connection_and_is_reported_in_a_node() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.watch(0, NODE, "c").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(4);
    // The ring's words at the moment of the signal.
    testbed.machine.meanwhile = Some(|page| page.store(Field::EventPort, page.load(Field::Error)));
    crash(&mut testbed, 3, false);
    assert_eq!(testbed.word(3, Field::Error), 1, "the ring reports a failed communication");
    assert_eq!(testbed.word(3, Field::EventPort), 1, "the signal comes after the error word");
    assert_eq!(testbed.events(0), [event(NODE, "c")]);
    assert_eq!(testbed.read(0, NODE), Ok(b"it broke".to_vec()));
    assert_eq!(testbed.read(4, NODE).unwrap_err(), "EACCES");
    assert_eq!(testbed.write_in(4, transaction, "x", "1"), ok());
    assert_eq!(testbed.end(4, transaction, true), ok());
    assert!(testbed.read(0, "/local/domain/3").is_ok(), "the domain keeps its nodes");
}

#[test]
fn a_domain_whose_ring_was_filled_in_the_turn_of_the_crash_is_signalled() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.write(0, "/data", &"v".repeat(1000)).unwrap();
    for _ in 0..3 {
        testbed.send(0, 0, MessageType::Read.to_wire(), b"/data\0");
    }
    let filled = testbed.word(0, Field::ReplyProducer);
    assert_eq!(filled.wrapping_sub(testbed.word(0, Field::ReplyConsumer)), 1024);
    // As if the turn that filled the ring had not ended: the domain was not signalled.
    crash(&mut testbed, 3, false);
    assert_eq!(testbed.word(0, Field::ReplyProducer), filled, "nothing more fits");
    assert!(testbed.machine.notified.contains(&DomId(0)));
    for _ in 0..3 {
        assert!(testbed.reply(0).is_some_and(|reply| reply.payload.len() == 1000));
    }
}

#[test]
fn after_one_crash_a_domain_may_reconnect_and_after_two_it_needs_the_control_domain() {
    for is_repeated in [false, true] {
        let mut testbed = Testbed::with_homes([3, 4]);
        crash(&mut testbed, 3, is_repeated);
        testbed.set_word(3, Field::Connection, 1);
        testbed.signal(3);
        testbed.run();
        assert_eq!(testbed.word(3, Field::Connection) == 0, !is_repeated, "the first crash allows a reconnection");
        if is_repeated {
            // A crash of another domain, and the restart after it, do not connect the domain again.
            testbed.set_word(3, Field::Connection, 0);
            crash(&mut testbed, 4, false);
            testbed.set_word(3, Field::Connection, 1);
            testbed.signal(3);
            testbed.run();
            assert_eq!(testbed.word(3, Field::Connection), 1, "the connection stays shut");
            testbed.set_word(3, Field::Connection, 0);
            assert_eq!(testbed.introduce(0, 3, 2), ok());
        }
        testbed.forget_incoming(3);
        assert_eq!(testbed.write(3, "x", "on"), ok());
    }
}

#[test]
fn a_request_of_the_control_domain_that_crashes_is_answered_and_its_connection_remains() {
    let mut testbed = Testbed::with_homes([3]);
    let transaction = testbed.begin(0);
    crash(&mut testbed, 0, true);
    let reply = testbed.reply(0).expect("a reply");
    assert_eq!((reply.kind, reply.request_id), (MessageType::Error.to_wire(), 77));
    assert_eq!(reply.payload, b"EIO\0");
    assert_eq!(testbed.read(0, NODE), Ok(b"it broke".to_vec()));
    assert_eq!(testbed.end(0, transaction, true), ok(), "other transactions of the client remain");
}

/// Makes the server panic during a request of `domid`. The same server continues without the request.
fn panic_and_go_on(testbed: &mut Testbed, domid: u16, transaction: u32) {
    const UNKNOWN: DomId = DomId(99);
    let connection = testbed.server.engine().state().domains.connection(DomId(domid)).expect("the domain is connected");
    testbed.machine.info_probe = Some(|domid| assert_ne!(domid, UNKNOWN, "requested"));
    let kind = MessageType::SetPerms.to_wire();
    let payload = b"/shared\0n99\0";
    let sent = catch_unwind(AssertUnwindSafe(|| testbed.send(domid, transaction, kind, payload)));
    assert!(sent.is_err(), "the handler panicked");
    testbed.machine.info_probe = None;
    let payload_bytes = payload.len() as u32;
    let header = Header { kind, request_id: 4711, transaction_id: transaction, payload_bytes };
    let request = InFlight { connection, header, payload: 0 };
    testbed.server.abandon_request(&request);
    let crash = Crash { domid: DomId(domid), is_repeated: false, report: "it broke", node: NODE };
    testbed.server.handle_crash(&crash, &mut testbed.machine, testbed.now_ms);
    testbed.run();
    testbed.check();
}

#[test]
fn without_memory_for_a_restart_the_same_server_resumes_without_the_request() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.write(0, "/shared", "value").unwrap();
    testbed.set_perms(0, "/shared", "b0").unwrap();
    let others = testbed.begin(4);
    for (domid, in_transaction) in [(0, false), (0, true), (3, false), (3, true)] {
        if domid == 3 && in_transaction {
            testbed.set_word(3, Field::Connection, 1);
            testbed.signal(3);
            testbed.forget_incoming(3);
        }
        let transaction = if in_transaction { testbed.begin(domid) } else { 0 };
        panic_and_go_on(&mut testbed, domid, transaction);
        if domid == 0 {
            let reply = testbed.reply(0).expect("a reply");
            assert_eq!((reply.kind, reply.request_id), (MessageType::Error.to_wire(), 4711));
            assert_eq!((reply.transaction, &reply.payload[..]), (transaction, &b"EIO\0"[..]));
        }
        assert_eq!(testbed.read(0, "/shared"), Ok(b"value".to_vec()));
        assert_eq!(testbed.read(0, NODE), Ok(b"it broke".to_vec()));
        if domid == 0 {
            assert!(!in_transaction || testbed.end(0, transaction, true).is_err_and(|error| error == "ENOENT"));
        } else {
            assert_eq!(testbed.word(3, Field::Error), 1, "the ring reports a failed communication");
        }
    }
    assert_eq!(testbed.write_in(4, others, "x", "1"), ok());
    assert_eq!(testbed.end(4, others, true), ok());
}

/// The answer to a command of the control domain that was not executed because of a crash.
const NOT_DONE: &str = "The server restarted after a crash";

#[test]
fn a_start_that_is_pending_in_a_crash_is_answered_with_its_cancellation() {
    for domid in [3, 0] {
        let mut testbed = Testbed::with_homes([3, 4]);
        testbed.begin(4);
        upload(&mut testbed, &kernel());
        start(&mut testbed, &["-t", "60", "-v", "1"]);
        assert_eq!(answer(&mut testbed), None, "the start is pending");
        crash(&mut testbed, domid, false);
        if domid == 0 {
            let reply = testbed.reply(0).expect("a reply to the request that crashed");
            assert_eq!((reply.kind, reply.request_id), (MessageType::Error.to_wire(), 77));
        }
        let why = answer(&mut testbed).expect("an answer to the start");
        assert!(why.starts_with(NOT_DONE), "{why}");
        assert_eq!(answer(&mut testbed), None, "once");
        upload(&mut testbed, &kernel());
        start(&mut testbed, &["-t", "60"]);
        assert_eq!(
            testbed.server.poll_action(),
            Some(xenstore::server::Action::StartUpdate),
            "the next start succeeds"
        );
    }
}

#[test]
fn a_start_whose_client_was_reset_is_not_answered_after_a_crash() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.begin(4);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1"]);
    testbed.set_word(0, Field::Connection, 1);
    testbed.signal(0);
    testbed.forget_incoming(0);
    crash(&mut testbed, 3, false);
    assert_eq!(answer(&mut testbed), None);
}

#[test]
fn a_command_that_was_taken_in_the_turn_of_the_crash_is_answered_too() {
    const UNKNOWN: DomId = DomId(99);
    let mut testbed = Testbed::with_homes([3]);
    let put = |testbed: &mut Testbed, domid, kind: MessageType, request_id, payload: &[u8]| {
        let payload_bytes = payload.len() as u32;
        let header = Header { kind: kind.to_wire(), request_id, transaction_id: 0, payload_bytes };
        testbed.put_bytes(domid, &[&header.emit()[..], payload].concat());
        testbed
            .server
            .handle_event(testbed.machine.bound.iter().find(|(_, of)| **of == DomId(domid)).unwrap().0.to_owned());
    };
    put(&mut testbed, 0, MessageType::Control, 55, b"update-report\0");
    put(&mut testbed, 3, MessageType::SetPerms, 77, b"/local/domain/3\0n3\0r99\0");
    testbed.machine.info_probe = Some(|domid| assert_ne!(domid, UNKNOWN, "requested"));
    assert!(catch_unwind(AssertUnwindSafe(|| testbed.run())).is_err(), "the handler panicked");
    testbed.machine.info_probe = None;
    crash(&mut testbed, 3, false);
    let reply = testbed.reply(0).expect("a reply");
    assert_eq!((reply.kind, reply.request_id), (MessageType::Control.to_wire(), 55));
    assert!(reply.payload.starts_with(NOT_DONE.as_bytes()), "{}", reply.payload.escape_ascii());
    assert_eq!(answer(&mut testbed), None, "once");
}

#[test]
fn a_crash_while_an_introduction_is_prepared_leaves_no_ring_mapped() {
    let mut testbed = Testbed::with_homes([3]);
    let connection = testbed.server.engine().state().domains.connection(DomId(0)).expect("dom0 is connected");
    testbed.build(DomId(9));
    let mapped = testbed.machine.mapped.len();
    testbed.machine.bind_probe = Some(|_| panic!("before the port is bound"));
    let payload = b"9\x000\x007\0";
    let kind = MessageType::Introduce.to_wire();
    let sent = catch_unwind(AssertUnwindSafe(|| testbed.send(0, 0, kind, payload)));
    assert!(sent.is_err(), "the preparation panicked");
    testbed.machine.bind_probe = None;
    assert_eq!(testbed.machine.mapped.len(), mapped + 1, "the ring was mapped");
    let payload_bytes = payload.len() as u32;
    let header = Header { kind, request_id: 4711, transaction_id: 0, payload_bytes };
    testbed.server.undo_preparation(&mut testbed.machine);
    assert_eq!(testbed.machine.mapped.len(), mapped, "the ring is unmapped again");
    testbed.server.abandon_request(&InFlight { connection, header, payload: 0 });
    testbed.run();
    assert_eq!(testbed.reply(0).expect("a reply").payload, b"EIO\0");
    assert!(!testbed.is_introduced(9));
    assert_eq!(testbed.introduce(0, 9, 7), ok(), "a later request introduces the domain");
    testbed.check();
}
