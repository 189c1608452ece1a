//! Many guests that together want more memory than there is, in every way that there is, and read nothing. No
//! allocation finds the heap full, and dom0 can list all, remove all and destroy all.

use xenstore::limits;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType as T;

use crate::Host;
use crate::support::allocator;

/// Guests. Each stays far below its own quotas.
const GUESTS: u16 = 200;
/// Bytes that are free when all guests exist.
const FREE_BYTES: usize = 4 * 1024 * 1024;
/// Transactions of each guest.
const TRANSACTIONS: usize = 5;

/// Fails if an allocation found no room. Prints the free memory.
fn report(host: &mut Host, what: &str) {
    let taken = host.taken();
    println!("{what}: {} bytes free, {} allocations", allocator::free_bytes(), taken.allocations);
    assert_eq!(taken.overdrafts, 0, "{what}: {taken:?}");
}

/// Returns guests with open transactions, and nodes in a common directory, which all guests watch.
fn crowd() -> (Host, Vec<Vec<u32>>) {
    let mut host = Host::new();
    host.ask(0, T::Write, "/shared\0").unwrap();
    host.ask(0, T::SetPerms, "/shared\0b0\0").unwrap();
    host.ask(0, T::Watch, "/shared\0dom0\0").unwrap();
    host.ask(0, T::Watch, "/local\0dom0\0").unwrap();
    let mut transactions = Vec::new();
    for domid in 1..=GUESTS {
        host.start(domid);
        host.ask(0, T::Mkdir, format!("/shared/{domid}\0")).unwrap();
        host.ask(0, T::SetPerms, format!("/shared/{domid}\0r{domid}\0")).unwrap();
        for at in 0..3 {
            host.ask(domid, T::Write, format!("/shared/{domid}/{at}{}\0value", "n".repeat(200))).unwrap();
        }
    }
    for domid in 1..=GUESTS {
        host.ask(domid, T::Watch, "/shared\0token\0").unwrap();
        transactions.push((0..TRANSACTIONS).map(|_| host.begin(domid)).collect());
    }
    host.taken();
    allocator::set_free(FREE_BYTES);
    (host, transactions)
}

/// Lets guests write until they are refused.
fn fill(host: &mut Host) {
    let mut at = 0;
    let mut is_refused = false;
    while !is_refused {
        for domid in 1..=GUESTS {
            // Dom0 reads its events. Otherwise the guests would be held back.
            host.take(0);
            is_refused |= host.ask(domid, T::Write, format!("fill{at}\0{}", "v".repeat(500))) == Err("ENOSPC".into());
        }
        at += 1;
    }
    report(host, "filled");
    assert!(allocator::free_bytes() >= limits::GUEST_RESERVE_BYTES - 64 * 1024);
}

/// Sends requests in transactions that are refused and would be kept for a replay.
fn refused_in_transactions(host: &mut Host, transactions: &[Vec<u32>]) {
    let before = allocator::free_bytes();
    for (domid, numbers) in (1..).zip(transactions) {
        for number in numbers {
            for at in 0..8 {
                let answer = host.ask_in(domid, *number, T::Write, format!("t{at}\0{}", "v".repeat(1900)));
                assert_eq!(answer, Err("ENOSPC".into()));
            }
        }
    }
    report(host, "refused in transactions");
    assert!(allocator::free_bytes() + 64 * 1024 >= before, "a refusal takes no memory");
}

/// Sends writes that need no memory and whose events no guest reads.
fn events(host: &mut Host) {
    for domid in 0..=GUESTS {
        host.stall(domid);
    }
    for round in 0..4 {
        for domid in 1..=GUESTS {
            let path = format!("/shared/{domid}/{}{}", round % 3, "n".repeat(200));
            host.send(domid, 0, T::Write, format!("{path}\0short").as_bytes());
        }
        // Some guests were held back for their writes.
        host.now_ms += 500;
        host.run();
    }
    report(host, "unread events");
}

/// Sends the beginnings of long requests.
fn half_sent(host: &mut Host) {
    for domid in 1..=GUESTS {
        let header = [T::Write.to_wire(), 77, 0, 4096].map(u32::to_le_bytes).concat();
        host.go_on(domid);
        host.send_bytes(domid, &header);
        host.send_bytes(domid, b"half/");
        host.stall(domid);
    }
    // The server has read from all guests by then.
    host.now_ms += 2000;
    host.run();
    report(host, "half-sent requests");
}

/// Removes everything, and destroys every guest.
fn clean_up(host: &mut Host) {
    host.go_on(0);
    let mut open = vec![String::new()];
    let mut found = 0;
    while let Some(path) = open.pop() {
        let full = if path.is_empty() { "/" } else { &path };
        let names = list(host, full);
        host.ask(0, T::Read, format!("{full}\0")).unwrap();
        host.ask(0, T::GetPerms, format!("{full}\0")).unwrap();
        open.extend(names.into_iter().map(|name| format!("{path}/{name}")));
        found += 1;
    }
    report(host, &format!("{found} nodes listed"));
    for domid in 1..=GUESTS {
        host.ask(0, T::Rm, format!("/local/domain/{domid}\0")).unwrap();
        if domid % 2 == 0 {
            host.ask(0, T::Release, format!("{domid}\0")).unwrap();
        } else {
            host.machine.domains.remove(&DomId(domid));
            host.work(|server, _| server.handle_domain_exception());
            host.run();
        }
    }
    host.ask(0, T::Rm, "/shared\0").unwrap();
    assert_eq!(host.ask(0, T::Control, "check\0"), Ok(b"OK\0".to_vec()));
    report(host, "all removed");
    assert_eq!(host.server.engine().rings_and_ports(), (1, 1));
    host.check();
}

/// Returns the names of a node's children, in parts if they do not fit into a message.
fn list(host: &mut Host, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let part = host.ask(0, T::DirectoryPart, format!("{path}\0{offset}\0")).unwrap();
        let start = part.iter().position(|byte| *byte == 0).unwrap() + 1;
        let part = &part[start..];
        let is_last = part.ends_with(b"\0\0") || part == b"\0";
        names.extend(
            part.split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
                .map(|name| String::from_utf8(name.to_vec()).unwrap()),
        );
        offset += part.len();
        if is_last {
            return names;
        }
    }
}

#[test]
fn guests_that_exhaust_their_memory_leave_dom0_what_it_needs() {
    let (mut host, transactions) = crowd();
    let before = allocator::free_bytes();
    fill(&mut host);
    refused_in_transactions(&mut host, &transactions);
    events(&mut host);
    half_sent(&mut host);
    clean_up(&mut host);
    assert!(allocator::free_bytes() > before, "all memory of the guests is free again");
}

#[test]
fn dom0_can_list_and_remove_after_it_has_used_up_its_share() {
    let mut host = Host::new();
    allocator::set_free(limits::PRIVILEGED_RESERVE_BYTES + 64 * 1024);
    let mut made = 0;
    while host.ask(0, T::Write, format!("/made/{made:060}\0{}", "v".repeat(300))).is_ok() {
        made += 1;
    }
    report(&mut host, &format!("{made} nodes made"));
    assert!(made > 10);
    assert_eq!(list(&mut host, "/made").len(), made);
    assert_eq!(host.ask(0, T::Read, "/made/".to_owned() + &"0".repeat(60) + "\0").unwrap().len(), 300);
    assert_eq!(host.ask(0, T::Rm, "/made\0"), Ok(b"OK\0".to_vec()));
    assert_eq!(host.ask(0, T::Write, "/made\0value"), Ok(b"OK\0".to_vec()));
    report(&mut host, "removed");
}
