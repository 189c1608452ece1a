//! SET_TARGET: a domain that acts for another has its rights over nodes, and nothing else.

use xenstore::engine::hypervisor::DomainState;

use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed in which domain 2 acts for domain 1. Both have homes.
fn with_target() -> Testbed {
    let mut testbed = Testbed::with_homes([1, 2]);
    assert_eq!(testbed.set_target(0, 2, 1), ok());
    testbed
}

#[test]
fn only_the_control_domain_sets_targets_and_both_have_to_be_introduced() {
    let mut testbed = Testbed::with_guests([1, 2]);
    assert_eq!(testbed.set_target(1, 1, 2), error("EACCES"));
    assert_eq!(testbed.set_target(0, 1, 9), error("ENOENT"));
    assert_eq!(testbed.set_target(0, 9, 1), error("ENOENT"));
    assert_eq!(testbed.set_target(0, 1, 2), ok());
}

#[test]
fn a_target_gives_ownership_of_its_nodes() {
    let mut testbed = with_target();
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(testbed.read(2, "/local/domain/1/data"), Ok(b"x".to_vec()));
    assert_eq!(testbed.write(2, "/local/domain/1/data", "y"), ok());
    assert_eq!(testbed.set_perms(2, "/local/domain/1/data", "n1 r2"), ok());
    assert_eq!(testbed.set_perms(2, "/local/domain/1/data", "n2"), error("EPERM"), "the owner does not change");
    assert_eq!(testbed.rm(2, "/local/domain/1/data"), ok());
    assert_eq!(testbed.read(1, "/local/domain/2"), error("EACCES"), "the target gets no right in return");
}

#[test]
fn a_target_gives_the_rights_of_entries_that_name_it() {
    let mut testbed = with_target();
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "n0 r1").unwrap();
    assert!(testbed.read(2, "/a").is_ok());
    testbed.set_perms(0, "/a", "n0 n2 b1").unwrap();
    assert_eq!(testbed.read(2, "/a"), error("EACCES"), "the first entry that names either domain decides");
    testbed.set_perms(0, "/a", "n0 b1 n2").unwrap();
    assert_eq!(testbed.write(2, "/a", "x"), ok());
}

#[test]
fn a_target_gives_no_privilege_even_if_it_is_the_control_domain() {
    let mut testbed = Testbed::with_homes([2]);
    assert_eq!(testbed.set_target(0, 2, 0), ok());
    assert_eq!(testbed.release(2, 0), error("EACCES"));
    assert_eq!(testbed.write(2, "/x", "y"), ok(), "it owns the control domain's nodes");
    assert_eq!(testbed.nodes(2), 2, "the nodes that it makes are its own");
    testbed.fill_nodes(2, 1000);
    assert_eq!(testbed.write(2, "/y", "z"), error("ENOSPC"), "quotas still apply");
    testbed.check();
}

#[test]
fn nodes_that_a_domain_makes_in_its_targets_home_are_its_own() {
    let mut testbed = with_target();
    let before = testbed.nodes(1);
    assert_eq!(testbed.write(2, "/local/domain/1/of2", "x"), ok());
    assert_eq!(testbed.get_perms(0, "/local/domain/1/of2"), Ok("n2".into()));
    assert_eq!((testbed.nodes(1), testbed.nodes(2)), (before, 2));
    assert_eq!(testbed.write(2, "relative", "x"), ok());
    assert!(testbed.read(0, "/local/domain/2/relative").is_ok(), "relative paths are its own");
}

#[test]
fn a_target_gives_the_events_of_its_nodes() {
    let mut testbed = with_target();
    testbed.watch(2, "/local/domain/1", "t").unwrap();
    testbed.events(2);
    testbed.write(1, "data", "x").unwrap();
    assert_eq!(testbed.events(2), [event("/local/domain/1/data", "t")]);
    assert_eq!(testbed.set_perms(0, "@introduceDomain", "n0 r1"), ok());
    testbed.watch(2, "@introduceDomain", "t").unwrap();
    testbed.events(2);
    testbed.start(9);
    assert_eq!(testbed.events(2), [event("@introduceDomain", "t")]);
}

#[test]
fn the_last_target_counts_and_targets_do_not_chain() {
    let mut testbed = Testbed::with_homes([1, 2, 3, 4]);
    testbed.set_target(0, 2, 1).unwrap();
    testbed.set_target(0, 3, 2).unwrap();
    assert_eq!(testbed.read(3, "/local/domain/2"), Ok(vec![]));
    assert_eq!(testbed.read(3, "/local/domain/1"), error("EACCES"), "one level only");
    testbed.set_target(0, 3, 4).unwrap();
    assert_eq!(testbed.read(3, "/local/domain/2"), error("EACCES"));
    assert_eq!(testbed.read(3, "/local/domain/4"), Ok(vec![]));
}

#[test]
fn a_target_ends_with_the_target_domain_and_is_not_inherited() {
    let mut testbed = with_target();
    testbed.kill(1);
    assert_eq!(testbed.read(2, "/local/domain/1"), error("EACCES"));
    testbed.start(1);
    testbed.make_home(1);
    assert_eq!(testbed.read(2, "/local/domain/1"), error("EACCES"));
    assert_eq!(testbed.read(2, "/local/domain/2"), Ok(vec![]));
    testbed.set_target(0, 2, 1).unwrap();
    assert_eq!(testbed.read(2, "/local/domain/1"), Ok(vec![]));
}

#[test]
fn a_target_ends_with_the_domain_that_has_it() {
    let mut testbed = with_target();
    testbed.kill(2);
    testbed.start(2);
    assert_eq!(testbed.read(2, "/local/domain/1"), error("EACCES"));
}

#[test]
fn a_domain_and_its_target_may_die_in_any_order_with_pending_requests() {
    for order in [[1, 2], [2, 1]] {
        for state in [DomainState::Dying, DomainState::Absent] {
            let mut testbed = with_target();
            testbed.watch(0, "@releaseDomain", "gone").unwrap();
            testbed.events(0);
            for domid in [1, 2] {
                testbed.watch(domid, "/local/domain/1", "t").unwrap();
                let transaction = testbed.begin(domid);
                testbed.write_in(domid, transaction, "/local/domain/1/x", "y").unwrap();
                testbed.send(domid, 0, xenstore::wire::header::MessageType::Write.to_wire(), b"/local/domain/1/z\0");
            }
            for domid in order {
                testbed.set_state(domid, state);
            }
            assert_eq!(testbed.events(0), [event("@releaseDomain", "gone"), event("@releaseDomain", "gone")]);
            assert_eq!((testbed.nodes(1), testbed.nodes(2)), (0, 0));
            assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (1, 1));
            testbed.check();
        }
    }
}
