//! The rights over a node, the information that a refusal gives, and the permissions of new nodes.

use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, ok};

/// Returns a testbed with guests 1 to 3 and a node `/n` with these permissions. No guest may use its child `/n/child`.
fn with_node(permissions: &str) -> Testbed {
    let mut testbed = Testbed::with_guests([1, 2, 3]);
    testbed.write(0, "/n", "value").unwrap();
    testbed.write(0, "/n/child", "").unwrap();
    testbed.set_perms(0, "/n", permissions).unwrap();
    testbed
}

fn can_read(testbed: &mut Testbed, domid: u16, path: &str) -> bool {
    let read = testbed.read(domid, path);
    assert_eq!(read.is_ok(), testbed.directory(domid, path).is_ok());
    assert_eq!(read.is_ok(), testbed.get_perms(domid, path).is_ok());
    let part = testbed.request(domid, MessageType::DirectoryPart, format!("{path}\x000\0"));
    assert_eq!(read.is_ok(), part.is_ok());
    if read.is_err() {
        assert_eq!(read, error("EACCES"));
    }
    read.is_ok()
}

fn can_write(testbed: &mut Testbed, domid: u16, path: &str) -> bool {
    let write = testbed.write(domid, path, "value");
    assert_eq!(write, testbed.mkdir(domid, path));
    assert!(write == ok() || write == error("EACCES"));
    write.is_ok()
}

#[test]
fn the_control_domain_may_do_everything() {
    let mut testbed = with_node("n1");
    assert!(can_read(&mut testbed, 0, "/n") && can_write(&mut testbed, 0, "/n"));
    assert_eq!(testbed.set_perms(0, "/n", "n2 b3"), ok());
    assert_eq!(testbed.rm(0, "/n"), ok());
}

#[test]
fn the_letters_say_what_other_domains_may_do() {
    for (letter, reads, writes) in [('n', false, false), ('r', true, false), ('w', false, true), ('b', true, true)] {
        let mut testbed = with_node(&format!("{letter}0"));
        assert_eq!(can_read(&mut testbed, 1, "/n"), reads, "{letter}");
        assert_eq!(can_write(&mut testbed, 1, "/n"), writes, "{letter}");
        let mut testbed = with_node(&format!("n0 {letter}1"));
        assert_eq!(can_read(&mut testbed, 1, "/n"), reads, "{letter}");
        assert_eq!(can_write(&mut testbed, 1, "/n"), writes, "{letter}");
        assert!(!can_read(&mut testbed, 2, "/n") && !can_write(&mut testbed, 2, "/n"));
    }
}

#[test]
fn the_owner_may_do_everything_whatever_the_letters() {
    let mut testbed = with_node("n1 n1");
    assert!(can_read(&mut testbed, 1, "/n") && can_write(&mut testbed, 1, "/n"));
    assert_eq!(testbed.set_perms(1, "/n", "n1 r2"), ok());
    assert!(can_read(&mut testbed, 2, "/n"));
}

#[test]
fn the_first_entry_that_names_a_domain_decides_alone() {
    let mut testbed = with_node("b0 r1 b1 n2");
    assert!(can_read(&mut testbed, 1, "/n") && !can_write(&mut testbed, 1, "/n"));
    assert!(!can_read(&mut testbed, 2, "/n") && !can_write(&mut testbed, 2, "/n"));
    assert!(can_read(&mut testbed, 3, "/n") && can_write(&mut testbed, 3, "/n"));
}

#[test]
fn a_readable_node_below_an_unreadable_one_can_be_read() {
    let mut testbed = with_node("n0");
    testbed.set_perms(0, "/n/child", "r0").unwrap();
    assert!(!can_read(&mut testbed, 1, "/n") && can_read(&mut testbed, 1, "/n/child"));
}

