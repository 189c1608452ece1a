//! Xen's security advisories about Xenstore servers (<https://xenbits.xen.org/xsa/>), as far as guests can try them
//! here. Each test does what the advisory describes, and checks that it has no such effect. This is the second half:
//! XSA-414 to XSA-484, and two fixes without a number.

use xenstore::server::Server;
use xenstore::wire::header::{Header, MessageType as T};

use crate::support::random::{Random, Seed};
use crate::support::testbed::{Testbed, error, event, ok};

/// Returns the deepest path: as many levels as the quota of nodes allows to a guest.
fn deepest() -> String {
    vec!["d"; 999].join("/")
}

#[test]
fn xsa_414_a_creation_that_fails_half_way_makes_nothing() {
    for inside in [false, true] {
        for left in 0..4_u64 {
            let mut testbed = Testbed::with_homes([1]);
            testbed.fill_nodes(1, 1000 - left);
            let transaction = if inside { testbed.begin(1) } else { 0 };
            let path = vec!["n"; left as usize + 3].join("/");
            assert_eq!(testbed.write_in(1, transaction, &path, ""), error("ENOSPC"));
            let large = "x".repeat(2048);
            assert_eq!(testbed.write_in(1, transaction, "m/n", &large), error("ENOSPC"));
            assert_eq!(testbed.write_in(1, transaction, &"x".repeat(2040), ""), error("ENOSPC"), "the parent's names");
            if inside {
                assert_eq!(testbed.end(1, transaction, true), ok());
            }
            assert_eq!(testbed.nodes(1), 1000 - left);
            assert_eq!(testbed.read(0, "/local/domain/1/n"), error("ENOENT"));
            assert_eq!(testbed.read(0, "/local/domain/1/m"), error("ENOENT"));
            testbed.check();
        }
    }
}

#[test]
fn xsa_415_a_failure_in_a_transaction_leaves_no_orphans() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 997);
    let transaction = testbed.begin(1);
    assert_eq!(testbed.write_in(1, transaction, "a/b/c/d", ""), error("ENOSPC"));
    assert_eq!(testbed.write_in(1, transaction, "a/b", "kept"), ok());
    assert_eq!(testbed.write_in(1, transaction, "a/b/c/d", ""), error("ENOSPC"));
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.read(1, "a/b"), Ok(b"kept".to_vec()));
    assert_eq!(testbed.directory(1, "a/b"), Ok(vec![]));
    assert_eq!(testbed.nodes(1), 999);
    testbed.check();
}

#[test]
fn xsa_417_an_entry_for_a_missing_domain_gives_no_right() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/never", "").unwrap();
    testbed.set_perms(0, "/never", "n0 b7").unwrap();
    testbed.start(7);
    assert_eq!(testbed.read(7, "/never"), error("EACCES"));
    testbed.kill(7);
    testbed.write(0, "/died", "").unwrap();
    testbed.set_perms(0, "/died", "n0 b7").unwrap();
    testbed.start(7);
    assert_eq!(testbed.read(7, "/died"), error("EACCES"));
    assert_eq!(testbed.set_perms(0, "/died", "n99"), error("ENOENT"));
}

#[test]
fn xsa_418_the_deepest_paths_need_no_more_stack_than_others() {
    // The kernel's stack is larger. Here each frame is unoptimised.
    const STACK_BYTES: usize = 192 * 1024;
    let work = || {
        let mut testbed = Testbed::with_homes([1]);
        for round in 0..3 {
            assert_eq!(testbed.write(1, &deepest(), "x"), ok());
            assert_eq!(testbed.nodes(1), 1000);
            let mut path = deepest();
            while let Some((above, _)) = path.rsplit_once('/') {
                if path.len() % 100 == 1 {
                    assert_eq!(testbed.watch(0, &format!("/local/domain/1/{path}"), "t"), ok());
                    assert_eq!(testbed.directory(1, above), Ok(vec!["d".into()]));
                }
                path = above.to_owned();
            }
            testbed.check();
            match round {
                0 => assert_eq!(testbed.rm(1, "d"), ok()),
                1 => {
                    let transaction = testbed.begin(0);
                    assert_eq!(testbed.rm_in(0, transaction, "/local/domain/1/d"), ok());
                    assert_eq!(testbed.end(0, transaction, true), ok());
                }
                _ => testbed.kill(1),
            }
            testbed.request(0, T::ResetWatches, "\0").unwrap();
            assert!(testbed.nodes(1) <= 1);
            testbed.check();
        }
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

#[test]
fn xsa_419_nodes_of_dead_domains_do_not_accumulate() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "shared", "").unwrap();
    testbed.set_perms(1, "shared", "b1").unwrap();
    for domid in 10..20 {
        testbed.start(domid);
        testbed.watch(1, "shared", "t").unwrap();
        for at in 0..1000 {
            assert_eq!(testbed.write(domid, &format!("/local/domain/1/shared/{at:03x}"), ""), ok_until(at));
            testbed.events(1);
        }
        let owned = testbed.nodes(domid);
        assert!(owned > 400);
        testbed.kill(domid);
        assert_eq!(testbed.events(1).len() as u64, owned, "each removal has its event");
        assert_eq!(testbed.directory(1, "shared"), Ok(vec![]));
        assert_eq!(testbed.nodes(1), 2);
        assert_eq!(testbed.nodes(0), 5);
        testbed.unwatch(1, "shared", "t").unwrap();
        testbed.check();
    }
}

