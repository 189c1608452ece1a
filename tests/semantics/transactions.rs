//! What a transaction sees, when it conflicts, and what its end leaves. Without replay, which has its own tests.

use xenstore::wire::header::MessageType;

use crate::world::{Answer, World, error, event, ok};

/// A world with a few nodes that guests 1 and 2 may use.
fn with_nodes() -> World {
    let mut world = World::without_replay([1, 2]);
    for path in ["/n", "/n/a", "/n/b", "/n/a/deep", "/other"] {
        world.write(0, path, "old").unwrap();
        world.set_perms(0, path, "b0").unwrap();
    }
    world
}

fn end_with(world: &mut World, transaction: u32, payload: &str) -> Answer {
    world.request_in(1, transaction, MessageType::TransactionEnd.to_wire(), payload)
}

#[test]
fn numbers_are_never_zero_and_belong_to_one_connection() {
    let mut world = with_nodes();
    let mut open = vec![world.begin(1), world.begin(1), world.begin(1)];
    assert!(!open.contains(&0));
    open.sort_unstable();
    open.dedup();
    assert_eq!(open.len(), 3);
    let foreign = open.iter().copied().max().unwrap();
    assert_eq!(world.read_in(2, foreign, "/n"), error("ENOENT"));
    assert_eq!(world.end(2, foreign, true), error("ENOENT"));
    assert_eq!(world.end(0, foreign, true), error("ENOENT"));
    assert_eq!(world.end(1, foreign, true), ok());
}

#[test]
fn transactions_do_not_nest() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    let start = MessageType::TransactionStart.to_wire();
    assert_eq!(world.request_in(1, transaction, start, "\0"), error("EBUSY"));
    assert_eq!(world.request_in(1, 999, start, "\0"), error("ENOENT"));
    for payload in ["", "\0", "anything", "a\0b\0"] {
        assert!(world.request(1, MessageType::TransactionStart, payload).is_ok(), "the payload does not matter");
    }
}

#[test]
fn an_end_is_t_or_f_and_anything_else_leaves_the_transaction_open() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "/n", "new").unwrap();
    for wrong in ["", "T", "F", "t\0", "f\0", "TT\0", "T\0T\0", "T\0\0", "\0", "yes\0"] {
        assert_eq!(end_with(&mut world, transaction, wrong), error("EINVAL"), "{wrong:?}");
        assert_eq!(end_with(&mut world, 0, wrong), error("EINVAL"), "before the number is looked at: {wrong:?}");
        assert_eq!(end_with(&mut world, 999, wrong), error("ENOENT"), "an unknown number is found first: {wrong:?}");
    }
    assert_eq!(world.end(1, 0, true), error("ENOENT"));
    assert_eq!(world.end(1, 0, false), error("ENOENT"));
    assert_eq!(world.end(1, transaction, true), ok());
    assert_eq!(world.end(1, transaction, true), error("ENOENT"));
    assert_eq!(world.read(0, "/n"), Ok(b"new".to_vec()));
}

