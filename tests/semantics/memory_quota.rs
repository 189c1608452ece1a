//! The quota of memory: what counts, what the server refuses at the limit, and how a domain recovers.

use xenstore::engine::config::Config;
use xenstore::store::domain::DomId;
use xenstore::store::quota::Quota;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed with homes of domains 1 and 2, and a quota of memory.
fn with_limit(bytes: u32) -> Testbed {
    let mut config = Config::default();
    config.quotas.set(Quota::MemoryHard, bytes);
    let mut testbed = Testbed::with(config);
    for domid in [1, 2] {
        testbed.start(domid);
        testbed.make_home(domid);
    }
    testbed
}

fn used(testbed: &Testbed, domid: u16) -> usize {
    testbed.server.engine().memory_of(DomId(domid))
}

/// Returns the bytes that a node counts for: 16, 8 for each entry, the value, the path, and the name with a NUL.
fn node(path: &str, entries: usize, value: usize) -> usize {
    16 + 8 * entries + value + path.len() + path.rsplit('/').next().unwrap().len() + 1
}

#[test]
fn nodes_count_with_record_path_and_name_for_their_owner() {
    let mut testbed = Testbed::with_homes([1, 2]);
    let home = node("/local/domain/1", 1, 0);
    assert_eq!(used(&testbed, 1), home);
    testbed.write(1, "a/bc", "value").unwrap();
    let a = node("/local/domain/1/a", 1, 0);
    assert_eq!(used(&testbed, 1), home + a + node("/local/domain/1/a/bc", 1, 5));
    testbed.write(1, "a/bc", "longer value").unwrap();
    assert_eq!(used(&testbed, 1), home + a + node("/local/domain/1/a/bc", 1, 12));
    testbed.set_perms(1, "a/bc", "n1 r2 r2").unwrap();
    assert_eq!(used(&testbed, 1), home + a + node("/local/domain/1/a/bc", 3, 12));
    testbed.set_perms(0, "/local/domain/1/a/bc", "n2").unwrap();
    assert_eq!(used(&testbed, 1), home + a);
    assert_eq!(used(&testbed, 2), node("/local/domain/2", 1, 0) + node("/local/domain/1/a/bc", 1, 12));
    testbed.rm(1, "a").unwrap();
    assert_eq!((used(&testbed, 1), used(&testbed, 2)), (home, home));
    testbed.check();
}

#[test]
fn watches_transactions_and_unread_output_count() {
    let mut testbed = Testbed::with_homes([1]);
    let home = used(&testbed, 1);
    testbed.watch(1, "/local/domain/1/x", "token").unwrap();
    testbed.events(1);
    assert_eq!(used(&testbed, 1), home + "/local/domain/1/x".len() + "token".len());
    testbed.unwatch(1, "/local/domain/1/x", "token").unwrap();
    assert_eq!(used(&testbed, 1), home);

    let transaction = testbed.begin(1);
    assert_eq!(used(&testbed, 1), home);
    testbed.write_in(1, transaction, "x", &"v".repeat(100)).unwrap();
    let with_one = used(&testbed, 1);
    assert!(with_one > home + 100, "{with_one}");
    testbed.write_in(1, transaction, "x", &"v".repeat(300)).unwrap();
    let with_more = used(&testbed, 1);
    assert!(with_more >= with_one + 200, "{with_more}");
    testbed.end(1, transaction, false).unwrap();
    assert_eq!(used(&testbed, 1), home, "an abort frees all");
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "x", "value").unwrap();
    testbed.end(1, transaction, true).unwrap();
    assert_eq!(used(&testbed, 1), home + node("/local/domain/1/x", 1, 5), "a commit leaves the node");

    // The ring takes 1024 bytes; the rest is pending.
    testbed.write(0, "/local/domain/1/x", &"v".repeat(1500)).unwrap();
    let before = used(&testbed, 1);
    testbed.send(1, 0, MessageType::Read.to_wire(), b"x\0");
    assert_eq!(used(&testbed, 1), before + 16 + 1500, "the reply counts until its last byte is in the ring");
    assert_eq!(testbed.reply(1).unwrap().payload.len(), 1500);
    assert_eq!(used(&testbed, 1), before);
    testbed.check();
}

