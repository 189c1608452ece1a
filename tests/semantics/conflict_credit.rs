//! Conflict credits: a guest whose writes make others' commits fail pays, and is held back when it has no credits.

use xenstore::engine::config::Config;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed with nodes that guests 1 to 4 may use.
fn with_nodes() -> Testbed {
    let mut testbed = Testbed::with_homes(1..5);
    share(&mut testbed);
    testbed
}

fn share(testbed: &mut Testbed) {
    for path in ["/n", "/n/a", "/n/b"] {
        testbed.write(0, path, "old").unwrap();
        testbed.set_perms(0, path, "b0").unwrap();
    }
}

fn credits(testbed: &Testbed, domid: u16) -> i8 {
    testbed.server.engine().conflict_credits().credits(DomId(domid))
}

/// Returns the conflict credits of guests 1 to 4.
fn all_points(testbed: &Testbed) -> [i8; 4] {
    [1, 2, 3, 4].map(|domid| credits(testbed, domid))
}

/// Makes the commit of `victim` fail over `/n/a`, which `writer` writes.
fn make_fail(testbed: &mut Testbed, victim: u16, writer: u16) {
    let transaction = testbed.begin(victim);
    let before = testbed.read_in(victim, transaction, "/n/a").unwrap();
    assert_eq!(testbed.write(writer, "/n/a", &(String::from_utf8(before).unwrap() + "x")), ok());
    assert_eq!(testbed.end(victim, transaction, true), error("EAGAIN"));
    // These tests are about conflict credits, not write credits.
    assert!(!testbed.server.engine().write_credits().is_in_debt(DomId(writer)));
}

/// Takes all of a guest's conflict credits by failed commits of dom0.
fn pause(testbed: &mut Testbed, writer: u16) {
    for _ in 0..5 {
        make_fail(testbed, 0, writer);
    }
    assert_eq!(credits(testbed, writer), 0);
}

#[test]
fn only_the_guest_whose_write_made_a_commit_fail_pays() {
    for replay in [true, false] {
        let mut testbed = Testbed::with(Config { replay, ..Config::default() });
        (1..5).for_each(|domid| testbed.start(domid));
        share(&mut testbed);
        let transaction = testbed.begin(1);
        testbed.read_in(1, transaction, "/n/a").unwrap();
        testbed.write(2, "/n/b", "elsewhere").unwrap();
        testbed.write(3, "/n/a", "new").unwrap();
        testbed.write(4, "/n", "above").unwrap();
        assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
        assert_eq!(all_points(&testbed), [5, 5, 4, 5], "replay: {replay}");
    }
}

#[test]
fn a_removal_is_paid_for_although_other_writes_of_its_parent_followed() {
    for replay in [true, false] {
        let mut testbed = Testbed::with(Config { replay, ..Config::default() });
        (1..5).for_each(|domid| testbed.start(domid));
        share(&mut testbed);
        let transaction = testbed.begin(0);
        testbed.read_in(0, transaction, "/n/a").unwrap();
        testbed.rm(2, "/n/a").unwrap();
        // The transaction has not accessed this node.
        testbed.write(2, "/n/new", "").unwrap();
        testbed.write(3, "/n/newer", "").unwrap();
        testbed.write(0, "/n", "above").unwrap();
        assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
        assert_eq!(all_points(&testbed), [5, 4, 5, 5], "replay: {replay}");
    }
}

#[test]
fn a_removal_by_a_commit_is_paid_for_too() {
    let mut testbed = with_nodes();
    let victim = testbed.begin(0);
    testbed.read_in(0, victim, "/n/a").unwrap();
    let removal = testbed.begin(2);
    testbed.rm_in(2, removal, "/n/a").unwrap();
    assert_eq!(testbed.end(2, removal, true), ok());
    testbed.write(3, "/n/new", "").unwrap();
    assert_eq!(testbed.end(0, victim, true), error("EAGAIN"));
    assert_eq!(all_points(&testbed), [5, 4, 5, 5]);
}