#[test]
fn every_request_but_watch_and_unwatch_needs_an_open_transaction() {
    let mut world = with_nodes();
    for kind in MessageType::ALL {
        let answer = world.request_in(0, 999, kind.to_wire(), "/n\0t\0");
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
fn nobody_else_sees_a_change_before_the_commit_and_nobody_at_all_after_an_abort() {
    let mut world = with_nodes();
    for commit in [false, true] {
        let transaction = world.begin(1);
        world.write_in(1, transaction, "/n/a", "new").unwrap();
        world.write_in(1, transaction, "/n/made/deep", "new").unwrap();
        world.rm_in(1, transaction, "/n/b").unwrap();
        assert_eq!(world.directory_in(1, transaction, "/n"), Ok(vec!["a".into(), "made".into()]));
        assert_eq!(world.read_in(1, transaction, "/n/b"), error("ENOENT"));
        for domid in 0..3 {
            assert_eq!(world.read(domid, "/n/a"), Ok(b"old".to_vec()));
            assert_eq!(world.directory(domid, "/n"), Ok(vec!["a".into(), "b".into()]));
        }
        assert_eq!(world.end(1, transaction, commit), ok());
        world.check();
    }
    assert_eq!(world.read(2, "/n/a"), Ok(b"new".to_vec()));
    assert_eq!(world.directory(2, "/n"), Ok(vec!["a".into(), "made".into()]));
    assert_eq!(world.read(0, "/n/made/deep"), Ok(b"new".to_vec()));
}

#[test]
fn a_node_stays_as_it_was_at_the_first_look() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    assert_eq!(world.read_in(1, transaction, "/n/a"), Ok(b"old".to_vec()));
    assert_eq!(world.read_in(1, transaction, "/n/none"), error("ENOENT"));
    world.write(0, "/n/a", "changed").unwrap();
    world.write(0, "/n/none", "made").unwrap();
    assert_eq!(world.read_in(1, transaction, "/n/a"), Ok(b"old".to_vec()));
    assert_eq!(world.read_in(1, transaction, "/n/none"), error("ENOENT"));
    assert_eq!(world.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(world.end(1, transaction, true), error("ENOENT"), "it is gone");
}

/// Does something in a transaction, something else outside, and commits.
fn race(inside: &dyn Fn(&mut World, u32), outside: &dyn Fn(&mut World)) -> Answer {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    inside(&mut world, transaction);
    outside(&mut world);
    let before = world.read(0, "/n/a");
    let answer = world.end(1, transaction, true);
    if answer.is_err() {
        assert_eq!(world.read(0, "/n/a"), before, "a refused commit changes nothing");
    }
    world.check();
    answer
}

type Inside<'a> = (&'a str, &'a dyn Fn(&mut World, u32));
type Outside<'a> = (&'a str, &'a dyn Fn(&mut World));

#[test]
fn what_was_seen_and_changed_by_others_conflicts() {
    let insides: [Inside<'_>; 6] = [
        ("read", &|world, t| drop(world.read_in(1, t, "/n/a").unwrap())),
        ("directory", &|world, t| drop(world.directory_in(1, t, "/n/a").unwrap())),
        ("write", &|world, t| drop(world.write_in(1, t, "/n/a", "mine").unwrap())),
        ("mkdir", &|world, t| drop(world.mkdir_in(1, t, "/n/a").unwrap())),
        ("remove", &|world, t| drop(world.rm_in(1, t, "/n/a").unwrap())),
        ("make below", &|world, t| drop(world.write_in(1, t, "/n/a/new", "mine").unwrap())),
    ];
    let outsides: [Outside<'_>; 6] = [
        ("write", &|world| drop(world.write(2, "/n/a", "theirs").unwrap())),
        ("same value", &|world| drop(world.write(2, "/n/a", "old").unwrap())),
        ("permissions", &|world| drop(world.set_perms(0, "/n/a", "b0 r2").unwrap())),
        ("new child", &|world| drop(world.write(2, "/n/a/child", "theirs").unwrap())),
        ("removed child", &|world| drop(world.rm(2, "/n/a/deep").unwrap())),
        ("removed", &|world| drop(world.rm(2, "/n/a").unwrap())),
    ];
    for (what, inside) in insides {
        for (how, outside) in outsides {
            assert_eq!(race(inside, outside), error("EAGAIN"), "{what} against {how}");
        }
        assert_eq!(race(inside, &|_| ()), ok(), "{what} alone");
        assert_eq!(race(inside, &|world| drop(world.write(2, "/other", "x").unwrap())), ok(), "{what} elsewhere");
        assert_eq!(
            race(inside, &|world| drop(world.mkdir(2, "/n/a").unwrap())),
            ok(),
            "{what} and a MKDIR without effect"
        );
    }
}

#[test]
fn what_was_missing_and_made_by_others_conflicts() {
    let looks: [Inside<'_>; 3] = [
        ("read", &|world, t| assert_eq!(world.read_in(1, t, "/n/new"), error("ENOENT"))),
        ("remove", &|world, t| assert_eq!(world.rm_in(1, t, "/n/new"), ok())),
        ("make", &|world, t| assert_eq!(world.mkdir_in(1, t, "/n/new"), ok())),
    ];
    for (what, inside) in looks {
        assert_eq!(race(inside, &|world| drop(world.mkdir(2, "/n/new").unwrap())), error("EAGAIN"), "{what}");
    }
    // Made and removed again: the parent was looked at for the right to know, and its list was written twice.
    let (_, read) = looks[0];
    let outside = |world: &mut World| {
        world.mkdir(2, "/n/new").unwrap();
        world.rm(2, "/n/new").unwrap();
    };
    assert_eq!(race(read, &outside), error("EAGAIN"));
}

#[test]
fn what_was_not_looked_at_does_not_conflict() {
    let inside = |world: &mut World, t: u32| drop(world.write_in(1, t, "/n/b", "mine").unwrap());
    for outside in [
        &(|world: &mut World| drop(world.write(2, "/n", "x").unwrap())) as &dyn Fn(&mut World),
        &|world| drop(world.write(2, "/n/a", "x").unwrap()),
        &|world| drop(world.write(2, "/n/c", "x").unwrap()),
        &|world| drop(world.rm(2, "/n/a").unwrap()),
    ] {
        assert_eq!(race(&inside, outside), ok());
    }
}

#[test]
fn new_children_of_one_parent_conflict() {
    let inside = |world: &mut World, t: u32| drop(world.write_in(1, t, "/n/mine", "x").unwrap());
    assert_eq!(race(&inside, &|world| drop(world.write(2, "/n/theirs", "x").unwrap())), error("EAGAIN"));
}

#[test]
fn of_two_transactions_over_one_node_the_first_to_commit_wins() {
    let mut world = with_nodes();
    let (first, second) = (world.begin(1), world.begin(2));
    world.write_in(1, first, "/n/a", "1").unwrap();
    world.write_in(2, second, "/n/a", "2").unwrap();
    assert_eq!(world.end(2, second, true), ok());
    assert_eq!(world.end(1, first, true), error("EAGAIN"));
    assert_eq!(world.read(0, "/n/a"), Ok(b"2".to_vec()));
}

#[test]
fn a_transaction_that_changes_nothing_disturbs_nobody() {
    let mut world = with_nodes();
    let (first, second, empty) = (world.begin(1), world.begin(2), world.begin(1));
    world.read_in(1, first, "/n/a").unwrap();
    world.read_in(2, second, "/n/a").unwrap();
    assert_eq!(world.end(1, first, true), ok());
    assert_eq!(world.end(2, second, true), ok());
    assert_eq!(world.end(1, empty, true), ok());
}

#[test]
fn an_abort_never_conflicts() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "/n/a", "1").unwrap();
    world.write(2, "/n/a", "2").unwrap();
    assert_eq!(world.end(1, transaction, false), ok());
}

