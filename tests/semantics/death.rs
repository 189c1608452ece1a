//! The end of a domain by shutdown, release or death: none of its nodes and rights remain.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;

use crate::support::testbed::{DOM0, Testbed, error, event, ok};

/// Returns a testbed with homes of domains 1 and 2, in which dom0 watches `@releaseDomain`.
fn with_release_watch() -> Testbed {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(testbed.events(0).len(), 1);
    testbed
}

fn gone() -> (String, String) {
    event("@releaseDomain", "gone")
}

#[test]
fn all_nodes_of_a_dead_domain_are_removed_with_everything_below_them() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.write(0, "/shared", "").unwrap();
    testbed.set_perms(0, "/shared", "b0").unwrap();
    testbed.write(1, "/shared/a/b", "x").unwrap();
    testbed.set_perms(1, "/shared/a", "b1").unwrap();
    testbed.write(2, "/shared/a/of2/deep", "x").unwrap();
    testbed.write(2, "/shared/stays", "x").unwrap();
    assert_eq!(testbed.nodes(2), 4);
    testbed.kill(1);
    assert_eq!(testbed.directory(0, "/shared"), Ok(vec!["stays".into()]));
    assert_eq!(testbed.directory(0, "/local/domain"), Ok(vec!["2".into()]));
    assert_eq!((testbed.nodes(1), testbed.nodes(2)), (0, 2), "nodes of others below are removed and no longer counted");
    testbed.check();
}

#[test]
fn watchers_get_events_of_the_removed_nodes_and_then_of_the_release() {
    let mut testbed = with_release_watch();
    testbed.write(1, "data/x", "").unwrap();
    testbed.watch(0, "/local/domain", "above").unwrap();
    testbed.watch(0, "/local/domain/1/data/x", "exact").unwrap();
    testbed.events(0);
    testbed.kill(1);
    let expected = [event("/local/domain/1/data/x", "exact"), event("/local/domain/1", "above"), gone()];
    assert_eq!(testbed.events(0), expected);
}

#[test]
fn a_shutdown_is_announced_once_until_resume_and_the_death_is_announced_again() {
    let mut testbed = with_release_watch();
    for _ in 0..3 {
        testbed.set_state(1, DomainState::Shutdown);
    }
    assert_eq!(testbed.events(0), [gone()]);
    assert!(testbed.is_introduced(1));
    assert_eq!(testbed.write(1, "data", "x"), ok(), "a domain that has shut down is still served");
    testbed.set_state(1, DomainState::Running);
    testbed.set_state(1, DomainState::Shutdown);
    assert_eq!(testbed.events(0), [], "not before RESUME");
    assert_eq!(testbed.request(0, xenstore::wire::header::MessageType::Resume, "1\0"), ok());
    testbed.set_state(1, DomainState::Shutdown);
    assert_eq!(testbed.events(0), [gone()]);
    testbed.kill(1);
    assert_eq!(testbed.events(0), [gone()]);
    assert!(!testbed.is_introduced(1));
}

#[test]
fn a_dying_domain_is_released_at_once_and_only_once() {
    let mut testbed = with_release_watch();
    testbed.set_state(1, DomainState::Dying);
    assert_eq!(testbed.events(0), [gone()]);
    assert!(!testbed.is_introduced(1));
    testbed.kill(1);
    assert_eq!(testbed.events(0), []);
    testbed.check();
}

#[test]
fn several_domains_that_shut_down_together_are_announced_at_once() {
    let mut testbed = with_release_watch();
    for domid in [1, 2] {
        testbed.machine.domains.insert(xenstore::store::domain::DomId(domid), DomainState::Shutdown);
    }
    testbed.server.handle_domain_exception();
    testbed.run();
    assert_eq!(testbed.events(0), [gone()]);
}

#[test]
fn the_death_of_the_control_domain_is_ignored() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.machine.domains.remove(&DOM0);
    testbed.server.handle_domain_exception();
    testbed.run();
    assert_eq!(testbed.read(0, "/local/domain/1"), Ok(vec![]));
    testbed.check();
}

#[test]
fn a_right_dies_with_its_domain_and_is_not_inherited() {
    let mut testbed = Testbed::new();
    testbed.start(7);
    testbed.write(0, "/a", "secret").unwrap();
    testbed.set_perms(0, "/a", "n0 b7 w7").unwrap();
    assert!(testbed.read(7, "/a").is_ok());
    testbed.kill(7);
    testbed.write(0, "/a", "written in between").unwrap();
    testbed.start(7);
    assert_eq!(testbed.read(7, "/a"), error("EACCES"));
    testbed.write(0, "/a", "written again").unwrap();
    assert_eq!(testbed.read(7, "/a"), error("EACCES"));
    assert_eq!(testbed.get_perms(0, "/a"), Ok("n0".into()));
}

#[test]
fn a_right_does_not_survive_in_a_transaction() {
    let mut testbed = Testbed::new();
    testbed.start(7);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "n0 b7").unwrap();
    testbed.write(0, "/c", "").unwrap();
    let reader = testbed.begin(0);
    testbed.read_in(0, reader, "/a").unwrap();
    let writer = testbed.begin(0);
    testbed.set_perms_in(0, writer, "/c", "n0 b7").unwrap();
    testbed.kill(7);
    testbed.start(7);
    testbed.write_in(0, reader, "/a", "new").unwrap();
    testbed.write_in(0, reader, "/a/heir", "").unwrap();
    testbed.write_in(0, writer, "/c", "new").unwrap();
    testbed.write_in(0, writer, "/c/heir", "").unwrap();
    let _ = testbed.end(0, reader, true);
    let _ = testbed.end(0, writer, true);
    for path in ["/a", "/a/heir", "/c", "/c/heir"] {
        assert_eq!(testbed.read(7, path), error("EACCES"), "{path}");
    }
    testbed.check();
}