#[test]
fn reading_a_missing_node_gives_enoent_only_if_the_nearest_node_above_is_readable() {
    for (letter, expected) in [('n', "EACCES"), ('w', "EACCES"), ('r', "ENOENT"), ('b', "ENOENT")] {
        let mut testbed = with_node(&format!("{letter}0"));
        for path in ["/n/missing", "/n/missing/deep/down"] {
            assert_eq!(testbed.read(1, path), error(expected), "{letter}");
            assert_eq!(testbed.directory(1, path), error(expected));
            assert_eq!(testbed.get_perms(1, path), error(expected));
            assert_eq!(testbed.request(1, MessageType::DirectoryPart, format!("{path}\x000\0")), error(expected));
        }
        assert_eq!(testbed.read(1, "/n/child"), error("EACCES"), "an existing node is never missing");
        assert_eq!(testbed.read(1, "/n/child/missing"), error("EACCES"));
        assert_eq!(testbed.read(0, "/n/missing"), error("ENOENT"));
    }
}

#[test]
fn making_a_node_needs_write_on_the_nearest_node_above() {
    for (letter, expected) in [('n', error("EACCES")), ('r', error("EACCES")), ('w', ok()), ('b', ok())] {
        let mut testbed = with_node(&format!("{letter}0"));
        assert_eq!(testbed.write(1, "/n/a/b", "x"), expected, "{letter}");
        assert_eq!(testbed.mkdir(1, "/n/c/d"), expected, "{letter}");
        assert_eq!(testbed.write(1, "/n/child/e", "x"), error("EACCES"), "the nearest node decides, not one above it");
        testbed.check();
    }
}

#[test]
fn removing_needs_write_on_the_node_alone() {
    let mut testbed = with_node("n0");
    testbed.set_perms(0, "/n/child", "n0 w1").unwrap();
    testbed.write(0, "/n/child/below", "").unwrap();
    testbed.set_perms(0, "/n/child/below", "n0").unwrap();
    assert_eq!(testbed.rm(1, "/n"), error("EACCES"));
    assert_eq!(testbed.rm(1, "/n/child/below"), error("EACCES"));
    assert_eq!(testbed.rm(1, "/n/child"), ok(), "neither parent nor children matter");
    assert_eq!(testbed.directory(0, "/n"), Ok(vec![]));
    testbed.check();
}

#[test]
fn removing_a_missing_node_reveals_nothing_to_domains_without_rights_above() {
    let mut testbed = with_node("n0 w1");
    assert_eq!(testbed.rm(1, "/n/missing"), ok());
    assert_eq!(testbed.rm(1, "/n/missing/deep"), error("ENOENT"), "its parent is missing");
    assert_eq!(testbed.rm(2, "/n/missing"), error("EACCES"));
    assert_eq!(testbed.rm(2, "/n/missing/deep"), error("EACCES"));
    assert_eq!(testbed.rm(0, "/n/missing/deep"), error("ENOENT"));
}

#[test]
fn no_client_can_remove_the_root() {
    let mut testbed = with_node("n0");
    assert_eq!(testbed.rm(0, "/"), error("EINVAL"));
    assert_eq!(testbed.rm(1, "/"), error("EACCES"));
    testbed.set_perms(0, "/", "b0").unwrap();
    assert_eq!(testbed.rm(1, "/"), error("EINVAL"), "a domain that may write it learns that it is impossible");
    assert_eq!(testbed.read(0, "/n"), Ok(b"value".to_vec()));
}

#[test]
fn setting_permissions_needs_ownership_not_just_write() {
    let mut testbed = with_node("b0 b1");
    assert_eq!(testbed.set_perms(1, "/n", "b0 b1"), error("EACCES"));
    assert_eq!(testbed.set_perms(1, "/n/missing", "n1"), error("ENOENT"));
    let mut testbed = with_node("n0");
    assert_eq!(testbed.set_perms(1, "/n/missing", "n1"), error("EACCES"));
}

