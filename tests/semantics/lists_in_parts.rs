//! Lists of children that clients read in parts while the directory changes.

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::limits;
use xenstore::server::Server;
use xenstore::server::take_over::TakeOver;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::items::{restore, save};
use crate::world::{World, ok, strings};

/// Children whose list has several parts.
const CHILDREN: usize = 1500;

/// A part of a list: the generation, the names as bytes, and whether they are the last ones.
type Part = (Vec<u8>, Vec<u8>, bool);

fn part(world: &mut World, domid: u16, path: &str, offset: usize) -> Result<Part, String> {
    let part = world.request(domid, MessageType::DirectoryPart, format!("{path}\0{offset}\0"))?;
    let end = part.iter().position(|byte| *byte == 0).unwrap();
    let (generation, names) = (part[..end].to_vec(), &part[end + 1..]);
    assert!(part.len() <= limits::PAYLOAD_BYTES && names.ends_with(b"\0"));
    match names.strip_suffix(b"\0").filter(|names| names.is_empty() || names.ends_with(b"\0")) {
        Some(names) => Ok((generation, names.to_vec(), true)),
        None => Ok((generation, names.to_vec(), false)),
    }
}

/// Makes a testbed with guests, and a directory of many children that all guests may read.
fn world(guests: impl IntoIterator<Item = u16>) -> World {
    let mut world = World::with_homes(guests);
    let transaction = world.begin(0);
    world.mkdir_in(0, transaction, "/many").unwrap();
    world.set_perms_in(0, transaction, "/many", "r0").unwrap();
    for at in 0..CHILDREN {
        world.mkdir_in(0, transaction, &format!("/many/child-{at}")).unwrap();
    }
    world.end(0, transaction, true).unwrap();
    world
}

fn names() -> Vec<String> {
    (0..CHILDREN).map(|at| format!("child-{at}")).collect()
}

/// Reads a list as libxenstore does: it starts again if the generation changes. Calls `meanwhile` after each part but the last.
fn read_all(world: &mut World, domid: u16, mut meanwhile: impl FnMut(&mut World, usize)) -> Option<Vec<String>> {
    let (mut list, mut first) = (Vec::new(), None);
    for count in 0..100 {
        let (generation, names, is_last) = part(world, domid, "/many", list.len()).unwrap();
        if *first.get_or_insert_with(|| generation.clone()) != generation {
            (list, first) = (Vec::new(), None);
            continue;
        }
        list.extend_from_slice(&names);
        if is_last {
            return Some(strings(&list));
        }
        meanwhile(world, count);
    }
    None
}

#[test]
fn a_list_of_a_directory_that_changes_all_the_time_comes_to_its_end() {
    for domid in [0, 1] {
        let mut world = world([1]);
        let list = read_all(&mut world, domid, |world, count| {
            world.mkdir(0, &format!("/many/new-{count}")).unwrap();
            world.rm(0, &format!("/many/child-{}", CHILDREN - 1 - count)).unwrap();
        });
        assert_eq!(list, Some(names()), "the list is that of the first part's time");
        let list = read_all(&mut world, domid, |_, _| {}).unwrap();
        assert!(list.contains(&"new-0".to_owned()) && list.len() == CHILDREN, "the next list is the present one");
        world.check();
    }
}

#[test]
fn each_part_needs_the_right_to_read_the_node_that_is_there_now() {
    let mut world = world([1]);
    let (_, names, _) = part(&mut world, 1, "/many", 0).unwrap();
    world.set_perms(0, "/many", "n0").unwrap();
    assert_eq!(part(&mut world, 1, "/many", names.len()), Err("EACCES".into()));
    world.set_perms(0, "/many", "r0").unwrap();
    assert!(part(&mut world, 1, "/many", names.len()).is_ok());
    world.rm(0, "/many").unwrap();
    world.set_perms(0, "/", "r0").unwrap();
    assert_eq!(part(&mut world, 1, "/many", names.len()), Err("ENOENT".into()));
}

#[test]
fn a_kept_list_is_dropped_after_ten_seconds() {
    for (ms, is_kept) in [(limits::LIST_KEPT_MS - 1, true), (limits::LIST_KEPT_MS, false)] {
        let mut world = world([1]);
        let before = memory(&world, 1);
        let (generation, names, _) = part(&mut world, 1, "/many", 0).unwrap();
        assert!(memory(&world, 1) > before + 15_000);
        world.mkdir(0, "/many/new").unwrap();
        world.pass(ms);
        assert_eq!(memory(&world, 1) > before, is_kept);
        let (later, ..) = part(&mut world, 1, "/many", names.len()).unwrap();
        assert_eq!(later == generation, is_kept, "otherwise the client starts again");
    }
}

#[test]
fn a_list_that_was_read_to_its_end_takes_no_memory() {
    let mut world = world([1]);
    let before = memory(&world, 1);
    read_all(&mut world, 1, |world, _| assert!(memory(world, 1) > before)).unwrap();
    assert_eq!(memory(&world, 1), before);
    world.pass(limits::LIST_KEPT_MS);
    assert_eq!(memory(&world, 1), before);
}