#[test]
fn xsa_420_odd_numbers_in_a_header_cost_at_most_their_own_connection_and_only_once() {
    for odd in [0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
        let ordinary = Header { kind: T::Read.to_wire(), request_id: 1, transaction_id: 0, payload_bytes: 5 };
        for header in [
            Header { kind: odd, ..ordinary },
            Header { request_id: odd, ..ordinary },
            Header { transaction_id: odd, ..ordinary },
        ] {
            let mut testbed = Testbed::with_homes([1]);
            testbed.write(1, "data", "").unwrap();
            testbed.send_bytes(1, &[&header.emit()[..], b"data\0"].concat());
            let reply = testbed.message(1).unwrap();
            assert_eq!((reply.request_id, reply.transaction), (header.request_id, header.transaction_id));
            assert_eq!(testbed.message(1), None, "only one reply");
            assert_eq!(testbed.read(1, "data"), Ok(vec![]));
        }
        let mut testbed = Testbed::with_homes([1, 2]);
        testbed.send_bytes(1, &Header { payload_bytes: odd, ..ordinary }.emit());
        assert!(testbed.server.engine().connection(testbed.connection(1).unwrap()).unwrap().error().is_some());
        for _ in 0..3 {
            testbed.signal(1);
            assert!(!testbed.server.poll(&mut testbed.machine, testbed.now_ms).busy, "the server has no more work");
        }
        assert_eq!(testbed.write(2, "data", "x"), ok());
        testbed.check();
    }
}

/// Returns the reply for child `at`. The names of a directory's children are limited too: 2048 bytes less 16 and 8, at
/// four bytes each.
fn ok_until(at: usize) -> Result<Vec<u8>, String> {
    if at < (2048 - 24) / 4 { ok() } else { error("ENOSPC") }
}

#[test]
fn xsa_421_a_commit_is_all_or_nothing_and_counts_are_exact() {
    let mut testbed = Testbed::without_replay([1]);
    for round in 0..50 {
        let transaction = testbed.begin(1);
        for at in 0..10 {
            testbed.write_in(1, transaction, &format!("t/{at}"), "x").unwrap();
            testbed.rm_in(1, transaction, &format!("t/{at}")).unwrap();
            testbed.write_in(1, transaction, &format!("t/{at}"), "y").unwrap();
            testbed.write_in(1, transaction, &format!("u/{at}"), "z").unwrap();
        }
        testbed.rm_in(1, transaction, "u").unwrap();
        if round % 2 == 1 {
            testbed.write(0, "/local/domain/1/t", "theirs").unwrap();
        }
        let expected = if round % 2 == 1 { error("EAGAIN") } else { ok() };
        assert_eq!(testbed.end(1, transaction, true), expected);
        assert_eq!(testbed.nodes(1), 12);
        assert_eq!(testbed.read(0, "/local/domain/1/u"), error("ENOENT"));
        testbed.check();
    }
    testbed.fill_nodes(1, 1000);
    assert_eq!(testbed.mkdir(1, "more"), error("ENOSPC"), "the quota still holds");
}

#[test]
fn xsa_425_busy_domains_can_be_released_and_introduced_in_any_order() {
    let _seed = Seed(425);
    let mut random = Random::new(425);
    let mut testbed = Testbed::with_homes(1..6);
    for _ in 0..500 {
        for domid in 1..6 {
            if testbed.is_introduced(domid) {
                testbed.watch(domid, "data", "t").unwrap();
                testbed.send(domid, 0, T::Write.to_wire(), b"data\0x");
                testbed.send(domid, 0, T::TransactionStart.to_wire(), b"\0");
            }
        }
        // All domains at once, in one turn of the control domain.
        let order: Vec<u16> = (0..4).map(|_| 1 + random.below(5) as u16).collect();
        let mut all = Vec::new();
        for (at, domid) in order.iter().enumerate() {
            let (kind, payload) = match random.below(2) {
                0 => (T::Release, format!("{domid}\0")),
                _ => (T::Introduce, format!("{domid}\x001\x001\0")),
            };
            let payload_bytes = payload.len() as u32;
            let header = Header { kind: kind.to_wire(), request_id: at as u32, transaction_id: 0, payload_bytes };
            all.extend([&header.emit()[..], payload.as_bytes()].concat());
        }
        testbed.put_bytes(0, &all);
        for domid in [1, 2, 3, 4, 5, 0] {
            testbed.signal(domid);
        }
        for _ in order {
            assert!(testbed.reply(0).is_some());
        }
        for domid in 1..6 {
            if !testbed.is_introduced(domid) {
                assert_eq!(testbed.nodes(domid), 0);
                testbed.introduce(0, domid, 1).unwrap();
                testbed.make_home(domid);
            }
            testbed.introduce(0, domid, 1).unwrap();
            testbed.forget_incoming(domid);
        }
        testbed.check();
    }
}

