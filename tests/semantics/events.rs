//! The events that a change causes, their receivers, and the fate of unread events.

use xenstore::engine::config::Config;
use xenstore::wire::header::{HEADER_BYTES, MessageType};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::support::testbed::{Testbed, error, event, ok};

/// Returns a testbed with watches of dom0 whose first events have been read.
fn watched(watches: &[(&str, &str)]) -> Testbed {
    let mut testbed = Testbed::new();
    for (path, token) in watches {
        assert_eq!(testbed.watch(0, path, token), ok());
    }
    assert_eq!(testbed.events(0).len(), watches.len());
    testbed
}

/// Sets a guest's watch and reads its first event.
fn watch_quietly(testbed: &mut Testbed, domid: u16, path: &str, token: &str) {
    assert_eq!(testbed.watch(domid, path, token), ok());
    assert_eq!(testbed.events(domid).len(), 1);
}

#[test]
fn the_first_event_follows_the_reply_whatever_the_permissions() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/secret", "x").unwrap();
    for path in ["/secret", "/missing/deep", "@releaseDomain", "@anything", "data"] {
        testbed.send(1, 0, MessageType::Watch.to_wire(), format!("{path}\0t\0").as_bytes());
        assert_eq!(testbed.message(1).unwrap().kind, MessageType::Watch.to_wire());
        assert_eq!(testbed.message(1).unwrap().payload, format!("{path}\0t\0").as_bytes());
        assert_eq!(testbed.message(1), None);
    }
}

#[test]
fn a_changes_events_come_before_its_reply() {
    let mut testbed = watched(&[("/a", "t")]);
    testbed.send(0, 0, MessageType::Write.to_wire(), b"/a\0x");
    assert_eq!(testbed.message(0).unwrap().kind, MessageType::WatchEvent.to_wire());
    assert_eq!(testbed.message(0).unwrap().kind, MessageType::Write.to_wire());
}

#[test]
fn a_change_fires_watches_on_the_path_and_above_and_no_others() {
    let mut testbed =
        watched(&[("/", "root"), ("/a", "a"), ("/a/b", "b"), ("/a/b/c", "c"), ("/ab", "ab"), ("/a/bc", "x")]);
    testbed.write(0, "/a/b", "1").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b", "root"), event("/a/b", "a"), event("/a/b", "b")]);
    testbed.write(0, "/", "1").unwrap();
    assert_eq!(testbed.events(0), [event("/", "root")]);
}

#[test]
fn two_watches_on_one_path_fire_in_the_order_of_setting() {
    let mut testbed = watched(&[("/a", "2"), ("/a", "1")]);
    testbed.write(0, "/a", "x").unwrap();
    assert_eq!(testbed.events(0), [event("/a", "2"), event("/a", "1")]);
}

#[test]
fn parents_made_on_the_way_cause_no_event_of_their_own() {
    let mut testbed = watched(&[("/a", "a"), ("/a/b", "b")]);
    testbed.write(0, "/a/b/c", "x").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b/c", "a"), event("/a/b/c", "b")]);
    testbed.mkdir(0, "/a/d/e").unwrap();
    assert_eq!(testbed.events(0), [event("/a/d/e", "a")]);
}

#[test]
fn making_an_existing_node_and_removing_a_missing_one_cause_no_event() {
    let mut testbed = watched(&[("/a", "a")]);
    testbed.write(0, "/a", "value").unwrap();
    testbed.events(0);
    assert_eq!(testbed.mkdir(0, "/a"), ok());
    assert_eq!(testbed.read(0, "/a"), Ok(b"value".to_vec()));
    assert_eq!(testbed.rm(0, "/a/missing"), ok());
    assert_eq!(testbed.events(0), []);
}

#[test]
fn writing_the_same_value_again_is_a_change() {
    let mut testbed = watched(&[("/a", "a")]);
    for _ in 0..2 {
        testbed.write(0, "/a", "same").unwrap();
        assert_eq!(testbed.events(0), [event("/a", "a")]);
    }
}

#[test]
fn a_removal_fires_watches_above_for_its_top_and_exact_watches_below_it() {
    let mut testbed = Testbed::new();
    for path in ["/a/b/c", "/a/b/d", "/a/e"] {
        testbed.write(0, path, "").unwrap();
    }
    for (path, token) in [("/a", "above"), ("/a/b", "top"), ("/a/b/c", "c"), ("/a/b/c/none", "none"), ("/a/e", "e")] {
        testbed.watch(0, path, token).unwrap();
    }
    testbed.events(0);
    testbed.rm(0, "/a/b").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b/c", "c"), event("/a/b", "above"), event("/a/b", "top")]);
    testbed.check();
}

