//! GET_QUOTA and SET_QUOTA (`docs/misc/xenstore.txt`), and the domain whose quota counts.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, ok, string};

const NAMES: [(&str, u32); 10] = [
    ("nodes", 1000),
    ("watches", 128),
    ("outstanding", 20),
    ("memory", 2_621_440),
    ("soft-memory", 2_097_152),
    ("transactions", 10),
    ("transaction-nodes", 1024),
    ("node-permissions", 5),
    ("path-max", 2048),
    ("node-size", 2048),
];

fn get(testbed: &mut Testbed, payload: &str) -> Result<String, String> {
    testbed.request(0, MessageType::GetQuota, payload).map(|answer| string(&answer))
}

fn set(testbed: &mut Testbed, payload: &str) -> Answer {
    testbed.request(0, MessageType::SetQuota, payload)
}

#[test]
fn without_a_name_the_reply_lists_all_names_separated_by_blanks() {
    let mut testbed = Testbed::new();
    let names = NAMES.map(|(name, _)| name).join(" ");
    assert_eq!(get(&mut testbed, ""), Ok(names));
}

#[test]
fn every_quota_has_its_default_for_future_domains_and_for_each_domain() {
    let mut testbed = Testbed::with_guests([5]);
    for (name, value) in NAMES {
        assert_eq!(get(&mut testbed, &format!("{name}\0")), Ok(value.to_string()), "{name}");
        assert_eq!(get(&mut testbed, &format!("5\0{name}\0")), Ok(value.to_string()), "{name}");
    }
    for (other, value) in [("permissions", "5"), ("path-length", "2048")] {
        assert_eq!(get(&mut testbed, &format!("{other}\0")), Ok(value.into()), "by its other name");
    }
}

#[test]
fn a_value_for_future_domains_leaves_known_domains_alone() {
    let mut testbed = Testbed::with_guests([5]);
    for (name, value) in NAMES {
        assert_eq!(set(&mut testbed, &format!("{name}\x007\0")), ok());
        assert_eq!(get(&mut testbed, &format!("{name}\0")), Ok("7".into()));
        assert_eq!(get(&mut testbed, &format!("5\0{name}\0")), Ok(value.to_string()), "{name}");
    }
    testbed.start(6);
    for (name, _) in NAMES {
        assert_eq!(get(&mut testbed, &format!("6\0{name}\0")), Ok("7".into()), "{name}");
    }
}

#[test]
fn a_domains_value_can_be_set_before_and_after_its_introduction_and_dies_with_it() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    assert_eq!(set(&mut testbed, "5\0watches\x001\0"), ok());
    testbed.start_built(5);
    assert_eq!(testbed.watch(5, "a", "1"), ok());
    assert_eq!(testbed.watch(5, "a", "2"), error("ENOSPC"));
    assert_eq!(set(&mut testbed, "5\0watches\x002\0"), ok());
    assert_eq!(testbed.watch(5, "a", "2"), ok());
    assert_eq!(testbed.watch(5, "a", "3"), error("ENOSPC"));
    testbed.start(6);
    assert_eq!(get(&mut testbed, "6\0watches\0"), Ok("128".into()), "the other domain has its own value");
    testbed.kill(5);
    testbed.start(5);
    assert_eq!(get(&mut testbed, "5\0watches\0"), Ok("128".into()));

    testbed.build(DomId(7));
    set(&mut testbed, "7\0nodes\x001\0").unwrap();
    testbed.set_state(7, DomainState::Absent);
    testbed.start(7);
    assert_eq!(get(&mut testbed, "7\0nodes\0"), Ok("1000".into()));
}

