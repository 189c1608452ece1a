//! What is left of a domain when it has shut down, has been released or is gone: nothing that it owned and no right.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;

use crate::world::{DOM0, World, error, event, ok};

/// A world with homes of 1 and 2, where dom0 watches `@releaseDomain`.
fn with_release_watch() -> World {
    let mut world = World::with_homes([1, 2]);
    world.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(world.events(0).len(), 1);
    world
}

fn gone() -> (String, String) {
    event("@releaseDomain", "gone")
}

#[test]
fn all_that_a_dead_domain_owns_goes_with_everything_below_and_wherever_it_is() {
    let mut world = World::with_homes([1, 2]);
    world.write(0, "/shared", "").unwrap();
    world.set_perms(0, "/shared", "b0").unwrap();
    world.write(1, "/shared/a/b", "x").unwrap();
    world.set_perms(1, "/shared/a", "b1").unwrap();
    world.write(2, "/shared/a/of2/deep", "x").unwrap();
    world.write(2, "/shared/stays", "x").unwrap();
    assert_eq!(world.nodes(2), 4);
    world.kill(1);
    assert_eq!(world.directory(0, "/shared"), Ok(vec!["stays".into()]));
    assert_eq!(world.directory(0, "/local/domain"), Ok(vec!["2".into()]));
    assert_eq!((world.nodes(1), world.nodes(2)), (0, 2), "what others had below is gone and not counted any more");
    world.check();
}

#[test]
fn watchers_are_told_of_the_nodes_that_go_and_then_of_the_release() {
    let mut world = with_release_watch();
    world.write(1, "data/x", "").unwrap();
    world.watch(0, "/local/domain", "above").unwrap();
    world.watch(0, "/local/domain/1/data/x", "exact").unwrap();
    world.events(0);
    world.kill(1);
    let expected = [event("/local/domain/1/data/x", "exact"), event("/local/domain/1", "above"), gone()];
    assert_eq!(world.events(0), expected);
}

#[test]
fn a_shutdown_is_told_once_until_resume_and_death_is_told_again() {
    let mut world = with_release_watch();
    for _ in 0..3 {
        world.set_state(1, DomainState::Shutdown);
    }
    assert_eq!(world.events(0), [gone()]);
    assert!(world.is_introduced(1));
    assert_eq!(world.write(1, "data", "x"), ok(), "a domain that has shut down is still served");
    world.set_state(1, DomainState::Running);
    world.set_state(1, DomainState::Shutdown);
    assert_eq!(world.events(0), [], "not before RESUME");
    assert_eq!(world.request(0, xenstore::wire::header::MessageType::Resume, "1\0"), ok());
    world.set_state(1, DomainState::Shutdown);
    assert_eq!(world.events(0), [gone()]);
    world.kill(1);
    assert_eq!(world.events(0), [gone()]);
    assert!(!world.is_introduced(1));
}

#[test]
fn a_dying_domain_is_released_at_once_and_only_once() {
    let mut world = with_release_watch();
    world.set_state(1, DomainState::Dying);
    assert_eq!(world.events(0), [gone()]);
    assert!(!world.is_introduced(1));
    world.kill(1);
    assert_eq!(world.events(0), []);
    world.check();
}

#[test]
fn several_that_shut_down_together_are_told_at_once() {
    let mut world = with_release_watch();
    for domid in [1, 2] {
        world.machine.domains.insert(xenstore::store::domain::DomId(domid), DomainState::Shutdown);
    }
    world.server.handle_domain_exception();
    world.run();
    assert_eq!(world.events(0), [gone()]);
}

#[test]
fn the_death_of_the_control_domain_is_not_believed() {
    let mut world = World::with_homes([1]);
    world.machine.domains.remove(&DOM0);
    world.server.handle_domain_exception();
    world.run();
    assert_eq!(world.read(0, "/local/domain/1"), Ok(vec![]));
    world.check();
}

#[test]
fn a_right_dies_with_its_domain_and_is_not_its_successors() {
    let mut world = World::new();
    world.start(7);
    world.write(0, "/a", "secret").unwrap();
    world.set_perms(0, "/a", "n0 b7 w7").unwrap();
    assert!(world.read(7, "/a").is_ok());
    world.kill(7);
    world.write(0, "/a", "written in between").unwrap();
    world.start(7);
    assert_eq!(world.read(7, "/a"), error("EACCES"));
    world.write(0, "/a", "written again").unwrap();
    assert_eq!(world.read(7, "/a"), error("EACCES"));
    assert_eq!(world.get_perms(0, "/a"), Ok("n0".into()));
}

#[test]
fn a_right_does_not_survive_in_a_transaction() {
    let mut world = World::new();
    world.start(7);
    world.write(0, "/a", "").unwrap();
    world.set_perms(0, "/a", "n0 b7").unwrap();
    world.write(0, "/c", "").unwrap();
    let looked = world.begin(0);
    world.read_in(0, looked, "/a").unwrap();
    let wrote = world.begin(0);
    world.set_perms_in(0, wrote, "/c", "n0 b7").unwrap();
    world.kill(7);
    world.start(7);
    world.write_in(0, looked, "/a", "new").unwrap();
    world.write_in(0, looked, "/a/heir", "").unwrap();
    world.write_in(0, wrote, "/c", "new").unwrap();
    world.write_in(0, wrote, "/c/heir", "").unwrap();
    let _ = world.end(0, looked, true);
    let _ = world.end(0, wrote, true);
    for path in ["/a", "/a/heir", "/c", "/c/heir"] {
        assert_eq!(world.read(7, path), error("EACCES"), "{path}");
    }
    world.check();
}

