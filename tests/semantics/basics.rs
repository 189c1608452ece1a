//! The basic operations.

use crate::support::testbed::{Testbed, error, event, ok};

#[test]
fn a_written_node_can_be_read_listed_and_removed() {
    let mut testbed = Testbed::new();
    assert_eq!(testbed.write(0, "/a/b", "value"), ok());
    assert_eq!(testbed.read(0, "/a/b"), Ok(b"value".to_vec()));
    assert_eq!(testbed.directory(0, "/"), Ok(vec!["tool".into(), "a".into()]));
    assert_eq!(testbed.rm(0, "/a"), ok());
    assert_eq!(testbed.read(0, "/a/b"), error("ENOENT"));
    testbed.check();
}

#[test]
fn a_transaction_is_seen_by_others_when_it_is_committed() {
    let mut testbed = Testbed::new();
    let transaction = testbed.begin(0);
    assert_eq!(testbed.write_in(0, transaction, "/a/b", "1"), ok());
    assert_eq!(testbed.read_in(0, transaction, "/a/b"), Ok(b"1".to_vec()));
    assert_eq!(testbed.read(0, "/a"), error("ENOENT"));
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.read(0, "/a/b"), Ok(b"1".to_vec()));
    testbed.check();
}

#[test]
fn a_watch_fires_at_once_and_at_each_change() {
    let mut testbed = Testbed::new();
    assert_eq!(testbed.watch(0, "/a", "token"), ok());
    assert_eq!(testbed.events(0), [event("/a", "token")]);
    testbed.write(0, "/a/b", "1").unwrap();
    assert_eq!(testbed.events(0), [event("/a/b", "token")]);
}

#[test]
fn a_domain_that_dies_leaves_nothing_behind() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/local/domain/7", "").unwrap();
    testbed.start(7);
    testbed.set_perms(0, "/local/domain/7", "n7").unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    assert_eq!(testbed.write(7, "data/x", "1"), ok());
    assert_eq!(testbed.nodes(7), 3);
    assert_eq!(testbed.events(0).len(), 1);
    testbed.kill(7);
    assert_eq!(testbed.events(0), [event("@releaseDomain", "gone")]);
    assert_eq!(testbed.directory(0, "/local/domain"), Ok(vec![]));
    assert!(testbed.machine.mapped.len() == 1 && testbed.machine.bound.len() == 1);
    testbed.check();
}
