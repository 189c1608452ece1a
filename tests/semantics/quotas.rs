//! Quotas: q is allowed, q + 1 is refused without effect, the control domain is never limited, and 0 is no limit.

use xenstore::engine::config::Config;
use xenstore::store::quota::Quota;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, ok};

/// Returns a testbed with homes of domains 1 and 2, and another value for a quota.
fn with_quota(quota: Quota, value: u32) -> Testbed {
    let mut config = Config::default();
    config.quotas.set(quota, value);
    let mut testbed = Testbed::with(config);
    for domid in [1, 2] {
        testbed.start(domid);
        testbed.make_home(domid);
    }
    testbed
}

#[test]
fn the_default_values_are_those_of_the_c_server() {
    let expected = [
        (Quota::Nodes, 1000),
        (Quota::Watches, 128),
        (Quota::Transactions, 10),
        (Quota::TransactionNodes, 1024),
        (Quota::Outstanding, 20),
        (Quota::NodePermissions, 5),
        (Quota::PathMax, 2048),
        (Quota::NodeSize, 2048),
        (Quota::MemoryHard, 2_621_440),
        (Quota::MemorySoft, 2_097_152),
    ];
    let quotas = Config::default().quotas;
    for (quota, value) in expected {
        assert_eq!(quotas.get(quota), value, "{quota:?}");
    }
    assert_eq!(expected.len(), Quota::ALL.len());
}

#[test]
fn a_guest_may_own_a_thousand_nodes_however_they_are_made() {
    for way in ["write", "mkdir", "parents"] {
        let mut testbed = Testbed::with_homes([1]);
        while testbed.nodes(1) < 1000 {
            let at = testbed.nodes(1);
            let directory = format!("d{}", at / 50);
            let answer = match way {
                "write" => testbed.write(1, &format!("{directory}/{at}"), ""),
                "mkdir" => testbed.mkdir(1, &format!("{directory}/{at}")),
                _ => testbed.write(1, &format!("{directory}/{at}/{}", "p/".repeat(7) + "q"), ""),
            };
            if answer != ok() {
                assert_eq!(answer, error("ENOSPC"));
                break;
            }
        }
        while testbed.nodes(1) < 1000 {
            let at = testbed.nodes(1);
            assert_eq!(testbed.mkdir(1, &format!("rest{at}")), ok());
        }
        assert_eq!(testbed.write(1, "more", ""), error("ENOSPC"), "{way}");
        assert_eq!(testbed.mkdir(1, "more"), error("ENOSPC"), "{way}");
        assert_eq!(testbed.read(0, "/local/domain/1/more"), error("ENOENT"));
        assert_eq!(testbed.nodes(1), 1000);
        testbed.check();
    }
}

#[test]
fn all_levels_of_one_request_count_before_any_is_made() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 998);
    assert_eq!(testbed.write(1, "a/b/c", ""), error("ENOSPC"));
    assert_eq!(testbed.read(0, "/local/domain/1/a"), error("ENOENT"));
    assert_eq!(testbed.nodes(1), 998);
    assert_eq!(testbed.write(1, "a/b", ""), ok());
    testbed.check();
}

#[test]
fn at_the_limit_nodes_can_be_changed_removed_and_then_others_made() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 1000);
    assert_eq!(testbed.write(1, "fill0/0", "changed"), ok());
    assert_eq!(testbed.mkdir(1, "fill0/0"), ok());
    assert_eq!(testbed.set_perms(1, "fill0/0", "r1"), ok());
    assert_eq!(testbed.rm(1, "fill0/0"), ok());
    assert_eq!(testbed.write(1, "again", ""), ok());
    assert_eq!(testbed.write(1, "more", ""), error("ENOSPC"));
    assert_eq!(testbed.rm(0, "/local/domain/1/fill1"), ok());
    assert_eq!(testbed.nodes(1), 1000 - 101, "nodes that the control domain removes no longer count");
    assert_eq!(testbed.write(1, "more", ""), ok());
    testbed.check();
}

