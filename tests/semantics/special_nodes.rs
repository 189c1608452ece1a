//! `@introduceDomain` and `@releaseDomain`: who may watch and change them, and how they differ from nodes.

use xenstore::engine::hypervisor::DomainState;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

const SPECIALS: [&str; 2] = ["@introduceDomain", "@releaseDomain"];

#[test]
fn special_nodes_belong_to_the_control_domain_and_all_domains_may_watch_releases_at_first() {
    let mut testbed = Testbed::with_guests([1]);
    for (name, entries) in [("@introduceDomain", "n0"), ("@releaseDomain", "n0 r32757")] {
        assert_eq!(testbed.get_perms(0, name), Ok(entries.into()));
        let for_all = if entries == "n0" { error("EACCES") } else { Ok(entries.into()) };
        assert_eq!(testbed.get_perms(1, name), for_all);
        assert_eq!(testbed.set_perms(1, name, "n1"), error("EACCES"));
        assert_eq!(testbed.set_perms(1, name, "r0"), error("EACCES"));
        assert_eq!(testbed.get_perms(0, name), Ok(entries.into()));
    }
}

#[test]
fn permissions_of_special_nodes_follow_the_rules_of_nodes() {
    let mut testbed = Testbed::with_guests([1, 2]);
    for name in SPECIALS {
        testbed.set_perms(0, name, "r0 b1 n2").unwrap();
        assert_eq!(testbed.get_perms(1, name), Ok("r0 b1 n2".into()));
        assert_eq!(testbed.set_perms(1, name, "r0"), error("EACCES"), "not the owner");
        assert_eq!(testbed.get_perms(2, name), error("EACCES"));
        testbed.set_perms(0, name, "n1").unwrap();
        assert_eq!(testbed.set_perms(1, name, "r1 b2"), ok(), "the owner");
        assert_eq!(testbed.set_perms(1, name, "n1 r1 r1 r1 r1 r1"), error("ENOSPC"));
        assert_eq!(testbed.set_perms(0, name, "n99"), error("ENOENT"));
    }
}

#[test]
fn an_unprivileged_owner_cannot_give_special_nodes_away() {
    let mut testbed = Testbed::with_guests([1, 2]);
    for name in SPECIALS {
        testbed.set_perms(0, name, "n1").unwrap();
        assert_eq!(testbed.set_perms(1, name, "n2"), error("EPERM"));
        assert_eq!(testbed.get_perms(0, name), Ok("n1".into()));
    }
}

#[test]
fn only_watches_and_permissions_accept_special_names() {
    let mut testbed = Testbed::with_guests([1]);
    for name in ["@introduceDomain", "@releaseDomain", "@other", "@"] {
        for domid in [0, 1] {
            for (kind, payload) in [
                (MessageType::Read, format!("{name}\0")),
                (MessageType::Directory, format!("{name}\0")),
                (MessageType::DirectoryPart, format!("{name}\x000\0")),
                (MessageType::Write, format!("{name}\0x")),
                (MessageType::Mkdir, format!("{name}\0")),
                (MessageType::Rm, format!("{name}\0")),
            ] {
                assert_eq!(testbed.request(domid, kind, payload), error("EINVAL"), "{kind:?} {name}");
            }
        }
    }
    testbed.check();
}

#[test]
fn any_special_name_can_be_watched_and_withdrawn() {
    let mut testbed = Testbed::with_guests([1]);
    for name in ["@introduceDomain", "@releaseDomain", "@other", "@a/b"] {
        assert_eq!(testbed.watch(1, name, "t"), ok());
        assert_eq!(testbed.watch(1, name, "t"), error("EEXIST"));
        assert_eq!(testbed.events(1), [event(name, "t")]);
        assert_eq!(testbed.unwatch(1, name, "t"), ok());
        assert_eq!(testbed.unwatch(1, name, "t"), error("ENOENT"));
    }
    for wrong in ["@a/", "@a//b", "@a b", "@a.b"] {
        assert_eq!(testbed.watch(1, wrong, "t"), error("EINVAL"), "{wrong}");
    }
}

#[test]
fn a_special_event_goes_to_domains_that_may_read_the_special_node() {
    let mut testbed = Testbed::with_guests([1, 2, 3]);
    testbed.set_perms(0, "@introduceDomain", "n0 r1 w2").unwrap();
    testbed.set_perms(0, "@releaseDomain", "r0 n1").unwrap();
    for domid in 0..4 {
        for name in SPECIALS {
            testbed.watch(domid, name, "t").unwrap();
        }
        assert_eq!(testbed.events(domid).len(), 2);
    }
    testbed.start(9);
    let expected = [true, true, false, false];
    for domid in 0..4 {
        let events = testbed.events(domid);
        let wanted = vec![event("@introduceDomain", "t"); usize::from(expected[usize::from(domid)])];
        assert_eq!(events, wanted, "domain {domid}");
    }
    testbed.kill(9);
    let expected = [true, false, true, true];
    for domid in 0..4 {
        let events = testbed.events(domid);
        let wanted = vec![event("@releaseDomain", "t"); usize::from(expected[usize::from(domid)])];
        assert_eq!(events, wanted, "domain {domid}");
    }
}

#[test]
fn a_watch_on_the_root_sees_no_special_events_and_no_other_special_name_fires() {
    let mut testbed = Testbed::new();
    for path in ["/", "@other", "@releaseDomain/8", "@introduceDomain/9/9", "@releaseDomain9"] {
        testbed.watch(0, path, "t").unwrap();
    }
    testbed.events(0);
    testbed.start(9);
    testbed.set_state(9, DomainState::Shutdown);
    testbed.kill(9);
    assert_eq!(testbed.events(0), []);
}

#[test]
fn a_right_to_special_events_dies_with_its_domain() {
    for entries in ["n0 r7", "n7"] {
        let mut testbed = Testbed::new();
        testbed.start(7);
        testbed.set_perms(0, "@introduceDomain", entries).unwrap();
        testbed.kill(7);
        testbed.start(7);
        testbed.watch(7, "@introduceDomain", "t").unwrap();
        testbed.events(7);
        testbed.start(8);
        assert_eq!(testbed.events(7), [], "{entries}");
        assert_eq!(testbed.get_perms(7, "@introduceDomain"), error("EACCES"));
        assert_eq!(testbed.get_perms(0, "@introduceDomain"), Ok("n0".into()));
    }
}

#[test]
fn an_entry_for_a_domain_that_does_not_exist_never_takes_effect_on_special_nodes() {
    let mut testbed = Testbed::new();
    testbed.set_perms(0, "@introduceDomain", "n0 r7").unwrap();
    testbed.start(7);
    testbed.watch(7, "@introduceDomain", "t").unwrap();
    testbed.events(7);
    testbed.start(8);
    assert_eq!(testbed.events(7), []);
}