/// A name, the requests of the transaction, and those of guest 2 meanwhile.
type Way = (&'static str, fn(&mut Testbed, u32), fn(&mut Testbed));

#[test]
fn every_way_to_make_a_commit_fail_is_paid_for() {
    let ways: [Way; 7] = [
        ("write", |w, t| drop(w.read_in(1, t, "/n/a")), |w| drop(w.write(2, "/n/a", "x").unwrap())),
        ("make", |w, t| drop(w.read_in(1, t, "/n/new")), |w| drop(w.mkdir(2, "/n/new").unwrap())),
        ("remove", |w, t| drop(w.read_in(1, t, "/n/a")), |w| drop(w.rm(2, "/n/a").unwrap())),
        ("make below", |w, t| drop(w.directory_in(1, t, "/n/a")), |w| drop(w.mkdir(2, "/n/a/c").unwrap())),
        ("remove above", |w, t| drop(w.read_in(1, t, "/n/a")), |w| drop(w.rm(2, "/n").unwrap())),
        (
            "commit",
            |w, t| drop(w.read_in(1, t, "/n/a")),
            |w| {
                let transaction = w.begin(2);
                w.write_in(2, transaction, "/n/b", "x").unwrap();
                w.write_in(2, transaction, "/n/a", "x").unwrap();
                assert_eq!(w.end(2, transaction, true), ok());
            },
        ),
        (
            "replayed commit",
            |w, t| drop(w.read_in(1, t, "/n/a")),
            |w| {
                let transaction = w.begin(2);
                w.write_in(2, transaction, "/n/a", "x").unwrap();
                w.write(0, "/n/a", "y").unwrap();
                assert_eq!(w.end(2, transaction, true), ok());
            },
        ),
    ];
    for (what, inside, outside) in ways {
        let mut testbed = with_nodes();
        let transaction = testbed.begin(1);
        inside(&mut testbed, transaction);
        outside(&mut testbed);
        assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"), "{what}");
        assert_eq!(all_points(&testbed), [5, 4, 5, 5], "{what}");
    }
}

#[test]
fn of_many_writers_only_those_whose_write_changes_a_reply_pay() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(0);
    testbed.directory_in(0, transaction, "/n").unwrap();
    testbed.read_in(0, transaction, "/n/a").unwrap();
    testbed.write_in(0, transaction, "/n/b", "mine").unwrap();
    testbed.write(2, "/n", "not read, only the names are").unwrap();
    testbed.write(3, "/n/b", "overwritten without a read").unwrap();
    testbed.write(4, "/n/a", "read").unwrap();
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(all_points(&testbed), [5, 5, 5, 4]);
}

#[test]
fn a_conflict_is_paid_for_even_if_the_reply_that_differs_has_another_cause() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/n/b", "mine").unwrap();
    // This node has the generation of the transaction's own write, which no replay has.
    testbed.request_in(0, transaction, MessageType::DirectoryPart.to_wire(), "/n/b\x000\0").unwrap();
    testbed.write_in(0, transaction, "/n/a", "mine").unwrap();
    testbed.write(2, "/n/a", "theirs").unwrap();
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(all_points(&testbed), [5, 4, 5, 5]);
}

#[test]
fn a_commit_that_a_replay_saves_costs_no_conflict_credit() {
    let mut testbed = with_nodes();
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/n/a", "mine").unwrap();
    testbed.write(2, "/n/a", "theirs").unwrap();
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(all_points(&testbed), [5; 4]);
}

#[test]
fn own_writes_and_those_of_the_control_domain_cost_no_conflict_credit() {
    for writer in [0, 1] {
        let mut testbed = with_nodes();
        for _ in 0..9 {
            make_fail(&mut testbed, 1, writer);
        }
        assert_eq!(all_points(&testbed), [5; 4]);
        assert_eq!(testbed.server.engine().poll_timeout(), None);
    }
}

#[test]
fn a_write_is_paid_for_once_however_many_commits_it_makes_fail() {
    let mut testbed = with_nodes();
    let open: Vec<_> = (0..10).map(|_| testbed.begin(1)).collect();
    for transaction in &open {
        testbed.read_in(1, *transaction, "/n/a").unwrap();
    }
    testbed.write(2, "/n/a", "x").unwrap();
    for transaction in open {
        assert_eq!(testbed.end(1, transaction, true), error("EAGAIN"));
    }
    assert_eq!(all_points(&testbed), [5, 4, 5, 5]);
}

