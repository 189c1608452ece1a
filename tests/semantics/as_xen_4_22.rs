//! Behaviour of the C server of Xen 4.22 on which clients and toolstacks rely.

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{Item, SaveOptions};
use xenstore::server::Server;
use xenstore::server::stream::load;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::items::{restore, save};
use crate::world::{BAD_PORT, DOM0, World, error, event, ok, string, strings};

const INDICES: [Field; 4] =
    [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer];

/// Erases a ring: the whole page with zeros, or as `hvmloader` does it.
fn erase(world: &mut World, domid: u16, is_whole: bool) {
    let page = &world.machine.pages[&DomId(domid)];
    if is_whole {
        page.0.borrow_mut().fill(0);
    } else {
        page.0.borrow_mut()[..2 * RING_BYTES].fill(0xff);
    }
    for field in INDICES {
        world.set_word(domid, field, 0);
    }
    world.forget_incoming(domid);
}

/// Makes a guest with a watch. The indices of its ring are not zero.
fn with_used_ring() -> World {
    let mut world = World::with_homes([5]);
    world.watch(5, "data", "t").unwrap();
    world.events(5);
    world
}

/// Checks that the connection works, and still has its watch.
fn is_served(world: &mut World) {
    assert_eq!(world.word(5, Field::Error), 0);
    assert_eq!(world.mkdir(5, "more"), ok());
    assert_eq!(world.write(0, "/local/domain/5/data", "x"), ok());
    assert_eq!(world.events(5), [event("data", "t")]);
    assert_eq!(world.outstanding(5), 0);
    world.check();
}

#[test]
fn an_erased_ring_that_is_quiet_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        let mut world = with_used_ring();
        erase(&mut world, 5, is_whole);
        world.run();
        is_served(&mut world);
    }
}

#[test]
fn an_erased_ring_that_is_signalled_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        let mut world = with_used_ring();
        erase(&mut world, 5, is_whole);
        world.signal(5);
        is_served(&mut world);
    }
}

#[test]
fn an_erased_ring_with_an_unread_event_in_it_is_served_as_a_fresh_one() {
    for is_whole in [true, false] {
        for is_signalled in [true, false] {
            let mut world = with_used_ring();
            world.write(0, "/local/domain/5/data", "x").unwrap();
            assert_ne!(world.word(5, Field::ReplyProducer), world.word(5, Field::ReplyConsumer));
            erase(&mut world, 5, is_whole);
            if is_signalled {
                world.signal(5);
            }
            is_served(&mut world);
        }
    }
}

#[test]
fn an_event_that_comes_after_a_ring_was_erased_begins_at_index_0() {
    for is_whole in [true, false] {
        let mut world = with_used_ring();
        erase(&mut world, 5, is_whole);
        world.write(0, "/local/domain/5/data", "x").unwrap();
        assert_eq!(world.word(5, Field::ReplyProducer), 16 + 7);
        assert_eq!(world.events(5), [event("data", "t")]);
        is_served(&mut world);
    }
}

#[test]
fn after_a_ring_was_erased_no_half_message_comes_first() {
    for is_whole in [true, false] {
        let mut world = with_used_ring();
        // Half a request, and an event that does not fit into the ring.
        let header =
            Header { kind: MessageType::Write.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 100 };
        world.put_bytes(5, &header.emit());
        world.put_bytes(5, b"half");
        world.signal(5);
        let long = format!("data/{}", "x".repeat(1500));
        world.write(0, &format!("/local/domain/5/{long}"), "").unwrap();
        assert_eq!(world.word(5, Field::ReplyProducer).wrapping_sub(world.word(5, Field::ReplyConsumer)), 1024);
        erase(&mut world, 5, is_whole);
        world.signal(5);
        assert_eq!(world.read(5, "data"), Ok(Vec::new()), "the server has dropped the half request");
        assert_eq!(world.events(5), [event(&long, "t")], "the whole event comes");
        is_served(&mut world);
    }
}

#[test]
fn a_ring_that_is_erased_while_it_is_served_is_not_shut() {
    let mut world = with_used_ring();
    world.machine.meanwhile = Some(|page| page.0.borrow_mut().fill(0));
    world.send(5, 0, MessageType::Read.to_wire(), b"data\0");
    world.machine.meanwhile = None;
    world.forget_incoming(5);
    is_served(&mut world);
}

