//! INTRODUCE, RELEASE, RESUME, IS_DOMAIN_INTRODUCED and GET_DOMAIN_PATH.

use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::support::testbed::{BAD_PORT, Testbed, error, event, ok};

/// Returns the remote port that a domain's connection is bound to.
fn remote_ports(testbed: &Testbed, domid: u16) -> Vec<u32> {
    testbed.machine.remote.values().filter(|(of, _)| *of == DomId(domid)).map(|(_, port)| *port).collect()
}

#[test]
fn an_introduction_maps_the_ring_binds_the_port_and_is_announced() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "@introduceDomain", "new").unwrap();
    testbed.events(0);
    testbed.build(DomId(5));
    assert!(!testbed.is_introduced(5));
    assert_eq!(testbed.introduce(0, 5, 9), ok());
    assert!(testbed.is_introduced(5));
    assert!(testbed.machine.mapped.contains_key(&DomId(5)));
    assert_eq!(remote_ports(&testbed, 5), [9]);
    assert_eq!(testbed.events(0), [event("@introduceDomain", "new")]);
    assert_eq!(testbed.read(5, "x"), error("EACCES"));
}

#[test]
fn a_refused_introduction_changes_nothing() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.build(DomId(5));
    for wrong in [
        "",
        "5\0",
        "5\x001\0",
        "5\x001\x009",
        "5\x001\x000\0",
        "5\x001\0-1\0",
        "5\x001\0x\0",
        "x\x001\x009\0",
        "65536\x001\x009\0",
        "-1\x001\x009\0",
    ] {
        assert_eq!(testbed.request(0, MessageType::Introduce, wrong), error("EINVAL"), "{wrong:?}");
    }
    assert_eq!(testbed.introduce(1, 5, 9), error("EACCES"));
    assert_eq!(testbed.introduce(0, 6, 9), error("ENOENT"), "no such domain: the hypervisor's error");
    assert_eq!(testbed.introduce(0, 5, BAD_PORT), error("EINVAL"), "the hypervisor's error");
    assert!(!testbed.is_introduced(5) && !testbed.is_introduced(6));
    assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (2, 2));
    assert_eq!(testbed.request(0, MessageType::Introduce, "5\0any frame\x009\0more\0"), ok());
}

#[test]
fn the_ring_is_started_before_the_reply_to_the_introduction() {
    let mut testbed = Testbed::new();
    for round in 0..2 {
        testbed.build(DomId(5));
        for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
            testbed.set_word(5, field, 77);
        }
        assert_eq!(testbed.introduce(0, 5, 9), ok());
        let reply = testbed.machine.pages[&DomId(0)].stored_at(Field::ReplyProducer);
        for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
            assert_eq!(testbed.word(5, field), 0);
            assert!(testbed.machine.pages[&DomId(5)].stored_at(field) < reply, "round {round}");
        }
        testbed.kill(5);
    }
}

#[test]
fn a_domain_that_waits_for_its_connection_is_notified_of_it() {
    for (before, is_told) in [(1, true), (0, false)] {
        let mut testbed = Testbed::new();
        testbed.build(DomId(5));
        testbed.set_word(5, Field::Connection, before);
        testbed.machine.notified.clear();
        assert_eq!(testbed.introduce(0, 5, 9), ok());
        assert_eq!(testbed.word(5, Field::Connection), 0);
        assert_eq!(testbed.machine.notified.contains(&DomId(5)), is_told);
    }
}

#[test]
fn a_repeated_introduction_resets_the_connection_and_keeps_the_domain() {
    let mut testbed = Testbed::with_homes([5]);
    testbed.watch(0, "@introduceDomain", "new").unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.write(5, "data", "kept").unwrap();
    testbed.watch(5, "data", "t").unwrap();
    let transaction = testbed.begin(5);
    testbed.write_in(5, transaction, "data", "lost").unwrap();
    // An unread reply, and half a request.
    testbed.send(5, 0, MessageType::Read.to_wire(), b"data\0");
    let half = Header { kind: MessageType::Write.to_wire(), request_id: 1, transaction_id: 0, payload_bytes: 50 };
    testbed.send_bytes(5, &half.emit());
    for _ in 0..2 {
        assert_eq!(testbed.introduce(0, 5, 2), ok(), "the same port may be bound again");
        assert_eq!(remote_ports(&testbed, 5), [2]);
        for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
            assert_eq!(testbed.word(5, field), 0);
        }
    }
    testbed.forget_incoming(5);
    assert_eq!(testbed.message(5), None, "nothing of the old session is sent");
    assert_eq!(testbed.read(5, "data"), Ok(b"kept".to_vec()));
    assert_eq!(testbed.end(5, transaction, true), error("ENOENT"));
    assert_eq!(testbed.write(5, "data", "x"), ok());
    assert_eq!(testbed.events(5), []);
    assert_eq!(testbed.watch(5, "data", "t"), ok());
    assert_eq!(testbed.events(0), [], "neither introduced nor released");
    testbed.check();
}

