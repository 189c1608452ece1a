//! Xen's security advisories about Xenstore servers (<https://xenbits.xen.org/xsa/>), as far as guests can try them
//! here. Each test does what the advisory describes, and checks that it has no such effect. This is the first half:
//! XSA-38 to XSA-353.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType as T};
use xenstore::wire::ring::Field;

use crate::support::testbed::{Testbed, error, event, ok};

/// Causes a protocol error by an impossible index, which shuts the domain's connection.
fn cheat(testbed: &mut Testbed, domid: u16) {
    let producer = testbed.word(domid, Field::RequestConsumer).wrapping_add(1025);
    testbed.set_word(domid, Field::RequestProducer, producer);
    testbed.signal(domid);
    assert_eq!(testbed.word(domid, Field::Error), 2);
}

#[test]
fn xsa_38_impossible_indices_disconnect_only_their_own_domain() {
    let mut testbed = Testbed::with_homes([1, 2]);
    cheat(&mut testbed, 1);
    assert_eq!(testbed.write(2, "data", "x"), ok());
    assert!(testbed.is_introduced(1));
}

#[test]
fn xsa_72_a_reply_that_is_too_long_becomes_an_error() {
    let mut testbed = Testbed::with_homes([1]);
    for at in 0..300 {
        testbed.write(0, &format!("/local/domain/1/a-rather-long-name-{at}"), "").unwrap();
    }
    assert_eq!(testbed.directory(1, "/local/domain/1"), error("E2BIG"));
    assert!(testbed.request(1, T::DirectoryPart, "/local/domain/1\x000\0").unwrap().len() <= 4096);
}

#[test]
fn xsa_115_events_need_the_right_to_read() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_perms(0, "@releaseDomain", "n0").unwrap();
    for path in ["/", "/local/domain", "/local/domain/2", "@introduceDomain", "@releaseDomain"] {
        testbed.watch(1, path, "spy").unwrap();
    }
    assert_eq!(testbed.events(1).len(), 5);
    testbed.write(2, "data/secret", "x").unwrap();
    let transaction = testbed.begin(2);
    testbed.write_in(2, transaction, "data/more", "x").unwrap();
    testbed.end(2, transaction, true).unwrap();
    testbed.rm(2, "data").unwrap();
    testbed.start(9);
    testbed.set_state(9, DomainState::Shutdown);
    testbed.kill(9);
    testbed.kill(2);
    assert_eq!(testbed.events(1), []);
    assert_eq!(testbed.request(1, T::IsDomainIntroduced, "2\0"), error("EACCES"));
}

#[test]
fn xsa_115_a_node_below_a_large_one_can_be_removed() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "large/child", "").unwrap();
    testbed.write(0, "/local/domain/1/large", &"x".repeat(4000)).unwrap();
    assert_eq!(testbed.rm(1, "large/child"), ok());
}

#[test]
fn xsa_233_a_target_and_the_domain_that_acts_for_it_may_die_at_once() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_target(0, 2, 1).unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    for domid in [1, 2] {
        testbed.machine.domains.remove(&DomId(domid));
    }
    testbed.server.handle_domain_exception();
    testbed.run();
    assert_eq!(testbed.events(0).len(), 2);
    assert_eq!(testbed.directory(0, "/local/domain"), Ok(vec![]));
    assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (1, 1));
    testbed.check();
}

#[test]
fn xsa_272_a_node_counts_however_it_is_made() {
    let mut made = Vec::new();
    for way in ["write", "mkdir", "parents"] {
        let mut testbed = Testbed::with_homes([1]);
        let mut count = 0;
        loop {
            // Directories of a hundred nodes: the names of more would not fit into one node.
            let name = if count % 100 == 0 { format!("d{}", count / 100) } else { format!("d{}/{count}", count / 100) };
            let outcome = match way {
                "write" => testbed.write(1, &name, "x"),
                "mkdir" => testbed.mkdir(1, &name),
                // One request makes four nodes, three of them without a request that names them.
                _ => testbed.write(1, &format!("n{count}/a/b/c"), ""),
            };
            if outcome.is_err() {
                assert_eq!(outcome, error("ENOSPC"), "{way}");
                break;
            }
            count += 1;
        }
        while way == "parents" && testbed.mkdir(1, &format!("rest{count}")) == ok() {
            count += 1;
        }
        made.push(testbed.nodes(1));
        testbed.check();
    }
    assert_eq!(made, [1000, 1000, 1000]);
}

