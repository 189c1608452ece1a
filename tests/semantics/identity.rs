//! Which domain has a number: one that is used again between two looks is a death and a birth.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::world::{World, error, event, ok};

/// A world in which domain 7 has a home and is known by a unique id, and dom0 is told of what comes and goes.
fn with_identity() -> World {
    let mut world = World::new();
    world.machine.unique_ids.insert(DomId(7), 100);
    world.start(7);
    world.make_home(7);
    world.watch(0, "@introduceDomain", "new").unwrap();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(world.events(0).len(), 2);
    world
}

/// Domain 7 dies and another one gets its number, before the server has looked.
fn reuse(world: &mut World) {
    world.build(DomId(7));
    world.machine.unique_ids.insert(DomId(7), 101);
}

/// The signal comes, which says nothing of who it is about.
fn signal(world: &mut World) {
    world.server.handle_domain_exception();
    world.run();
}

fn gone() -> (String, String) {
    event("@releaseDomain", "gone")
}

#[test]
fn a_number_used_again_between_two_looks_is_a_death_and_then_a_birth() {
    let mut world = with_identity();
    world.write(7, "data", "of the old").unwrap();
    world.write(0, "/a", "secret").unwrap();
    world.set_perms(0, "/a", "n0 b7").unwrap();
    world.watch(7, "/a", "t").unwrap();
    let transaction = world.begin(7);
    world.write_in(7, transaction, "data", "x").unwrap();
    reuse(&mut world);
    signal(&mut world);
    assert_eq!(world.events(0), [gone()]);
    assert!(!world.is_introduced(7), "the new one is introduced by INTRODUCE and nothing else");
    assert_eq!(world.nodes(7), 0);
    assert_eq!(world.get_perms(0, "/a"), Ok("n0".into()));
    assert_eq!((world.machine.mapped.len(), world.machine.bound.len()), (1, 1));
    world.check();
    world.start_built(7);
    assert_eq!(world.events(0), [event("@introduceDomain", "new")]);
    assert_eq!(world.read(7, "/a"), error("EACCES"));
    assert_eq!(world.end(7, transaction, true), error("ENOENT"));
    world.write(0, "/a", "x").unwrap();
    assert_eq!(world.events(7), []);
    world.make_home(7);
    assert_eq!(world.directory(7, "/local/domain/7"), Ok(vec![]));
    world.check();
}

#[test]
fn a_successor_that_has_shut_down_or_dies_is_no_less_another_domain() {
    for state in [DomainState::Shutdown, DomainState::Dying] {
        let mut world = with_identity();
        reuse(&mut world);
        world.set_state(7, state);
        assert_eq!(world.events(0), [gone()], "once, for the one that was introduced");
        assert!(!world.is_introduced(7));
        world.check();
    }
}

#[test]
fn a_signal_that_is_about_nobody_known_releases_nobody() {
    let mut world = with_identity();
    for _ in 0..3 {
        signal(&mut world);
    }
    assert_eq!(world.events(0), []);
    assert_eq!(world.write(7, "data", "x"), ok());
}

#[test]
fn a_domain_that_is_gone_is_found_though_no_signal_names_it() {
    let mut world = with_identity();
    world.start(8);
    world.events(0);
    world.machine.domains.remove(&DomId(7));
    // Some other domain's end is told, as far as anybody can know.
    world.set_state(8, DomainState::Shutdown);
    assert_eq!(world.events(0), [gone(), gone()]);
    assert!(!world.is_introduced(7) && world.is_introduced(8));
}

#[test]
fn an_introduction_before_the_signal_is_that_of_the_new_domain() {
    let mut world = with_identity();
    world.write(7, "data", "of the old").unwrap();
    reuse(&mut world);
    assert_eq!(world.introduce(0, 7, 1), ok());
    assert_eq!(world.events(0), [gone(), event("@introduceDomain", "new")]);
    assert!(world.is_introduced(7));
    assert_eq!(world.nodes(7), 0);
    signal(&mut world);
    assert!(world.is_introduced(7));
    assert_eq!(world.events(0), []);
    assert_eq!(world.read(7, "data"), error("EACCES"));
    world.check();
}

#[test]
fn a_right_given_before_the_signal_is_that_of_the_new_domain() {
    let mut world = with_identity();
    world.write(0, "/old", "x").unwrap();
    world.set_perms(0, "/old", "n0 r7").unwrap();
    reuse(&mut world);
    world.write(0, "/a", "x").unwrap();
    world.set_perms(0, "/a", "n0 r7").unwrap();
    assert_eq!(world.events(0), [gone()]);
    world.start_built(7);
    signal(&mut world);
    assert_eq!(world.read(7, "/a"), Ok(b"x".to_vec()));
    assert_eq!(world.read(7, "/old"), error("EACCES"));
    world.check();
}

#[test]
fn a_domain_known_by_a_right_only_is_told_apart_too() {
    let mut world = World::new();
    world.machine.unique_ids.insert(DomId(7), 100);
    world.build(DomId(7));
    world.write(0, "/a", "x").unwrap();
    world.set_perms(0, "/a", "n0 r7").unwrap();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    reuse(&mut world);
    signal(&mut world);
    world.start_built(7);
    assert_eq!(world.read(7, "/a"), error("EACCES"));
    assert_eq!(world.events(0), [], "who was not introduced is not released");
}

#[test]
fn a_target_is_not_its_successor() {
    let mut world = with_identity();
    world.start(8);
    world.set_target(0, 8, 7).unwrap();
    assert_eq!(world.read(8, "/local/domain/7"), Ok(vec![]));
    reuse(&mut world);
    world.start_built(7);
    world.make_home(7);
    assert_eq!(world.read(8, "/local/domain/7"), error("EACCES"));
}

#[test]
fn a_right_in_an_open_transaction_is_not_its_successors() {
    let mut world = with_identity();
    world.write(0, "/a", "x").unwrap();
    let transaction = world.begin(0);
    world.set_perms_in(0, transaction, "/a", "n0 r7").unwrap();
    reuse(&mut world);
    world.start_built(7);
    let _ = world.end(0, transaction, true);
    assert_eq!(world.read(7, "/a"), error("EACCES"));
    world.check();
}

#[test]
fn an_id_that_can_be_had_later_is_taken_and_kept() {
    let mut world = World::with_homes([7]);
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    world.machine.unique_ids.insert(DomId(7), 100);
    signal(&mut world);
    assert!(world.is_introduced(7));
    reuse(&mut world);
    signal(&mut world);
    assert_eq!(world.events(0), [gone()]);
}

#[test]
fn where_nobody_says_who_a_domain_is_only_its_absence_is_its_end() {
    let mut world = World::with_homes([7]);
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    signal(&mut world);
    assert_eq!(world.events(0), []);
    assert_eq!(world.write(7, "data", "x"), ok());
    world.kill(7);
    assert_eq!(world.events(0), [gone()]);
}

#[test]
fn the_control_domain_is_never_taken_for_another() {
    let mut world = World::new();
    world.machine.unique_ids.insert(DomId(0), 1);
    signal(&mut world);
    world.machine.unique_ids.insert(DomId(0), 2);
    signal(&mut world);
    let request = world.request(0, MessageType::Introduce, "0\x001\0x\0");
    assert_eq!(request, error("EINVAL"));
    assert_eq!(world.write(0, "/a", "x"), ok());
}
