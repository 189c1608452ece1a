//! Behaviour of the C server of Xen 4.22 on which clients and toolstacks rely.

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{Item, SaveOptions};
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::support::items::{restore, save};
use crate::support::testbed::{BAD_PORT, DOM0, Testbed, error, event, ok, string, strings};

const INDICES: [Field; 4] =
    [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer];

/// Erases a ring: the whole page with zeros, or as `hvmloader` does it.
fn erase(testbed: &mut Testbed, domid: u16, is_whole: bool) {
    let page = &testbed.machine.pages[&DomId(domid)];
    if is_whole {
        page.0.borrow_mut().fill(0);
    } else {
        page.0.borrow_mut()[..2 * RING_BYTES].fill(0xff);
    }
    for field in INDICES {
        testbed.set_word(domid, field, 0);
    }
    testbed.forget_incoming(domid);
}

/// Makes a guest with a watch. The indices of its ring are not zero.
fn with_used_ring() -> Testbed {
    let mut testbed = Testbed::with_homes([5]);
    testbed.watch(5, "data", "t").unwrap();
    testbed.events(5);
    testbed
}

/// Checks that the connection works, and still has its watch.
fn is_served(testbed: &mut Testbed) {
    assert_eq!(testbed.word(5, Field::Error), 0);
    assert_eq!(testbed.mkdir(5, "more"), ok());
    assert_eq!(testbed.write(0, "/local/domain/5/data", "x"), ok());
    assert_eq!(testbed.events(5), [event("data", "t")]);
    assert_eq!(testbed.outstanding(5), 0);
    testbed.check();
}

#[test]
fn an_erased_ring_that_is_quiet_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        let mut testbed = with_used_ring();
        erase(&mut testbed, 5, is_whole);
        testbed.run();
        is_served(&mut testbed);
    }
}

#[test]
fn an_erased_ring_that_is_signalled_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        let mut testbed = with_used_ring();
        erase(&mut testbed, 5, is_whole);
        testbed.signal(5);
        is_served(&mut testbed);
    }
}

#[test]
fn an_erased_ring_with_an_unread_event_in_it_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        for is_signalled in [true, false] {
            let mut testbed = with_used_ring();
            testbed.write(0, "/local/domain/5/data", "x").unwrap();
            assert_ne!(testbed.word(5, Field::ReplyProducer), testbed.word(5, Field::ReplyConsumer));
            erase(&mut testbed, 5, is_whole);
            if is_signalled {
                testbed.signal(5);
            }
            is_served(&mut testbed);
        }
    }
}

#[test]
fn an_event_that_comes_after_a_ring_was_erased_begins_at_index_0() {
    for is_whole in [true, false] {
        let mut testbed = with_used_ring();
        erase(&mut testbed, 5, is_whole);
        testbed.write(0, "/local/domain/5/data", "x").unwrap();
        assert_eq!(testbed.word(5, Field::ReplyProducer), 16 + 7);
        assert_eq!(testbed.events(5), [event("data", "t")]);
        is_served(&mut testbed);
    }
}

#[test]
fn after_a_ring_was_erased_no_half_message_comes_first() {
    for is_whole in [true, false] {
        let mut testbed = with_used_ring();
        // Half a request, and an event that does not fit into the ring.
        let header =
            Header { kind: MessageType::Write.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 100 };
        testbed.put_bytes(5, &header.emit());
        testbed.put_bytes(5, b"half");
        testbed.signal(5);
        let long = format!("data/{}", "x".repeat(1500));
        testbed.write(0, &format!("/local/domain/5/{long}"), "").unwrap();
        assert_eq!(testbed.word(5, Field::ReplyProducer).wrapping_sub(testbed.word(5, Field::ReplyConsumer)), 1024);
        erase(&mut testbed, 5, is_whole);
        testbed.signal(5);
        assert_eq!(testbed.read(5, "data"), Ok(Vec::new()), "the server has dropped the half request");
        assert_eq!(testbed.events(5), [event(&long, "t")], "the whole event comes");
        is_served(&mut testbed);
    }
}

#[test]
fn a_ring_that_is_erased_while_it_is_served_is_not_shut() {
    let mut testbed = with_used_ring();
    testbed.machine.meanwhile = Some(|page| page.0.borrow_mut().fill(0));
    testbed.send(5, 0, MessageType::Read.to_wire(), b"data\0");
    testbed.machine.meanwhile = None;
    testbed.forget_incoming(5);
    is_served(&mut testbed);
}