#[test]
fn xsa_322_rights_of_a_dead_domain_are_not_inherited() {
    let mut testbed = Testbed::with_guests([7]);
    for path in ["/a", "/b"] {
        testbed.write(0, path, "").unwrap();
        testbed.set_perms(0, path, "n0 b7").unwrap();
    }
    testbed.set_perms(0, "@releaseDomain", "n0 b7").unwrap();
    testbed.kill(7);
    testbed.write(0, "/a", "written in between").unwrap();
    testbed.start(7);
    for path in ["/a", "/b", "@releaseDomain"] {
        assert_eq!(testbed.get_perms(7, path), error("EACCES"));
        testbed.watch(7, path, "t").unwrap();
    }
    testbed.events(7);
    testbed.write(0, "/a", "x").unwrap();
    testbed.rm(0, "/b").unwrap();
    testbed.start(8);
    testbed.kill(8);
    assert_eq!(testbed.events(7), []);
}

#[test]
fn xsa_323_every_node_that_can_be_made_can_be_read_listed_and_removed() {
    for domid in [1, 32000] {
        let mut testbed = Testbed::with_homes([domid]);
        for bytes in [2047, 2048, 2049] {
            let path = ("x".repeat(99) + "/").repeat(20) + &"x".repeat(bytes - 2002) + "/y";
            let full = format!("/local/domain/{domid}/{path}");
            let expected = if bytes <= 2048 { ok() } else { error("EINVAL") };
            assert_eq!(testbed.write(domid, &path, "v"), expected);
            assert_eq!(testbed.write(domid, &full, "v"), expected);
            if expected == ok() {
                for who in [domid, 0] {
                    assert_eq!(testbed.read(who, &full), Ok(b"v".to_vec()));
                    assert_eq!(testbed.directory(who, full.strip_suffix("/y").unwrap()), Ok(vec!["y".into()]));
                }
                assert_eq!(testbed.rm(domid, path.strip_suffix("/y").unwrap()), ok());
            }
        }
        testbed.check();
    }
}

#[test]
fn xsa_324_an_event_that_is_too_long_is_dropped_and_the_watch_remains() {
    let mut testbed = Testbed::with_homes([1]);
    let token = "t".repeat(4080);
    assert_eq!(testbed.request(1, T::Watch, format!("a\0{token}\0")), ok());
    testbed.events(1);
    assert_eq!(testbed.write(0, &format!("/local/domain/1/a/{}", "x".repeat(500)), ""), ok());
    assert_eq!(testbed.events(1), []);
    testbed.write(0, "/local/domain/1/a/b", "").unwrap();
    assert_eq!(testbed.events(1), [event("a/b", &token)]);
}

#[test]
fn xsa_325_a_domain_with_a_protocol_error_is_remembered_until_its_death() {
    for acting in [false, true] {
        let mut testbed = Testbed::with_homes([1, 2]);
        if acting {
            testbed.set_target(0, 2, 1).unwrap();
        }
        testbed.watch(0, "@releaseDomain", "gone").unwrap();
        testbed.events(0);
        for domid in [1, 2] {
            testbed.watch(domid, "data", "t").unwrap();
            let transaction = testbed.begin(domid);
            testbed.write_in(domid, transaction, "data", "x").unwrap();
        }
        let header = Header { kind: 2, request_id: 1, transaction_id: 0, payload_bytes: 4097 };
        testbed.send_bytes(1, &header.emit());
        assert_eq!(testbed.word(1, Field::Error), 3);
        cheat(&mut testbed, 2);
        assert_eq!(testbed.events(0), []);
        assert!(testbed.is_introduced(1) && testbed.is_introduced(2));
        assert_eq!(testbed.server.engine().state().watches.len(), 1);
        testbed.kill(1);
        testbed.kill(2);
        assert_eq!(testbed.events(0).len(), 2);
        assert_eq!(testbed.machine.mapped.len(), 1);
        testbed.check();
    }
}