#[test]
fn exactly_as_many_as_the_domains_own_value_are_allowed_and_zero_is_no_limit() {
    let mut testbed = Testbed::with_homes([5]);
    let own = testbed.nodes(5);
    set(&mut testbed, &format!("5\0nodes\0{}\0", own + 3)).unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(testbed.write(5, name, ""), ok());
    }
    assert_eq!(testbed.write(5, "d", ""), error("ENOSPC"));
    set(&mut testbed, "5\0nodes\x000\0").unwrap();
    testbed.fill_nodes(5, 1500);
    set(&mut testbed, "5\0nodes\x001499\0").unwrap();
    assert_eq!(testbed.write(5, "more", ""), error("ENOSPC"), "a smaller value removes nothing");
    assert_eq!(testbed.nodes(5), 1500);

    for (quota, act) in [("node-permissions", "n5 r1"), ("node-permissions", "n5 r1 r2")] {
        set(&mut testbed, &format!("5\0{quota}\x002\0")).unwrap();
        let expected = if act.len() > 6 { error("ENOSPC") } else { ok() };
        assert_eq!(testbed.set_perms(5, "a", act), expected);
    }
    set(&mut testbed, "5\0path-max\x003\0").unwrap();
    assert_eq!(testbed.read(5, "abc"), error("ENOENT"));
    assert_eq!(testbed.read(5, "abcd"), error("EINVAL"));
    set(&mut testbed, "5\0path-max\x000\0").unwrap();
    assert_eq!(testbed.read(5, &"x".repeat(2048)), error("ENOENT"), "the protocol's limit stays");
    assert_eq!(testbed.read(5, &"x".repeat(2049)), error("EINVAL"));
    set(&mut testbed, "5\0transactions\x001\0").unwrap();
    testbed.begin(5);
    assert_eq!(testbed.request(5, MessageType::TransactionStart, "\0"), error("ENOSPC"));
}

#[test]
fn the_control_domain_is_never_limited() {
    let mut testbed = Testbed::new();
    for (name, _) in NAMES {
        assert_eq!(set(&mut testbed, &format!("{name}\x001\0")), ok());
        assert_eq!(set(&mut testbed, &format!("0\0{name}\x001\0")), ok());
    }
    for count in 0..50 {
        assert_eq!(testbed.write(0, &format!("/n{count}"), "value"), ok());
        assert_eq!(testbed.watch(0, "/", &count.to_string()), ok());
        testbed.begin(0);
    }
    assert_eq!(testbed.set_perms(0, "/n1", "n0 n0 n0 n0 n0 n0 n0"), ok());
}

#[test]
fn odd_payloads_unknown_names_unknown_domains_and_impossible_values_are_refused() {
    let mut testbed = Testbed::with_guests([5]);
    for payload in [
        "\0",
        "x\0",
        "Nodes\0",
        "soft-nodes\0",
        "soft-\0",
        "5\0\0",
        "5\0x\0",
        "x\0nodes\0",
        "65536\0nodes\0",
        "5\0nodes\0x\0",
    ] {
        assert_eq!(get(&mut testbed, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(get(&mut testbed, "6\0nodes\0"), error("ENOENT"));
    assert_eq!(get(&mut testbed, "6\0x\0"), error("ENOENT"), "the domain is checked first");
    for payload in [
        "",
        "nodes\0",
        "nodes\x001",
        "5\0nodes\x001\x001\0",
        "\x001\0",
        "x\x001\0",
        "soft-nodes\x001\0",
        "nodes\0\0",
        "nodes\0-1\0",
        "nodes\0x\0",
        "nodes\x004294967295\0",
        "nodes\x004294967296\0",
        "x\0nodes\x001\0",
        "5\0x\x001\0",
    ] {
        assert_eq!(set(&mut testbed, payload), error("EINVAL"), "{payload:?}");
    }
    assert_eq!(set(&mut testbed, "6\0nodes\x001\0"), error("ENOENT"));
    for (name, value) in NAMES {
        assert_eq!(get(&mut testbed, &format!("{name}\0")), Ok(value.to_string()), "the value is unchanged");
    }
    for kind in [MessageType::GetQuota, MessageType::SetQuota] {
        for payload in ["", "nodes\0", "nodes\x001\0", "5\0nodes\0", "5\0nodes\x001\0"] {
            assert_eq!(testbed.request(5, kind, payload), error("EACCES"), "{kind:?} {payload:?}");
        }
    }
}

#[test]
fn a_transaction_is_held_to_the_owners_own_quota_at_its_commit() {
    let mut testbed = Testbed::with_homes([5]);
    let own = testbed.nodes(5);
    let transaction = testbed.begin(5);
    for name in ["a", "b", "c"] {
        testbed.write_in(5, transaction, name, "").unwrap();
    }
    set(&mut testbed, &format!("5\0nodes\0{}\0", own + 2)).unwrap();
    assert_eq!(testbed.end(5, transaction, true), error("ENOSPC"));
    assert_eq!(testbed.nodes(5), own);
    testbed.check();
}
