//! Replay: a transaction that conflicts is re-executed against the current state, and committed if the client cannot
//! see a difference (oxenstored's idea).

use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::random::{Random, Seed};
use crate::support::testbed::{Answer, Testbed, error, event, ok};

/// Returns a testbed with a few nodes that guests 1 and 2 may use.
fn with_nodes() -> Testbed {
    let mut testbed = Testbed::with_homes([1, 2]);
    for path in ["/n", "/n/a", "/n/b", "/n/a/deep"] {
        testbed.write(0, path, "old").unwrap();
        testbed.set_perms(0, path, "b0").unwrap();
    }
    testbed
}

/// Returns everything that can be seen of the tree: paths, values, permissions, in the order of creation.
fn tree(testbed: &mut Testbed) -> Vec<(String, Answer, Result<String, String>)> {
    let mut open = vec![String::new()];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        let full = if path.is_empty() { "/" } else { &path };
        let names = testbed.directory(0, full).unwrap();
        found.push((path.clone(), testbed.read(0, full), testbed.get_perms(0, full)));
        open.extend(names.iter().rev().map(|name| format!("{path}/{name}")));
    }
    found
}

type Inside<'a> = (&'a str, &'a dyn Fn(&mut Testbed, u32));
type Outside<'a> = (&'a str, &'a dyn Fn(&mut Testbed));

/// Acts in a transaction of domain 1 and outside of it, and commits.
fn race(inside: &dyn Fn(&mut Testbed, u32), outside: &dyn Fn(&mut Testbed)) -> Answer {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    inside(&mut testbed, transaction);
    outside(&mut testbed);
    let (before, generation) = (tree(&mut testbed), testbed.server.engine().state().generation());
    let answer = testbed.end(1, transaction, true);
    if answer.is_err() {
        assert_eq!(tree(&mut testbed), before, "a refused commit changes nothing");
        assert_eq!(testbed.server.engine().state().generation(), generation);
    }
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"), "any answer ends the transaction");
    testbed.check();
    answer
}

#[test]
fn a_commit_succeeds_exactly_if_every_reply_would_be_the_same() {
    let insides: [Inside<'_>; 8] = [
        ("read", &|testbed, t| drop(testbed.read_in(1, t, "/n/a").unwrap())),
        ("directory", &|testbed, t| drop(testbed.directory_in(1, t, "/n/a").unwrap())),
        ("permissions", &|testbed, t| {
            drop(testbed.request_in(1, t, MessageType::GetPerms.to_wire(), "/n/a\0").unwrap());
        }),
        ("write", &|testbed, t| drop(testbed.write_in(1, t, "/n/a", "mine").unwrap())),
        ("mkdir", &|testbed, t| drop(testbed.mkdir_in(1, t, "/n/a").unwrap())),
        ("remove", &|testbed, t| drop(testbed.rm_in(1, t, "/n/a").unwrap())),
        ("make below", &|testbed, t| drop(testbed.write_in(1, t, "/n/a/new", "mine").unwrap())),
        ("look for a missing node", &|testbed, t| assert_eq!(testbed.read_in(1, t, "/n/a/no"), error("ENOENT"))),
    ];
    let outsides: [Outside<'_>; 7] = [
        ("write", &|testbed| drop(testbed.write(2, "/n/a", "theirs").unwrap())),
        ("same value", &|testbed| drop(testbed.write(2, "/n/a", "old").unwrap())),
        ("permissions", &|testbed| drop(testbed.set_perms(0, "/n/a", "b0 r2").unwrap())),
        ("new child", &|testbed| drop(testbed.write(2, "/n/a/child", "theirs").unwrap())),
        ("the missing node", &|testbed| drop(testbed.write(2, "/n/a/no", "theirs").unwrap())),
        ("removed", &|testbed| drop(testbed.rm(2, "/n/a").unwrap())),
        ("closed", &|testbed| drop(testbed.set_perms(0, "/n/a", "n0").unwrap())),
    ];
    // Rows: inside. Columns: outside. `x` where a reply would differ.
    let expected = ["x....xx", "...xxxx", "..x..xx", "......x", "......x", "......x", "......x", "....x.x"];
    for ((what, inside), row) in insides.iter().zip(expected) {
        for ((how, outside), conflicts) in outsides.iter().zip(row.chars()) {
            let expected = if conflicts == 'x' { error("EAGAIN") } else { ok() };
            assert_eq!(race(inside, outside), expected, "{what} against {how}");
        }
    }
}

