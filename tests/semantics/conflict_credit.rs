//! Conflict credits: whoever makes others' commits fail pays, and without points is not read for a while.

use xenstore::engine::config::Config;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::world::{World, error, event, ok};

/// A world with nodes that guests 1 to 4 may use.
fn with_nodes() -> World {
    let mut world = World::with_homes(1..5);
    share(&mut world);
    world
}

fn share(world: &mut World) {
    for path in ["/n", "/n/a", "/n/b"] {
        world.write(0, path, "old").unwrap();
        world.set_perms(0, path, "b0").unwrap();
    }
}

fn points(world: &World, domid: u16) -> i8 {
    world.server.engine().conflict_credits().points(DomId(domid))
}

/// The points of guests 1 to 4.
fn all_points(world: &World) -> [i8; 4] {
    [1, 2, 3, 4].map(|domid| points(world, domid))
}

/// Lets the commit of `victim` fail over `/n/a`, which `writer` writes.
fn make_fail(world: &mut World, victim: u16, writer: u16) {
    let transaction = world.begin(victim);
    let before = world.read_in(victim, transaction, "/n/a").unwrap();
    assert_eq!(world.write(writer, "/n/a", &(String::from_utf8(before).unwrap() + "x")), ok());
    assert_eq!(world.end(victim, transaction, true), error("EAGAIN"));
    // What is looked at here are conflict points, not write credits.
    assert!(!world.server.engine().write_credits().is_in_debt(DomId(writer)));
}

/// Lets a guest lose all its points, by making dom0's commits fail.
fn pause(world: &mut World, writer: u16) {
    for _ in 0..5 {
        make_fail(world, 0, writer);
    }
    assert_eq!(points(world, writer), 0);
}

#[test]
fn the_guest_whose_write_made_a_commit_fail_pays_and_nobody_else() {
    for replay in [true, false] {
        let mut world = World::with(Config { replay, ..Config::default() });
        (1..5).for_each(|domid| world.start(domid));
        share(&mut world);
        let transaction = world.begin(1);
        world.read_in(1, transaction, "/n/a").unwrap();
        world.write(2, "/n/b", "elsewhere").unwrap();
        world.write(3, "/n/a", "new").unwrap();
        world.write(4, "/n", "above").unwrap();
        assert_eq!(world.end(1, transaction, true), error("EAGAIN"));
        assert_eq!(all_points(&world), [5, 5, 4, 5], "replay: {replay}");
    }
}

#[test]
fn a_removal_is_paid_for_although_other_writes_of_its_parent_followed() {
    for replay in [true, false] {
        let mut world = World::with(Config { replay, ..Config::default() });
        (1..5).for_each(|domid| world.start(domid));
        share(&mut world);
        let transaction = world.begin(0);
        world.read_in(0, transaction, "/n/a").unwrap();
        world.rm(2, "/n/a").unwrap();
        // The transaction has accessed nothing of this.
        world.write(2, "/n/new", "").unwrap();
        world.write(3, "/n/newer", "").unwrap();
        world.write(0, "/n", "above").unwrap();
        assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
        assert_eq!(all_points(&world), [5, 4, 5, 5], "replay: {replay}");
    }
}

#[test]
fn a_removal_by_a_commit_is_paid_for_too() {
    let mut world = with_nodes();
    let victim = world.begin(0);
    world.read_in(0, victim, "/n/a").unwrap();
    let removal = world.begin(2);
    world.rm_in(2, removal, "/n/a").unwrap();
    assert_eq!(world.end(2, removal, true), ok());
    world.write(3, "/n/new", "").unwrap();
    assert_eq!(world.end(0, victim, true), error("EAGAIN"));
    assert_eq!(all_points(&world), [5, 4, 5, 5]);
}

/// A name, what the transaction asks, and what guest 2 does meanwhile.
type Way = (&'static str, fn(&mut World, u32), fn(&mut World));

#[test]
fn whatever_way_a_commit_is_made_to_fail_is_paid_for() {
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
        let mut world = with_nodes();
        let transaction = world.begin(1);
        inside(&mut world, transaction);
        outside(&mut world);
        assert_eq!(world.end(1, transaction, true), error("EAGAIN"), "{what}");
        assert_eq!(all_points(&world), [5, 4, 5, 5], "{what}");
    }
}

#[test]
fn of_many_who_wrote_only_those_pay_whose_write_changes_a_reply() {
    let mut world = with_nodes();
    let transaction = world.begin(0);
    world.directory_in(0, transaction, "/n").unwrap();
    world.read_in(0, transaction, "/n/a").unwrap();
    world.write_in(0, transaction, "/n/b", "mine").unwrap();
    world.write(2, "/n", "not looked at, only the names are").unwrap();
    world.write(3, "/n/b", "overwritten without a look").unwrap();
    world.write(4, "/n/a", "looked at").unwrap();
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(all_points(&world), [5, 5, 5, 4]);
}

