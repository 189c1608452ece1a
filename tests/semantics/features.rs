//! GET_FEATURE and SET_FEATURE, and the feature word of the ring (`docs/misc/xenstore.txt`, `xenstore-ring.txt`).

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::support::testbed::{Answer, BAD_PORT, Testbed, error, event, ok};

/// Reconnection, error word, watch depth, entries for all domains.
const ALL: u32 = 15;

fn get(testbed: &mut Testbed, domid: u16, payload: &str) -> Answer {
    testbed.request(domid, MessageType::GetFeature, payload)
}

fn set(testbed: &mut Testbed, domid: u16, payload: &str) -> Answer {
    testbed.request(domid, MessageType::SetFeature, payload)
}

fn number(value: u32) -> Answer {
    Ok(format!("{value}\0").into_bytes())
}

#[test]
fn every_domain_is_offered_all_features_in_its_ring() {
    let mut testbed = Testbed::with_guests([1]);
    for domid in [0, 1] {
        assert_eq!(testbed.word(domid, Field::Features), ALL);
        assert_eq!(get(&mut testbed, domid, ""), number(ALL));
        assert_eq!(get(&mut testbed, 0, &format!("{domid}\0")), number(ALL));
    }
}

#[test]
fn only_the_control_domain_may_ask_about_others() {
    let mut testbed = Testbed::with_guests([1, 2]);
    for payload in ["1\0", "2\0", "\0", "x\0", "1\x002\0"] {
        assert_eq!(get(&mut testbed, 1, payload), error("EACCES"), "{payload:?}");
    }
    assert_eq!(set(&mut testbed, 1, "2\x000\0"), error("EACCES"));
}

#[test]
fn an_existing_domain_can_be_given_fewer_features_until_it_is_introduced() {
    let mut testbed = Testbed::new();
    for features in 0..=ALL {
        testbed.build(DomId(5));
        assert_eq!(set(&mut testbed, 0, &format!("5\0{features}\0")), ok());
        assert_eq!(get(&mut testbed, 0, "5\0"), number(features));
        testbed.start_built(5);
        assert_eq!(testbed.word(5, Field::Features), features);
        assert_eq!(get(&mut testbed, 5, ""), number(features));
        assert_eq!(set(&mut testbed, 0, "5\x0015\0"), error("EBUSY"));
        assert_eq!(set(&mut testbed, 0, "5\x0016\0"), error("EBUSY"));
        assert_eq!(get(&mut testbed, 0, "5\0"), number(features));
        testbed.kill(5);
        testbed.check();
    }
}

#[test]
fn the_next_domain_with_the_number_is_offered_all_features_again() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    set(&mut testbed, 0, "5\x000\0").unwrap();
    testbed.start_built(5);
    testbed.kill(5);
    testbed.start(5);
    assert_eq!(get(&mut testbed, 5, ""), number(ALL));

    testbed.build(DomId(6));
    set(&mut testbed, 0, "6\x000\0").unwrap();
    testbed.set_state(6, DomainState::Absent);
    testbed.start(6);
    assert_eq!(get(&mut testbed, 6, ""), number(ALL), "the domain died before its introduction");
}