#[test]
fn a_counter_that_is_read_and_written_never_loses_a_count() {
    let mut testbed = with_nodes();
    testbed.write(0, "/n/a", "0").unwrap();
    let count = |testbed: &mut Testbed, domid: u16, transaction: u32| {
        let before: u32 =
            String::from_utf8(testbed.read_in(domid, transaction, "/n/a").unwrap()).unwrap().parse().unwrap();
        testbed.write_in(domid, transaction, "/n/a", &(before + 1).to_string()).unwrap();
    };
    let mut committed = 0;
    for _ in 0..50 {
        let (first, second) = (testbed.begin(1), testbed.begin(2));
        count(&mut testbed, 1, first);
        count(&mut testbed, 2, second);
        committed += u32::from(testbed.end(2, second, true).is_ok());
        committed += u32::from(testbed.end(1, first, true).is_ok());
    }
    assert_eq!(testbed.read(0, "/n/a"), Ok(committed.to_string().into_bytes()));
    assert_eq!(committed, 50, "one of two");
}

#[test]
fn a_reply_that_depends_on_a_generation_is_not_the_same() {
    let part = |testbed: &mut Testbed, t: u32, path: &str| {
        testbed.request_in(1, t, MessageType::DirectoryPart.to_wire(), format!("{path}\x000\0")).unwrap();
    };
    assert_eq!(race(&|testbed, t| part(testbed, t, "/n/a"), &|_| ()), ok());
    assert_eq!(
        race(&|testbed, t| part(testbed, t, "/n/a"), &|testbed| drop(testbed.write(2, "/n/a", "old").unwrap())),
        error("EAGAIN"),
        "the names are the same, and the generation is not"
    );
    let own = |testbed: &mut Testbed, t: u32| {
        testbed.write_in(1, t, "/n/b", "mine").unwrap();
        part(testbed, t, "/n/b");
    };
    assert_eq!(race(&own, &|_| ()), ok());
    assert_eq!(race(&own, &|testbed| drop(testbed.write(2, "/n/b", "theirs").unwrap())), error("EAGAIN"));
}

#[test]
fn a_replay_causes_the_events_of_the_current_state() {
    let mut testbed = with_nodes();
    for path in ["/n/a", "/n/new"] {
        testbed.watch(2, path, "t").unwrap();
    }
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "/n/a", "mine").unwrap();
    testbed.write_in(1, transaction, "/n/new", "mine").unwrap();
    // Meanwhile domain 2 loses the right to know of one node, and to know of others below it.
    testbed.set_perms(0, "/n/a", "n0 b1").unwrap();
    testbed.set_perms(0, "/n", "n0 b1").unwrap();
    testbed.events(2);
    testbed.watch(2, "/n/b", "late").unwrap();
    testbed.events(2);
    testbed.watch(0, "/n", "all").unwrap();
    testbed.events(0);
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.events(2), [], "the right to know existed only before the commit");
    assert_eq!(testbed.events(0), [event("/n/a", "all"), event("/n/new", "all")]);
    assert_eq!(testbed.get_perms(0, "/n/new"), Ok("n1 b1".into()), "a new node has the current permissions");
    testbed.check();
}

#[test]
fn a_replay_checks_rights_again() {
    let write = |testbed: &mut Testbed, t: u32| drop(testbed.write_in(1, t, "/n/a", "mine").unwrap());
    assert_eq!(race(&write, &|testbed| drop(testbed.set_perms(0, "/n/a", "b0 r1").unwrap())), error("EAGAIN"));
    assert_eq!(race(&write, &|testbed| drop(testbed.set_perms(0, "/n/a", "n0 w1").unwrap())), ok());
    let refused = |testbed: &mut Testbed, t: u32| assert_eq!(testbed.write_in(1, t, "/tool/x", ""), error("EACCES"));
    assert_eq!(
        race(&refused, &|testbed| drop(testbed.write(0, "/tool", "x").unwrap())),
        ok(),
        "the request is refused again"
    );
    assert_eq!(race(&refused, &|testbed| drop(testbed.set_perms(0, "/tool", "b0").unwrap())), error("EAGAIN"));
}

/// Makes nodes in the home of domain 1, outside of its transaction.
fn make_more(testbed: &mut Testbed, count: usize) {
    for at in 0..count {
        assert_eq!(testbed.mkdir(1, &format!("more{at}")), ok());
    }
}

