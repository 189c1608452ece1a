//! Xen's security advisories about Xenstore servers (<https://xenbits.xen.org/xsa/>), as far as guests can try them here:
//! each test does what the advisory describes and asserts what must be seen instead. The first half: XSA-38 to XSA-353.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType as T};
use xenstore::wire::ring::Field;

use crate::world::{World, error, event, ok};

/// Cuts a domain off, as an impossible index does.
fn cheat(world: &mut World, domid: u16) {
    let producer = world.word(domid, Field::RequestConsumer).wrapping_add(1025);
    world.set_word(domid, Field::RequestProducer, producer);
    world.signal(domid);
    assert_eq!(world.word(domid, Field::Error), 2);
}

#[test]
fn xsa_38_impossible_indices_cut_off_their_domain_alone() {
    let mut world = World::with_homes([1, 2]);
    cheat(&mut world, 1);
    assert_eq!(world.write(2, "data", "x"), ok());
    assert!(world.is_introduced(1));
}

#[test]
fn xsa_72_a_reply_that_is_too_long_is_an_error_and_not_a_message() {
    let mut world = World::with_homes([1]);
    for at in 0..300 {
        world.write(0, &format!("/local/domain/1/a-rather-long-name-{at}"), "").unwrap();
    }
    assert_eq!(world.directory(1, "/local/domain/1"), error("E2BIG"));
    assert!(world.request(1, T::DirectoryPart, "/local/domain/1\x000\0").unwrap().len() <= 4096);
}

#[test]
fn xsa_115_events_need_the_right_to_read() {
    let mut world = World::with_homes([1, 2]);
    world.set_perms(0, "@releaseDomain", "n0").unwrap();
    for path in ["/", "/local/domain", "/local/domain/2", "@introduceDomain", "@releaseDomain"] {
        world.watch(1, path, "spy").unwrap();
    }
    assert_eq!(world.events(1).len(), 5);
    world.write(2, "data/secret", "x").unwrap();
    let transaction = world.begin(2);
    world.write_in(2, transaction, "data/more", "x").unwrap();
    world.end(2, transaction, true).unwrap();
    world.rm(2, "data").unwrap();
    world.start(9);
    world.set_state(9, DomainState::Shutdown);
    world.kill(9);
    world.kill(2);
    assert_eq!(world.events(1), []);
    assert_eq!(world.request(1, T::IsDomainIntroduced, "2\0"), error("EACCES"));
}

#[test]
fn xsa_115_a_node_below_a_large_one_can_be_removed() {
    let mut world = World::with_homes([1]);
    world.write(1, "large/child", "").unwrap();
    world.write(0, "/local/domain/1/large", &"x".repeat(4000)).unwrap();
    assert_eq!(world.rm(1, "large/child"), ok());
}

#[test]
fn xsa_233_a_domain_and_the_one_that_acts_for_it_may_die_at_once() {
    let mut world = World::with_homes([1, 2]);
    world.set_target(0, 2, 1).unwrap();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    for domid in [1, 2] {
        world.machine.domains.remove(&DomId(domid));
    }
    world.server.handle_domain_exception();
    world.run();
    assert_eq!(world.events(0).len(), 2);
    assert_eq!(world.directory(0, "/local/domain"), Ok(vec![]));
    assert_eq!((world.machine.mapped.len(), world.machine.bound.len()), (1, 1));
    world.check();
}

#[test]
fn xsa_272_a_node_counts_however_it_is_made() {
    let mut made = Vec::new();
    for way in ["write", "mkdir", "parents"] {
        let mut world = World::with_homes([1]);
        let mut count = 0;
        loop {
            // Directories of a hundred, as the names of more would not fit into one node.
            let name = if count % 100 == 0 { format!("d{}", count / 100) } else { format!("d{}/{count}", count / 100) };
            let outcome = match way {
                "write" => world.write(1, &name, "x"),
                "mkdir" => world.mkdir(1, &name),
                // One request makes four nodes, three of which nobody named by themselves.
                _ => world.write(1, &format!("n{count}/a/b/c"), ""),
            };
            if outcome.is_err() {
                assert_eq!(outcome, error("ENOSPC"), "{way}");
                break;
            }
            count += 1;
        }
        while way == "parents" && world.mkdir(1, &format!("rest{count}")) == ok() {
            count += 1;
        }
        made.push(world.nodes(1));
        world.check();
    }
    assert_eq!(made, [1000, 1000, 1000]);
}