#[test]
fn erasing_its_ring_rids_a_domain_of_nothing_that_is_counted() {
    let mut world = World::with_homes([1, 2]);
    world.set_perms(0, "/local/domain/1", "r1").unwrap();
    world.watch(2, "/local/domain/1", &"t".repeat(900)).unwrap();
    world.events(2);
    let transaction = world.begin(1);
    for at in 0..5 {
        world.send(1, 0, MessageType::Write.to_wire(), format!("data{at}\0").as_bytes());
        world.receive(1);
    }
    let (outstanding, watches) = (world.outstanding(1), world.server.engine().state().watches.len());
    assert!(outstanding > 0, "their events wait for the other domain");
    erase(&mut world, 1, true);
    world.signal(1);
    assert_eq!((world.outstanding(1), world.server.engine().state().watches.len()), (outstanding, watches));
    assert_eq!(world.server.engine().open_transactions(), (1, 1));
    world.events(2);
    world.events(1);
    assert_eq!(world.end(1, transaction, false), ok());
    world.check();
}

#[test]
fn an_erased_ring_is_found_after_a_live_update_too() {
    let mut world = with_used_ring();
    update(&mut world, &Config::default());
    erase(&mut world, 5, true);
    world.signal(5);
    is_served(&mut world);
}

#[test]
fn permissions_of_a_special_node_that_a_transaction_sets_are_invisible_until_its_commit() {
    for commits in [true, false] {
        let mut world = World::with_guests([1]);
        let transaction = world.begin(0);
        world.set_perms_in(0, transaction, "@introduceDomain", "r0").unwrap();
        assert_eq!(world.get_perms(0, "@introduceDomain"), Ok("n0".into()));
        assert_eq!(get_perms_in(&mut world, 0, transaction, "@introduceDomain"), Ok("r0".into()));
        assert_eq!(world.get_perms(1, "@introduceDomain"), error("EACCES"));
        assert_eq!(world.end(0, transaction, commits), ok());
        let expected = if commits { "r0" } else { "n0" };
        assert_eq!(world.get_perms(0, "@introduceDomain"), Ok(expected.into()));
        world.check();
    }
}

#[test]
fn new_permissions_of_a_special_node_fire_its_watches_that_may_read_it_before_or_after() {
    for is_in_transaction in [true, false] {
        let mut world = World::with_guests([1, 2]);
        world.set_perms(0, "@introduceDomain", "n0 r1").unwrap();
        for (domid, path) in [(0, "@introduceDomain"), (1, "@introduceDomain"), (2, "@introduceDomain"), (0, "/")] {
            world.watch(domid, path, path).unwrap();
        }
        world.request(0, MessageType::Watch, "@introduceDomain\0deep\x001\0").unwrap();
        (0..=2).for_each(|domid| drop(world.events(domid)));
        let transaction = if is_in_transaction { world.begin(0) } else { 0 };
        world.set_perms_in(0, transaction, "@introduceDomain", "n0 r2").unwrap();
        if is_in_transaction {
            assert_eq!(world.events(0), [], "not before the commit");
            world.end(0, transaction, true).unwrap();
        }
        let expected = event("@introduceDomain", "@introduceDomain");
        assert_eq!(world.events(0), [expected.clone(), event("@introduceDomain", "deep")]);
        assert_eq!(world.events(1), std::slice::from_ref(&expected), "it could read the node before");
        assert_eq!(world.events(2), [expected], "it can read the node now");
        world.set_perms(0, "@introduceDomain", "n0").unwrap();
        assert_eq!((world.events(1), world.events(2).len()), (vec![], 1));
    }
}

#[test]
fn a_transaction_conflicts_over_a_special_node_that_it_has_seen() {
    for changed in ["@introduceDomain", "@releaseDomain"] {
        let mut world = World::without_replay([]);
        let transaction = world.begin(0);
        get_perms_in(&mut world, 0, transaction, "@introduceDomain").unwrap();
        world.set_perms(0, changed, "r0").unwrap();
        let is_seen = changed == "@introduceDomain";
        assert_eq!(world.end(0, transaction, true), if is_seen { error("EAGAIN") } else { ok() });
    }
    // With a replay, the server commits the transaction if every reply would be the same.
    for (permissions, expected) in [("n0", ok()), ("r0", error("EAGAIN"))] {
        let mut world = World::new();
        let transaction = world.begin(0);
        get_perms_in(&mut world, 0, transaction, "@introduceDomain").unwrap();
        world.set_perms_in(0, transaction, "@releaseDomain", "b0").unwrap();
        world.set_perms(0, "@introduceDomain", permissions).unwrap();
        assert_eq!(world.end(0, transaction, true), expected);
        let after = if expected.is_ok() { "b0" } else { "n0 r32757" };
        assert_eq!(world.get_perms(0, "@releaseDomain"), Ok(after.into()));
    }
}

