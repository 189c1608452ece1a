//! The view of a transaction, its conflicts, and the effects of its end, without replay, which has its own tests.

use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, event, ok};

/// Returns a testbed with a few nodes that guests 1 and 2 may use.
fn with_nodes() -> Testbed {
    let mut testbed = Testbed::without_replay([1, 2]);
    for path in ["/n", "/n/a", "/n/b", "/n/a/deep", "/other"] {
        testbed.write(0, path, "old").unwrap();
        testbed.set_perms(0, path, "b0").unwrap();
    }
    testbed
}

fn end_with(testbed: &mut Testbed, transaction: u32, payload: &str) -> Answer {
    testbed.request_in(1, transaction, MessageType::TransactionEnd.to_wire(), payload)
}

#[test]
fn numbers_are_never_zero_and_belong_to_one_connection() {
    let mut testbed = with_nodes();
    let mut open = vec![testbed.begin(1), testbed.begin(1), testbed.begin(1)];
    assert!(!open.contains(&0));
    open.sort_unstable();
    open.dedup();
    assert_eq!(open.len(), 3);
    let foreign = open.iter().copied().max().unwrap();
    assert_eq!(testbed.read_in(2, foreign, "/n"), error("ENOENT"));
    assert_eq!(testbed.end(2, foreign, true), error("ENOENT"));
    assert_eq!(testbed.end(0, foreign, true), error("ENOENT"));
    assert_eq!(testbed.end(1, foreign, true), ok());
}

#[test]
fn transactions_do_not_nest() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    let start = MessageType::TransactionStart.to_wire();
    assert_eq!(testbed.request_in(1, transaction, start, "\0"), error("EBUSY"));
    assert_eq!(testbed.request_in(1, 999, start, "\0"), error("ENOENT"));
    for payload in ["", "\0", "anything", "a\0b\0"] {
        assert!(testbed.request(1, MessageType::TransactionStart, payload).is_ok(), "the payload does not matter");
    }
}

#[test]
fn an_end_is_t_or_f_and_anything_else_leaves_the_transaction_open() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "/n", "new").unwrap();
    for wrong in ["", "T", "F", "t\0", "f\0", "TT\0", "T\0T\0", "T\0\0", "\0", "yes\0"] {
        assert_eq!(end_with(&mut testbed, transaction, wrong), error("EINVAL"), "{wrong:?}");
        assert_eq!(end_with(&mut testbed, 0, wrong), error("EINVAL"), "before the number is checked: {wrong:?}");
        assert_eq!(end_with(&mut testbed, 999, wrong), error("ENOENT"), "the number is checked first: {wrong:?}");
    }
    assert_eq!(testbed.end(1, 0, true), error("ENOENT"));
    assert_eq!(testbed.end(1, 0, false), error("ENOENT"));
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));
    assert_eq!(testbed.read(0, "/n"), Ok(b"new".to_vec()));
}

#[test]
fn every_request_but_watch_and_unwatch_needs_an_open_transaction() {
    let mut testbed = with_nodes();
    for kind in MessageType::ALL {
        let answer = testbed.request_in(0, 999, kind.to_wire(), "/n\0t\0");
        match kind {
            MessageType::Watch | MessageType::Unwatch => assert_eq!(answer, ok()),
            MessageType::WatchEvent | MessageType::Error => {
                assert_eq!(answer, error("ENOSYS"), "{kind:?}")
            }
            _ => assert_eq!(answer, error("ENOENT"), "{kind:?}"),
        }
    }
}