#[test]
fn a_domain_that_erases_its_ring_keeps_everything_that_is_counted() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_perms(0, "/local/domain/1", "r1").unwrap();
    testbed.watch(2, "/local/domain/1", &"t".repeat(900)).unwrap();
    testbed.events(2);
    let transaction = testbed.begin(1);
    for at in 0..5 {
        testbed.send(1, 0, MessageType::Write.to_wire(), format!("data{at}\0").as_bytes());
        testbed.receive(1);
    }
    let (outstanding, watches) = (testbed.outstanding(1), testbed.server.engine().state().watches.len());
    assert!(outstanding > 0, "their events wait for the other domain");
    erase(&mut testbed, 1, true);
    testbed.signal(1);
    assert_eq!((testbed.outstanding(1), testbed.server.engine().state().watches.len()), (outstanding, watches));
    assert_eq!(testbed.server.engine().open_transactions(), (1, 1));
    testbed.events(2);
    testbed.events(1);
    assert_eq!(testbed.end(1, transaction, false), ok());
    testbed.check();
}

#[test]
fn an_erased_ring_is_found_after_a_live_update_too() {
    let mut testbed = with_used_ring();
    update(&mut testbed, &Config::default());
    erase(&mut testbed, 5, true);
    testbed.signal(5);
    is_served(&mut testbed);
}

#[test]
fn permissions_of_a_special_node_that_a_transaction_sets_are_invisible_until_its_commit() {
    for commits in [true, false] {
        let mut testbed = Testbed::with_guests([1]);
        let transaction = testbed.begin(0);
        testbed.set_perms_in(0, transaction, "@introduceDomain", "r0").unwrap();
        assert_eq!(testbed.get_perms(0, "@introduceDomain"), Ok("n0".into()));
        assert_eq!(get_perms_in(&mut testbed, 0, transaction, "@introduceDomain"), Ok("r0".into()));
        assert_eq!(testbed.get_perms(1, "@introduceDomain"), error("EACCES"));
        assert_eq!(testbed.end(0, transaction, commits), ok());
        let expected = if commits { "r0" } else { "n0" };
        assert_eq!(testbed.get_perms(0, "@introduceDomain"), Ok(expected.into()));
        testbed.check();
    }
}

#[test]
fn new_permissions_of_a_special_node_fire_its_watches_that_may_read_it_before_or_after() {
    for is_in_transaction in [true, false] {
        let mut testbed = Testbed::with_guests([1, 2]);
        testbed.set_perms(0, "@introduceDomain", "n0 r1").unwrap();
        for (domid, path) in [(0, "@introduceDomain"), (1, "@introduceDomain"), (2, "@introduceDomain"), (0, "/")] {
            testbed.watch(domid, path, path).unwrap();
        }
        testbed.request(0, MessageType::Watch, "@introduceDomain\0deep\x001\0").unwrap();
        (0..=2).for_each(|domid| drop(testbed.events(domid)));
        let transaction = if is_in_transaction { testbed.begin(0) } else { 0 };
        testbed.set_perms_in(0, transaction, "@introduceDomain", "n0 r2").unwrap();
        if is_in_transaction {
            assert_eq!(testbed.events(0), [], "not before the commit");
            testbed.end(0, transaction, true).unwrap();
        }
        let expected = event("@introduceDomain", "@introduceDomain");
        assert_eq!(testbed.events(0), [expected.clone(), event("@introduceDomain", "deep")]);
        assert_eq!(testbed.events(1), std::slice::from_ref(&expected), "it could read the node before");
        assert_eq!(testbed.events(2), [expected], "it can read the node now");
        testbed.set_perms(0, "@introduceDomain", "n0").unwrap();
        assert_eq!((testbed.events(1), testbed.events(2).len()), (vec![], 1));
    }
}