#[test]
fn a_conflict_is_paid_for_even_if_the_reply_that_differs_has_another_cause() {
    let mut world = with_nodes();
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/n/b", "mine").unwrap();
    // This one has the generation of the transaction's own write, which no replay has.
    world.request_in(0, transaction, MessageType::DirectoryPart.to_wire(), "/n/b\x000\0").unwrap();
    world.write_in(0, transaction, "/n/a", "mine").unwrap();
    world.write(2, "/n/a", "theirs").unwrap();
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(all_points(&world), [5, 4, 5, 5]);
}

#[test]
fn a_commit_that_a_replay_saves_costs_nobody_a_point() {
    let mut world = with_nodes();
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/n/a", "mine").unwrap();
    world.write(2, "/n/a", "theirs").unwrap();
    assert_eq!(world.end(0, transaction, true), ok());
    assert_eq!(all_points(&world), [5; 4]);
}

#[test]
fn ones_own_writes_and_those_of_the_control_domain_are_blamed_on_nobody() {
    for writer in [0, 1] {
        let mut world = with_nodes();
        for _ in 0..9 {
            make_fail(&mut world, 1, writer);
        }
        assert_eq!(all_points(&world), [5; 4]);
        assert_eq!(world.server.engine().poll_timeout(), None);
    }
}

#[test]
fn a_write_is_paid_for_once_however_many_commits_it_makes_fail() {
    let mut world = with_nodes();
    let open: Vec<_> = (0..10).map(|_| world.begin(1)).collect();
    for transaction in &open {
        world.read_in(1, *transaction, "/n/a").unwrap();
    }
    world.write(2, "/n/a", "x").unwrap();
    for transaction in open {
        assert_eq!(world.end(1, transaction, true), error("EAGAIN"));
    }
    assert_eq!(all_points(&world), [5, 4, 5, 5]);
}

#[test]
fn at_its_fifth_failure_a_guest_is_not_read_until_it_has_a_point_back() {
    let mut world = with_nodes();
    for left in (0..5).rev() {
        assert!(!world.is_held_back(2));
        make_fail(&mut world, 0, 2);
        assert_eq!(points(&world, 2), left);
    }
    assert!(world.is_held_back(2));
    world.send(2, 0, MessageType::Read.to_wire(), b"/n/a\0");
    assert_eq!(world.server.engine().poll_timeout(), Some(world.now_ms + 50));
    world.pass(49);
    assert_eq!(world.message(2), None);
    world.pass(1);
    assert!(world.message(2).is_some(), "it is served by itself");
    assert_eq!(points(&world, 2), 1);
    world.pass(200);
    assert_eq!((points(&world, 2), world.server.engine().poll_timeout()), (5, None));
}

#[test]
fn replies_and_events_reach_a_guest_without_points() {
    let mut world = with_nodes();
    world.watch(2, "/n/b", "t").unwrap();
    world.events(2);
    pause(&mut world, 2);
    world.write(0, "/n/b", "x").unwrap();
    assert_eq!(world.events(2), [event("/n/b", "t")]);
    assert!(world.is_held_back(2) && !world.is_held_back(3));
    assert!(!world.server.poll(&mut world.machine, world.now_ms).busy, "it costs nothing while it waits");
}

#[test]
fn guests_without_points_get_them_back_one_at_a_time() {
    let mut world = with_nodes();
    pause(&mut world, 2);
    pause(&mut world, 3);
    world.pass(50);
    assert_eq!([world.is_held_back(2), world.is_held_back(3)], [false, true]);
    world.pass(50);
    assert_eq!([world.is_held_back(2), world.is_held_back(3)], [false, false]);
}

#[test]
fn while_the_control_domain_tries_again_nobody_gets_a_point_but_for_no_longer_than_a_second() {
    let mut world = with_nodes();
    pause(&mut world, 2);
    let transaction = world.begin(0);
    world.pass(999);
    assert!(world.is_held_back(2));
    assert_eq!(world.end(0, transaction, true), ok());
    world.pass(0);
    assert!(!world.is_held_back(2), "what was due comes when it is done");

    pause_to_nothing(&mut world, 2);
    world.begin(0);
    world.pass(1049);
    assert!(world.is_held_back(2));
    world.pass(1);
    assert!(!world.is_held_back(2), "a tool that hangs stops nobody for ever");
}

/// Lets a guest lose the points that it has left.
fn pause_to_nothing(world: &mut World, writer: u16) {
    while points(world, writer) > 0 {
        make_fail(world, 0, writer);
    }
}

#[test]
fn a_transaction_of_a_guest_keeps_nobodys_points() {
    let mut world = with_nodes();
    pause(&mut world, 2);
    world.begin(1);
    world.pass(50);
    assert!(!world.is_held_back(2));
}

#[test]
fn a_domain_does_not_inherit_what_another_of_its_number_lost() {
    let mut world = with_nodes();
    pause(&mut world, 2);
    world.introduce(0, 2, 1).unwrap();
    assert!(world.is_held_back(2), "introduced again, it is the same domain");
    world.kill(2);
    world.start(2);
    assert_eq!(points(&world, 2), 5);
    assert_eq!(world.server.engine().conflict_credits().next_ms(false), None);

    let transaction = world.begin(0);
    world.read_in(0, transaction, "/n/a").unwrap();
    world.write(3, "/n/a", "x").unwrap();
    world.kill(3);
    world.start(3);
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(points(&world, 3), 5);
}