#[test]
fn exactly_as_much_as_the_quota_is_allowed_and_not_a_byte_more() {
    let room = node("/local/domain/1/a", 1, 100);
    for (missing, expected) in [(0, ok()), (1, error("ENOSPC"))] {
        let mut testbed = with_limit(u32::try_from(node("/local/domain/1", 1, 0) + room - missing).unwrap());
        assert_eq!(testbed.write(1, "a", &"v".repeat(100)), expected);
        testbed.check();
    }
    for (more, expected) in [(0, ok()), (1, error("ENOSPC"))] {
        let mut testbed = with_limit(u32::try_from(node("/local/domain/1", 1, 0) + 30).unwrap());
        assert_eq!(testbed.watch(1, "/local/domain/1/12345", &"t".repeat(9 + more)), expected);
    }
    for (more, expected) in [(0, ok()), (1, error("ENOSPC"))] {
        let mut testbed = with_limit(u32::try_from(node("/local/domain/1", 1, 0) + room).unwrap());
        testbed.write(1, "a", &"v".repeat(100 - 16 + more)).unwrap();
        assert_eq!(testbed.set_perms(1, "a", "n1 r2 r2"), expected);
    }
}

#[test]
fn at_the_limit_everything_that_shrinks_is_possible_and_makes_room() {
    let mut testbed = with_limit(20_000);
    for count in 0.. {
        if testbed.write(1, &format!("data/n{count}"), &"v".repeat(1000)) != ok() {
            break;
        }
    }
    testbed.watch(1, "data", "t").unwrap();
    testbed.events(1);
    let transaction = testbed.begin(1);
    testbed.read_in(1, transaction, "data/n1").unwrap_err();
    while testbed.write(1, &format!("data/m{}", used(&testbed, 1)), "").is_ok() {}
    assert_eq!(testbed.mkdir(1, "data/more"), error("ENOSPC"));
    assert_eq!(testbed.end(1, transaction, false), ok());
    assert_eq!(testbed.unwatch(1, "data", "t"), ok());
    assert_eq!(testbed.request(1, MessageType::ResetWatches, "\0"), ok());
    assert_eq!(testbed.write(1, "data/n0", ""), ok(), "a shorter value");
    assert_eq!(testbed.rm(1, "data/n2"), ok());
    assert_eq!(testbed.mkdir(1, "data/more"), ok());
    assert_eq!(testbed.rm(1, "data"), ok());
    assert_eq!(used(&testbed, 1), node("/local/domain/1", 1, 0));
    testbed.check();
}

#[test]
fn past_the_limit_everything_that_does_not_grow_is_possible() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "a", "value").unwrap();
    testbed.set_perms(1, "a", "n1 r2").unwrap();
    testbed.request(0, MessageType::SetQuota, "1\0memory\x0010\0").unwrap();
    assert_eq!(testbed.write(1, "a", "longer"), error("ENOSPC"));
    assert_eq!(testbed.write(1, "a", "other"), ok());
    assert_eq!(testbed.write(1, "a", "less"), ok());
    assert_eq!(testbed.set_perms(1, "a", "n1 b2"), ok());
    assert_eq!(testbed.set_perms(1, "a", "n1"), ok());
    assert_eq!(testbed.set_perms(1, "a", "n1 r2"), error("ENOSPC"));
    assert_eq!(testbed.rm(1, "a"), ok());
    testbed.check();
}