#[test]
fn children_are_listed_in_the_order_of_making_after_a_commit() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    for name in ["z", "y", "x"] {
        world.mkdir_in(1, transaction, &format!("/n/{name}")).unwrap();
    }
    world.rm_in(1, transaction, "/n/a").unwrap();
    world.rm_in(1, transaction, "/n/y").unwrap();
    world.mkdir_in(1, transaction, "/n/a").unwrap();
    let names: Vec<String> = ["b", "z", "x", "a"].map(String::from).to_vec();
    assert_eq!(world.directory_in(1, transaction, "/n"), Ok(names.clone()));
    assert_eq!(world.end(1, transaction, true), ok());
    assert_eq!(world.directory(1, "/n"), Ok(names));
    assert_eq!(world.directory(1, "/n/a"), Ok(vec![]), "what was below is gone");
    world.check();
}

#[test]
fn making_and_removing_the_same_nodes_again_and_again_ends_as_the_last_request_says() {
    for rounds in 1..6 {
        for ends_removed in [false, true] {
            let mut world = with_nodes();
            let before = world.nodes(1);
            let transaction = world.begin(1);
            for round in 0..rounds {
                world.write_in(1, transaction, "/n/x/y/z", &round.to_string()).unwrap();
                world.write_in(1, transaction, "/n/a", &round.to_string()).unwrap();
                if ends_removed || round + 1 < rounds {
                    world.rm_in(1, transaction, "/n/x").unwrap();
                    world.rm_in(1, transaction, "/n/a").unwrap();
                }
            }
            assert_eq!(world.end(1, transaction, true), ok());
            if ends_removed {
                assert_eq!(world.directory(0, "/n"), Ok(vec!["b".into()]));
                assert_eq!(world.nodes(1), before);
            } else {
                assert_eq!(world.read(0, "/n/x/y/z"), Ok((rounds - 1).to_string().into_bytes()));
                assert_eq!(world.nodes(1), before + 3 + u64::from(rounds > 1));
            }
            world.check();
        }
    }
}

#[test]
fn a_refused_request_leaves_the_transaction_as_it_was() {
    let mut world = with_nodes();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "/n/a", "new").unwrap();
    assert_eq!(world.write_in(1, transaction, "/tool/x", ""), error("EACCES"));
    assert_eq!(world.write_in(1, transaction, "//", ""), error("EINVAL"));
    assert_eq!(world.set_perms_in(1, transaction, "/n/a", "n1"), error("EACCES"));
    assert_eq!(world.end(1, transaction, true), ok());
    assert_eq!(world.read(0, "/n/a"), Ok(b"new".to_vec()));
}

#[test]
fn watches_set_in_a_transaction_hold_whatever_becomes_of_it() {
    let mut world = with_nodes();
    for commit in [true, false] {
        let transaction = world.begin(1);
        let watch = world.request_in(1, transaction, MessageType::Watch.to_wire(), format!("/n\0{commit}\0"));
        assert_eq!(watch, ok());
        world.end(1, transaction, commit).unwrap();
    }
    world.events(1);
    world.write(0, "/n", "x").unwrap();
    assert_eq!(world.events(1), [event("/n", "true"), event("/n", "false")]);
}

#[test]
fn reset_watches_drops_watches_and_transactions_of_the_connection_alone() {
    let mut world = with_nodes();
    let other = world.begin(2);
    world.watch(2, "/n", "t").unwrap();
    world.watch(1, "/n", "t").unwrap();
    let (outside, inside) = (world.begin(1), world.begin(1));
    world.events(1);
    world.events(2);
    for payload in ["\0", "", "anything"] {
        assert_eq!(world.request(1, MessageType::ResetWatches, payload), ok());
    }
    for transaction in [outside, inside] {
        assert_eq!(world.end(1, transaction, true), error("ENOENT"));
    }
    world.write(0, "/n", "x").unwrap();
    assert_eq!(world.events(1), []);
    assert_eq!(world.events(2), [event("/n", "t")]);
    assert_eq!(world.end(2, other, true), ok());
    let gone = world.begin(1);
    assert_eq!(world.request_in(1, gone, MessageType::ResetWatches.to_wire(), "\0"), ok());
    assert_eq!(world.end(1, gone, true), error("ENOENT"), "its own transaction is dropped too");
    assert_eq!(world.request_in(1, gone, MessageType::ResetWatches.to_wire(), "\0"), error("ENOENT"));
    world.check();
}