#[test]
fn xsa_322_rights_of_the_dead_are_not_their_successors() {
    let mut world = World::with_guests([7]);
    for path in ["/a", "/b"] {
        world.write(0, path, "").unwrap();
        world.set_perms(0, path, "n0 b7").unwrap();
    }
    world.set_perms(0, "@releaseDomain", "n0 b7").unwrap();
    world.kill(7);
    world.write(0, "/a", "written in between").unwrap();
    world.start(7);
    for path in ["/a", "/b", "@releaseDomain"] {
        assert_eq!(world.get_perms(7, path), error("EACCES"));
        world.watch(7, path, "t").unwrap();
    }
    world.events(7);
    world.write(0, "/a", "x").unwrap();
    world.rm(0, "/b").unwrap();
    world.start(8);
    world.kill(8);
    assert_eq!(world.events(7), []);
}

#[test]
fn xsa_323_what_can_be_made_can_be_read_listed_and_removed() {
    for domid in [1, 32000] {
        let mut world = World::with_homes([domid]);
        for bytes in [2047, 2048, 2049] {
            let path = ("x".repeat(99) + "/").repeat(20) + &"x".repeat(bytes - 2002) + "/y";
            let full = format!("/local/domain/{domid}/{path}");
            let expected = if bytes <= 2048 { ok() } else { error("EINVAL") };
            assert_eq!(world.write(domid, &path, "v"), expected);
            assert_eq!(world.write(domid, &full, "v"), expected);
            if expected == ok() {
                for who in [domid, 0] {
                    assert_eq!(world.read(who, &full), Ok(b"v".to_vec()));
                    assert_eq!(world.directory(who, full.strip_suffix("/y").unwrap()), Ok(vec!["y".into()]));
                }
                assert_eq!(world.rm(domid, path.strip_suffix("/y").unwrap()), ok());
            }
        }
        world.check();
    }
}

#[test]
fn xsa_324_an_event_that_is_too_long_is_dropped_and_the_watch_goes_on() {
    let mut world = World::with_homes([1]);
    let token = "t".repeat(4080);
    assert_eq!(world.request(1, T::Watch, format!("a\0{token}\0")), ok());
    world.events(1);
    assert_eq!(world.write(0, &format!("/local/domain/1/a/{}", "x".repeat(500)), ""), ok());
    assert_eq!(world.events(1), []);
    world.write(0, "/local/domain/1/a/b", "").unwrap();
    assert_eq!(world.events(1), [event("a/b", &token)]);
}

#[test]
fn xsa_325_a_cheating_domain_is_remembered_until_its_death() {
    for acting in [false, true] {
        let mut world = World::with_homes([1, 2]);
        if acting {
            world.set_target(0, 2, 1).unwrap();
        }
        world.watch(0, "@releaseDomain", "gone").unwrap();
        world.events(0);
        for domid in [1, 2] {
            world.watch(domid, "data", "t").unwrap();
            let transaction = world.begin(domid);
            world.write_in(domid, transaction, "data", "x").unwrap();
        }
        let header = Header { kind: 2, request_id: 1, transaction_id: 0, payload_bytes: 4097 };
        world.send_bytes(1, &header.emit());
        assert_eq!(world.word(1, Field::Error), 3);
        cheat(&mut world, 2);
        assert_eq!(world.events(0), []);
        assert!(world.is_introduced(1) && world.is_introduced(2));
        assert_eq!(world.server.engine().state().watches.len(), 1);
        world.kill(1);
        world.kill(2);
        assert_eq!(world.events(0).len(), 2);
        assert_eq!(world.machine.mapped.len(), 1);
        world.check();
    }
}

