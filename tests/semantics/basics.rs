//! The plain course of things.

use crate::world::{World, error, event, ok};

#[test]
fn what_is_written_can_be_read_listed_and_removed() {
    let mut world = World::new();
    assert_eq!(world.write(0, "/a/b", "value"), ok());
    assert_eq!(world.read(0, "/a/b"), Ok(b"value".to_vec()));
    assert_eq!(world.directory(0, "/"), Ok(vec!["tool".into(), "a".into()]));
    assert_eq!(world.rm(0, "/a"), ok());
    assert_eq!(world.read(0, "/a/b"), error("ENOENT"));
    world.check();
}

#[test]
fn a_transaction_is_seen_by_others_when_it_is_committed() {
    let mut world = World::new();
    let transaction = world.begin(0);
    assert_eq!(world.write_in(0, transaction, "/a/b", "1"), ok());
    assert_eq!(world.read_in(0, transaction, "/a/b"), Ok(b"1".to_vec()));
    assert_eq!(world.read(0, "/a"), error("ENOENT"));
    assert_eq!(world.end(0, transaction, true), ok());
    assert_eq!(world.read(0, "/a/b"), Ok(b"1".to_vec()));
    world.check();
}

#[test]
fn a_watch_fires_at_once_and_at_each_change() {
    let mut world = World::new();
    assert_eq!(world.watch(0, "/a", "token"), ok());
    assert_eq!(world.events(0), [event("/a", "token")]);
    world.write(0, "/a/b", "1").unwrap();
    assert_eq!(world.events(0), [event("/a/b", "token")]);
}

#[test]
fn a_domain_that_dies_leaves_nothing_behind() {
    let mut world = World::new();
    world.write(0, "/local/domain/7", "").unwrap();
    world.start(7);
    world.set_perms(0, "/local/domain/7", "n7").unwrap();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(world.write(7, "data/x", "1"), ok());
    assert_eq!(world.nodes(7), 3);
    assert_eq!(world.events(0).len(), 1);
    world.kill(7);
    assert_eq!(world.events(0), [event("@releaseDomain", "gone")]);
    assert_eq!(world.directory(0, "/local/domain"), Ok(vec![]));
    assert!(world.machine.mapped.len() == 1 && world.machine.bound.len() == 1);
    world.check();
}