#[test]
fn a_replay_checks_quotas_again() {
    for (more, expected) in [(9, ok()), (10, error("ENOSPC"))] {
        let mut testbed = with_nodes();
        testbed.fill_nodes(1, 990);
        let transaction = testbed.begin(1);
        testbed.mkdir_in(1, transaction, "mine").unwrap();
        make_more(&mut testbed, more);
        assert_eq!(testbed.end(1, transaction, true), expected);
        assert_eq!(testbed.nodes(1), 1000, "the quota holds");
        testbed.check();
    }
    // A request that passed would be refused now, although the sum at the end would fit.
    let mut testbed = with_nodes();
    testbed.fill_nodes(1, 990);
    let transaction = testbed.begin(1);
    for at in 0..5 {
        testbed.mkdir_in(1, transaction, &format!("t/{at}")).unwrap();
    }
    testbed.rm_in(1, transaction, "t").unwrap();
    make_more(&mut testbed, 8);
    assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(testbed.nodes(1), 998);
    testbed.check();
}

#[test]
fn a_replayed_removal_removes_the_current_nodes() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    testbed.rm_in(1, transaction, "/n/a").unwrap();
    testbed.write(2, "/n/a/theirs/below", "x").unwrap();
    let owned = testbed.nodes(2);
    testbed.watch(2, "/n/a/theirs/below", "t").unwrap();
    testbed.events(2);
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.directory(0, "/n"), Ok(vec!["b".into()]));
    assert_eq!(testbed.nodes(2), owned - 2);
    assert_eq!(testbed.events(2), [event("/n/a/theirs/below", "t")]);
    testbed.check();
}

#[test]
fn a_record_has_limits_and_beyond_them_a_conflict_is_eagain() {
    // Requests of a guest; bytes of a guest; requests of the control domain.
    let cases: [(u16, usize, usize, bool); 6] = [
        (1, 128, 1, true),
        (1, 129, 1, false),
        (1, 7, 2000, true),
        (1, 9, 2000, false),
        (0, 1024, 1, true),
        (0, 1025, 1, false),
    ];
    for (domid, requests, value_bytes, is_kept) in cases {
        let mut testbed = with_nodes();
        let transaction = testbed.begin(domid);
        for _ in 0..requests {
            testbed.write_in(domid, transaction, "/n/b", &"x".repeat(value_bytes)).unwrap();
        }
        testbed.write(2, "/n/b", "theirs").unwrap();
        let expected = if is_kept { ok() } else { error("EAGAIN") };
        assert_eq!(testbed.end(domid, transaction, true), expected, "{domid}: {requests} of {value_bytes}");
    }
    let mut testbed = with_nodes();
    let transaction = testbed.begin(1);
    for _ in 0..500 {
        testbed.write_in(1, transaction, "/n/b", "mine").unwrap();
    }
    assert_eq!(testbed.end(1, transaction, true), ok(), "without a conflict the limits do not matter");
}

#[test]
fn a_transaction_with_too_many_accesses_is_replayed_only_for_the_control_domain() {
    // Each read of a missing node below 100 missing levels checks all of them.
    let deep = format!("/n{}", "/x".repeat(100));
    for (domid, reads, expected) in [(1, 30, ok()), (1, 60, error("EAGAIN")), (0, 100, ok())] {
        let mut testbed = with_nodes();
        let transaction = testbed.begin(domid);
        for _ in 0..reads {
            assert_eq!(testbed.read_in(domid, transaction, &deep), error("ENOENT"));
        }
        testbed.write_in(domid, transaction, "/n/b", "mine").unwrap();
        testbed.write(2, "/n/b", "theirs").unwrap();
        assert_eq!(testbed.end(domid, transaction, true), expected, "{domid} {reads}");
    }
}

#[test]
fn without_replay_every_conflict_is_eagain() {
    let mut testbed = Testbed::without_replay([1, 2]);
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "data", "mine").unwrap();
    testbed.write(0, "/local/domain/1/data", "theirs").unwrap();
    assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
}

#[test]
fn a_replay_sets_permissions_of_special_nodes_as_a_commit_does() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(0);
    testbed.set_perms_in(0, transaction, "@releaseDomain", "n0 r1").unwrap();
    testbed.write_in(0, transaction, "/n/a", "mine").unwrap();
    testbed.set_perms(0, "@releaseDomain", "n0 r2").unwrap();
    assert_eq!(testbed.get_perms(0, "@releaseDomain"), Ok("n0 r2".into()));
    testbed.write(2, "/n/a", "theirs").unwrap();
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.read(0, "/n/a"), Ok(b"mine".to_vec()));
    assert_eq!(testbed.get_perms(0, "@releaseDomain"), Ok("n0 r1".into()));
}