#[test]
fn a_transaction_conflicts_over_a_special_node_that_it_has_seen() {
    for changed in ["@introduceDomain", "@releaseDomain"] {
        let mut testbed = Testbed::without_replay([]);
        let transaction = testbed.begin(0);
        get_perms_in(&mut testbed, 0, transaction, "@introduceDomain").unwrap();
        testbed.set_perms(0, changed, "r0").unwrap();
        let is_seen = changed == "@introduceDomain";
        assert_eq!(testbed.end(0, transaction, true), if is_seen { error("EAGAIN") } else { ok() });
    }
    // With a replay, the server commits the transaction if every reply would be the same.
    for (permissions, expected) in [("n0", ok()), ("r0", error("EAGAIN"))] {
        let mut testbed = Testbed::new();
        let transaction = testbed.begin(0);
        get_perms_in(&mut testbed, 0, transaction, "@introduceDomain").unwrap();
        testbed.set_perms_in(0, transaction, "@releaseDomain", "b0").unwrap();
        testbed.set_perms(0, "@introduceDomain", permissions).unwrap();
        assert_eq!(testbed.end(0, transaction, true), expected);
        let after = if expected.is_ok() { "b0" } else { "n0 r32757" };
        assert_eq!(testbed.get_perms(0, "@releaseDomain"), Ok(after.into()));
    }
}

#[test]
fn a_pending_change_of_a_special_node_survives_a_live_update() {
    let mut testbed = Testbed::without_replay([1]);
    let transaction = testbed.begin(0);
    testbed.set_perms_in(0, transaction, "@introduceDomain", "n0 r1").unwrap();
    let other = testbed.begin(0);
    get_perms_in(&mut testbed, 0, other, "@introduceDomain").unwrap();
    update(&mut testbed, &Config { replay: false, ..Config::default() });
    assert_eq!(testbed.get_perms(1, "@introduceDomain"), error("EACCES"));
    assert_eq!(get_perms_in(&mut testbed, 0, transaction, "@introduceDomain"), Ok("n0 r1".into()));
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.get_perms(1, "@introduceDomain"), Ok("n0 r1".into()));
    assert_eq!(testbed.end(0, other, true), error("EAGAIN"), "the update keeps the transaction's reads");
    testbed.check();
}

#[test]
fn a_special_node_is_not_given_to_a_domain_that_died_before_the_commit() {
    let mut testbed = Testbed::with_guests([7]);
    let transaction = testbed.begin(0);
    testbed.set_perms_in(0, transaction, "@introduceDomain", "n7").unwrap();
    testbed.kill(7);
    testbed.start(7);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(testbed.get_perms(0, "@introduceDomain"), Ok("n0".into()));
}

#[test]
fn a_commit_that_gives_a_node_to_a_dead_domain_is_eagain() {
    for is_learned in [true, false] {
        let mut testbed = Testbed::new();
        testbed.build(DomId(7));
        if is_learned {
            testbed.start_built(7);
        }
        let transaction = testbed.begin(0);
        testbed.write_in(0, transaction, "/a", "").unwrap();
        testbed.set_perms_in(0, transaction, "/a", "n7").unwrap();
        testbed.kill(7);
        update(&mut testbed, &Config::default());
        testbed.start(7);
        assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"), "also after an update, and with a new domain 7");
        assert_eq!((testbed.read(0, "/a"), testbed.nodes(7)), (error("ENOENT"), 0));
        testbed.check();
    }
}

#[test]
fn an_introduction_binds_the_port_that_the_ring_page_names() {
    for (in_ring, bound) in [(0, 9), (4, 4)] {
        let mut testbed = Testbed::new();
        testbed.build(DomId(5));
        testbed.set_word(5, Field::EventPort, in_ring);
        assert_eq!(testbed.introduce(0, 5, 9), ok());
        assert!(testbed.machine.remote.values().any(|remote| *remote == (DomId(5), bound)), "{in_ring}");
    }
}

#[test]
fn an_introduction_whose_ring_page_names_a_bad_port_is_refused() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.set_word(5, Field::EventPort, BAD_PORT);
    assert_eq!(testbed.introduce(0, 5, 9), error("EINVAL"));
    assert!(!testbed.is_introduced(5) && !testbed.machine.mapped.contains_key(&DomId(5)));
    testbed.check();
}

#[test]
fn a_repeated_introduction_binds_the_requests_port() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.set_word(5, Field::EventPort, 4);
    assert_eq!(testbed.introduce(0, 5, 9), ok());
    assert_eq!(testbed.introduce(0, 5, 8), ok());
    assert!(testbed.machine.remote.values().any(|remote| *remote == (DomId(5), 8)));
}