#[test]
fn no_other_client_sees_a_change_before_the_commit_and_none_sees_it_after_an_abort() {
    let mut testbed = with_nodes();
    for commit in [false, true] {
        let transaction = testbed.begin(1);
        testbed.write_in(1, transaction, "/n/a", "new").unwrap();
        testbed.write_in(1, transaction, "/n/made/deep", "new").unwrap();
        testbed.rm_in(1, transaction, "/n/b").unwrap();
        assert_eq!(testbed.directory_in(1, transaction, "/n"), Ok(vec!["a".into(), "made".into()]));
        assert_eq!(testbed.read_in(1, transaction, "/n/b"), error("ENOENT"));
        for domid in 0..3 {
            assert_eq!(testbed.read(domid, "/n/a"), Ok(b"old".to_vec()));
            assert_eq!(testbed.directory(domid, "/n"), Ok(vec!["a".into(), "b".into()]));
        }
        assert_eq!(testbed.end(1, transaction, commit), ok());
        testbed.check();
    }
    assert_eq!(testbed.read(2, "/n/a"), Ok(b"new".to_vec()));
    assert_eq!(testbed.directory(2, "/n"), Ok(vec!["a".into(), "made".into()]));
    assert_eq!(testbed.read(0, "/n/made/deep"), Ok(b"new".to_vec()));
}

#[test]
fn a_node_stays_as_it_was_at_the_first_access() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    assert_eq!(testbed.read_in(1, transaction, "/n/a"), Ok(b"old".to_vec()));
    assert_eq!(testbed.read_in(1, transaction, "/n/none"), error("ENOENT"));
    testbed.write(0, "/n/a", "changed").unwrap();
    testbed.write(0, "/n/none", "made").unwrap();
    assert_eq!(testbed.read_in(1, transaction, "/n/a"), Ok(b"old".to_vec()));
    assert_eq!(testbed.read_in(1, transaction, "/n/none"), error("ENOENT"));
    assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"), "the transaction is gone");
}

/// Acts in a transaction and outside of it, and commits.
fn race(inside: &dyn Fn(&mut Testbed, u32), outside: &dyn Fn(&mut Testbed)) -> Answer {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    inside(&mut testbed, transaction);
    outside(&mut testbed);
    let before = testbed.read(0, "/n/a");
    let answer = testbed.end(1, transaction, true);
    if answer.is_err() {
        assert_eq!(testbed.read(0, "/n/a"), before, "a refused commit changes nothing");
    }
    testbed.check();
    answer
}

type Inside<'a> = (&'a str, &'a dyn Fn(&mut Testbed, u32));
type Outside<'a> = (&'a str, &'a dyn Fn(&mut Testbed));

#[test]
fn a_node_that_was_accessed_and_then_changed_by_others_conflicts() {
    let insides: [Inside<'_>; 6] = [
        ("read", &|testbed, t| drop(testbed.read_in(1, t, "/n/a").unwrap())),
        ("directory", &|testbed, t| drop(testbed.directory_in(1, t, "/n/a").unwrap())),
        ("write", &|testbed, t| drop(testbed.write_in(1, t, "/n/a", "mine").unwrap())),
        ("mkdir", &|testbed, t| drop(testbed.mkdir_in(1, t, "/n/a").unwrap())),
        ("remove", &|testbed, t| drop(testbed.rm_in(1, t, "/n/a").unwrap())),
        ("make below", &|testbed, t| drop(testbed.write_in(1, t, "/n/a/new", "mine").unwrap())),
    ];
    let outsides: [Outside<'_>; 6] = [
        ("write", &|testbed| drop(testbed.write(2, "/n/a", "theirs").unwrap())),
        ("same value", &|testbed| drop(testbed.write(2, "/n/a", "old").unwrap())),
        ("permissions", &|testbed| drop(testbed.set_perms(0, "/n/a", "b0 r2").unwrap())),
        ("new child", &|testbed| drop(testbed.write(2, "/n/a/child", "theirs").unwrap())),
        ("removed child", &|testbed| drop(testbed.rm(2, "/n/a/deep").unwrap())),
        ("removed", &|testbed| drop(testbed.rm(2, "/n/a").unwrap())),
    ];
    for (what, inside) in insides {
        for (how, outside) in outsides {
            assert_eq!(race(inside, outside), error("EAGAIN"), "{what} against {how}");
        }
        assert_eq!(race(inside, &|_| ()), ok(), "{what} alone");
        assert_eq!(race(inside, &|testbed| drop(testbed.write(2, "/other", "x").unwrap())), ok(), "{what} elsewhere");
        assert_eq!(
            race(inside, &|testbed| drop(testbed.mkdir(2, "/n/a").unwrap())),
            ok(),
            "{what} and a MKDIR without effect"
        );
    }
}