#[test]
fn the_control_domain_makes_nodes_for_a_guest_at_its_limit() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 1000);
    assert_eq!(testbed.write(0, "/local/domain/1/device/vbd/1", ""), ok());
    let transaction = testbed.begin(0);
    assert_eq!(testbed.write_in(0, transaction, "/local/domain/1/device/vbd/2", ""), ok());
    assert_eq!(testbed.end(0, transaction, true), ok());
    assert_eq!(testbed.nodes(1), 1004);
    assert_eq!(testbed.write(1, "more", ""), error("ENOSPC"));
    assert_eq!(testbed.rm(1, "device"), ok());
    testbed.check();
}

#[test]
fn the_limit_is_the_owners_wherever_the_nodes_are() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.set_perms(2, "/local/domain/2", "b2").unwrap();
    testbed.fill_nodes(1, 1000);
    assert_eq!(testbed.write(1, "/local/domain/2/of1", ""), error("ENOSPC"));
    assert_eq!(testbed.write(2, "own", ""), ok());
}

#[test]
fn a_transaction_counts_what_it_makes_and_removes() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 1000);
    let transaction = testbed.begin(1);
    assert_eq!(testbed.mkdir_in(1, transaction, "more"), error("ENOSPC"));
    for directory in 0..5 {
        assert_eq!(testbed.rm_in(1, transaction, &format!("fill{directory}")), ok());
    }
    for at in 0..505 {
        assert_eq!(testbed.mkdir_in(1, transaction, &format!("new{}/{at}", at / 101)), ok_or_full(at));
    }
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert_eq!(testbed.nodes(1), 1000);
    testbed.check();
}

/// Returns the expected reply. Five directories of 101 nodes each are gone; five new ones take five nodes themselves.
fn ok_or_full(at: usize) -> Result<Vec<u8>, String> {
    if at < 500 { ok() } else { error("ENOSPC") }
}

#[test]
fn a_commit_that_would_now_exceed_the_limit_is_refused_and_ends_the_transaction() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.fill_nodes(1, 999);
    let transaction = testbed.begin(1);
    assert_eq!(testbed.mkdir_in(1, transaction, "fill0/inside"), ok());
    assert_eq!(testbed.mkdir(1, "fill1/outside"), ok());
    assert_eq!(testbed.end(1, transaction, true), error("ENOSPC"));
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));
    assert_eq!(testbed.read(0, "/local/domain/1/fill0/inside"), error("ENOENT"));
    assert_eq!(testbed.nodes(1), 1000);
    testbed.check();
}

#[test]
fn a_guest_may_set_128_watches() {
    let mut testbed = Testbed::with_homes([1]);
    for at in 0..128 {
        assert_eq!(testbed.watch(1, "data", &at.to_string()), ok());
    }
    assert_eq!(testbed.watch(1, "data", "more"), error("ENOSPC"));
    assert_eq!(testbed.watch(1, "data", "5"), error("EEXIST"), "a repetition is refused first");
    assert_eq!(testbed.unwatch(1, "data", "5"), ok());
    assert_eq!(testbed.watch(1, "data", "more"), ok());
    assert_eq!(testbed.watch(1, "data", "5"), error("ENOSPC"));
    for at in 0..300 {
        assert_eq!(testbed.watch(0, "/a", &at.to_string()), ok());
    }
    testbed.check();
}

#[test]
fn a_guest_may_open_ten_transactions() {
    let mut testbed = Testbed::with_homes([1]);
    let open: Vec<u32> = (0..10).map(|_| testbed.begin(1)).collect();
    assert_eq!(testbed.request(1, MessageType::TransactionStart, "\0"), error("ENOSPC"));
    assert_eq!(testbed.end(1, open[3], false), ok());
    testbed.begin(1);
    assert_eq!(testbed.request(1, MessageType::TransactionStart, "\0"), error("ENOSPC"));
    for _ in 0..100 {
        testbed.begin(0);
    }
}