#[test]
fn a_relative_watch_reports_relative_paths_and_an_absolute_one_absolute_paths() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.watch(1, "data", "rel").unwrap();
    testbed.watch(1, "/local/domain/1/data", "abs").unwrap();
    assert_eq!(testbed.events(1), [event("data", "rel"), event("/local/domain/1/data", "abs")]);
    testbed.write(1, "data/x", "1").unwrap();
    assert_eq!(testbed.events(1), [event("data/x", "rel"), event("/local/domain/1/data/x", "abs")]);
    testbed.rm(0, "/local/domain/1").unwrap();
    assert_eq!(testbed.events(1), [event("data", "rel"), event("/local/domain/1/data", "abs")]);
}

#[test]
fn the_spelling_of_a_watch_affects_only_the_reported_path() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.watch(1, "data", "t").unwrap();
    assert_eq!(testbed.watch(1, "/local/domain/1/data", "t"), error("EEXIST"));
    assert_eq!(testbed.unwatch(1, "/local/domain/1/data", "t"), ok());
    assert_eq!(testbed.unwatch(1, "data", "t"), error("ENOENT"));
}

#[test]
fn a_guest_gets_an_event_if_it_may_read_the_node_or_its_parent() {
    let mut testbed = Testbed::with_guests([1]);
    for (path, permissions) in [("/n", "n0"), ("/n/r", "n0 r1"), ("/n/w", "n0 w1"), ("/r", "r0"), ("/r/n", "n0")] {
        testbed.write(0, path, "").unwrap();
        testbed.set_perms(0, path, permissions).unwrap();
    }
    watch_quietly(&mut testbed, 1, "/", "t");
    for (path, is_told) in [("/n", false), ("/n/r", true), ("/n/w", false), ("/r", true), ("/r/n", true)] {
        testbed.write(0, path, "x").unwrap();
        let expected = if is_told { vec![event(path, "t")] } else { vec![] };
        assert_eq!(testbed.events(1), expected, "{path}");
    }
    testbed.write(0, "/r/n/deep", "x").unwrap();
    assert_eq!(testbed.events(1), [], "only the parent counts, not its ancestors");
}

#[test]
fn losing_the_right_to_read_causes_the_last_event() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    watch_quietly(&mut testbed, 1, "/a", "t");
    testbed.set_perms(0, "/a", "n0 r1").unwrap();
    assert_eq!(testbed.events(1), [event("/a", "t")], "the right was gained");
    testbed.set_perms(0, "/a", "n0").unwrap();
    assert_eq!(testbed.events(1), [event("/a", "t")], "lost");
    testbed.write(0, "/a", "x").unwrap();
    testbed.set_perms(0, "/a", "w0").unwrap();
    testbed.rm(0, "/a").unwrap();
    assert_eq!(testbed.events(1), []);
}

#[test]
fn a_removal_fires_watches_of_domains_that_could_read_the_node_or_its_parent() {
    let mut testbed = Testbed::with_guests([1]);
    for (path, permissions) in [("/p", "n0"), ("/p/own", "n0 r1"), ("/p/not", "n0"), ("/q", "r0"), ("/q/not", "n0")] {
        testbed.write(0, path, "").unwrap();
        testbed.set_perms(0, path, permissions).unwrap();
        testbed.watch(1, path, "t").unwrap();
    }
    testbed.events(1);
    testbed.rm(0, "/p/not").unwrap();
    testbed.rm(0, "/p").unwrap();
    assert_eq!(testbed.events(1), [event("/p/own", "t")]);
    testbed.rm(0, "/q").unwrap();
    assert_eq!(testbed.events(1), [event("/q/not", "t"), event("/q", "t")]);
}

#[test]
fn a_transaction_causes_no_event_before_its_commit_and_none_when_aborted() {
    let mut testbed = watched(&[("/a", "t")]);
    for commit in [true, false] {
        let transaction = testbed.begin(0);
        testbed.write_in(0, transaction, "/a/1", "x").unwrap();
        testbed.write_in(0, transaction, "/a/1", "y").unwrap();
        testbed.write_in(0, transaction, "/a/2", "z").unwrap();
        assert_eq!(testbed.events(0), []);
        testbed.end(0, transaction, commit).unwrap();
        let expected = if commit { vec![event("/a/1", "t"), event("/a/2", "t")] } else { vec![] };
        assert_eq!(testbed.events(0), expected);
    }
}

#[test]
fn a_commit_that_conflicts_causes_no_event() {
    let mut testbed = watched(&[("/a", "t")]);
    let transaction = testbed.begin(0);
    testbed.read_in(0, transaction, "/a").unwrap_err();
    testbed.write_in(0, transaction, "/a", "x").unwrap();
    testbed.write(0, "/a", "y").unwrap();
    testbed.events(0);
    assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"));
    assert_eq!(testbed.events(0), []);
}