#[test]
fn a_node_that_was_missing_and_then_made_by_others_conflicts() {
    let looks: [Inside<'_>; 3] = [
        ("read", &|testbed, t| assert_eq!(testbed.read_in(1, t, "/n/new"), error("ENOENT"))),
        ("remove", &|testbed, t| assert_eq!(testbed.rm_in(1, t, "/n/new"), ok())),
        ("make", &|testbed, t| assert_eq!(testbed.mkdir_in(1, t, "/n/new"), ok())),
    ];
    for (what, inside) in looks {
        assert_eq!(race(inside, &|testbed| drop(testbed.mkdir(2, "/n/new").unwrap())), error("EAGAIN"), "{what}");
    }
    // A node that is made and removed again: the right to know required an access to the parent, and its list was
    // written twice.
    let (_, read) = looks[0];
    let outside = |testbed: &mut Testbed| {
        testbed.mkdir(2, "/n/new").unwrap();
        testbed.rm(2, "/n/new").unwrap();
    };
    assert_eq!(race(read, &outside), error("EAGAIN"));
}

#[test]
fn a_node_that_was_not_accessed_does_not_conflict() {
    let inside = |testbed: &mut Testbed, t: u32| drop(testbed.write_in(1, t, "/n/b", "mine").unwrap());
    for outside in [
        &(|testbed: &mut Testbed| drop(testbed.write(2, "/n", "x").unwrap())) as &dyn Fn(&mut Testbed),
        &|testbed| drop(testbed.write(2, "/n/a", "x").unwrap()),
        &|testbed| drop(testbed.write(2, "/n/c", "x").unwrap()),
        &|testbed| drop(testbed.rm(2, "/n/a").unwrap()),
    ] {
        assert_eq!(race(&inside, outside), ok());
    }
}

#[test]
fn new_children_of_one_parent_conflict() {
    let inside = |testbed: &mut Testbed, t: u32| drop(testbed.write_in(1, t, "/n/mine", "x").unwrap());
    assert_eq!(race(&inside, &|testbed| drop(testbed.write(2, "/n/theirs", "x").unwrap())), error("EAGAIN"));
}

#[test]
fn of_two_transactions_over_one_node_the_first_to_commit_wins() {
    let mut testbed = with_nodes();
    let (first, second) = (testbed.begin(1), testbed.begin(2));
    testbed.write_in(1, first, "/n/a", "1").unwrap();
    testbed.write_in(2, second, "/n/a", "2").unwrap();
    assert_eq!(testbed.end(2, second, true), ok());
    assert_eq!(testbed.end(1, first, true), error("EAGAIN"));
    assert_eq!(testbed.read(0, "/n/a"), Ok(b"2".to_vec()));
}

#[test]
fn a_transaction_that_changes_nothing_disturbs_no_other() {
    let mut testbed = with_nodes();
    let (first, second, empty) = (testbed.begin(1), testbed.begin(2), testbed.begin(1));
    testbed.read_in(1, first, "/n/a").unwrap();
    testbed.read_in(2, second, "/n/a").unwrap();
    assert_eq!(testbed.end(1, first, true), ok());
    assert_eq!(testbed.end(2, second, true), ok());
    assert_eq!(testbed.end(1, empty, true), ok());
}

#[test]
fn an_abort_never_conflicts() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "/n/a", "1").unwrap();
    testbed.write(2, "/n/a", "2").unwrap();
    assert_eq!(testbed.end(1, transaction, false), ok());
}

