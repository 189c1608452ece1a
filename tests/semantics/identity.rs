//! The identity of domains: a number that is used again between two checks is a death and a birth.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed in which domain 7 has a home and a known unique id. Dom0 watches births and deaths.
fn with_identity() -> Testbed {
    let mut testbed = Testbed::new();
    testbed.machine.unique_ids.insert(DomId(7), 100);
    testbed.start(7);
    testbed.make_home(7);
    testbed.watch(0, "@introduceDomain", "new").unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(testbed.events(0).len(), 2);
    testbed
}

/// Replaces domain 7 by another domain with its number, before the server checks.
fn reuse(testbed: &mut Testbed) {
    testbed.build(DomId(7));
    testbed.machine.unique_ids.insert(DomId(7), 101);
}

/// Sends the signal, which does not name the domain.
fn signal(testbed: &mut Testbed) {
    testbed.server.handle_domain_exception();
    testbed.run();
}

fn gone() -> (String, String) {
    event("@releaseDomain", "gone")
}

#[test]
fn a_number_used_again_between_two_checks_is_a_death_and_then_a_birth() {
    let mut testbed = with_identity();
    testbed.write(7, "data", "of the old").unwrap();
    testbed.write(0, "/a", "secret").unwrap();
    testbed.set_perms(0, "/a", "n0 b7").unwrap();
    testbed.watch(7, "/a", "t").unwrap();
    let transaction = testbed.begin(7);
    testbed.write_in(7, transaction, "data", "x").unwrap();
    reuse(&mut testbed);
    signal(&mut testbed);
    assert_eq!(testbed.events(0), [gone()]);
    assert!(!testbed.is_introduced(7), "only INTRODUCE introduces the new domain");
    assert_eq!(testbed.nodes(7), 0);
    assert_eq!(testbed.get_perms(0, "/a"), Ok("n0".into()));
    assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (1, 1));
    testbed.check();
    testbed.start_built(7);
    assert_eq!(testbed.events(0), [event("@introduceDomain", "new")]);
    assert_eq!(testbed.read(7, "/a"), error("EACCES"));
    assert_eq!(testbed.end(7, transaction, true), error("ENOENT"));
    testbed.write(0, "/a", "x").unwrap();
    assert_eq!(testbed.events(7), []);
    testbed.make_home(7);
    assert_eq!(testbed.directory(7, "/local/domain/7"), Ok(vec![]));
    testbed.check();
}

#[test]
fn a_new_domain_that_has_shut_down_or_dies_is_still_another_domain() {
    for state in [DomainState::Shutdown, DomainState::Dying] {
        let mut testbed = with_identity();
        reuse(&mut testbed);
        testbed.set_state(7, state);
        assert_eq!(testbed.events(0), [gone()], "once, for the introduced domain");
        assert!(!testbed.is_introduced(7));
        testbed.check();
    }
}

#[test]
fn a_signal_about_an_unknown_domain_releases_no_domain() {
    let mut testbed = with_identity();
    for _ in 0..3 {
        signal(&mut testbed);
    }
    assert_eq!(testbed.events(0), []);
    assert_eq!(testbed.write(7, "data", "x"), ok());
}

#[test]
fn a_domain_that_is_gone_is_found_although_no_signal_names_it() {
    let mut testbed = with_identity();
    testbed.start(8);
    testbed.events(0);
    testbed.machine.domains.remove(&DomId(7));
    // The end of some other domain is signalled.
    testbed.set_state(8, DomainState::Shutdown);
    assert_eq!(testbed.events(0), [gone(), gone()]);
    assert!(!testbed.is_introduced(7) && testbed.is_introduced(8));
}