#[test]
fn a_pending_change_of_a_special_node_survives_a_live_update() {
    let mut world = World::without_replay([1]);
    let transaction = world.begin(0);
    world.set_perms_in(0, transaction, "@introduceDomain", "n0 r1").unwrap();
    let other = world.begin(0);
    get_perms_in(&mut world, 0, other, "@introduceDomain").unwrap();
    update(&mut world, &Config { replay: false, ..Config::default() });
    assert_eq!(world.get_perms(1, "@introduceDomain"), error("EACCES"));
    assert_eq!(get_perms_in(&mut world, 0, transaction, "@introduceDomain"), Ok("n0 r1".into()));
    assert_eq!(world.end(0, transaction, true), ok());
    assert_eq!(world.get_perms(1, "@introduceDomain"), Ok("n0 r1".into()));
    assert_eq!(world.end(0, other, true), error("EAGAIN"), "the update keeps the transaction's reads");
    world.check();
}

#[test]
fn a_special_node_is_not_given_to_a_domain_that_died_before_the_commit() {
    let mut world = World::with_guests([7]);
    let transaction = world.begin(0);
    world.set_perms_in(0, transaction, "@introduceDomain", "n7").unwrap();
    world.kill(7);
    world.start(7);
    assert_eq!(world.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(world.get_perms(0, "@introduceDomain"), Ok("n0".into()));
}

#[test]
fn a_commit_that_gives_a_node_to_a_dead_domain_is_eagain() {
    for is_learned in [true, false] {
        let mut world = World::new();
        world.build(DomId(7));
        if is_learned {
            world.start_built(7);
        }
        let transaction = world.begin(0);
        world.write_in(0, transaction, "/a", "").unwrap();
        world.set_perms_in(0, transaction, "/a", "n7").unwrap();
        world.kill(7);
        update(&mut world, &Config::default());
        world.start(7);
        assert_eq!(world.end(0, transaction, true), error("EAGAIN"), "also after an update, and with a new domain 7");
        assert_eq!((world.read(0, "/a"), world.nodes(7)), (error("ENOENT"), 0));
        world.check();
    }
}

#[test]
fn an_introduction_binds_the_port_that_the_ring_page_names() {
    for (in_ring, bound) in [(0, 9), (4, 4)] {
        let mut world = World::new();
        world.build(DomId(5));
        world.set_word(5, Field::EventPort, in_ring);
        assert_eq!(world.introduce(0, 5, 9), ok());
        assert!(world.machine.remote.values().any(|remote| *remote == (DomId(5), bound)), "{in_ring}");
    }
}

#[test]
fn an_introduction_whose_ring_page_names_a_bad_port_is_refused() {
    let mut world = World::new();
    world.build(DomId(5));
    world.set_word(5, Field::EventPort, BAD_PORT);
    assert_eq!(world.introduce(0, 5, 9), error("EINVAL"));
    assert!(!world.is_introduced(5) && !world.machine.mapped.contains_key(&DomId(5)));
    world.check();
}

#[test]
fn a_repeated_introduction_binds_the_requests_port() {
    let mut world = World::new();
    world.build(DomId(5));
    world.set_word(5, Field::EventPort, 4);
    assert_eq!(world.introduce(0, 5, 9), ok());
    assert_eq!(world.introduce(0, 5, 8), ok());
    assert!(world.machine.remote.values().any(|remote| *remote == (DomId(5), 8)));
}

#[test]
fn permissions_of_an_unknown_special_name_are_those_of_a_missing_node() {
    let mut world = World::with_guests([1]);
    for name in ["@other", "@", "@other/x", "@releaseDomain/5", "@introduceDomain/5"] {
        assert_eq!(world.get_perms(0, name), error("ENOENT"), "{name}");
        assert_eq!(world.set_perms(0, name, "n0"), error("ENOENT"), "{name}");
        // The parent decides: domain 1 may read only @releaseDomain.
        let expected = if name.starts_with("@releaseDomain") { "ENOENT" } else { "EACCES" };
        assert_eq!(world.get_perms(1, name), error(expected), "{name}");
        assert_eq!(world.set_perms(1, name, "n1"), error("EACCES"), "{name}");
    }
    world.set_perms(0, "/", "r0").unwrap();
    assert_eq!(world.get_perms(1, "@other"), error("ENOENT"));
    assert_eq!(world.get_perms(0, "@other//x"), error("EINVAL"), "the name is invalid");
}

#[test]
fn an_offset_of_a_part_that_is_no_number_counts_as_0() {
    let mut world = World::new();
    world.mkdir(0, "/a/b").unwrap();
    world.mkdir(0, "/a/c").unwrap();
    let mut part = |offset: &str| {
        let part = world.request(0, MessageType::DirectoryPart, format!("/a\0{offset}\0")).unwrap();
        string(&part[part.iter().position(|byte| *byte == 0).unwrap()..])
    };
    for (offset, expected) in [("", "\0b\0c\0"), ("x", "\0b\0c\0"), ("2x", "\0c\0"), ("-1", "\0")] {
        assert_eq!(part(offset), expected, "{offset:?}");
    }
}

#[test]
fn release_and_resume_are_refused_for_the_control_domain_alone_whatever_its_number() {
    let mut world = World::unconnected(Config { privileged: DomId(3), ..Config::default() });
    for domid in [DomId(3), DOM0] {
        world.build(domid);
        world.server.handle_boot_domain(domid, 1, &mut world.machine).unwrap();
    }
    world.run();
    for kind in [MessageType::Resume, MessageType::Release] {
        assert_eq!(world.request(3, kind, "3\0"), error("EINVAL"));
        assert_eq!(world.request(3, kind, "0\0"), ok(), "{kind:?}");
    }
    assert_eq!(world.request(3, MessageType::Release, "0\0"), error("ENOENT"), "the domain was released");
}

/// Returns a path of so many bytes, with a level for every two bytes.
fn deep_path(bytes: usize) -> String {
    let path = "/d".repeat(bytes / 2);
    if bytes.is_multiple_of(2) { path } else { format!("{path}d") }
}

#[test]
fn the_control_domain_may_use_paths_of_3072_bytes_and_guests_may_not() {
    let mut world = World::with_homes([1]);
    world.request(0, MessageType::SetQuota, "1\0path-max\x000\0").unwrap();
    world.set_perms(0, "/", "b0").unwrap();
    let (longest, too_long) = (deep_path(3072), deep_path(3073));
    world.watch(0, &longest, "t").unwrap();
    world.events(0);
    assert_eq!(world.write(0, &too_long, "x"), error("EINVAL"));
    assert_eq!(world.write(0, &longest, "x"), ok());
    assert_eq!(world.read(0, &longest), Ok(b"x".to_vec()));
    assert_eq!(world.events(0), [event(&longest, "t")]);
    let relative = "r".repeat(3072 - "/local/domain/0/".len());
    assert_eq!(world.write(0, &relative, ""), ok());
    assert_eq!(world.write(0, &format!("{relative}r"), ""), error("EINVAL"));
    assert_eq!(world.read(1, &longest), error("EINVAL"));
    assert_eq!(world.read(1, &deep_path(2050)), error("EINVAL"), "also without a quota");
    world.check();
    assert_eq!(world.rm(0, "/d"), ok());
    assert_eq!(world.events(0), [event(&longest, "t")]);
    world.check();
}

#[test]
fn paths_of_3072_bytes_survive_a_live_update() {
    for version in [Version::One, Version::Two] {
        let mut world = World::new();
        let longest = deep_path(3072);
        world.write(0, &longest, "x").unwrap();
        world.watch(0, &longest, "t").unwrap();
        world.events(0);
        let mut stream = Vec::new();
        world.server.save_to(&mut stream, version, &SaveOptions { now_ms: world.now_ms, reply: None }).unwrap();
        world.server = Server::restored(load(&stream, &Config::default(), world.now_ms).unwrap());
        world.machine.mapped.clear();
        world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
        assert_eq!(world.read(0, &longest), Ok(b"x".to_vec()));
        assert_eq!(world.rm(0, &longest), ok());
        assert_eq!(world.events(0), [event(&longest, "t")]);
    }
}

#[test]
fn an_event_with_a_long_path_and_a_long_token_is_dropped_and_others_are_not() {
    let mut world = World::new();
    world.watch(0, "/", &"t".repeat(1022)).unwrap();
    world.watch(0, "/", &"u".repeat(1023)).unwrap();
    world.events(0);
    world.write(0, &deep_path(3072), "x").unwrap();
    assert_eq!(world.events(0), [event(&deep_path(3072), &"t".repeat(1022))], "4,096 bytes, and one more");
}

/// Returns three figures of CONTROL `quota`: a domain's present value, its maximum, and the maximum of all guests.
fn figures(world: &mut World, domid: u16, name: &str) -> (usize, usize, usize) {
    let mut numbers = |command: &str| -> Vec<usize> {
        let text = string(&world.request(0, MessageType::Control, format!("quota\0{command}\0")).unwrap());
        let line = text.lines().find(|line| line.split([' ', ':']).next() == Some(name)).expect("the quota is listed");
        line.split(|digit: char| !digit.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let (of_domain, of_all) = (numbers(&domid.to_string()), numbers("max"));
    (of_domain[0], of_domain[1], of_all[0])
}

#[test]
fn nodes_that_a_replay_commits_raise_the_maximum() {
    let mut world = World::with_homes([1]);
    world.write(1, "data", "").unwrap();
    let transaction = world.begin(1);
    world.write_in(1, transaction, "data", "mine").unwrap();
    for at in 0..20 {
        world.mkdir_in(1, transaction, &format!("n{at}")).unwrap();
    }
    world.write(0, "/local/domain/1/data", "theirs").unwrap();
    assert_eq!(world.end(1, transaction, true), ok(), "by a replay");
    assert_eq!(figures(&mut world, 1, "nodes"), (22, 22, 22));
    let (memory, most, of_all) = figures(&mut world, 1, "memory");
    assert!(most >= memory && of_all == most);
}

#[test]
fn nodes_and_memory_that_the_control_domain_causes_raise_the_maxima() {
    for is_in_transaction in [false, true] {
        let mut world = World::with_homes([1]);
        let transaction = if is_in_transaction { world.begin(0) } else { 0 };
        for at in 0..70 {
            world.mkdir_in(0, transaction, &format!("/local/domain/1/n{at}")).unwrap();
        }
        world.write_in(0, transaction, "/a", "").unwrap();
        world.set_perms_in(0, transaction, "/a", "n1").unwrap();
        world.write_in(0, transaction, "/local/domain/1", &"x".repeat(3000)).unwrap();
        if is_in_transaction {
            world.end(0, transaction, true).unwrap();
        }
        assert_eq!(figures(&mut world, 1, "nodes"), (72, 72, 72));
        let (memory, most, of_all) = figures(&mut world, 1, "memory");
        assert!(memory > 3000);
        assert_eq!((most, of_all), (memory, memory));
        world.rm(0, "/local/domain/1").unwrap();
        assert_eq!(figures(&mut world, 1, "nodes"), (1, 72, 72));
        assert_eq!(figures(&mut world, 1, "memory").1, memory);
    }
}

#[test]
fn events_that_others_cause_raise_the_maximum_of_memory() {
    let mut world = World::with_homes([1]);
    world.watch(1, "data", &"t".repeat(1000)).unwrap();
    world.events(1);
    let before = figures(&mut world, 1, "memory").1;
    for at in 0..10 {
        world.write(0, &format!("/local/domain/1/data/{at}"), "").unwrap();
    }
    let (memory, most, of_all) = figures(&mut world, 1, "memory");
    // Events in the ring no longer count.
    assert!(most > before + 8000 && most >= memory && of_all == most, "{before} {most} {memory}");
}

#[test]
fn events_of_a_death_raise_the_maximum_of_memory() {
    let mut world = World::with_guests([1, 2]);
    for token in ["r", "s"] {
        world.watch(1, "@releaseDomain", &token.repeat(2000)).unwrap();
        world.events(1);
    }
    let before = figures(&mut world, 1, "memory").1;
    world.kill(2);
    assert!(figures(&mut world, 1, "memory").1 > before + 1900, "no request causes them");
}

#[test]
fn watches_and_transactions_raise_the_maxima_when_they_are_made() {
    let mut world = World::with_homes([1]);
    for at in 0..20 {
        world.watch(1, "data", &at.to_string()).unwrap();
    }
    let transactions: Vec<u32> = (0..3).map(|_| world.begin(1)).collect();
    assert_eq!(figures(&mut world, 1, "watches"), (20, 20, 20));
    assert_eq!(figures(&mut world, 1, "transactions"), (3, 3, 3));
    world.request(1, MessageType::ResetWatches, "\0").unwrap();
    assert_eq!(figures(&mut world, 1, "watches"), (0, 20, 20));
    assert_eq!(figures(&mut world, 1, "transactions"), (0, 3, 3));
    assert_eq!(world.end(1, transactions[0], false), error("ENOENT"));
}

#[test]
fn what_one_request_makes_grow_for_many_domains_raises_the_maximum_of_each() {
    let mut world = World::with_guests(1..=20);
    let transaction = world.begin(0);
    for domid in 1..=20 {
        world.write_in(0, transaction, &format!("/n{domid}"), "").unwrap();
        world.set_perms_in(0, transaction, &format!("/n{domid}"), &format!("n{domid}")).unwrap();
    }
    world.end(0, transaction, true).unwrap();
    for domid in 1..=20 {
        assert_eq!(figures(&mut world, domid, "nodes"), (1, 1, 1));
    }
}

#[test]
fn the_control_domain_does_not_count_for_the_maxima_of_guests() {
    let mut world = World::with_homes([1]);
    for at in 0..30 {
        world.mkdir(0, &format!("/n{at}")).unwrap();
    }
    let (nodes, most, of_guests) = figures(&mut world, 0, "nodes");
    assert_eq!((most, of_guests), (nodes, 1));
}

#[test]
fn a_quota_of_memory_that_another_domain_makes_a_guest_pass_is_logged() {
    for (name, quota) in [("soft", "soft-memory"), ("hard", "memory")] {
        let mut world = World::with_homes([1]);
        world.request(0, MessageType::SetQuota, format!("1\0{quota}\x005000\0")).unwrap();
        let lines = crate::log_lines::of(|| {
            for at in 0..20 {
                world.write(0, &format!("/local/domain/1/n{at}"), &"x".repeat(3000)).unwrap();
            }
        });
        let [line] = &lines[..] else { panic!("one line in ten seconds, not {lines:?}") };
        assert!(
            line.starts_with("memory: domain 1 takes ") && line.ends_with(&format!("over its {name} quota of 5000"))
        );
        world.pass(10_000);
        let lines = crate::log_lines::of(|| drop(world.mkdir(0, "/local/domain/1/more")));
        assert_eq!(lines.len(), 1, "the server logs it again later");
    }
}

#[test]
fn what_another_servers_state_holds_counts_for_the_maxima() {
    let mut world = World::with_homes([1]);
    world.fill_nodes(1, 30);
    let saved = save(world.server.engine(), &SaveOptions { now_ms: world.now_ms, reply: None });
    let records: Vec<_> = saved.into_iter().filter(|item| !matches!(item, Item::Extension(_))).collect();
    world.server = Server::restored(restore(&records, &Config::default(), world.now_ms).unwrap());
    world.machine.mapped.clear();
    world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
    world.forget_incoming(0);
    assert_eq!(figures(&mut world, 1, "nodes"), (30, 30, 30));
}

fn get_perms_in(world: &mut World, domid: u16, transaction: u32, path: &str) -> Result<String, String> {
    let payload = format!("{path}\0");
    let entries = world.request_in(domid, transaction, MessageType::GetPerms.to_wire(), payload);
    entries.map(|entries| strings(&entries).join(" "))
}

/// Replaces the server by a successor with all state.
fn update(world: &mut World, config: &Config) {
    let saved = save(world.server.engine(), &SaveOptions { now_ms: world.now_ms, reply: None });
    world.server = Server::restored(restore(&saved, config, world.now_ms).unwrap());
    // The successor maps rings again, and ports remain bound.
    world.machine.mapped.clear();
    world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
    world.run();
}