#[test]
fn a_transaction_may_see_1024_paths_and_fails_at_one_more() {
    let mut testbed = Testbed::with_homes([1, 2]);
    // The root counts too: the transaction accessed it as the nearest ancestor of a missing node.
    let transaction = testbed.begin(1);
    for at in 0..1022 {
        assert_eq!(testbed.read_in(1, transaction, &format!("missing{at}")), error("ENOENT"));
    }
    assert_eq!(
        testbed.read_in(1, transaction, "missing-more"),
        error("ENOENT"),
        "with the home, this is the last path"
    );
    assert_eq!(testbed.read_in(1, transaction, "missing5"), error("ENOENT"), "an accessed path can be accessed again");
    assert_eq!(testbed.read_in(1, transaction, "one-too-many"), error("ENOSPC"));
    assert_eq!(testbed.end(1, transaction, true), error("ENOMEM"), "the transaction cannot be committed");
    assert_eq!(testbed.end(1, transaction, true), error("ENOENT"));

    let transaction = testbed.begin(1);
    for at in 0..2000 {
        let _ = testbed.read_in(1, transaction, &format!("missing{at}"));
    }
    assert_eq!(testbed.end(1, transaction, false), ok(), "the transaction can be aborted");

    let transaction = testbed.begin(0);
    for at in 0..3000 {
        assert_eq!(testbed.read_in(0, transaction, &format!("/missing{at}")), error("ENOENT"));
    }
    assert_eq!(testbed.end(0, transaction, true), ok(), "the control domain is not limited");
}

#[test]
fn a_transaction_that_removes_too_much_fails_and_removes_nothing() {
    let mut testbed = with_quota(Quota::TransactionNodes, 50);
    testbed.fill_nodes(1, 100);
    let transaction = testbed.begin(1);
    assert_eq!(testbed.rm_in(1, transaction, "fill0"), error("ENOSPC"));
    assert_eq!(testbed.end(1, transaction, true), error("ENOMEM"));
    assert_eq!(testbed.nodes(1), 100);
    assert_eq!(testbed.rm(1, "fill0"), ok(), "outside of transactions there is no such limit");
    testbed.check();
}

#[test]
fn a_node_may_have_five_permissions() {
    let mut testbed = Testbed::with_homes([1, 2]);
    assert_eq!(testbed.set_perms(1, "/local/domain/1", "n1 r2 r2 r2 r2"), ok());
    assert_eq!(testbed.set_perms(1, "/local/domain/1", "n1 r2 r2 r2 r2 r2"), error("ENOSPC"));
    assert_eq!(testbed.set_perms(0, "/local/domain/1", "n1 r2 r2 r2 r2 r2 r2"), ok());
}

#[test]
fn a_path_may_have_2048_bytes_after_the_domains_prefix_in_both_spellings() {
    for domid in [1, 30000] {
        let mut testbed = Testbed::with_homes([domid]);
        let path = |bytes: usize| ("x".repeat(99) + "/").repeat(21)[..bytes].to_owned();
        assert!(!path(2048).ends_with('/'));
        for who in [domid, 0] {
            let full = format!("/local/domain/{domid}/{}", path(2048));
            assert_eq!(testbed.write(who, &full, "x"), ok(), "{domid} {who}");
            assert_eq!(testbed.read(domid, &path(2048)), Ok(b"x".to_vec()));
            assert_eq!(testbed.rm(domid, &path(2048)), ok());
            let too_long = format!("/local/domain/{domid}/{}", path(2049));
            assert_eq!(testbed.write(domid, &too_long, "x"), error("EINVAL"));
            assert_eq!(testbed.write(domid, &path(2049), "x"), error("EINVAL"));
        }
        testbed.set_perms(0, "/", "r0").unwrap();
        assert_eq!(
            testbed.read(domid, &format!("/{}", path(2047))),
            error("ENOENT"),
            "other paths count from their slash"
        );
        assert_eq!(testbed.read(domid, &format!("/{}", path(2048))), error("EINVAL"));
    }
    let mut testbed = with_quota(Quota::PathMax, 10);
    assert_eq!(testbed.write(1, "0123456789", ""), ok());
    assert_eq!(testbed.write(1, "0123456789a", ""), error("EINVAL"));
    assert_eq!(testbed.write(0, "/local/domain/1/0123456789ab", ""), ok());
}