#[test]
fn a_right_does_not_come_back_by_a_replay() {
    for dies in [false, true] {
        let mut world = World::new();
        world.start(7);
        let transaction = world.begin(0);
        world.write_in(0, transaction, "/c", "").unwrap();
        world.set_perms_in(0, transaction, "/c", "n0 b7").unwrap();
        if dies {
            world.kill(7);
            world.start(7);
        }
        // The node above, which the transaction has seen, changes.
        world.write(0, "/d", "").unwrap();
        assert_eq!(world.end(0, transaction, true), if dies { error("EAGAIN") } else { ok() });
        assert_eq!(world.read(7, "/c").is_ok(), !dies);
        world.check();
    }
}

#[test]
fn a_node_given_in_a_transaction_to_a_domain_that_is_gone_is_not_its_successors() {
    let mut world = World::new();
    world.start(7);
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/a", "").unwrap();
    world.set_perms_in(0, transaction, "/a", "n7").unwrap();
    world.kill(7);
    world.start(7);
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"), "libxl repeats only that");
    assert_eq!(world.nodes(7), 0);
    assert_eq!(world.read(0, "/a"), error("ENOENT"));
    world.check();
}

#[test]
fn a_transaction_over_a_dead_domains_nodes_is_to_be_tried_again() {
    let mut world = World::without_replay([7]);
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/local/domain/7", "x").unwrap();
    world.kill(7);
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    world.check();
}

#[test]
fn a_dead_domains_transactions_are_gone() {
    let mut world = World::with_homes([7]);
    let transaction = world.begin(7);
    world.write_in(7, transaction, "data", "x").unwrap();
    world.kill(7);
    world.start(7);
    assert_eq!(world.read_in(7, transaction, "data"), error("ENOENT"));
    assert_eq!(world.end(7, transaction, true), error("ENOENT"));
    world.check();
}

#[test]
fn a_dead_domains_watches_are_gone_and_do_not_count() {
    let mut world = World::with_homes([7]);
    for at in 0..128 {
        world.watch(7, "data", &at.to_string()).unwrap();
    }
    world.kill(7);
    world.start(7);
    world.make_home(7);
    assert_eq!(world.write(7, "data", "x"), ok());
    assert_eq!(world.events(7), []);
    for at in 0..128 {
        assert_eq!(world.watch(7, "data", &at.to_string()), ok());
    }
    world.check();
}

#[test]
fn a_released_domain_is_not_told_of_the_removal_of_its_own_nodes() {
    let mut world = with_release_watch();
    world.watch(1, "data", "t").unwrap();
    world.write(1, "data", "x").unwrap();
    world.events(1);
    assert_eq!(world.release(0, 1), ok());
    assert_eq!(world.events(0), [gone()]);
    assert_eq!(world.events(1), []);
    assert_eq!(world.nodes(1), 0);
    assert!(!world.is_introduced(1));
    assert_eq!(world.machine.mapped.len(), 2);
    assert_eq!(world.machine.bound.len(), 2);
    world.check();
}

#[test]
fn what_a_known_domain_owns_goes_too_when_it_was_never_introduced() {
    let mut world = World::new();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    world.build(xenstore::store::domain::DomId(7));
    world.write(0, "/a", "").unwrap();
    world.set_perms(0, "/a", "n7").unwrap();
    world.kill(7);
    assert_eq!(world.read(0, "/a"), error("ENOENT"));
    assert_eq!(world.events(0), [], "only introduced domains are released");
    world.check();
}

#[test]
fn with_keep_orphans_the_nodes_of_the_dead_go_to_the_control_domain() {
    let mut world = World::with(Config { keep_orphans: true, ..Config::default() });
    for domid in [1, 2] {
        world.start(domid);
        world.make_home(domid);
    }
    world.write(1, "data/x", "value").unwrap();
    world.set_perms(1, "data/x", "n1 b1 r2").unwrap();
    world.kill(1);
    assert_eq!(world.read(0, "/local/domain/1/data/x"), Ok(b"value".to_vec()));
    assert_eq!(world.get_perms(0, "/local/domain/1/data/x"), Ok("n0 r2".into()));
    world.check();
    world.start(1);
    world.write(0, "/local/domain/1/data/x", "again").unwrap();
    assert_eq!(world.read(1, "data/x"), error("EACCES"), "a successor has no right to them");
    assert!(world.read(2, "/local/domain/1/data/x").is_ok());
    world.check();
}

#[test]
fn with_keep_orphans_a_transaction_does_not_give_nodes_back_to_the_dead() {
    let mut world = World::with(Config { keep_orphans: true, replay: false, ..Config::default() });
    world.start(1);
    world.make_home(1);
    let transaction = world.begin(0);
    world.write_in(0, transaction, "/local/domain/1", "x").unwrap();
    world.kill(1);
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    world.check();
}