#[test]
fn an_unprivileged_owner_cannot_give_its_node_away() {
    let mut testbed = with_node("n1");
    testbed.set_perms(0, "/n/child", "n1").unwrap();
    let before = (testbed.nodes(1), testbed.nodes(2), testbed.nodes(0));
    for owner in ["n2", "n0", "b2 b1"] {
        assert_eq!(testbed.set_perms(1, "/n", owner), error("EPERM"), "{owner}");
    }
    for missing in ["n99", "n32752", "n65535"] {
        assert_eq!(testbed.set_perms(1, "/n", missing), error("ENOENT"), "{missing}");
        assert_eq!(testbed.set_perms(0, "/n", missing), error("ENOENT"), "{missing}");
    }
    assert_eq!((testbed.nodes(1), testbed.nodes(2), testbed.nodes(0)), before);
    assert_eq!(testbed.get_perms(1, "/n"), Ok("n1".into()));
    testbed.check();
}

#[test]
fn the_control_domain_moves_a_node_and_its_count_without_limit() {
    let mut testbed = Testbed::with_homes([1, 2]);
    testbed.fill_nodes(1, 1000);
    testbed.write(0, "/more", "").unwrap();
    assert_eq!(testbed.set_perms(0, "/more", "n1"), ok());
    assert_eq!(testbed.nodes(1), 1001);
    assert_eq!(testbed.set_perms(0, "/more", "n2"), ok());
    assert_eq!((testbed.nodes(1), testbed.nodes(2)), (1000, 2));
    testbed.check();
}

#[test]
fn set_perms_checks_number_syntax_owner_node_rights_and_ownership_in_this_order() {
    let mut testbed = with_node("n1");
    let mut set = |payload: &str| testbed.request(1, MessageType::SetPerms, payload);
    let six = "n1\0".repeat(6);
    assert_eq!(set("/n\0"), error("EINVAL"), "no entry");
    assert_eq!(set(&format!("//\0x{six}")), error("ENOSPC"), "too many, before syntax and path");
    assert_eq!(set("//\0x9\0"), error("EINVAL"), "syntax");
    assert_eq!(set("//\0n99\0"), error("ENOENT"), "no such owner, before the path");
    assert_eq!(set("//\0n1\0"), error("EINVAL"), "path");
    assert_eq!(set("/n/child\0n2\0"), error("EACCES"), "rights, before the change of owner");
    assert_eq!(set("/n\0n2\0"), error("EPERM"));
    assert_eq!(set("/n\0n1\0n99\0"), ok(), "another entry may name a missing domain");
    assert_eq!(set("/n\0n1\0r2"), ok(), "bytes after the last NUL are no entry");
    assert_eq!(testbed.get_perms(0, "/n"), Ok("n1".into()));
}

#[test]
fn only_a_letter_and_a_decimal_domid_are_an_entry() {
    let mut testbed = with_node("n1");
    for wrong in
        ["", "n", "x1", "N1", "n-1", "n+1", "n 1", "n1 ", "n0x1", "n65536", "n99999999999999999999", "1", "rn1"]
    {
        for payload in [format!("/n\0{wrong}\0"), format!("/n\0n1\0{wrong}\0")] {
            assert_eq!(testbed.request(1, MessageType::SetPerms, payload), error("EINVAL"), "{wrong:?}");
        }
    }
    assert_eq!(testbed.get_perms(0, "/n"), Ok("n1".into()));
}

#[test]
fn entries_come_back_in_order_and_with_their_letters() {
    let mut testbed = with_node("r0 w1 b2 n3 r1");
    assert_eq!(testbed.get_perms(0, "/n"), Ok("r0 w1 b2 n3 r1".into()));
}

#[test]
fn a_guests_new_nodes_inherit_the_nearest_permissions_and_are_its_own() {
    let mut testbed = with_node("b2 r3");
    let before = testbed.nodes(1);
    assert_eq!(testbed.write(1, "/n/a/b", "x"), ok());
    for path in ["/n/a", "/n/a/b"] {
        assert_eq!(testbed.get_perms(0, path), Ok("b1 r3".into()), "the letter stays: {path}");
    }
    assert_eq!(testbed.read(1, "/n/a"), Ok(vec![]), "a node on the way is empty");
    assert_eq!(testbed.nodes(1), before + 2, "nodes on the way count");
    testbed.check();
}