#[test]
fn xsa_326_a_sleeping_reader_does_not_hold_events_or_their_cause_for_ever() {
    let mut world = World::with_homes([1, 2]);
    world.set_perms(1, "/local/domain/1", "r1").unwrap();
    world.watch(2, "/local/domain/1", "t").unwrap();
    world.events(2);
    for at in 0..40 {
        world.send(1, 0, T::Write.to_wire(), format!("a-rather-long-name-{at}\0").as_bytes());
        while world.message(1).is_some() {}
    }
    // Those that were held back are handled when the first are over.
    world.pass(20_000);
    world.pass(20_000);
    assert!(world.outstanding(1) <= 1, "an event that is half sent stays");
    let session = world.server.engine().connection(world.connection(2).unwrap()).unwrap().session().unwrap();
    assert!(session.output.bytes().len() < 100, "at most what was half sent waits");
}

#[test]
fn xsa_326_a_node_changed_again_and_again_is_told_once() {
    let mut world = World::with_homes([1, 2]);
    world.set_perms(1, "/local/domain/1", "r1").unwrap();
    world.watch(2, "/local/domain/1", &"t".repeat(1200)).unwrap();
    world.events(2);
    for _ in 0..10_000 {
        assert_eq!(world.write(1, "data", "x"), ok());
    }
    assert!(world.events(2).len() <= 2);
}

#[test]
fn xsa_326_nodes_of_a_domain_that_is_not_introduced_are_counted() {
    let mut world = World::new();
    world.build(DomId(7));
    for at in 0..50 {
        world.write(0, &format!("/a/{at}"), "").unwrap();
        world.set_perms(0, &format!("/a/{at}"), "n7").unwrap();
    }
    assert_eq!(world.nodes(7), 50);
    world.rm(0, "/a/1").unwrap();
    world.set_perms(0, "/a/2", "n0").unwrap();
    assert_eq!(world.nodes(7), 48);
    world.introduce(0, 7, 1).unwrap();
    assert_eq!(world.nodes(7), 48);
    world.check();
}

#[test]
fn xsa_330_watches_are_gone_however_they_are_withdrawn() {
    let mut world = World::with_homes([1]);
    for round in 0..200 {
        for at in 0..128 {
            assert_eq!(world.watch(1, "data", &at.to_string()), ok(), "round {round}");
        }
        match round % 4 {
            0 => assert_eq!(world.request(1, T::ResetWatches, "\0"), ok()),
            1 => (0..128).for_each(|at| assert_eq!(world.unwatch(1, "data", &at.to_string()), ok())),
            2 => assert_eq!(world.introduce(0, 1, 1), ok()),
            _ => {
                world.kill(1);
                world.start(1);
                world.make_home(1);
            }
        }
        world.events(1);
        world.write(1, "data", "x").unwrap();
        assert_eq!(world.events(1), []);
        assert_eq!(world.server.engine().state().watches.len(), 0);
    }
    world.check();
}

#[test]
fn xsa_352_nobody_gives_a_node_away() {
    let mut world = World::with_homes([1, 2]);
    for (owner, expected) in
        [("n2", "EPERM"), ("n0", "EPERM"), ("n9", "ENOENT"), ("n32752", "ENOENT"), ("n65535", "ENOENT")]
    {
        assert_eq!(world.set_perms(1, "/local/domain/1", owner), error(expected), "{owner}");
    }
    assert_eq!((world.nodes(1), world.nodes(2)), (1, 1));
}

#[test]
fn xsa_353_the_root_is_protected() {
    let mut world = World::with_guests([1]);
    for (kind, payload) in [
        (T::Read, "/\0"),
        (T::Directory, "/\0"),
        (T::DirectoryPart, "/\x000\0"),
        (T::GetPerms, "/\0"),
        (T::SetPerms, "/\0n1\0"),
        (T::SetPerms, "/\0b0\0"),
        (T::Write, "/\0x"),
        (T::Mkdir, "/\0"),
        (T::Rm, "/\0"),
        (T::Write, "/new\0x"),
        (T::Mkdir, "/new\0"),
        (T::Rm, "/tool\0"),
        (T::Rm, "/new\0"),
    ] {
        assert_eq!(world.request(1, kind, payload), error("EACCES"), "{kind:?} {payload:?}");
    }
    assert_eq!(world.directory(0, "/"), Ok(vec!["tool".into()]));
}