#[test]
fn a_transaction_that_would_exceed_the_limit_by_its_accesses_cannot_be_committed() {
    let mut testbed = with_limit(10_000);
    for count in 0..40 {
        testbed.write(0, &format!("/shared/n{count}"), &"v".repeat(1000)).unwrap();
        testbed.set_perms(0, &format!("/shared/n{count}"), "r0").unwrap();
    }
    let transaction = testbed.begin(1);
    let mut look = |count: &u32| {
        let path = format!("/shared/n{count}\0");
        testbed.request_in(1, transaction, MessageType::GetPerms.to_wire(), path).is_ok()
    };
    let seen = (0..40).take_while(&mut look).count();
    assert!((5..10).contains(&seen), "{seen} nodes of a thousand bytes");
    assert_eq!(testbed.end(1, transaction, true), error("ENOMEM"));
    assert_eq!(used(&testbed, 1), node("/local/domain/1", 1, 0));
    let transaction = testbed.begin(0);
    for count in 0..40 {
        testbed.read_in(0, transaction, &format!("/shared/n{count}")).unwrap();
    }
    assert_eq!(testbed.end(0, transaction, true), ok(), "the control domain is not limited");
}

#[test]
fn copies_that_a_transaction_makes_of_what_it_changes_count_before_they_are_made() {
    for (request, payload) in [
        (MessageType::Rm, "/shared/child\0"),
        (MessageType::Write, "/shared/new\0"),
        (MessageType::Mkdir, "/shared/new/below\0"),
        (MessageType::SetPerms, "/shared\0b1\0r2\0"),
    ] {
        let mut testbed = Testbed::with_homes([1]);
        testbed.write(0, "/shared/child", "").unwrap();
        testbed.write(0, "/shared", &"v".repeat(1500)).unwrap();
        testbed.set_perms(0, "/shared", "b1").unwrap();
        testbed.set_perms(0, "/shared/child", "b0").unwrap();
        let transaction = testbed.begin(1);
        for path in ["/shared/child", "/shared/new/below"] {
            let _ = testbed.read_in(1, transaction, path);
        }
        let used_before = used(&testbed, 1);
        let limit = used_before + 1000;
        testbed.request(0, MessageType::SetQuota, format!("1\0memory\0{limit}\0")).unwrap();
        assert_eq!(testbed.request_in(1, transaction, request.to_wire(), payload), error("ENOSPC"), "{payload:?}");
        assert!(used(&testbed, 1) <= limit, "{payload:?}");
        testbed.request(0, MessageType::SetQuota, "1\0memory\x00100000\0").unwrap();
        assert_eq!(testbed.request_in(1, transaction, request.to_wire(), payload), ok(), "{payload:?}");
        assert!(used(&testbed, 1) > used_before + 1500, "{payload:?}");
        testbed.check();
    }
}

#[test]
fn a_long_reply_past_the_limit_is_refused_and_an_error_always_fits() {
    let mut testbed = with_limit(2000);
    testbed.write(0, "/long", &"v".repeat(1900)).unwrap();
    testbed.set_perms(0, "/long", "r0").unwrap();
    testbed.write(0, "/short", &"v".repeat(16)).unwrap();
    testbed.set_perms(0, "/short", "r0").unwrap();
    assert!(testbed.read(1, "/long").is_ok(), "the reply fits");
    assert_eq!(testbed.write(1, "a", &"v".repeat(1500)), ok());
    assert_eq!(testbed.read(1, "/long"), error("ENOSPC"));
    assert_eq!(testbed.read(1, "/missing"), error("EACCES"));
    assert_eq!(testbed.read(1, "/short").unwrap().len(), 16);
    testbed.check();
}