#[test]
fn xsa_440_counts_do_not_go_below_zero() {
    for outside in [false, true] {
        let mut testbed = Testbed::without_replay([1]);
        for at in 0..50 {
            testbed.write(1, &format!("d/{at}"), "").unwrap();
        }
        let (first, second) = (testbed.begin(1), testbed.begin(1));
        for transaction in [first, second] {
            for at in 0..50 {
                assert_eq!(testbed.rm_in(1, transaction, &format!("d/{at}")), ok());
            }
        }
        if outside {
            assert_eq!(testbed.rm(1, "d"), ok());
        }
        assert_eq!(testbed.end(1, first, true), if outside { error("EAGAIN") } else { ok() });
        assert_eq!(testbed.end(1, second, true), error("EAGAIN"));
        assert_eq!(testbed.nodes(1), if outside { 1 } else { 2 });
        testbed.check();
    }
}

#[test]
fn xsa_481_an_illegal_path_is_answered() {
    let mut testbed = Testbed::with_homes([1]);
    for kind in [T::Read, T::Directory, T::GetPerms, T::Mkdir, T::Rm] {
        assert_eq!(testbed.request(1, kind, "/local/domain/\0"), error("EINVAL"));
        assert_eq!(testbed.read(1, "/local/domain/1"), Ok(vec![]));
    }
    for (kind, rest) in
        [(T::Write, "x"), (T::SetPerms, "n1\0"), (T::Watch, "t\0"), (T::Unwatch, "t\0"), (T::DirectoryPart, "0\0")]
    {
        assert_eq!(testbed.request(1, kind, format!("/local/domain/\0{rest}")), error("EINVAL"));
    }
}

#[test]
fn xsa_483_counts_end_with_their_domain() {
    let mut testbed = Testbed::new();
    for round in 0..20 {
        testbed.start(7);
        testbed.make_home(7);
        for _ in 0..10 {
            testbed.begin(7);
        }
        for at in 0..128 {
            assert_eq!(testbed.watch(7, "data", &at.to_string()), ok(), "round {round}");
        }
        testbed.fill_nodes(7, 1000);
        for (kind, payload) in [(T::TransactionStart, "\0"), (T::Watch, "data\0more\0"), (T::Mkdir, "more\0")] {
            assert_eq!(testbed.request(7, kind, payload), error("ENOSPC"));
        }
        testbed.kill(7);
        assert_eq!(testbed.nodes(7), 0);
        testbed.check();
    }
}

#[test]
fn xsa_484_reset_watches_in_a_transaction_drops_it_cleanly() {
    let mut testbed = Testbed::with_homes([1]);
    for _ in 0..20 {
        let open: Vec<u32> = (0..10).map(|_| testbed.begin(1)).collect();
        testbed.write_in(1, open[4], "data", "x").unwrap();
        assert_eq!(testbed.request_in(1, open[4], T::ResetWatches.to_wire(), "\0"), ok());
        for transaction in open {
            assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));
        }
    }
    testbed.check();
}

#[test]
fn a_port_that_fires_after_its_domain_is_gone_is_ignored() {
    let mut testbed = Testbed::with_homes([1]);
    let ports: Vec<_> = testbed.machine.bound.keys().copied().collect();
    testbed.kill(1);
    for port in ports {
        Server::handle_event(&mut testbed.server, port);
    }
    testbed.run();
    assert_eq!(testbed.read(0, "/local/domain"), Ok(vec![]));
}

#[test]
fn a_watch_on_a_missing_node_fires_when_it_is_made() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.watch(1, "missing/deep", "t").unwrap();
    testbed.events(1);
    testbed.mkdir(1, "missing").unwrap();
    assert_eq!(testbed.events(1), []);
    testbed.mkdir(1, "missing/deep").unwrap();
    assert_eq!(testbed.events(1), [event("missing/deep", "t")]);
}