#[test]
fn the_control_domains_new_nodes_belong_to_the_owner_above() {
    let mut testbed = with_node("n2 r3");
    let before = (testbed.nodes(0), testbed.nodes(2));
    assert_eq!(testbed.write(0, "/n/a/b", "x"), ok());
    assert_eq!(testbed.get_perms(0, "/n/a/b"), Ok("n2 r3".into()));
    assert_eq!((testbed.nodes(0), testbed.nodes(2)), (before.0, before.1 + 2));
    testbed.check();
}

#[test]
fn an_entry_for_a_domain_that_does_not_exist_never_takes_effect() {
    let mut testbed = with_node("n0 b9");
    testbed.start(9);
    assert!(!can_read(&mut testbed, 9, "/n"));
    testbed.write(0, "/n", "written again").unwrap();
    assert!(!can_read(&mut testbed, 9, "/n") && !can_write(&mut testbed, 9, "/n"));
    let transaction = testbed.begin(0);
    testbed.write_in(0, transaction, "/n", "and again").unwrap();
    testbed.write_in(0, transaction, "/n/heir", "").unwrap();
    testbed.end(0, transaction, true).unwrap();
    testbed.write(0, "/n/heir2", "").unwrap();
    for path in ["/n", "/n/heir", "/n/heir2"] {
        assert!(!can_read(&mut testbed, 9, path), "{path}");
    }
    testbed.set_perms(0, "/n", "n0 b9").unwrap();
    assert!(
        can_read(&mut testbed, 9, "/n") && can_write(&mut testbed, 9, "/n"),
        "once it exists it can be given rights"
    );
}

#[test]
fn a_right_for_a_domain_that_exists_and_is_not_introduced_holds_when_it_is() {
    let mut testbed = Testbed::new();
    testbed.build(xenstore::store::domain::DomId(9));
    testbed.write(0, "/n", "value").unwrap();
    testbed.set_perms(0, "/n", "n0 r9").unwrap();
    testbed.write(0, "/own", "").unwrap();
    testbed.set_perms(0, "/own", "n9").unwrap();
    assert_eq!(testbed.nodes(9), 1, "its nodes count although it is not introduced");
    assert_eq!(testbed.introduce(0, 9, 1), ok());
    assert!(can_read(&mut testbed, 9, "/n") && can_write(&mut testbed, 9, "/own"));
    testbed.check();
}

#[test]
fn in_a_transaction_permissions_are_those_that_it_has_set() {
    let mut testbed = with_node("n1 r2");
    let transaction = testbed.begin(1);
    assert_eq!(testbed.set_perms_in(1, transaction, "/n", "n1 b3"), ok());
    assert_eq!(testbed.write_in(1, transaction, "/n/a", ""), ok());
    assert!(can_read(&mut testbed, 2, "/n") && !can_read(&mut testbed, 3, "/n"), "other domains do not see it yet");
    assert_eq!(testbed.end(1, transaction, true), ok());
    assert!(!can_read(&mut testbed, 2, "/n") && can_read(&mut testbed, 3, "/n/a"));
    testbed.check();
}

#[test]
fn guests_without_rights_learn_nothing_of_a_new_store() {
    let mut testbed = Testbed::with_guests([1]);
    let attempts: [Answer; 6] = [
        testbed.read(1, "/"),
        testbed.read(1, "/tool/xenstored"),
        testbed.read(1, "/no/such/node"),
        testbed.write(1, "/x", ""),
        testbed.write(1, "data", ""),
        testbed.set_perms(1, "/", "n1"),
    ];
    assert!(attempts.iter().all(|attempt| *attempt == error("EACCES")), "{attempts:?}");
    assert_eq!(testbed.directory(1, "/"), error("EACCES"));
    assert_eq!(testbed.nodes(1), 0);
}
