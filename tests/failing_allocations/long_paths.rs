//! Many nodes with the longest paths, or very many watches. Work on all of them holds no list of them, which could be
//! larger than the free memory.

use xenstore::limits;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType as T;

use crate::Host;
use crate::support::allocator;

/// Bytes that such work may take at once: a few paths, and the position in the tree.
const WORK_BYTES: usize = 32 * 1024;

/// Returns a relative path of so many bytes that a short name below it is still allowed.
fn long() -> String {
    vec!["n".repeat(199); 10].join("/")
}

/// Fails if an allocation found no room, or if work took more at once than it may.
fn check_work(host: &mut Host, what: &str) {
    let taken = host.taken();
    println!("{what}: {taken:?}");
    assert_eq!(taken.overdrafts, 0, "{what}: {taken:?}");
    assert!(taken.peak <= WORK_BYTES, "{what}: {taken:?}");
    allocator::set_free(usize::MAX / 2);
}

fn die(host: &mut Host, domid: u16) {
    host.machine.domains.remove(&DomId(domid));
    host.work(|server, _| server.handle_domain_exception());
    host.run();
}

#[test]
fn a_domain_dies_although_the_paths_of_its_nodes_and_rights_exceed_free_memory() {
    let mut host = Host::new();
    host.start(1);
    let directory = format!("/shared/{}", long());
    let paths: Vec<_> = (0..400).map(|at| format!("{directory}/{at}")).collect();
    for (at, path) in paths.iter().enumerate() {
        host.ask(0, T::Mkdir, format!("{path}\0")).unwrap();
        host.ask(0, T::SetPerms, format!("{path}\0{}\0", if at % 2 == 0 { "n1" } else { "n0\0r1" })).unwrap();
    }
    host.taken();
    allocator::set_free(limits::PRIVILEGED_WORK_BYTES);
    die(&mut host, 1);
    check_work(&mut host, "a death");
    for (at, path) in paths.iter().enumerate() {
        let expected = if at % 2 == 0 { Err("ENOENT".into()) } else { Ok(b"n0\0".to_vec()) };
        assert_eq!(host.ask(0, T::GetPerms, format!("{path}\0")), expected);
    }
    host.check();
}

#[test]
fn a_removal_in_a_transaction_takes_no_memory_for_paths_that_exceed_free_memory() {
    for (domid, reserve) in [(0, limits::PRIVILEGED_RESERVE_BYTES), (1, limits::GUEST_RESERVE_BYTES)] {
        let mut host = Host::new();
        host.start(1);
        let directory = format!("/local/domain/1/{}", long());
        let paths: Vec<_> = (0..300).map(|at| format!("{directory}/{at}")).collect();
        for path in &paths {
            host.ask(1, T::Write, format!("{path}\0value")).unwrap();
        }
        let above = directory.rsplit_once('/').unwrap().0;
        let number = host.begin(domid);
        for path in paths.iter().map(String::as_str).chain([above, &directory]) {
            host.ask_in(domid, number, T::Read, format!("{path}\0")).unwrap();
        }
        host.taken();
        // A guest may hold as much memory as remains free.
        let held = if domid == 0 { 0 } else { host.server.engine().memory_of(DomId(domid)) };
        allocator::set_free(reserve + WORK_BYTES + held);
        assert_eq!(host.ask_in(domid, number, T::Rm, format!("{directory}\0")), Ok(b"OK\0".to_vec()));
        check_work(&mut host, &format!("a removal by domain {domid}"));
        for path in &paths {
            assert_eq!(host.ask_in(domid, number, T::Read, format!("{path}\0")), Err("ENOENT".into()));
        }
        assert_eq!(host.ask_in(domid, number, T::TransactionEnd, "T\0"), Ok(b"OK\0".to_vec()));
        assert_eq!(host.ask(domid, T::Directory, format!("{above}\0")), Ok(Vec::new()));
        host.check();
    }
}

#[test]
fn watched_nodes_are_removed_although_their_paths_exceed_free_memory() {
    for dies in [false, true] {
        let mut host = Host::new();
        (1..=5).for_each(|domid| host.start(domid));
        let directory = format!("/shared/{}", long());
        host.ask(0, T::Mkdir, format!("{directory}\0")).unwrap();
        host.ask(0, T::SetPerms, format!("{directory}\0b5\0")).unwrap();
        for at in 0..512 {
            host.ask(0, T::Mkdir, format!("{directory}/{at}\0")).unwrap();
            host.ask(1 + at / 128, T::Watch, format!("{directory}/{at}\0token\0")).unwrap();
        }
        host.taken();
        allocator::set_free(limits::PRIVILEGED_WORK_BYTES);
        if dies {
            die(&mut host, 5);
        } else {
            assert_eq!(host.ask(0, T::Rm, format!("{directory}\0")), Ok(b"OK\0".to_vec()));
        }
        check_work(&mut host, if dies { "a death" } else { "a removal" });
        assert_eq!(host.ask(0, T::Read, format!("{directory}\0")), Err("ENOENT".into()));
        host.check();
    }
}

#[test]
fn very_many_watches_on_one_path_fire_without_a_list_of_all() {
    let mut host = Host::new();
    for domid in 1..=40 {
        host.start(domid);
        for at in 0..64 {
            host.ask(domid, T::Watch, format!("/\0{at}\0")).unwrap();
            host.ask(domid, T::Watch, format!("@releaseDomain\0{at}\0")).unwrap();
        }
    }
    host.ask(0, T::Write, "/node\0value").unwrap();
    host.taken();
    allocator::set_free(limits::PRIVILEGED_WORK_BYTES);
    assert_eq!(host.ask(0, T::Write, "/node\0other"), Ok(b"OK\0".to_vec()));
    check_work(&mut host, "a write");
    allocator::set_free(limits::PRIVILEGED_WORK_BYTES);
    die(&mut host, 40);
    check_work(&mut host, "a death");
    host.check();
}
