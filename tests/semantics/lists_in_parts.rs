//! Lists of children that clients read in parts while the directory changes.

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::limits;
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::support::items::{restore, save};
use crate::support::testbed::{Testbed, ok, strings};

/// Children whose list has several parts.
const CHILDREN: usize = 1500;

/// A part of a list: the generation, the names as bytes, and whether the part is the last.
type Part = (Vec<u8>, Vec<u8>, bool);

fn part(testbed: &mut Testbed, domid: u16, path: &str, offset: usize) -> Result<Part, String> {
    let part = testbed.request(domid, MessageType::DirectoryPart, format!("{path}\0{offset}\0"))?;
    let end = part.iter().position(|byte| *byte == 0).unwrap();
    let (generation, names) = (part[..end].to_vec(), &part[end + 1..]);
    assert!(part.len() <= limits::PAYLOAD_BYTES && names.ends_with(b"\0"));
    match names.strip_suffix(b"\0").filter(|names| names.is_empty() || names.ends_with(b"\0")) {
        Some(names) => Ok((generation, names.to_vec(), true)),
        None => Ok((generation, names.to_vec(), false)),
    }
}

/// Returns a testbed with guests, and a directory of many children that all guests may read.
fn testbed(guests: impl IntoIterator<Item = u16>) -> Testbed {
    let mut testbed = Testbed::with_homes(guests);
    let transaction = testbed.begin(0);
    testbed.mkdir_in(0, transaction, "/many").unwrap();
    testbed.set_perms_in(0, transaction, "/many", "r0").unwrap();
    for at in 0..CHILDREN {
        testbed.mkdir_in(0, transaction, &format!("/many/child-{at}")).unwrap();
    }
    testbed.end(0, transaction, true).unwrap();
    testbed
}

fn names() -> Vec<String> {
    (0..CHILDREN).map(|at| format!("child-{at}")).collect()
}

/// Reads a list as libxenstore does: it starts again if the generation changes. Calls `meanwhile` after each part but the last.
fn read_all(testbed: &mut Testbed, domid: u16, mut meanwhile: impl FnMut(&mut Testbed, usize)) -> Option<Vec<String>> {
    let (mut list, mut first) = (Vec::new(), None);
    for count in 0..100 {
        let (generation, names, is_last) = part(testbed, domid, "/many", list.len()).unwrap();
        if *first.get_or_insert_with(|| generation.clone()) != generation {
            (list, first) = (Vec::new(), None);
            continue;
        }
        list.extend_from_slice(&names);
        if is_last {
            return Some(strings(&list));
        }
        meanwhile(testbed, count);
    }
    None
}

#[test]
fn a_list_of_a_constantly_changing_directory_comes_to_its_end() {
    for domid in [0, 1] {
        let mut testbed = testbed([1]);
        let list = read_all(&mut testbed, domid, |testbed, count| {
            testbed.mkdir(0, &format!("/many/new-{count}")).unwrap();
            testbed.rm(0, &format!("/many/child-{}", CHILDREN - 1 - count)).unwrap();
        });
        assert_eq!(list, Some(names()), "the list is that at the time of the first part");
        let list = read_all(&mut testbed, domid, |_, _| {}).unwrap();
        assert!(list.contains(&"new-0".to_owned()) && list.len() == CHILDREN, "the next list is the present one");
        testbed.check();
    }
}

