//! The domid 32757, which means all domains in an entry of a node's permissions (4.22).

use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

#[test]
fn an_entry_for_all_domains_gives_its_right_to_every_domain() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(testbed.set_perms(1, "data", "n1 r32757"), ok());
    assert_eq!(testbed.get_perms(1, "data"), Ok("n1 r32757".into()));
    testbed.start(3);
    for domid in [1, 2, 3] {
        assert_eq!(testbed.read(domid, "/local/domain/1/data"), Ok(b"x".to_vec()), "domain {domid}");
    }
    for domid in [2, 3] {
        assert_eq!(testbed.write(domid, "/local/domain/1/data", "y"), error("EACCES"));
    }
    testbed.check();
}

#[test]
fn the_first_entry_that_applies_to_a_domain_decides_alone() {
    let mut testbed = Testbed::with_homes([1, 2, 3]);
    testbed.write(1, "data", "x").unwrap();
    testbed.set_perms(1, "data", "n1 n2 b32757 r3").unwrap();
    assert_eq!(testbed.read(2, "/local/domain/1/data"), error("EACCES"));
    assert_eq!(testbed.write(3, "/local/domain/1/data", "y"), ok());
}

#[test]
fn an_entry_for_all_domains_gives_events_too_and_outlives_every_domain() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(0, "/shared", "x").unwrap();
    testbed.set_perms(0, "/shared", "n0 r32757").unwrap();
    testbed.watch(2, "/shared", "t").unwrap();
    testbed.events(2);
    testbed.write(0, "/shared", "y").unwrap();
    assert_eq!(testbed.events(2), [event("/shared", "t")]);
    testbed.kill(1);
    testbed.kill(2);
    testbed.start(2);
    assert_eq!(testbed.read(2, "/shared"), Ok(b"y".to_vec()));
    assert_eq!(testbed.get_perms(0, "/shared"), Ok("n0 r32757".into()));
}

#[test]
fn an_entry_for_all_domains_gives_special_events_too() {
    let mut testbed = Testbed::with_guests([1, 2]);
    testbed.set_perms(0, "@introduceDomain", "n0 n2 r32757").unwrap();
    for domid in [1, 2] {
        testbed.watch(domid, "@introduceDomain", "t").unwrap();
        testbed.events(domid);
    }
    testbed.start(7);
    assert_eq!(testbed.events(1), [event("@introduceDomain", "t")]);
    assert_eq!(testbed.events(2), [], "its own entry comes first");
    testbed.kill(2);
    assert_eq!(testbed.get_perms(1, "@introduceDomain"), Ok("n0 r32757".into()));
}

#[test]
fn a_commit_after_a_domains_birth_or_death_keeps_an_entry_for_all_domains() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "data", "x").unwrap();
    testbed.set_perms(1, "data", "n1 r32757").unwrap();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "data", "y").unwrap();
    testbed.start(2);
    testbed.start(3);
    testbed.kill(3);
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.read(2, "/local/domain/1/data"), Ok(b"y".to_vec()));
}

#[test]
fn only_the_control_domain_can_make_all_domains_the_owner() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(1, "data", "x").unwrap();
    let owned = testbed.nodes(1);
    assert_eq!(testbed.set_perms(1, "data", "n32757"), error("EPERM"));
    assert_eq!(testbed.set_perms(0, "/local/domain/1/data", "n32757"), ok());
    assert_eq!(testbed.nodes(1), owned - 1, "the node counts for no domain");
    assert_eq!(testbed.write(2, "/local/domain/1/data", "y"), ok());
    testbed.check();
    assert_eq!(testbed.write(2, "/local/domain/1/data/mine", ""), ok());
    assert_eq!(testbed.get_perms(2, "/local/domain/1/data/mine"), Ok("n2".into()));
    assert_eq!(testbed.write(0, "/local/domain/1/data/all", ""), ok());
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/local/domain/1/data/more", "").unwrap();
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.get_perms(0, "/local/domain/1/data/more"), Ok("n32757".into()));
    testbed.check();
    testbed.rm(0, "/local/domain/1/data").unwrap();
    testbed.check();
}

#[test]
fn an_entry_for_all_domains_by_a_domain_without_the_feature_never_takes_effect() {
    let mut testbed = Testbed::with_homes([2]);
    testbed.build(DomId(1));
    testbed.request(0, MessageType::SetFeature, "1\x007\0").unwrap();
    testbed.start_built(1);
    testbed.make_home(1);
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(testbed.set_perms(1, "data", "n1 r32757"), ok());
    assert_eq!(testbed.read(2, "/local/domain/1/data"), error("EACCES"));
    assert_eq!(testbed.set_perms(1, "data", "n32757"), error("ENOENT"), "like an owner that does not exist");
    assert_eq!(testbed.set_perms(0, "/local/domain/1/data", "n1 r32757"), ok());
    assert_eq!(testbed.read(2, "/local/domain/1/data"), Ok(b"x".to_vec()), "the control domain has the feature");
}

#[test]
fn the_number_for_all_domains_is_no_domain() {
    let mut testbed = Testbed::new();
    for (kind, payload) in [
        (MessageType::Release, "32757\0"),
        (MessageType::Resume, "32757\0"),
        (MessageType::GetFeature, "32757\0"),
        (MessageType::SetFeature, "32757\x001\0"),
    ] {
        assert_eq!(testbed.request(0, kind, payload), error("ENOENT"), "{kind:?}");
    }
    assert!(testbed.introduce(0, 32757, 1).is_err());
    assert!(!testbed.is_introduced(32757));
}