#[test]
fn at_its_fifth_failure_a_guest_is_held_back_until_it_regains_a_conflict_credit() {
    let mut testbed = with_nodes();
    for left in (0..5).rev() {
        assert!(!testbed.is_held_back(2));
        make_fail(&mut testbed, 0, 2);
        assert_eq!(credits(&testbed, 2), left);
    }
    assert!(testbed.is_held_back(2));
    testbed.send(2, 0, MessageType::Read.to_wire(), b"/n/a\0");
    assert_eq!(testbed.server.engine().poll_timeout(), Some(testbed.now_ms + 50));
    testbed.pass(49);
    assert_eq!(testbed.message(2), None);
    testbed.pass(1);
    assert!(testbed.message(2).is_some(), "the server reads from it without a signal");
    assert_eq!(credits(&testbed, 2), 1);
    testbed.pass(200);
    assert_eq!((credits(&testbed, 2), testbed.server.engine().poll_timeout()), (5, None));
}

#[test]
fn replies_and_events_reach_a_guest_without_conflict_credits() {
    let mut testbed = with_nodes();
    testbed.watch(2, "/n/b", "t").unwrap();
    testbed.events(2);
    pause(&mut testbed, 2);
    testbed.write(0, "/n/b", "x").unwrap();
    assert_eq!(testbed.events(2), [event("/n/b", "t")]);
    assert!(testbed.is_held_back(2) && !testbed.is_held_back(3));
    assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy, "a held-back guest causes no work");
}

#[test]
fn guests_without_conflict_credits_regain_them_one_at_a_time() {
    let mut testbed = with_nodes();
    pause(&mut testbed, 2);
    pause(&mut testbed, 3);
    testbed.pass(50);
    assert_eq!([testbed.is_held_back(2), testbed.is_held_back(3)], [false, true]);
    testbed.pass(50);
    assert_eq!([testbed.is_held_back(2), testbed.is_held_back(3)], [false, false]);
}

#[test]
fn a_retry_of_the_control_domain_delays_conflict_credits_for_at_most_a_second() {
    let mut testbed = with_nodes();
    pause(&mut testbed, 2);
    let transaction = testbed.begin(0);
    testbed.pass(999);
    assert!(testbed.is_held_back(2));
    assert_eq!(testbed.end(0, transaction, true), ok());
    testbed.pass(0);
    assert!(!testbed.is_held_back(2), "the due credit comes when the retry ends");

    pause_to_nothing(&mut testbed, 2);
    testbed.begin(0);
    testbed.pass(1049);
    assert!(testbed.is_held_back(2));
    testbed.pass(1);
    assert!(!testbed.is_held_back(2), "a tool that hangs does not delay credits for ever");
}

/// Takes a guest's remaining conflict credits.
fn pause_to_nothing(testbed: &mut Testbed, writer: u16) {
    while credits(testbed, writer) > 0 {
        make_fail(testbed, 0, writer);
    }
}

#[test]
fn a_guests_transaction_delays_no_conflict_credits() {
    let mut testbed = with_nodes();
    pause(&mut testbed, 2);
    testbed.begin(1);
    testbed.pass(50);
    assert!(!testbed.is_held_back(2));
}

#[test]
fn a_domain_does_not_inherit_a_loss_of_conflict_credits() {
    let mut testbed = with_nodes();
    pause(&mut testbed, 2);
    testbed.introduce(0, 2, 1).unwrap();
    assert!(testbed.is_held_back(2), "a repeated introduction does not make a new domain");
    testbed.kill(2);
    testbed.start(2);
    assert_eq!(credits(&testbed, 2), 5);
    assert_eq!(testbed.server.engine().conflict_credits().next_ms(false), None);

    let transaction = testbed.begin(0);
    testbed.read_in(0, transaction, "/n/a").unwrap();
    testbed.write(3, "/n/a", "x").unwrap();
    testbed.kill(3);
    testbed.start(3);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(credits(&testbed, 3), 5);
}