#[test]
fn a_short_list_is_not_kept() {
    let mut world = World::with_homes([1]);
    world.mkdir(1, "a").unwrap();
    let before = memory(&world, 1);
    part(&mut world, 1, "/local/domain/1", 0).unwrap();
    assert_eq!(memory(&world, 1), before);
}

#[test]
fn a_connection_keeps_the_newest_lists_and_no_more_than_its_share() {
    let mut world = world([1]);
    let before = memory(&world, 1);
    let (generation, names, _) = part(&mut world, 1, "/many", 0).unwrap();
    let one = memory(&world, 1) - before;
    for _ in 1..2 * limits::LISTS_KEPT {
        world.mkdir(0, "/many/new").unwrap();
        world.rm(0, "/many/new").unwrap();
        part(&mut world, 1, "/many", 0).unwrap();
    }
    let kept = memory(&world, 1) - before;
    assert_eq!(kept, limits::LISTS_KEPT * one);
    let (later, ..) = part(&mut world, 1, "/many", names.len()).unwrap();
    assert_ne!(later, generation, "the server has dropped the first list");
}

#[test]
fn a_guest_without_memory_for_a_list_reads_the_present_one() {
    let mut world = world([1]);
    let limit = memory(&world, 1) + 8000;
    world.request(0, MessageType::SetQuota, format!("1\0memory\0{limit}\0")).unwrap();
    let (generation, names, _) = part(&mut world, 1, "/many", 0).unwrap();
    assert!(memory(&world, 1) < limit - 7000, "the server keeps no list, and does not refuse the request");
    world.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut world, 1, "/many", names.len()).unwrap().0, generation);
    assert!(read_all(&mut world, 1, |_, _| {}).is_some());
}

#[test]
fn a_list_that_is_too_long_to_be_kept_is_read_as_it_is_now() {
    let mut world = World::with_guests([1]);
    let transaction = world.begin(0);
    world.mkdir_in(0, transaction, "/many").unwrap();
    let name = "n".repeat(1000);
    for at in 0..=limits::LIST_BYTES / 1000 {
        world.mkdir_in(0, transaction, &format!("/many/{name}{at:03}")).unwrap();
    }
    world.end(0, transaction, true).unwrap();
    let (generation, names, _) = part(&mut world, 0, "/many", 0).unwrap();
    world.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut world, 0, "/many", names.len()).unwrap().0, generation);
    assert!(read_all(&mut world, 0, |_, _| {}).is_some());
}

#[test]
fn several_programs_read_a_directory_over_one_connection() {
    let mut world = world([]);
    let (first, names, _) = part(&mut world, 0, "/many", 0).unwrap();
    let (of_first, more, _) = part(&mut world, 0, "/many", names.len()).unwrap();
    world.mkdir(0, "/many/new").unwrap();
    let (second, others, _) = part(&mut world, 0, "/many", 0).unwrap();
    assert!(first == of_first && first != second);
    assert_eq!(part(&mut world, 0, "/many", names.len() + more.len()).unwrap().0, first);
    assert_eq!(part(&mut world, 0, "/many", others.len()).unwrap().0, second);
}

#[test]
fn a_transaction_reads_its_own_view_in_parts() {
    let mut world = World::with_homes([]);
    let transaction = world.begin(0);
    for at in 0..CHILDREN {
        world.mkdir_in(0, transaction, &format!("/many/child-{at}")).unwrap();
    }
    let kind = MessageType::DirectoryPart.to_wire();
    let first = world.request_in(0, transaction, kind, "/many\x000\0").unwrap();
    world.mkdir_in(0, transaction, "/many/new").unwrap();
    let second = world.request_in(0, transaction, kind, "/many\x004000\0").unwrap();
    let generation = |part: &[u8]| part.split(|byte| *byte == 0).next().unwrap().to_vec();
    assert_ne!(generation(&first), generation(&second));
}

#[test]
fn a_fresh_session_has_no_lists() {
    let mut world = world([1]);
    let before = memory(&world, 1);
    let (generation, names, _) = part(&mut world, 1, "/many", 0).unwrap();
    world.set_word(1, Field::Connection, 1);
    world.signal(1);
    world.forget_incoming(1);
    assert_eq!(memory(&world, 1), before);
    world.mkdir(0, "/many/new").unwrap();
    assert_ne!(part(&mut world, 1, "/many", names.len()).unwrap().0, generation);
}

#[test]
fn after_a_live_update_a_client_starts_its_list_again_if_the_directory_changed() {
    for changes in [true, false] {
        let mut world = world([1]);
        let (generation, names, _) = part(&mut world, 1, "/many", 0).unwrap();
        let saved = save(world.server.engine(), &SaveOptions { now_ms: world.now_ms, reply: None });
        world.server = Server::restored(restore(&saved, &Config::default(), world.now_ms).unwrap());
        world.machine.mapped.clear();
        world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
        if changes {
            assert_eq!(world.mkdir(0, "/many/new"), ok());
        }
        assert_eq!(part(&mut world, 1, "/many", names.len()).unwrap().0 != generation, changes);
        assert!(read_all(&mut world, 1, |_, _| {}).is_some());
    }
}

/// Returns the bytes that the server keeps for a domain.
fn memory(world: &World, domid: u16) -> usize {
    world.server.engine().memory_of(DomId(domid))
}