#[test]
fn children_are_listed_in_the_order_of_creation_after_a_commit() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    for name in ["z", "y", "x"] {
        testbed.mkdir_in(1, transaction, &format!("/n/{name}")).unwrap();
    }
    testbed.rm_in(1, transaction, "/n/a").unwrap();
    testbed.rm_in(1, transaction, "/n/y").unwrap();
    testbed.mkdir_in(1, transaction, "/n/a").unwrap();
    let names: Vec<String> = ["b", "z", "x", "a"].map(String::from).to_vec();
    assert_eq!(testbed.directory_in(1, transaction, "/n"), Ok(names.clone()));
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.directory(1, "/n"), Ok(names));
    assert_eq!(testbed.directory(1, "/n/a"), Ok(vec![]), "the children are gone");
    testbed.check();
}

#[test]
fn making_and_removing_the_same_nodes_again_and_again_ends_as_the_last_request_says() {
    for rounds in 1..6 {
        for ends_removed in [false, true] {
            let mut testbed = with_nodes();
            let before = testbed.nodes(1);
            let transaction = testbed.begin(1);
            for round in 0..rounds {
                testbed.write_in(1, transaction, "/n/x/y/z", &round.to_string()).unwrap();
                testbed.write_in(1, transaction, "/n/a", &round.to_string()).unwrap();
                if ends_removed || round + 1 < rounds {
                    testbed.rm_in(1, transaction, "/n/x").unwrap();
                    testbed.rm_in(1, transaction, "/n/a").unwrap();
                }
            }
            assert_eq!(testbed.end(1, transaction, true), ok());
            if ends_removed {
                assert_eq!(testbed.directory(0, "/n"), Ok(vec!["b".into()]));
                assert_eq!(testbed.nodes(1), before);
            } else {
                assert_eq!(testbed.read(0, "/n/x/y/z"), Ok((rounds - 1).to_string().into_bytes()));
                assert_eq!(testbed.nodes(1), before + 3 + u64::from(rounds > 1));
            }
            testbed.check();
        }
    }
}

#[test]
fn a_refused_request_leaves_the_transaction_as_it_was() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "/n/a", "new").unwrap();
    assert_eq!(testbed.write_in(1, transaction, "/tool/x", ""), error("EACCES"));
    assert_eq!(testbed.write_in(1, transaction, "//", ""), error("EINVAL"));
    assert_eq!(testbed.set_perms_in(1, transaction, "/n/a", "n1"), error("EACCES"));
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.read(0, "/n/a"), Ok(b"new".to_vec()));
}

#[test]
fn watches_set_in_a_transaction_remain_however_it_ends() {
    let mut testbed = with_nodes();
    for commit in [true, false] {
        let transaction = testbed.begin(1);
        let watch = testbed.request_in(1, transaction, MessageType::Watch.to_wire(), format!("/n\0{commit}\0"));
        assert_eq!(watch, ok());
        testbed.end(1, transaction, commit).unwrap();
    }
    testbed.events(1);
    testbed.write(0, "/n", "x").unwrap();
    assert_eq!(testbed.events(1), [event("/n", "true"), event("/n", "false")]);
}

#[test]
fn reset_watches_drops_watches_and_transactions_of_its_connection_only() {
    let mut testbed = with_nodes();
    let other = testbed.begin(2);
    testbed.watch(2, "/n", "t").unwrap();
    testbed.watch(1, "/n", "t").unwrap();
    let (outside, inside) = (testbed.begin(1), testbed.begin(1));
    testbed.events(1);
    testbed.events(2);
    for payload in ["\0", "", "anything"] {
        assert_eq!(testbed.request(1, MessageType::ResetWatches, payload), ok());
    }
    for transaction in [outside, inside] {
        assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));
    }
    testbed.write(0, "/n", "x").unwrap();
    assert_eq!(testbed.events(1), []);
    assert_eq!(testbed.events(2), [event("/n", "t")]);
    assert_eq!(testbed.end(2, other, true), ok());
    let gone = testbed.begin(1);
    assert_eq!(testbed.request_in(1, gone, MessageType::ResetWatches.to_wire(), "\0"), ok());
    assert_eq!(testbed.end(1, gone, true), error("ENOENT"), "its own transaction is dropped too");
    assert_eq!(testbed.request_in(1, gone, MessageType::ResetWatches.to_wire(), "\0"), error("ENOENT"));
    testbed.check();
}
