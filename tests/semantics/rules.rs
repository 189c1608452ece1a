//! Rules of the tables of rights and error codes that no other file covers.

use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, ok};

#[test]
fn making_an_existing_node_needs_the_right_to_write_it_and_costs_nothing() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(1, "data", "x").unwrap();
    let before = testbed.nodes(1);
    assert_eq!(testbed.mkdir(1, "data"), ok());
    assert_eq!((testbed.nodes(1), testbed.read(1, "data")), (before, Ok(b"x".to_vec())));
    testbed.set_perms(1, "data", "r1").unwrap();
    assert_eq!(testbed.mkdir(2, "/local/domain/1/data"), error("EACCES"));
    testbed.set_perms(1, "data", "w1").unwrap();
    assert_eq!(testbed.mkdir(2, "/local/domain/1/data"), ok());
}

#[test]
fn an_entry_that_never_takes_effect_leaves_the_decision_to_the_others() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0 n9").unwrap();
    testbed.start(9);
    assert!(testbed.read(9, "/a").is_ok(), "the first entry's letter is for all domains that no valid entry names");
    testbed.set_perms(0, "/a", "r0 n9").unwrap();
    assert_eq!(testbed.read(9, "/a"), error("EACCES"));
}

#[test]
fn an_entry_of_a_dead_domain_leaves_the_decision_to_the_others() {
    let mut testbed = Testbed::with_guests([9]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0 n9").unwrap();
    assert_eq!(testbed.read(9, "/a"), error("EACCES"));
    testbed.kill(9);
    testbed.start(9);
    assert!(testbed.read(9, "/a").is_ok());
}

#[test]
fn bytes_after_the_last_nul_of_permissions_are_ignored() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    assert_eq!(testbed.request(0, MessageType::SetPerms, "/a\0n0\0b1"), ok());
    assert_eq!(testbed.get_perms(0, "/a"), Ok("n0".into()));
}

#[test]
fn an_existing_watch_is_eexist_at_the_limit_too() {
    let mut testbed = Testbed::with_homes([1]);
    for at in 0..128 {
        testbed.watch(1, "data", &at.to_string()).unwrap();
    }
    assert_eq!(testbed.watch(1, "data", "5"), error("EEXIST"));
    assert_eq!(testbed.watch(1, "data", "one more"), error("ENOSPC"));
}

#[test]
fn the_number_of_a_transaction_is_gone_after_any_answer_but_einval() {
    let mut testbed = Testbed::without_replay([1]);
    for commit in [true, false] {
        let transaction = testbed.begin(1);
        assert_eq!(testbed.end(1, transaction, commit), ok());
        assert_eq!(testbed.end(1, transaction, commit), error("ENOENT"));
    }
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "data", "x").unwrap();
    testbed.write(1, "data", "y").unwrap();
    assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));
    let transaction = testbed.begin(1);
    let end = MessageType::TransactionEnd.to_wire();
    assert_eq!(testbed.request_in(1, transaction, end, "X\0"), error("EINVAL"));
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.end(1, 0, true), error("ENOENT"));
}

#[test]
fn a_target_gives_none_of_its_quota() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_target(0, 2, 1).unwrap();
    testbed.fill_nodes(2, 1000);
    assert_eq!(testbed.mkdir(2, "/local/domain/1/more"), error("ENOSPC"));
    assert_eq!(testbed.mkdir(1, "more"), ok());
}

#[test]
fn a_target_is_kept_when_the_domain_is_introduced_again() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_target(0, 2, 1).unwrap();
    assert_eq!(testbed.introduce(0, 2, 2), ok());
    testbed.forget_incoming(2);
    assert!(testbed.read(2, "/local/domain/1").is_ok());
}

#[test]
fn a_resume_without_a_shutdown_before_it_causes_no_event() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    assert_eq!(testbed.request(0, MessageType::Resume, "1\0"), ok());
    assert_eq!(testbed.events(0), []);
    assert!(testbed.is_introduced(1));
}