#[test]
fn permissions_of_an_unknown_special_name_are_those_of_a_missing_node() {
    let mut testbed = Testbed::with_guests([1]);
    for name in ["@other", "@", "@other/x", "@releaseDomain/5", "@introduceDomain/5"] {
        assert_eq!(testbed.get_perms(0, name), error("ENOENT"), "{name}");
        assert_eq!(testbed.set_perms(0, name, "n0"), error("ENOENT"), "{name}");
        // The parent decides: domain 1 may read only @releaseDomain.
        let expected = if name.starts_with("@releaseDomain") { "ENOENT" } else { "EACCES" };
        assert_eq!(testbed.get_perms(1, name), error(expected), "{name}");
        assert_eq!(testbed.set_perms(1, name, "n1"), error("EACCES"), "{name}");
    }
    testbed.set_perms(0, "/", "r0").unwrap();
    assert_eq!(testbed.get_perms(1, "@other"), error("ENOENT"));
    assert_eq!(testbed.get_perms(0, "@other//x"), error("EINVAL"), "the name is invalid");
}

#[test]
fn an_offset_of_a_part_that_is_no_number_counts_as_0() {
    let mut testbed = Testbed::new();
    testbed.mkdir(0, "/a/b").unwrap();
    testbed.mkdir(0, "/a/c").unwrap();
    let mut part = |offset: &str| {
        let part = testbed.request(0, MessageType::DirectoryPart, format!("/a\0{offset}\0")).unwrap();
        string(&part[part.iter().position(|byte| *byte == 0).unwrap()..])
    };
    for (offset, expected) in [("", "\0b\0c\0"), ("x", "\0b\0c\0"), ("2x", "\0c\0"), ("-1", "\0")] {
        assert_eq!(part(offset), expected, "{offset:?}");
    }
}

#[test]
fn release_and_resume_are_refused_only_for_the_control_domain_whatever_its_number() {
    let mut testbed = Testbed::unconnected(Config { privileged: DomId(3), ..Config::default() });
    for domid in [DomId(3), DOM0] {
        testbed.build(domid);
        testbed.server.handle_boot_domain(domid, 1, &mut testbed.machine).unwrap();
    }
    testbed.run();
    for kind in [MessageType::Resume, MessageType::Release] {
        assert_eq!(testbed.request(3, kind, "3\0"), error("EINVAL"));
        assert_eq!(testbed.request(3, kind, "0\0"), ok(), "{kind:?}");
    }
    assert_eq!(testbed.request(3, MessageType::Release, "0\0"), error("ENOENT"), "the domain was released");
}

/// Returns a path of so many bytes, with a level for every two bytes.
fn deep_path(bytes: usize) -> String {
    let path = "/d".repeat(bytes / 2);
    if bytes.is_multiple_of(2) { path } else { format!("{path}d") }
}

#[test]
fn the_control_domain_may_use_paths_of_3072_bytes_and_guests_may_not() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.request(0, MessageType::SetQuota, "1\0path-max\x000\0").unwrap();
    testbed.set_perms(0, "/", "b0").unwrap();
    let (longest, too_long) = (deep_path(3072), deep_path(3073));
    testbed.watch(0, &longest, "t").unwrap();
    testbed.events(0);
    assert_eq!(testbed.write(0, &too_long, "x"), error("EINVAL"));
    assert_eq!(testbed.write(0, &longest, "x"), ok());
    assert_eq!(testbed.read(0, &longest), Ok(b"x".to_vec()));
    assert_eq!(testbed.events(0), [event(&longest, "t")]);
    let relative = "r".repeat(3072 - "/local/domain/0/".len());
    assert_eq!(testbed.write(0, &relative, ""), ok());
    assert_eq!(testbed.write(0, &format!("{relative}r"), ""), error("EINVAL"));
    assert_eq!(testbed.read(1, &longest), error("EINVAL"));
    assert_eq!(testbed.read(1, &deep_path(2050)), error("EINVAL"), "also without a quota");
    testbed.check();
    assert_eq!(testbed.rm(0, "/d"), ok());
    assert_eq!(testbed.events(0), [event(&longest, "t")]);
    testbed.check();
}

#[test]
fn paths_of_3072_bytes_survive_a_live_update() {
    for version in [Version::One, Version::Two] {
        let mut testbed = Testbed::new();
        let longest = deep_path(3072);
        testbed.write(0, &longest, "x").unwrap();
        testbed.watch(0, &longest, "t").unwrap();
        testbed.events(0);
        let mut stream = Vec::new();
        testbed.server.save_to(&mut stream, version, &SaveOptions { now_ms: testbed.now_ms, reply: None }).unwrap();
        testbed.server = Server::restored(load(&stream, &Config::default(), testbed.now_ms).unwrap());
        testbed.machine.mapped.clear();
        testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
        assert_eq!(testbed.read(0, &longest), Ok(b"x".to_vec()));
        assert_eq!(testbed.rm(0, &longest), ok());
        assert_eq!(testbed.events(0), [event(&longest, "t")]);
    }
}