#[test]
fn a_port_that_cannot_be_bound_again_leaves_the_domain_introduced() {
    let mut testbed = Testbed::with_homes([5]);
    assert_eq!(testbed.introduce(0, 5, BAD_PORT), ok());
    assert!(testbed.is_introduced(5));
    assert!(remote_ports(&testbed, 5).is_empty());
    assert_eq!(testbed.introduce(0, 5, 3), ok());
    assert_eq!(testbed.write(5, "data", "x"), ok());
    testbed.kill(5);
    assert_eq!(testbed.machine.bound.len(), 1);
}

#[test]
fn the_control_domain_may_introduce_itself_again() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "/a", "t").unwrap();
    testbed.events(0);
    testbed.send(0, 0, MessageType::Introduce.to_wire(), b"0\x001\x007\0");
    assert_eq!(remote_ports(&testbed, 0), [7]);
    testbed.forget_incoming(0);
    assert_eq!(testbed.reply(0).unwrap().kind, MessageType::Introduce.to_wire());
    testbed.write(0, "/a", "x").unwrap();
    assert_eq!(testbed.events(0), []);
    testbed.check();
}

#[test]
fn release_and_resume_take_one_introduced_guest() {
    let mut testbed = Testbed::with_guests([1, 2]);
    for kind in [MessageType::Release, MessageType::Resume] {
        for wrong in ["", "1", "1\x002\0", "0\0", "x\0", "-1\0", "65536\0", "\0"] {
            assert_eq!(testbed.request(0, kind, wrong), error("EINVAL"), "{kind:?} {wrong:?}");
        }
        assert_eq!(testbed.request(0, kind, "9\0"), error("ENOENT"));
        assert_eq!(testbed.request(1, kind, "2\0"), error("EACCES"));
        assert_eq!(testbed.request(1, kind, ""), error("EACCES"), "the right is checked first");
    }
    assert!(testbed.is_introduced(1) && testbed.is_introduced(2));
    assert_eq!(testbed.request(0, MessageType::Resume, "1\0"), ok());
    assert_eq!(testbed.release(0, 1), ok());
    assert_eq!(testbed.release(0, 1), error("ENOENT"));
}

#[test]
fn a_released_domain_may_be_introduced_again_and_keeps_nothing() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "data", "x").unwrap();
    testbed.watch(1, "data", "t").unwrap();
    testbed.events(1);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "n0 r1").unwrap();
    assert_eq!(testbed.release(0, 1), ok());
    assert_eq!(testbed.introduce(0, 1, 1), ok());
    assert_eq!(testbed.read(1, "data"), error("EACCES"));
    assert_eq!(testbed.read(1, "/a"), error("EACCES"), "rights ended with the release");
    testbed.make_home(1);
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(testbed.events(1), []);
    testbed.check();
}

#[test]
fn the_control_domain_may_ask_whether_a_domain_is_introduced() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.build(DomId(2));
    let mut ask = |domid: u16, whom: &str| testbed.request(domid, MessageType::IsDomainIntroduced, whom);
    for (whom, expected) in [("0\0", "T\0"), ("1\0", "T\0"), ("2\0", "F\0"), ("3\0", "F\0"), ("32752\0", "T\0")] {
        assert_eq!(ask(0, whom), Ok(expected.into()), "{whom:?}");
    }
    for wrong in ["", "1", "1\x002\0", "x\0", "65536\0"] {
        assert_eq!(ask(0, wrong), error("EINVAL"), "{wrong:?}");
    }
    assert_eq!(ask(1, "1\0"), error("EACCES"));
}

#[test]
fn every_client_may_request_any_domains_path() {
    let mut testbed = Testbed::with_guests([1]);
    for domid in [0, 1] {
        for (whom, path) in [("0", "/local/domain/0\0"), ("1", "/local/domain/1\0"), ("65535", "/local/domain/65535\0")]
        {
            assert_eq!(testbed.request(domid, MessageType::GetDomainPath, format!("{whom}\0")), Ok(path.into()));
        }
        for wrong in ["", "1", "1\x002\0", "x\0", "65536\0", "-1\0"] {
            assert_eq!(testbed.request(domid, MessageType::GetDomainPath, wrong), error("EINVAL"), "{wrong:?}");
        }
    }
}