#[test]
fn unknown_features_unknown_domains_and_odd_payloads_are_refused() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    for payload in ["5\x0016\0", "5\x004294967295\0", "5\x004294967296\0", "5\0-1\0", "5\0\0", "5\0x\0", "5\x000x1\0"] {
        assert_eq!(set(&mut testbed, 0, payload), error("EINVAL"), "{payload:?}");
    }
    for payload in ["", "\0", "5", "5\0", "5\x001", "5\x001\x002\0", "x\x001\0", "65536\x001\0", "-1\x001\0"] {
        assert_eq!(set(&mut testbed, 0, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(set(&mut testbed, 0, "6\x001\0"), error("ENOENT"));
    assert_eq!(set(&mut testbed, 0, "0\x001\0"), error("EBUSY"), "the control domain has all features");
    for payload in ["\0", "x\0", "65536\0", "-1\0", "5\x006\0"] {
        assert_eq!(get(&mut testbed, 0, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(get(&mut testbed, 0, "6\0"), error("ENOENT"));
    assert_eq!(get(&mut testbed, 0, "5\0"), number(ALL));
    assert_eq!(get(&mut testbed, 0, "5"), number(ALL), "without a string: the client's own features");
    testbed.check();
}

#[test]
fn numbers_that_no_domain_has_are_unknown_and_the_hypervisor_is_not_asked_about_them() {
    let mut testbed = Testbed::with_homes([5]);
    for reserved in [0x7ff0_u32, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7ff5, 0x7fff, 0x8000, 65535] {
        assert_eq!(get(&mut testbed, 0, &format!("{reserved}\0")), error("ENOENT"), "{reserved}");
        assert_eq!(set(&mut testbed, 0, &format!("{reserved}\x001\0")), error("ENOENT"), "{reserved}");
        assert_eq!(testbed.request(0, MessageType::GetQuota, format!("{reserved}\0nodes\0")), error("ENOENT"));
        assert_eq!(testbed.request(0, MessageType::Introduce, format!("{reserved}\x001\x001\0")), error("EINVAL"));
        assert_eq!(testbed.set_perms(5, "/local/domain/5", &format!("n5 r{reserved}")), ok(), "{reserved}");
        if reserved != 0x7ff5 {
            assert_eq!(testbed.set_perms(0, "/local/domain/5", &format!("n{reserved}")), error("ENOENT"), "{reserved}");
        }
    }
    let known: Vec<_> = testbed.server.engine().state().domains.iter().map(|(domid, _)| domid.0).collect();
    assert_eq!(known, [0, 5]);
}

#[test]
fn the_features_are_in_the_ring_before_anything_is_consumed_or_produced() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.set_word(5, Field::Features, u32::MAX);
    testbed.start_built(5);
    let page = testbed.machine.pages[&DomId(5)].clone();
    for field in [Field::RequestConsumer, Field::ReplyProducer, Field::Connection] {
        assert!(page.stored_at(Field::Features) < page.stored_at(field) || page.stored_at(field) == 0, "{field:?}");
    }
    assert_eq!(testbed.word(5, Field::Features), ALL, "the former value does not matter");
    testbed.make_home(5);
    testbed.set_word(5, Field::Features, 0);
    assert_eq!(get(&mut testbed, 5, ""), number(ALL), "the word is for the domain to read only");
    testbed.set_word(5, Field::Connection, 1);
    testbed.signal(5);
    assert_eq!((testbed.word(5, Field::Connection), testbed.word(5, Field::Features)), (0, ALL));
}

#[test]
fn a_released_domain_is_offered_all_features_when_it_is_introduced_again() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    set(&mut testbed, 0, "5\x003\0").unwrap();
    testbed.start_built(5);
    assert_eq!(testbed.introduce(0, 5, 1), ok());
    assert_eq!(testbed.word(5, Field::Features), 3, "a repeated introduction changes nothing");
    testbed.release(0, 5).unwrap();
    assert_eq!(get(&mut testbed, 0, "5\0"), number(ALL));
    assert_eq!(set(&mut testbed, 0, "5\x001\0"), ok(), "fewer features are possible again");
    testbed.start_built(5);
    assert_eq!(testbed.word(5, Field::Features), 1);
}

#[test]
fn the_error_word_reports_a_broken_event_channel_until_it_works() {
    let mut testbed = Testbed::with_homes([5]);
    assert_eq!(testbed.introduce(0, 5, BAD_PORT), ok());
    testbed.run();
    assert_eq!(testbed.word(5, Field::Error), 1);
    assert_eq!(testbed.introduce(0, 5, 1), ok());
    assert_eq!(testbed.word(5, Field::Error), 0);
    testbed.forget_incoming(5);
    assert_eq!(testbed.write(5, "data", "x"), ok());
}

/// Leaves the ring as `hvmloader` does without reconnection: queues filled with ones, indices zero, no signal.
fn erase_ring(testbed: &mut Testbed, domid: u16) {
    testbed.machine.pages[&DomId(domid)].0.borrow_mut()[..2 * RING_BYTES].fill(0xff);
    for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
        testbed.set_word(domid, field, 0);
    }
}

#[test]
fn without_reconnection_firmware_may_erase_the_ring_for_the_kernel_that_follows() {
    for features in [0, 2, 14] {
        for signalled in [false, true] {
            let mut testbed = Testbed::new();
            testbed.build(DomId(5));
            set(&mut testbed, 0, &format!("5\0{features}\0")).unwrap();
            testbed.start_built(5);
            testbed.make_home(5);
            for _ in 0..100 {
                assert_eq!(testbed.write(5, "data", "by the firmware"), ok());
            }
            erase_ring(&mut testbed, 5);
            if signalled {
                testbed.signal(5);
            }
            assert_eq!(testbed.read(5, "data"), Ok(b"by the firmware".to_vec()), "features {features}");
            testbed.watch(5, "data", "t").unwrap();
            assert_eq!(testbed.events(5), [event("data", "t")]);
            erase_ring(&mut testbed, 5);
            testbed.write(0, "/local/domain/5/data", "x").unwrap();
            assert_eq!(testbed.events(5), [event("data", "t")], "also when the server is the first to use it");
            testbed.check();
        }
    }
}

#[test]
fn without_reconnection_impossible_indices_still_cost_the_connection() {
    for (field, value) in [(Field::RequestProducer, 1025), (Field::ReplyConsumer, 1)] {
        let mut testbed = Testbed::new();
        testbed.build(DomId(5));
        set(&mut testbed, 0, "5\x002\0").unwrap();
        testbed.start_built(5);
        testbed.make_home(5);
        testbed.write(5, "data", "x").unwrap();
        erase_ring(&mut testbed, 5);
        testbed.set_word(5, field, value);
        if field == Field::ReplyConsumer {
            // A request without payload, whose reply the server has to send.
            testbed.set_word(5, Field::RequestProducer, 16);
            testbed.machine.pages[&DomId(5)].0.borrow_mut()[..16].fill(0);
        }
        testbed.signal(5);
        assert_eq!(testbed.word(5, Field::Error), 2, "{field:?}");
    }
}

#[test]
fn without_the_error_word_a_connection_is_shut_silently() {
    for (features, unused, word) in [(ALL, 0, 2), (ALL & !2, 77, 77)] {
        let mut testbed = Testbed::new();
        testbed.build(DomId(5));
        set(&mut testbed, 0, &format!("5\0{features}\0")).unwrap();
        testbed.set_word(5, Field::Error, 77);
        testbed.start_built(5);
        assert_eq!(testbed.word(5, Field::Error), unused, "a word that is not offered is not touched");
        testbed.set_word(5, Field::RequestProducer, 5000);
        testbed.signal(5);
        assert_eq!(testbed.word(5, Field::Error), word);
        assert!(!testbed.server.is_open(testbed.connection(5).unwrap()));
    }
}