#[test]
fn a_node_made_and_removed_in_one_transaction_causes_no_event() {
    let mut testbed = watched(&[("/", "t")]);
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/a", "x").unwrap();
    testbed.rm_in(0, transaction, "/a").unwrap();
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.events(0), []);
}

#[test]
fn events_of_a_removal_in_a_transaction_follow_the_permissions_before_it() {
    let mut testbed = Testbed::with_guests([1]);
    for (path, permissions) in [("/r", "r0"), ("/n", "n0"), ("/d", "r0"), ("/d/n", "n0")] {
        testbed.write(0, path, "").unwrap();
        testbed.set_perms(0, path, permissions).unwrap();
    }
    for path in ["/r", "/n", "/d/n"] {
        watch_quietly(&mut testbed, 1, path, "t");
    }
    let transaction = testbed.begin(0);
    for path in ["/r", "/n", "/d/n"] {
        testbed.rm_in(0, transaction, path).unwrap();
    }
    testbed.end(0, transaction, true).unwrap();
    assert_eq!(testbed.events(1), [event("/r", "t")], "a readable parent does not count for removed nodes");
}

#[test]
fn losing_the_right_to_read_in_a_transaction_causes_one_event() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "n0 r1").unwrap();
    watch_quietly(&mut testbed, 1, "/a", "t");
    let transaction = testbed.begin(0);
    testbed.set_perms_in(0, transaction, "/a", "n0").unwrap();
    testbed.write_in(0, transaction, "/a", "secret").unwrap();
    testbed.end(0, transaction, true).unwrap();
    assert_eq!(testbed.events(1), [event("/a", "t")]);
    testbed.write(0, "/a", "x").unwrap();
    assert_eq!(testbed.events(1), []);
}

#[test]
fn in_a_transaction_a_change_of_a_node_replaces_its_removal_with_one_above() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/a/b/c", "").unwrap();
    testbed.watch(0, "/a", "above").unwrap();
    testbed.watch(0, "/a/b/c", "exact").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(0);
    testbed.rm_in(0, transaction, "/a/b").unwrap();
    testbed.end(0, transaction, true).unwrap();
    let mut events = testbed.events(0);
    events.sort();
    assert_eq!(events, [event("/a/b", "above"), event("/a/b/c", "exact")]);

    testbed.write(0, "/a/b/c", "").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(0);
    testbed.rm_in(0, transaction, "/a/b").unwrap();
    testbed.write_in(0, transaction, "/a/b/c", "again").unwrap();
    testbed.end(0, transaction, true).unwrap();
    let mut events = testbed.events(0);
    events.sort();
    assert_eq!(events, [event("/a/b", "above"), event("/a/b/c", "above"), event("/a/b/c", "exact")]);
}

#[test]
fn identical_pending_events_collapse_and_others_do_not() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    for token in ["1", "2"] {
        watch_quietly(&mut testbed, 1, "/a", token);
    }
    fill_reply_ring(&mut testbed, 1, "/a");
    for _ in 0..1000 {
        testbed.write(0, "/a", "x").unwrap();
        testbed.write(0, "/a/b", "x").unwrap();
    }
    let events = testbed.events(1);
    let count = |path: &str, token: &str| events.iter().filter(|have| **have == event(path, token)).count();
    assert!(count("/a", "1") <= 2 && count("/a", "2") <= 2, "one may be partly sent: {events:?}");
    assert!(count("/a/b", "1") >= 1 && count("/a/b", "2") >= 1);
    testbed.write(0, "/a", "x").unwrap();
    assert_eq!(testbed.events(1), [event("/a", "1"), event("/a", "2")], "events that were read come again");
}

#[test]
fn special_events_do_not_collapse() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.set_perms(0, "@releaseDomain", "n0 r1").unwrap();
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    watch_quietly(&mut testbed, 1, "@releaseDomain", "t");
    watch_quietly(&mut testbed, 1, "/a", "filler");
    fill_reply_ring(&mut testbed, 1, "/a");
    for domid in 2..7 {
        testbed.start(domid);
        testbed.kill(domid);
    }
    let events = testbed.events(1);
    assert_eq!(events.iter().filter(|have| **have == event("@releaseDomain", "t")).count(), 5);
}

/// Fills a guest's reply ring with events below a path that it watches, which it does not read.
fn fill_reply_ring(testbed: &mut Testbed, domid: u16, path: &str) {
    for at in 0.. {
        let used = testbed.word(domid, Field::ReplyProducer).wrapping_sub(testbed.word(domid, Field::ReplyConsumer));
        if used as usize == RING_BYTES {
            return;
        }
        testbed.write(0, &format!("{path}/fill{at}"), "").unwrap();
    }
}