#[test]
fn a_nodes_record_may_have_2048_bytes() {
    // 16 bytes, 8 for the one permission, and the value.
    let most = 2048 - 16 - 8;
    let mut testbed = Testbed::with_homes([1, 2]);
    assert_eq!(testbed.write(1, "data", &"x".repeat(most + 1)), error("ENOSPC"), "a new node");
    assert_eq!(testbed.read(0, "/local/domain/1/data"), error("ENOENT"));
    assert_eq!(testbed.write(1, "data", &"x".repeat(most)), ok());
    assert_eq!(testbed.write(1, "data", &"x".repeat(most + 1)), error("ENOSPC"), "an existing one");
    assert_eq!(testbed.set_perms(1, "data", "n1 r2"), error("ENOSPC"), "permissions count");
    assert_eq!(testbed.mkdir(1, "data/child"), error("ENOSPC"), "names of children count");
    assert_eq!(testbed.write(1, "data", &"x".repeat(most - 6)), ok());
    assert_eq!(testbed.mkdir(1, "data/child"), ok());
    assert_eq!(testbed.mkdir(1, "data/a"), error("ENOSPC"));
    assert_eq!(testbed.write(0, "/local/domain/1/data", &"x".repeat(4000)), ok(), "the control domain is not limited");
    assert_eq!(testbed.rm(1, "data/child"), ok(), "a node that is too large can still lose children");
    assert_eq!(testbed.rm(1, "data"), ok());
    testbed.check();
}

#[test]
fn nodes_made_on_the_way_must_fit_too() {
    let mut testbed = with_quota(Quota::NodeSize, 60);
    // The home has 16 + 8 bytes; a name of 35 bytes and its NUL are the last that fit.
    let name = |bytes: usize| "x".repeat(bytes);
    assert_eq!(testbed.mkdir(1, &name(36)), error("ENOSPC"));
    assert_eq!(
        testbed.write(1, &format!("a/{}", name(36)), ""),
        error("ENOSPC"),
        "the node on the way would be too large"
    );
    assert_eq!(testbed.directory(0, "/local/domain/1"), Ok(vec![]), "no node was made");
    assert_eq!(testbed.write(1, &format!("a/{}", name(35)), ""), ok());
    testbed.check();
}

#[test]
fn zero_is_no_limit() {
    let mut testbed = with_quota(Quota::Watches, 0);
    for at in 0..200 {
        assert_eq!(testbed.watch(1, "data", &at.to_string()), ok());
    }
    let mut testbed = with_quota(Quota::Nodes, 0);
    testbed.fill_nodes(1, 1100);
    let mut testbed = with_quota(Quota::Transactions, 0);
    for _ in 0..50 {
        testbed.begin(1);
    }
    let mut testbed = with_quota(Quota::NodeSize, 0);
    assert_eq!(testbed.write(1, "data", &"x".repeat(4000)), ok());
    let mut testbed = with_quota(Quota::NodePermissions, 0);
    assert_eq!(testbed.set_perms(1, "/local/domain/1", &("n1".to_owned() + &" r2".repeat(100))), ok());
    let mut testbed = with_quota(Quota::TransactionNodes, 0);
    let transaction = testbed.begin(1);
    for at in 0..2000 {
        assert_eq!(testbed.read_in(1, transaction, &format!("missing{at}")), error("ENOENT"));
    }
    assert_eq!(testbed.end(1, transaction, true), ok());
    let mut testbed = with_quota(Quota::PathMax, 0);
    assert_eq!(testbed.write(1, &"x".repeat(2000), ""), ok());
    assert_eq!(testbed.write(1, &"x".repeat(2049), ""), error("EINVAL"), "the protocol's own limit stays");
}