#[test]
fn each_part_needs_the_right_to_read_the_node_that_is_there_now() {
    let mut testbed = testbed([1]);
    let (_, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
    testbed.set_perms(0, "/many", "n0").unwrap();
    assert_eq!(part(&mut testbed, 1, "/many", names.len()), Err("EACCES".into()));
    testbed.set_perms(0, "/many", "r0").unwrap();
    assert!(part(&mut testbed, 1, "/many", names.len()).is_ok());
    testbed.rm(0, "/many").unwrap();
    testbed.set_perms(0, "/", "r0").unwrap();
    assert_eq!(part(&mut testbed, 1, "/many", names.len()), Err("ENOENT".into()));
}

#[test]
fn a_kept_list_is_dropped_after_ten_seconds() {
    for (ms, is_kept) in [(limits::LIST_KEPT_MS - 1, true), (limits::LIST_KEPT_MS, false)] {
        let mut testbed = testbed([1]);
        let before = memory(&testbed, 1);
        let (generation, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
        assert!(memory(&testbed, 1) > before + 15_000);
        testbed.mkdir(0, "/many/new").unwrap();
        testbed.pass(ms);
        assert_eq!(memory(&testbed, 1) > before, is_kept);
        let (later, ..) = part(&mut testbed, 1, "/many", names.len()).unwrap();
        assert_eq!(later == generation, is_kept, "otherwise the client starts again");
    }
}

#[test]
fn a_list_that_was_read_to_its_end_takes_no_memory() {
    let mut testbed = testbed([1]);
    let before = memory(&testbed, 1);
    read_all(&mut testbed, 1, |testbed, _| assert!(memory(testbed, 1) > before)).unwrap();
    assert_eq!(memory(&testbed, 1), before);
    testbed.pass(limits::LIST_KEPT_MS);
    assert_eq!(memory(&testbed, 1), before);
}

#[test]
fn a_short_list_is_not_kept() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.mkdir(1, "a").unwrap();
    let before = memory(&testbed, 1);
    part(&mut testbed, 1, "/local/domain/1", 0).unwrap();
    assert_eq!(memory(&testbed, 1), before);
}

#[test]
fn a_connection_keeps_the_newest_lists_and_no_more_than_its_share() {
    let mut testbed = testbed([1]);
    let before = memory(&testbed, 1);
    let (generation, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
    let one = memory(&testbed, 1) - before;
    for _ in 1..2 * limits::LISTS_KEPT {
        testbed.mkdir(0, "/many/new").unwrap();
        testbed.rm(0, "/many/new").unwrap();
        part(&mut testbed, 1, "/many", 0).unwrap();
    }
    let kept = memory(&testbed, 1) - before;
    assert_eq!(kept, limits::LISTS_KEPT * one);
    let (later, ..) = part(&mut testbed, 1, "/many", names.len()).unwrap();
    assert_ne!(later, generation, "the server has dropped the first list");
}

#[test]
fn a_guest_without_memory_for_a_list_reads_the_present_one() {
    let mut testbed = testbed([1]);
    let limit = memory(&testbed, 1) + 8000;
    testbed.request(0, MessageType::SetQuota, format!("1\0memory\0{limit}\0")).unwrap();
    let (generation, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
    assert!(memory(&testbed, 1) < limit - 7000, "the server keeps no list, and does not refuse the request");
    testbed.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut testbed, 1, "/many", names.len()).unwrap().0, generation);
    assert!(read_all(&mut testbed, 1, |_, _| {}).is_some());
}

#[test]
fn a_list_that_is_too_long_to_be_kept_is_read_as_it_is_now() {
    let mut testbed = Testbed::with_guests([1]);
    let transaction = testbed.begin(0);
    testbed.mkdir_in(0, transaction, "/many").unwrap();
    let name = "n".repeat(1000);
    for at in 0..=limits::LIST_BYTES / 1000 {
        testbed.mkdir_in(0, transaction, &format!("/many/{name}{at:03}")).unwrap();
    }
    testbed.end(0, transaction, true).unwrap();
    let (generation, names, _) = part(&mut testbed, 0, "/many", 0).unwrap();
    testbed.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut testbed, 0, "/many", names.len()).unwrap().0, generation);
    assert!(read_all(&mut testbed, 0, |_, _| {}).is_some());
}

#[test]
fn several_programs_read_a_directory_over_one_connection() {
    let mut testbed = testbed([]);
    let (first, names, _) = part(&mut testbed, 0, "/many", 0).unwrap();
    let (of_first, more, _) = part(&mut testbed, 0, "/many", names.len()).unwrap();
    testbed.mkdir(0, "/many/new").unwrap();
    let (second, others, _) = part(&mut testbed, 0, "/many", 0).unwrap();
    assert!(first == of_first && first != second);
    assert_eq!(part(&mut testbed, 0, "/many", names.len() + more.len()).unwrap().0, first);
    assert_eq!(part(&mut testbed, 0, "/many", others.len()).unwrap().0, second);
}

#[test]
fn a_transaction_reads_its_own_view_in_parts() {
    let mut testbed = Testbed::with_homes([]);
    let transaction = testbed.begin(0);
    for at in 0..CHILDREN {
        testbed.mkdir_in(0, transaction, &format!("/many/child-{at}")).unwrap();
    }
    let kind = MessageType::DirectoryPart.to_wire();
    let first = testbed.request_in(0, transaction, kind, "/many\x000\0").unwrap();
    testbed.mkdir_in(0, transaction, "/many/new").unwrap();
    let second = testbed.request_in(0, transaction, kind, "/many\x004000\0").unwrap();
    let generation = |part: &[u8]| part.split(|byte| *byte == 0).next().unwrap().to_vec();
    assert_ne!(generation(&first), generation(&second));
}

#[test]
fn a_reset_connection_has_no_lists() {
    let mut testbed = testbed([1]);
    let before = memory(&testbed, 1);
    let (generation, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
    testbed.set_word(1, Field::Connection, 1);
    testbed.signal(1);
    testbed.forget_incoming(1);
    assert_eq!(memory(&testbed, 1), before);
    testbed.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut testbed, 1, "/many", names.len()).unwrap().0, generation);
}

#[test]
fn after_a_live_update_a_client_starts_its_list_again_if_the_directory_changed() {
    for changes in [true, false] {
        let mut testbed = testbed([1]);
        let (generation, names, _) = part(&mut testbed, 1, "/many", 0).unwrap();
        let saved = save(testbed.server.engine(), &SaveOptions { now_ms: testbed.now_ms, reply: None });
        testbed.server = Server::restored(restore(&saved, &Config::default(), testbed.now_ms).unwrap());
        testbed.machine.mapped.clear();
        testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
        if changes {
            assert_eq!(testbed.mkdir(0, "/many/new"), ok());
        }
        assert_eq!(part(&mut testbed, 1, "/many", names.len()).unwrap().0 != generation, changes);
        assert!(read_all(&mut testbed, 1, |_, _| {}).is_some());
    }
}

/// Returns the bytes that the server keeps for a domain.
fn memory(testbed: &Testbed, domid: u16) -> usize {
    testbed.server.engine().memory_of(DomId(domid))
}
