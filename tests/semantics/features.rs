//! GET_FEATURE and SET_FEATURE, and the feature word of the ring (`docs/misc/xenstore.txt`, `xenstore-ring.txt`).

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::world::{Answer, World, error, ok};

/// Reconnection, error word, watch depth, all domains.
const ALL: u32 = 15;

fn get(world: &mut World, domid: u16, payload: &str) -> Answer {
    world.request(domid, MessageType::GetFeature, payload)
}

fn set(world: &mut World, domid: u16, payload: &str) -> Answer {
    world.request(domid, MessageType::SetFeature, payload)
}

fn number(value: u32) -> Answer {
    Ok(format!("{value}\0").into_bytes())
}

#[test]
fn every_domain_is_offered_everything_and_its_ring_says_so() {
    let mut world = World::with_guests([1]);
    for domid in [0, 1] {
        assert_eq!(world.word(domid, Field::Features), ALL);
        assert_eq!(get(&mut world, domid, ""), number(ALL));
        assert_eq!(get(&mut world, 0, &format!("{domid}\0")), number(ALL));
    }
}

#[test]
fn only_the_control_domain_may_ask_about_others() {
    let mut world = World::with_guests([1, 2]);
    for payload in ["1\0", "2\0", "\0", "x\0", "1\x002\0"] {
        assert_eq!(get(&mut world, 1, payload), error("EACCES"), "{payload:?}");
    }
    assert_eq!(set(&mut world, 1, "2\x000\0"), error("EACCES"));
}

#[test]
fn a_domain_that_exists_can_be_given_less_until_it_is_introduced() {
    let mut world = World::new();
    for features in 0..=ALL {
        world.build(DomId(5));
        assert_eq!(set(&mut world, 0, &format!("5\0{features}\0")), ok());
        assert_eq!(get(&mut world, 0, "5\0"), number(features));
        world.start_built(5);
        assert_eq!(world.word(5, Field::Features), features);
        assert_eq!(get(&mut world, 5, ""), number(features));
        assert_eq!(set(&mut world, 0, "5\x0015\0"), error("EBUSY"));
        assert_eq!(set(&mut world, 0, "5\x0016\0"), error("EBUSY"));
        assert_eq!(get(&mut world, 0, "5\0"), number(features));
        world.kill(5);
        world.check();
    }
}

#[test]
fn the_next_domain_of_the_number_is_offered_everything_again() {
    let mut world = World::new();
    world.build(DomId(5));
    set(&mut world, 0, "5\x000\0").unwrap();
    world.start_built(5);
    world.kill(5);
    world.start(5);
    assert_eq!(get(&mut world, 5, ""), number(ALL));

    world.build(DomId(6));
    set(&mut world, 0, "6\x000\0").unwrap();
    world.set_state(6, DomainState::Absent);
    world.start(6);
    assert_eq!(get(&mut world, 6, ""), number(ALL), "it died before it was introduced");
}

#[test]
fn unknown_features_unknown_domains_and_odd_payloads_are_refused() {
    let mut world = World::new();
    world.build(DomId(5));
    for payload in ["5\x0016\0", "5\x004294967295\0", "5\x004294967296\0", "5\0-1\0", "5\0\0", "5\0x\0", "5\x000x1\0"] {
        assert_eq!(set(&mut world, 0, payload), error("EINVAL"), "{payload:?}");
    }
    for payload in ["", "\0", "5", "5\0", "5\x001", "5\x001\x002\0", "x\x001\0", "65536\x001\0", "-1\x001\0"] {
        assert_eq!(set(&mut world, 0, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(set(&mut world, 0, "6\x001\0"), error("ENOENT"));
    assert_eq!(set(&mut world, 0, "0\x001\0"), error("EBUSY"), "the control domain has everything");
    for payload in ["\0", "x\0", "65536\0", "-1\0", "5\x006\0"] {
        assert_eq!(get(&mut world, 0, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(get(&mut world, 0, "6\0"), error("ENOENT"));
    assert_eq!(get(&mut world, 0, "5\0"), number(ALL));
    assert_eq!(get(&mut world, 0, "5"), number(ALL), "no string: the client's own");
    world.check();
}

#[test]
fn without_the_error_word_a_connection_is_shut_without_a_word() {
    for (features, word) in [(ALL, 2), (ALL & !2, 0)] {
        let mut world = World::new();
        world.build(DomId(5));
        set(&mut world, 0, &format!("5\0{features}\0")).unwrap();
        world.start_built(5);
        world.set_word(5, Field::RequestProducer, 5000);
        world.signal(5);
        assert_eq!(world.word(5, Field::Error), word);
        assert!(!world.server.is_open(world.connection(5).unwrap()));
    }
}