#[test]
fn an_event_with_a_long_path_and_a_long_token_is_dropped_and_others_are_not() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "/", &"t".repeat(1022)).unwrap();
    testbed.watch(0, "/", &"u".repeat(1023)).unwrap();
    testbed.events(0);
    testbed.write(0, &deep_path(3072), "x").unwrap();
    assert_eq!(testbed.events(0), [event(&deep_path(3072), &"t".repeat(1022))], "4,096 bytes, and one more");
}

/// Returns three figures of CONTROL `quota`: a domain's present value, its maximum, and the maximum of all guests.
fn figures(testbed: &mut Testbed, domid: u16, name: &str) -> (usize, usize, usize) {
    let mut numbers = |command: &str| -> Vec<usize> {
        let text = string(&testbed.request(0, MessageType::Control, format!("quota\0{command}\0")).unwrap());
        let line = text.lines().find(|line| line.split([' ', ':']).next() == Some(name)).expect("the quota is listed");
        line.split(|digit: char| !digit.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let (of_domain, of_all) = (numbers(&domid.to_string()), numbers("max"));
    (of_domain[0], of_domain[1], of_all[0])
}

#[test]
fn nodes_that_a_replay_commits_raise_the_maximum() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "data", "").unwrap();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "data", "mine").unwrap();
    for at in 0..20 {
        testbed.mkdir_in(1, transaction, &format!("n{at}")).unwrap();
    }
    testbed.write(0, "/local/domain/1/data", "theirs").unwrap();
    assert_eq!(testbed.end(1, transaction, true), ok(), "by a replay");
    assert_eq!(figures(&mut testbed, 1, "nodes"), (22, 22, 22));
    let (memory, most, of_all) = figures(&mut testbed, 1, "memory");
    assert!(most >= memory && of_all == most);
}

#[test]
fn nodes_and_memory_that_the_control_domain_causes_raise_the_maxima() {
    for is_in_transaction in [false, true] {
        let mut testbed = Testbed::with_homes([1]);
        let transaction = if is_in_transaction { testbed.begin(0) } else { 0 };
        for at in 0..70 {
            testbed.mkdir_in(0, transaction, &format!("/local/domain/1/n{at}")).unwrap();
        }
        testbed.write_in(0, transaction, "/a", "").unwrap();
        testbed.set_perms_in(0, transaction, "/a", "n1").unwrap();
        testbed.write_in(0, transaction, "/local/domain/1", &"x".repeat(3000)).unwrap();
        if is_in_transaction {
            testbed.end(0, transaction, true).unwrap();
        }
        assert_eq!(figures(&mut testbed, 1, "nodes"), (72, 72, 72));
        let (memory, most, of_all) = figures(&mut testbed, 1, "memory");
        assert!(memory > 3000);
        assert_eq!((most, of_all), (memory, memory));
        testbed.rm(0, "/local/domain/1").unwrap();
        assert_eq!(figures(&mut testbed, 1, "nodes"), (1, 72, 72));
        assert_eq!(figures(&mut testbed, 1, "memory").1, memory);
    }
}

#[test]
fn events_that_others_cause_raise_the_maximum_of_memory() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.watch(1, "data", &"t".repeat(1000)).unwrap();
    testbed.events(1);
    let before = figures(&mut testbed, 1, "memory").1;
    for at in 0..10 {
        testbed.write(0, &format!("/local/domain/1/data/{at}"), "").unwrap();
    }
    let (memory, most, of_all) = figures(&mut testbed, 1, "memory");
    // Events in the ring no longer count.
    assert!(most > before + 8000 && most >= memory && of_all == most, "{before} {most} {memory}");
}

#[test]
fn events_of_a_death_raise_the_maximum_of_memory() {
    let mut testbed = Testbed::with_guests([1, 2]);
    for token in ["r", "s"] {
        testbed.watch(1, "@releaseDomain", &token.repeat(2000)).unwrap();
        testbed.events(1);
    }
    let before = figures(&mut testbed, 1, "memory").1;
    testbed.kill(2);
    assert!(figures(&mut testbed, 1, "memory").1 > before + 1900, "no request causes them");
}