#[test]
fn events_past_the_receivers_limit_are_dropped_and_cost_their_sender_nothing() {
    let mut testbed = with_limit(6000);
    testbed.request(0, MessageType::SetQuota, "2\0outstanding\x000\0").unwrap();
    testbed.watch(1, "/local/domain/2/data", "t").unwrap();
    testbed.events(1);
    testbed.write(2, "data", "").unwrap();
    testbed.set_perms(2, "data", "r2").unwrap();
    testbed.events(1);
    testbed.write(1, "filler", &"v".repeat(1900)).unwrap();
    // The guest reads nothing. Each event has another path, so that none collapses.
    let mut sent = 0;
    for count in 0..200 {
        testbed.write(2, &format!("data/{count:040}"), "").unwrap();
        testbed.rm(2, &format!("data/{count:040}")).unwrap();
        sent += 2;
        assert!(used(&testbed, 1) <= 6000, "{}", used(&testbed, 1));
    }
    assert!(testbed.outstanding(2) < sent / 2, "dropped events do not count");
    let received = testbed.events(1).len();
    assert!(received > 10 && received < sent, "{received} of {sent}");
    assert_eq!(testbed.outstanding(2), 0);
    testbed.write(2, "data", "again").unwrap();
    assert_eq!(testbed.events(1), [event("/local/domain/2/data", "t")], "events come again when there is room");
}

#[test]
fn a_domain_at_its_limit_with_unread_replies_is_held_back_until_it_reads() {
    let mut testbed = with_limit(8000);
    testbed.write(0, "/long", &"v".repeat(2000)).unwrap();
    testbed.set_perms(0, "/long", "r0").unwrap();
    for _ in 0..15 {
        testbed.send(1, 0, MessageType::Read.to_wire(), b"/long\0");
    }
    assert!(used(&testbed, 1) <= 8000 + 16 * 32, "{}", used(&testbed, 1));
    assert_eq!(testbed.write(2, "data", "x"), ok(), "others are served");
    let mut answers = 0;
    while let Some(reply) = testbed.reply(1) {
        answers += 1;
        assert!(reply.payload.len() == 2000 || reply.payload == b"ENOSPC\0", "{:?}", reply.payload.len());
    }
    assert_eq!(answers, 15, "every request is answered once");
    assert_eq!(testbed.read(1, "/long").unwrap().len(), 2000);
    testbed.check();
}

#[test]
fn the_control_domain_writes_into_a_full_domains_nodes() {
    let mut testbed = with_limit(5000);
    testbed.write(1, "a", &"v".repeat(1900)).unwrap();
    for count in 0..10 {
        assert_eq!(testbed.write(0, &format!("/local/domain/1/b{count}"), &"v".repeat(1900)), ok());
    }
    assert!(used(&testbed, 1) > 20_000, "the node counts for the owner without a request of its own");
    assert_eq!(testbed.write(1, "c", ""), error("ENOSPC"));
    assert_eq!(testbed.rm(1, "b1"), ok());
    testbed.check();
}

#[test]
fn zero_is_no_limit_and_a_domains_own_value_counts() {
    let mut testbed = with_limit(0);
    for count in 0..20 {
        testbed.write(1, &format!("a{count}"), &"v".repeat(1900)).unwrap();
    }
    testbed.request(0, MessageType::SetQuota, "1\0memory\x0010000\0").unwrap();
    assert_eq!(testbed.write(1, "more", ""), error("ENOSPC"));
    for count in 0..20 {
        assert_eq!(testbed.write(2, &format!("a{count}"), &"v".repeat(1900)), ok());
    }
}

#[test]
fn no_memory_is_counted_for_a_domain_that_is_gone() {
    let mut testbed = Testbed::with_homes([1]);
    for round in 0..3 {
        testbed.write(1, "a/b/c", "value").unwrap();
        testbed.watch(1, "a", "t").unwrap();
        let transaction = testbed.begin(1);
        testbed.read_in(1, transaction, "a/b").unwrap();
        assert!(used(&testbed, 1) > 200);
        if round < 2 {
            testbed.kill(1);
        } else {
            testbed.release(0, 1).unwrap();
        }
        assert_eq!(used(&testbed, 1), 0);
        testbed.start(1);
        testbed.make_home(1);
        assert_eq!(used(&testbed, 1), node("/local/domain/1", 1, 0));
        testbed.check();
    }
}
