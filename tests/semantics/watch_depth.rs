//! WATCH with a depth, for paths and for special names (`docs/misc/xenstore.txt`, WATCH).

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, event, ok};

fn watch(testbed: &mut Testbed, domid: u16, path: &str, token: &str, depth: &str) -> Answer {
    testbed.request(domid, MessageType::Watch, format!("{path}\0{token}\0{depth}\0"))
}

/// Returns the tokens of a domain's events.
fn tokens(testbed: &mut Testbed, domid: u16) -> Vec<String> {
    testbed.events(domid).into_iter().map(|(_, token)| token).collect()
}

#[test]
fn a_depth_is_the_number_of_levels_below_the_path_that_are_seen() {
    let mut testbed = Testbed::new();
    for depth in 0..4 {
        assert_eq!(watch(&mut testbed, 0, "/a", &depth.to_string(), &depth.to_string()), ok());
    }
    testbed.watch(0, "/a", "all").unwrap();
    testbed.events(0);
    for (path, seen) in [
        ("/a", &["0", "1", "2", "3", "all"][..]),
        ("/a/b", &["1", "2", "3", "all"]),
        ("/a/b/c", &["2", "3", "all"]),
        ("/a/b/c/d", &["3", "all"]),
        ("/a/b/c/d/e", &["all"]),
        ("/ab", &[]),
        ("/", &[]),
    ] {
        testbed.write(0, path, "x").unwrap();
        assert_eq!(tokens(&mut testbed, 0), seen, "{path}");
    }
}

#[test]
fn a_depth_counts_from_the_root_as_from_any_node() {
    let mut testbed = Testbed::new();
    for depth in 0..3 {
        watch(&mut testbed, 0, "/", &depth.to_string(), &depth.to_string()).unwrap();
    }
    testbed.events(0);
    for (path, seen) in [("/", &["0", "1", "2"][..]), ("/a", &["1", "2"]), ("/a/b", &["2"]), ("/a/b/c", &[])] {
        testbed.write(0, path, "x").unwrap();
        assert_eq!(tokens(&mut testbed, 0), seen, "{path}");
    }
}

#[test]
fn a_depth_holds_for_removals_commits_and_permissions_and_a_removal_above_is_always_seen() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/a/b/c/d", "").unwrap();
    watch(&mut testbed, 0, "/a", "a1", "1").unwrap();
    watch(&mut testbed, 0, "/a/b/c", "c0", "0").unwrap();
    testbed.events(0);
    testbed.set_perms(0, "/a/b/c", "r0").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b/c", "c0")]);
    testbed.rm(0, "/a/b/c/d").unwrap();
    assert_eq!(testbed.events(0), []);
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/a/b", "x").unwrap();
    testbed.write_in(0, transaction, "/a/b/c", "x").unwrap();
    testbed.end(0, transaction, true).unwrap();
    assert_eq!(testbed.events(0), [event("/a/b", "a1"), event("/a/b/c", "c0")]);
    testbed.rm(0, "/a/b").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b/c", "c0"), event("/a/b", "a1")]);
}

#[test]
fn relative_watches_have_a_depth_too_and_report_relative_paths() {
    let mut testbed = Testbed::with_homes([5]);
    watch(&mut testbed, 5, "data", "t", "1").unwrap();
    assert_eq!(testbed.events(5), [event("data", "t")], "the first event comes as for every watch");
    testbed.write(5, "data/a", "").unwrap();
    testbed.write(5, "data/a/b", "").unwrap();
    assert_eq!(testbed.events(5), [event("data/a", "t")]);
}

#[test]
fn a_watch_is_identified_by_path_and_token_whatever_its_depth() {
    let mut testbed = Testbed::with_homes([5]);
    assert_eq!(watch(&mut testbed, 5, "data", "t", "1"), ok());
    assert_eq!(watch(&mut testbed, 5, "data", "t", "2"), error("EEXIST"));
    assert_eq!(testbed.watch(5, "data", "t"), error("EEXIST"));
    assert_eq!(testbed.unwatch(5, "data", "t"), ok());
    assert_eq!(testbed.watch(5, "data", "t"), ok());
    testbed.check();
}