#[test]
fn an_introduction_before_the_signal_is_that_of_the_new_domain() {
    let mut testbed = with_identity();
    testbed.write(7, "data", "of the old").unwrap();
    reuse(&mut testbed);
    assert_eq!(testbed.introduce(0, 7, 1), ok());
    assert_eq!(testbed.events(0), [gone(), event("@introduceDomain", "new")]);
    assert!(testbed.is_introduced(7));
    assert_eq!(testbed.nodes(7), 0);
    signal(&mut testbed);
    assert!(testbed.is_introduced(7));
    assert_eq!(testbed.events(0), []);
    assert_eq!(testbed.read(7, "data"), error("EACCES"));
    testbed.check();
}

#[test]
fn a_right_given_before_the_signal_is_that_of_the_new_domain() {
    let mut testbed = with_identity();
    testbed.write(0, "/old", "x").unwrap();
    testbed.set_perms(0, "/old", "n0 r7").unwrap();
    reuse(&mut testbed);
    testbed.write(0, "/a", "x").unwrap();
    testbed.set_perms(0, "/a", "n0 r7").unwrap();
    assert_eq!(testbed.events(0), [gone()]);
    testbed.start_built(7);
    signal(&mut testbed);
    assert_eq!(testbed.read(7, "/a"), Ok(b"x".to_vec()));
    assert_eq!(testbed.read(7, "/old"), error("EACCES"));
    testbed.check();
}

#[test]
fn a_domain_known_only_by_a_right_is_identified_too() {
    let mut testbed = Testbed::new();
    testbed.machine.unique_ids.insert(DomId(7), 100);
    testbed.build(DomId(7));
    testbed.write(0, "/a", "x").unwrap();
    testbed.set_perms(0, "/a", "n0 r7").unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    reuse(&mut testbed);
    signal(&mut testbed);
    testbed.start_built(7);
    assert_eq!(testbed.read(7, "/a"), error("EACCES"));
    assert_eq!(testbed.events(0), [], "a domain that was not introduced is not released");
}

#[test]
fn a_new_domain_is_not_the_target_that_had_its_number() {
    let mut testbed = with_identity();
    testbed.start(8);
    testbed.set_target(0, 8, 7).unwrap();
    assert_eq!(testbed.read(8, "/local/domain/7"), Ok(vec![]));
    reuse(&mut testbed);
    testbed.start_built(7);
    testbed.make_home(7);
    assert_eq!(testbed.read(8, "/local/domain/7"), error("EACCES"));
}

#[test]
fn a_right_in_an_open_transaction_is_not_inherited() {
    let mut testbed = with_identity();
    testbed.write(0, "/a", "x").unwrap();
    let transaction = testbed.begin(0);
    testbed.set_perms_in(0, transaction, "/a", "n0 r7").unwrap();
    reuse(&mut testbed);
    testbed.start_built(7);
    let _ = testbed.end(0, transaction, true);
    assert_eq!(testbed.read(7, "/a"), error("EACCES"));
    testbed.check();
}

#[test]
fn an_id_that_becomes_available_later_is_adopted_and_kept() {
    let mut testbed = Testbed::with_homes([7]);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.machine.unique_ids.insert(DomId(7), 100);
    signal(&mut testbed);
    assert!(testbed.is_introduced(7));
    reuse(&mut testbed);
    signal(&mut testbed);
    assert_eq!(testbed.events(0), [gone()]);
}

#[test]
fn without_ids_only_the_absence_of_a_domain_is_its_end() {
    let mut testbed = Testbed::with_homes([7]);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    signal(&mut testbed);
    assert_eq!(testbed.events(0), []);
    assert_eq!(testbed.write(7, "data", "x"), ok());
    testbed.kill(7);
    assert_eq!(testbed.events(0), [gone()]);
}

#[test]
fn the_control_domain_is_never_taken_for_another() {
    let mut testbed = Testbed::new();
    testbed.machine.unique_ids.insert(DomId(0), 1);
    signal(&mut testbed);
    testbed.machine.unique_ids.insert(DomId(0), 2);
    signal(&mut testbed);
    let request = testbed.request(0, MessageType::Introduce, "0\x001\0x\0");
    assert_eq!(request, error("EINVAL"));
    assert_eq!(testbed.write(0, "/a", "x"), ok());
}