#[test]
fn permissions_name_the_current_domain_and_it_stays_unknown_if_the_replay_fails() {
    for is_same in [true, false] {
        let mut testbed = with_nodes();
        testbed.set_perms(0, "/n/a", "n0").unwrap();
        let transaction = testbed.begin(0);
        testbed.set_perms_in(0, transaction, "/n/a", "n0 r7").unwrap();
        testbed.read_in(0, transaction, "/n/b").unwrap();
        testbed.build(DomId(7));
        testbed.write(0, "/n/a", "theirs").unwrap();
        if !is_same {
            testbed.write(0, "/n/b", "theirs").unwrap();
        }
        let answer = testbed.end(0, transaction, true);
        assert_eq!(answer, if is_same { ok() } else { error("EAGAIN") });
        assert_eq!(testbed.server.engine().state().domains.get(DomId(7)).is_some(), is_same);
        testbed.start(7);
        assert_eq!(testbed.read(7, "/n/a"), if is_same { Ok(b"theirs".to_vec()) } else { error("EACCES") });
        testbed.check();
    }
}

/// Returns a request by one of the domains 0 to 2 that concerns a few nodes.
fn random_request(random: &mut Random) -> (MessageType, String) {
    let path = random.one_of(&["/n", "/n/a", "/n/b", "/n/a/deep", "/n/c", "/n/c/d", "/local/domain/1/x"]);
    match random.below(12) {
        0..3 => (MessageType::Write, format!("{path}\0v{}", random.below(2))),
        3..5 => (MessageType::Read, format!("{path}\0")),
        5 => (MessageType::Directory, format!("{path}\0")),
        6..8 => (MessageType::Mkdir, format!("{path}\0")),
        8..10 => (MessageType::Rm, format!("{path}\0")),
        10 => (MessageType::GetPerms, format!("{path}\0")),
        _ => {
            let entries = random.one_of(&["b0\0", "n0\0", "r0\0w1\0", "n1\0b2\0"]);
            (MessageType::SetPerms, format!("{path}\0{entries}"))
        }
    }
}

/// The outcome of one run: the replies of the transaction, that of its end, the tree, all events, and the counts of
/// nodes.
type Run = (Vec<Answer>, Answer, Vec<(String, Answer, Result<String, String>)>, Vec<Vec<(String, String)>>, Vec<u64>);

/// Sends the requests of a transaction and those of others, either in turns or the others' first.
fn run(mine: &[(MessageType, String)], theirs: &[(u16, MessageType, String)], in_turns: bool) -> Run {
    let mut testbed = with_nodes();
    for domid in 0..3 {
        testbed.watch(domid, "/n", "t").unwrap();
        testbed.watch(domid, "/n/a/deep", "t").unwrap();
    }
    let transaction = in_turns.then(|| testbed.begin(1));
    let mut answers = Vec::new();
    let mut ask = |testbed: &mut Testbed, transaction: u32, (kind, payload): &(MessageType, String)| {
        answers.push(testbed.request_in(1, transaction, kind.to_wire(), payload));
    };
    if let Some(transaction) = transaction {
        mine.iter().for_each(|request| ask(&mut testbed, transaction, request));
    }
    for (domid, kind, payload) in theirs {
        let _ = testbed.request(*domid, *kind, payload);
    }
    let transaction = transaction.unwrap_or_else(|| {
        let transaction = testbed.begin(1);
        mine.iter().for_each(|request| ask(&mut testbed, transaction, request));
        transaction
    });
    (0..3).for_each(|domid| drop(testbed.events(domid)));
    let end = testbed.end(1, transaction, true);
    testbed.check();
    let events = (0..3).map(|domid| testbed.events(domid)).collect();
    let nodes = (0..3).map(|domid| testbed.nodes(domid)).collect();
    (answers, end, tree(&mut testbed), events, nodes)
}

#[test]
fn a_replayed_commit_leaves_the_same_state_as_the_transaction_made_at_once() {
    let _seed = Seed(31);
    let mut random = Random::new(31);
    let (mut same, mut other) = (0, 0);
    for _ in 0..1500 {
        let mine: Vec<_> = (0..1 + random.below(4)).map(|_| random_request(&mut random)).collect();
        let theirs: Vec<_> = (0..1 + random.below(3))
            .map(|_| {
                let (kind, payload) = random_request(&mut random);
                (*random.one_of(&[0, 0, 2]), kind, payload)
            })
            .collect();
        let (in_turns, at_once) = (run(&mine, &theirs, true), run(&mine, &theirs, false));
        assert_eq!(at_once.1, ok());
        if in_turns.1 == ok() {
            assert_eq!(in_turns, at_once, "{mine:?} {theirs:?}");
            same += 1;
        } else {
            assert_eq!(in_turns.1, error("EAGAIN"));
            assert_ne!(in_turns.0, at_once.0, "a reply differs: {mine:?} {theirs:?}");
            other += 1;
        }
    }
    println!("{same} committed, {other} with another reply");
    assert!(same > 200 && other > 200, "both outcomes occurred");
}