#[test]
fn only_a_decimal_number_is_a_depth() {
    let mut testbed = Testbed::with_homes([5]);
    for depth in ["", "-1", "+1", " 1", "x", "1x", "0x1", "4294967296", "99999999999999999999"] {
        assert_eq!(watch(&mut testbed, 5, "data", "t", depth), error("EINVAL"), "{depth:?}");
    }
    assert_eq!(testbed.request(5, MessageType::Watch, "data\0t\x001\x001\0"), error("EINVAL"));
    assert_eq!(watch(&mut testbed, 5, "data", "t", "4294967295"), ok());
    assert_eq!(testbed.request(5, MessageType::Unwatch, "data\0t\x001\0"), error("EINVAL"), "UNWATCH takes no depth");
}

#[test]
fn a_domain_without_the_feature_has_no_depth_and_its_events_name_no_domain() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.request(0, MessageType::SetFeature, "5\x0011\0").unwrap();
    testbed.start_built(5);
    assert_eq!(watch(&mut testbed, 5, "data", "t", "1"), error("EINVAL"));
    assert_eq!(watch(&mut testbed, 5, "@releaseDomain", "t", "1"), error("EINVAL"));
    testbed.watch(5, "@releaseDomain/9", "named").unwrap();
    testbed.watch(5, "@releaseDomain", "plain").unwrap();
    testbed.events(5);
    testbed.start(9);
    testbed.kill(9);
    assert_eq!(testbed.events(5), [event("@releaseDomain", "plain")]);
}

#[test]
fn special_events_name_the_domain_for_watches_that_request_it() {
    let mut testbed = Testbed::new();
    for (name, token, depth) in
        [("@introduceDomain", "in", "1"), ("@releaseDomain", "out", "1"), ("@releaseDomain", "zero", "0")]
    {
        watch(&mut testbed, 0, name, token, depth).unwrap();
    }
    testbed.watch(0, "@releaseDomain", "plain").unwrap();
    testbed.watch(0, "@releaseDomain/9", "nine").unwrap();
    testbed.watch(0, "@releaseDomain/8", "eight").unwrap();
    assert_eq!(testbed.events(0).len(), 6, "the first event of each");

    testbed.start(9);
    assert_eq!(testbed.events(0), [event("@introduceDomain/9", "in")]);
    testbed.set_state(9, DomainState::Shutdown);
    let of_nine = [event("@releaseDomain/9", "out"), event("@releaseDomain/9", "nine")];
    let plain = event("@releaseDomain", "plain");
    assert_eq!(testbed.events(0), [of_nine[0].clone(), of_nine[1].clone(), plain.clone()]);
    testbed.kill(9);
    assert_eq!(testbed.events(0), [plain.clone(), of_nine[0].clone(), of_nine[1].clone()]);

    testbed.start(8);
    testbed.events(0);
    testbed.release(0, 8).unwrap();
    assert_eq!(testbed.events(0), [plain, event("@releaseDomain/8", "out"), event("@releaseDomain/8", "eight")]);
}

#[test]
fn a_guest_needs_the_right_to_the_special_name_for_events_that_name_the_domain() {
    let mut testbed = Testbed::with_guests([5]);
    for name in ["@introduceDomain", "@releaseDomain"] {
        watch(&mut testbed, 5, name, "t", "1").unwrap();
    }
    testbed.events(5);
    testbed.start(9);
    assert_eq!(testbed.events(5), [], "introductions are for the control domain");
    testbed.kill(9);
    assert_eq!(testbed.events(5), [event("@releaseDomain/9", "t")], "releases are for all");
    testbed.set_perms(0, "@releaseDomain", "n0").unwrap();
    assert_eq!(testbed.events(5), [event("@releaseDomain", "t")], "the domain could read the special node before");
    testbed.start(9);
    testbed.kill(9);
    assert_eq!(testbed.events(5), []);
}

#[test]
fn events_that_name_different_domains_are_all_delivered() {
    let mut testbed = Testbed::new();
    watch(&mut testbed, 0, "@releaseDomain", "t", "1").unwrap();
    testbed.events(0);
    for domid in [3, 4, 5] {
        testbed.start(domid);
    }
    for domid in [3, 4, 5] {
        testbed.machine.domains.remove(&DomId(domid));
    }
    testbed.server.handle_domain_exception();
    testbed.run();
    let expected: Vec<_> = [3, 4, 5].map(|domid| event(&format!("@releaseDomain/{domid}"), "t")).into();
    assert_eq!(testbed.events(0), expected);
}