#[test]
fn watches_and_transactions_raise_the_maxima_when_they_are_made() {
    let mut testbed = Testbed::with_homes([1]);
    for at in 0..20 {
        testbed.watch(1, "data", &at.to_string()).unwrap();
    }
    let transactions: Vec<u32> = (0..3).map(|_| testbed.begin(1)).collect();
    assert_eq!(figures(&mut testbed, 1, "watches"), (20, 20, 20));
    assert_eq!(figures(&mut testbed, 1, "transactions"), (3, 3, 3));
    testbed.request(1, MessageType::ResetWatches, "\0").unwrap();
    assert_eq!(figures(&mut testbed, 1, "watches"), (0, 20, 20));
    assert_eq!(figures(&mut testbed, 1, "transactions"), (0, 3, 3));
    assert_eq!(testbed.end(1, transactions[0], false), error("ENOENT"));
}

#[test]
fn a_request_that_grows_the_use_of_many_domains_raises_the_maximum_of_each() {
    let mut testbed = Testbed::with_guests(1..=20);
    let transaction = testbed.begin(0);
    for domid in 1..=20 {
        testbed.write_in(0, transaction, &format!("/n{domid}"), "").unwrap();
        testbed.set_perms_in(0, transaction, &format!("/n{domid}"), &format!("n{domid}")).unwrap();
    }
    testbed.end(0, transaction, true).unwrap();
    for domid in 1..=20 {
        assert_eq!(figures(&mut testbed, domid, "nodes"), (1, 1, 1));
    }
}

#[test]
fn the_control_domain_does_not_count_for_the_maxima_of_guests() {
    let mut testbed = Testbed::with_homes([1]);
    for at in 0..30 {
        testbed.mkdir(0, &format!("/n{at}")).unwrap();
    }
    let (nodes, most, of_guests) = figures(&mut testbed, 0, "nodes");
    assert_eq!((most, of_guests), (nodes, 1));
}

#[test]
fn a_memory_quota_that_another_domain_makes_a_guest_exceed_is_logged() {
    for (name, quota) in [("soft", "soft-memory"), ("hard", "memory")] {
        let mut testbed = Testbed::with_homes([1]);
        testbed.request(0, MessageType::SetQuota, format!("1\0{quota}\x005000\0")).unwrap();
        let lines = crate::log_lines::of(|| {
            for at in 0..20 {
                testbed.write(0, &format!("/local/domain/1/n{at}"), &"x".repeat(3000)).unwrap();
            }
        });
        let [line] = &lines[..] else { panic!("one line in ten seconds, not {lines:?}") };
        assert!(
            line.starts_with("memory: domain 1 takes ") && line.ends_with(&format!("over its {name} quota of 5000"))
        );
        testbed.pass(10_000);
        let lines = crate::log_lines::of(|| drop(testbed.mkdir(0, "/local/domain/1/more")));
        assert_eq!(lines.len(), 1, "the server logs it again later");
    }
}

#[test]
fn the_restored_state_of_another_server_counts_for_the_maxima() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 30);
    let saved = save(testbed.server.engine(), &SaveOptions { now_ms: testbed.now_ms, reply: None });
    let records: Vec<_> = saved.into_iter().filter(|item| !matches!(item, Item::Extension(_))).collect();
    testbed.server = Server::restored(restore(&records, &Config::default(), testbed.now_ms).unwrap());
    testbed.machine.mapped.clear();
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    testbed.forget_incoming(0);
    assert_eq!(figures(&mut testbed, 1, "nodes"), (30, 30, 30));
}

fn get_perms_in(testbed: &mut Testbed, domid: u16, transaction: u32, path: &str) -> Result<String, String> {
    let payload = format!("{path}\0");
    let entries = testbed.request_in(domid, transaction, MessageType::GetPerms.to_wire(), payload);
    entries.map(|entries| strings(&entries).join(" "))
}

/// Replaces the server by a successor with all state.
fn update(testbed: &mut Testbed, config: &Config) {
    let saved = save(testbed.server.engine(), &SaveOptions { now_ms: testbed.now_ms, reply: None });
    testbed.server = Server::restored(restore(&saved, config, testbed.now_ms).unwrap());
    // The successor maps rings again, and ports remain bound.
    testbed.machine.mapped.clear();
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    testbed.run();
}