#[test]
fn xsa_326_a_client_that_does_not_read_holds_neither_events_nor_their_sender_for_ever() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_perms(1, "/local/domain/1", "r1").unwrap();
    testbed.watch(2, "/local/domain/1", "t").unwrap();
    testbed.events(2);
    for at in 0..40 {
        testbed.send(1, 0, T::Write.to_wire(), format!("a-rather-long-name-{at}\0").as_bytes());
        while testbed.message(1).is_some() {}
    }
    // The requests that were held back are executed after the first ones.
    testbed.pass(20_000);
    testbed.pass(20_000);
    assert!(testbed.outstanding(1) <= 1, "a partly written event stays");
    let session = testbed.server.engine().connection(testbed.connection(2).unwrap()).unwrap().session().unwrap();
    assert!(session.output.bytes().len() < 100, "at most the rest of a partly written event is pending");
}

#[test]
fn xsa_326_repeated_changes_of_a_node_leave_one_pending_event() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_perms(1, "/local/domain/1", "r1").unwrap();
    testbed.watch(2, "/local/domain/1", &"t".repeat(1200)).unwrap();
    testbed.events(2);
    for _ in 0..10_000 {
        assert_eq!(testbed.write(1, "data", "x"), ok());
    }
    assert!(testbed.events(2).len() <= 2);
}

#[test]
fn xsa_326_nodes_of_a_domain_that_is_not_introduced_are_counted() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(7));
    for at in 0..50 {
        testbed.write(0, &format!("/a/{at}"), "").unwrap();
        testbed.set_perms(0, &format!("/a/{at}"), "n7").unwrap();
    }
    assert_eq!(testbed.nodes(7), 50);
    testbed.rm(0, "/a/1").unwrap();
    testbed.set_perms(0, "/a/2", "n0").unwrap();
    assert_eq!(testbed.nodes(7), 48);
    testbed.introduce(0, 7, 1).unwrap();
    assert_eq!(testbed.nodes(7), 48);
    testbed.check();
}

#[test]
fn xsa_330_watches_are_gone_however_they_are_withdrawn() {
    let mut testbed = Testbed::with_homes([1]);
    for round in 0..200 {
        for at in 0..128 {
            assert_eq!(testbed.watch(1, "data", &at.to_string()), ok(), "round {round}");
        }
        match round % 4 {
            0 => assert_eq!(testbed.request(1, T::ResetWatches, "\0"), ok()),
            1 => (0..128).for_each(|at| assert_eq!(testbed.unwatch(1, "data", &at.to_string()), ok())),
            2 => assert_eq!(testbed.introduce(0, 1, 1), ok()),
            _ => {
                testbed.kill(1);
                testbed.start(1);
                testbed.make_home(1);
            }
        }
        testbed.events(1);
        testbed.write(1, "data", "x").unwrap();
        assert_eq!(testbed.events(1), []);
        assert_eq!(testbed.server.engine().state().watches.len(), 0);
    }
    testbed.check();
}

#[test]
fn xsa_352_no_guest_gives_a_node_away() {
    let mut testbed = Testbed::with_homes([1, 2]);
    for (owner, expected) in
        [("n2", "EPERM"), ("n0", "EPERM"), ("n9", "ENOENT"), ("n32752", "ENOENT"), ("n65535", "ENOENT")]
    {
        assert_eq!(testbed.set_perms(1, "/local/domain/1", owner), error(expected), "{owner}");
    }
    assert_eq!((testbed.nodes(1), testbed.nodes(2)), (1, 1));
}

#[test]
fn xsa_353_the_root_is_protected() {
    let mut testbed = Testbed::with_guests([1]);
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
        assert_eq!(testbed.request(1, kind, payload), error("EACCES"), "{kind:?} {payload:?}");
    }
    assert_eq!(testbed.directory(0, "/"), Ok(vec!["tool".into()]));
}
