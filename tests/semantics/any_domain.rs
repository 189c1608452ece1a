//! The domid 32757, which means all domains in an entry of a node's permissions (4.22).

use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::world::{World, error, event, ok};

#[test]
fn an_entry_for_all_domains_gives_its_right_to_every_domain() {
    let mut world = World::with_homes([1, 2]);
    world.write(1, "data", "x").unwrap();
    assert_eq!(world.set_perms(1, "data", "n1 r32757"), ok());
    assert_eq!(world.get_perms(1, "data"), Ok("n1 r32757".into()));
    world.start(3);
    for domid in [1, 2, 3] {
        assert_eq!(world.read(domid, "/local/domain/1/data"), Ok(b"x".to_vec()), "domain {domid}");
    }
    for domid in [2, 3] {
        assert_eq!(world.write(domid, "/local/domain/1/data", "y"), error("EACCES"));
    }
    world.check();
}

#[test]
fn the_first_entry_that_means_a_domain_decides_alone() {
    let mut world = World::with_homes([1, 2, 3]);
    world.write(1, "data", "x").unwrap();
    world.set_perms(1, "data", "n1 n2 b32757 r3").unwrap();
    assert_eq!(world.read(2, "/local/domain/1/data"), error("EACCES"));
    assert_eq!(world.write(3, "/local/domain/1/data", "y"), ok());
}

#[test]
fn it_gives_events_too_and_outlives_every_domain() {
    let mut world = World::with_homes([1, 2]);
    world.write(0, "/shared", "x").unwrap();
    world.set_perms(0, "/shared", "n0 r32757").unwrap();
    world.watch(2, "/shared", "t").unwrap();
    world.events(2);
    world.write(0, "/shared", "y").unwrap();
    assert_eq!(world.events(2), [event("/shared", "t")]);
    world.kill(1);
    world.kill(2);
    world.start(2);
    assert_eq!(world.read(2, "/shared"), Ok(b"y".to_vec()));
    assert_eq!(world.get_perms(0, "/shared"), Ok("n0 r32757".into()));
}

#[test]
fn it_gives_special_events_too() {
    let mut world = World::with_guests([1, 2]);
    world.set_perms(0, "@introduceDomain", "n0 n2 r32757").unwrap();
    for domid in [1, 2] {
        world.watch(domid, "@introduceDomain", "t").unwrap();
        world.events(domid);
    }
    world.start(7);
    assert_eq!(world.events(1), [event("@introduceDomain", "t")]);
    assert_eq!(world.events(2), [], "its own entry comes first");
    world.kill(2);
    assert_eq!(world.get_perms(1, "@introduceDomain"), Ok("n0 r32757".into()));
}

#[test]
fn a_commit_after_a_domains_birth_or_death_keeps_it() {
    let mut world = World::with_homes([1]);
    world.write(1, "data", "x").unwrap();
    world.set_perms(1, "data", "n1 r32757").unwrap();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "data", "y").unwrap();
    world.start(2);
    world.start(3);
    world.kill(3);
    assert_eq!(world.end(1, transaction, true), ok());
    assert_eq!(world.read(2, "/local/domain/1/data"), Ok(b"y".to_vec()));
}

#[test]
fn only_the_control_domain_can_make_all_domains_the_owner() {
    let mut world = World::with_homes([1, 2]);
    world.write(1, "data", "x").unwrap();
    let owned = world.nodes(1);
    assert_eq!(world.set_perms(1, "data", "n32757"), error("EPERM"));
    assert_eq!(world.set_perms(0, "/local/domain/1/data", "n32757"), ok());
    assert_eq!(world.nodes(1), owned - 1, "it counts for nobody");
    assert_eq!(world.write(2, "/local/domain/1/data", "y"), ok());
    world.check();
    assert_eq!(world.write(2, "/local/domain/1/data/mine", ""), ok());
    assert_eq!(world.get_perms(2, "/local/domain/1/data/mine"), Ok("n2".into()));
    assert_eq!(world.write(0, "/local/domain/1/data/all", ""), ok());
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/local/domain/1/data/more", "").unwrap();
    assert_eq!(world.end(0, transaction, true), ok());
    assert_eq!(world.get_perms(0, "/local/domain/1/data/more"), Ok("n32757".into()));
    world.check();
    world.rm(0, "/local/domain/1/data").unwrap();
    world.check();
}

#[test]
fn an_entry_by_a_domain_that_was_not_offered_it_never_takes_effect() {
    let mut world = World::with_homes([2]);
    world.build(DomId(1));
    world.request(0, MessageType::SetFeature, "1\x007\0").unwrap();
    world.start_built(1);
    world.make_home(1);
    world.write(1, "data", "x").unwrap();
    assert_eq!(world.set_perms(1, "data", "n1 r32757"), ok());
    assert_eq!(world.read(2, "/local/domain/1/data"), error("EACCES"));
    assert_eq!(world.set_perms(1, "data", "n32757"), error("ENOENT"), "as with an owner that does not exist");
    assert_eq!(world.set_perms(0, "/local/domain/1/data", "n1 r32757"), ok());
    assert_eq!(world.read(2, "/local/domain/1/data"), Ok(b"x".to_vec()), "the control domain was");
}

#[test]
fn it_is_no_domain() {
    let mut world = World::new();
    for (kind, payload) in [
        (MessageType::Release, "32757\0"),
        (MessageType::Resume, "32757\0"),
        (MessageType::GetFeature, "32757\0"),
        (MessageType::SetFeature, "32757\x001\0"),
    ] {
        assert_eq!(world.request(0, kind, payload), error("ENOENT"), "{kind:?}");
    }
    assert!(world.introduce(0, 32757, 1).is_err());
    assert!(!world.is_introduced(32757));
}