#[test]
fn events_that_a_guest_does_not_read_are_dropped_after_the_timeout() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    watch_quietly(&mut testbed, 1, "/a", "t");
    fill_reply_ring(&mut testbed, 1, "/a");
    testbed.write(0, "/a/late", "").unwrap();
    testbed.pass(10_000);
    testbed.write(0, "/a/later", "").unwrap();
    testbed.pass(10_000);
    let events = testbed.events(1);
    assert!(!events.contains(&event("/a/late", "t")), "its time has expired");
    assert!(events.contains(&event("/a/later", "t")), "its time has not expired");
    // All events that were written or partly written into the ring have arrived whole: otherwise the messages would be
    // malformed.
    assert!(events.len() * (HEADER_BYTES + 8) >= RING_BYTES / 2);
}

#[test]
fn an_event_is_kept_until_its_time_is_over_to_the_millisecond() {
    for (milliseconds, is_kept) in [(19_999, true), (20_000, false)] {
        let mut testbed = Testbed::with_guests([1]);
        testbed.write(0, "/a", "").unwrap();
        testbed.set_perms(0, "/a", "r0").unwrap();
        watch_quietly(&mut testbed, 1, "/a", "t");
        fill_reply_ring(&mut testbed, 1, "/a");
        testbed.write(0, "/a/late", "").unwrap();
        testbed.pass(milliseconds);
        assert_eq!(testbed.events(1).contains(&event("/a/late", "t")), is_kept, "after {milliseconds} ms");
    }
}

#[test]
fn a_partly_written_event_is_never_cut() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    let token = "t".repeat(2000);
    watch_quietly(&mut testbed, 1, "/a", &token);
    testbed.write(0, "/a/begun", "").unwrap();
    testbed.write(0, "/a/behind", "").unwrap();
    let used = testbed.word(1, Field::ReplyProducer).wrapping_sub(testbed.word(1, Field::ReplyConsumer));
    assert_eq!(used as usize, RING_BYTES, "the first event is partly written");
    testbed.pass(1_000_000);
    assert_eq!(testbed.events(1), [event("/a/begun", &token)]);
}

#[test]
fn an_event_is_queued_again_after_it_was_dropped() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    watch_quietly(&mut testbed, 1, "/a", "t");
    fill_reply_ring(&mut testbed, 1, "/a");
    testbed.write(0, "/a/late", "").unwrap();
    testbed.pass(20_000);
    testbed.write(0, "/a/late", "").unwrap();
    assert!(testbed.events(1).contains(&event("/a/late", "t")), "a dropped event does not replace a new one");
}

#[test]
fn an_event_of_4096_bytes_is_sent_and_a_longer_one_is_not() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "b0").unwrap();
    let token = "t".repeat(4096 - "/a/12345678".len() - 2);
    watch_quietly(&mut testbed, 1, "/a", &token);
    for name in ["12345678", "123456789", "1"] {
        testbed.write(0, &format!("/a/{name}"), "").unwrap();
    }
    assert_eq!(testbed.events(1), [event("/a/12345678", &token), event("/a/1", &token)]);
}

#[test]
fn without_a_timeout_events_wait_for_ever() {
    let mut testbed = Testbed::with(Config { event_timeout_ms: 0, ..Config::default() });
    testbed.start(1);
    testbed.write(0, "/a", "").unwrap();
    testbed.set_perms(0, "/a", "r0").unwrap();
    watch_quietly(&mut testbed, 1, "/a", "t");
    for at in 0..200 {
        testbed.write(0, &format!("/a/{at}"), "").unwrap();
    }
    testbed.pass(10_000_000);
    assert_eq!(testbed.events(1).len(), 200);
}

#[test]
fn the_control_domains_events_wait_for_ever() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/a", "").unwrap();
    watch_quietly(&mut testbed, 0, "/a", "t");
    for at in 0..200 {
        testbed.send(0, 0, MessageType::Write.to_wire(), format!("/a/{at}\0").as_bytes());
    }
    testbed.pass(10_000_000);
    for _ in 0..200 {
        assert_eq!(testbed.reply(0).unwrap().kind, MessageType::Write.to_wire());
    }
    assert_eq!(testbed.events(0).len(), 200);
}

#[test]
fn a_time_out_leaves_replies_alone() {
    let mut testbed = Testbed::with_guests([1]);
    testbed.write(0, "/big", &"x".repeat(1500)).unwrap();
    testbed.set_perms(0, "/big", "r0").unwrap();
    for _ in 0..5 {
        testbed.send(1, 0, MessageType::Read.to_wire(), b"/big\0");
    }
    testbed.pass(1_000_000);
    for _ in 0..5 {
        assert_eq!(testbed.reply(1).unwrap().payload.len(), 1500);
    }
}