#[test]
fn a_right_does_not_come_back_by_a_replay() {
    for dies in [false, true] {
        let mut testbed = Testbed::new();
        testbed.start(7);
        let transaction = testbed.begin(0);
        testbed.write_in(0, transaction, "/c", "").unwrap();
        testbed.set_perms_in(0, transaction, "/c", "n0 b7").unwrap();
        if dies {
            testbed.kill(7);
            testbed.start(7);
        }
        // The parent, which the transaction has seen, changes.
        testbed.write(0, "/d", "").unwrap();
        assert_eq!(testbed.end(0, transaction, true), if dies { error("EAGAIN") } else { ok() });
        assert_eq!(testbed.read(7, "/c").is_ok(), !dies);
        testbed.check();
    }
}

#[test]
fn a_node_given_in_a_transaction_to_a_domain_that_is_gone_is_not_inherited() {
    let mut testbed = Testbed::new();
    testbed.start(7);
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/a", "").unwrap();
    testbed.set_perms_in(0, transaction, "/a", "n7").unwrap();
    testbed.kill(7);
    testbed.start(7);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"), "libxl retries only after EAGAIN");
    assert_eq!(testbed.nodes(7), 0);
    assert_eq!(testbed.read(0, "/a"), error("ENOENT"));
    testbed.check();
}

#[test]
fn a_transaction_over_a_dead_domains_nodes_must_be_retried() {
    let mut testbed = Testbed::without_replay([7]);
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/local/domain/7", "x").unwrap();
    testbed.kill(7);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    testbed.check();
}

#[test]
fn a_dead_domains_transactions_are_gone() {
    let mut testbed = Testbed::with_homes([7]);
    let transaction = testbed.begin(7);
    testbed.write_in(7, transaction, "data", "x").unwrap();
    testbed.kill(7);
    testbed.start(7);
    assert_eq!(testbed.read_in(7, transaction, "data"), error("ENOENT"));
    assert_eq!(testbed.end(7, transaction, true), error("ENOENT"));
    testbed.check();
}

#[test]
fn a_dead_domains_watches_are_gone_and_do_not_count() {
    let mut testbed = Testbed::with_homes([7]);
    for at in 0..128 {
        testbed.watch(7, "data", &at.to_string()).unwrap();
    }
    testbed.kill(7);
    testbed.start(7);
    testbed.make_home(7);
    assert_eq!(testbed.write(7, "data", "x"), ok());
    assert_eq!(testbed.events(7), []);
    for at in 0..128 {
        assert_eq!(testbed.watch(7, "data", &at.to_string()), ok());
    }
    testbed.check();
}

#[test]
fn a_released_domain_gets_no_events_of_the_removal_of_its_own_nodes() {
    let mut testbed = with_release_watch();
    testbed.watch(1, "data", "t").unwrap();
    testbed.write(1, "data", "x").unwrap();
    testbed.events(1);
    assert_eq!(testbed.release(0, 1), ok());
    assert_eq!(testbed.events(0), [gone()]);
    assert_eq!(testbed.events(1), []);
    assert_eq!(testbed.nodes(1), 0);
    assert!(!testbed.is_introduced(1));
    assert_eq!(testbed.machine.mapped.len(), 2);
    assert_eq!(testbed.machine.bound.len(), 2);
    testbed.check();
}

#[test]
fn nodes_of_a_known_domain_are_removed_although_it_was_never_introduced() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.build(xenstore::store::domain::DomId(7));
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "n7").unwrap();
    testbed.kill(7);
    assert_eq!(testbed.read(0, "/a"), error("ENOENT"));
    assert_eq!(testbed.events(0), [], "only introduced domains are released");
    testbed.check();
}

#[test]
fn with_keep_orphans_the_control_domain_gets_the_nodes_of_dead_domains() {
    let mut testbed = Testbed::with(Config { keep_orphans: true, ..Config::default() });
    for domid in [1, 2] {
        testbed.start(domid);
        testbed.make_home(domid);
    }
    testbed.write(1, "data/x", "value").unwrap();
    testbed.set_perms(1, "data/x", "n1 b1 r2").unwrap();
    testbed.kill(1);
    assert_eq!(testbed.read(0, "/local/domain/1/data/x"), Ok(b"value".to_vec()));
    assert_eq!(testbed.get_perms(0, "/local/domain/1/data/x"), Ok("n0 r2".into()));
    testbed.check();
    testbed.start(1);
    testbed.write(0, "/local/domain/1/data/x", "again").unwrap();
    assert_eq!(testbed.read(1, "data/x"), error("EACCES"), "a new domain with the number has no right to them");
    assert!(testbed.read(2, "/local/domain/1/data/x").is_ok());
    testbed.check();
}

#[test]
fn with_keep_orphans_a_transaction_does_not_give_nodes_back_to_a_dead_domain() {
    let mut testbed = Testbed::with(Config { keep_orphans: true, replay: false, ..Config::default() });
    testbed.start(1);
    testbed.make_home(1);
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/local/domain/1", "x").unwrap();
    testbed.kill(1);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    testbed.check();
}
