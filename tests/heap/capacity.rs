//! A domain of 8 MiB with a hundred guests: how many nodes it holds, and that it still serves when it is full.

use xenstore::limits;
use xenstore::wire::header::MessageType as T;

use crate::Host;
use crate::heap::{free_bytes, largest_asked, largest_block, set_size, usage};
use crate::support::random::Random;

/// Bytes of the heap of a domain of 8 MiB, including the part that is set apart, rounded down from 7,587,328.
const HEAP_BYTES: usize = 7_500_000;
const GUESTS: u16 = 100;
/// The least number of nodes that the domain must hold.
const NODES: usize = 25_000;
/// Requests of dom0 whose replies it does not read, within the limit until it is held back.
const UNREAD: usize = 6000;
/// Leaves of a directory.
const LEAVES: usize = 9;
/// Nodes of a guest's transaction of the largest size.
const LARGE_TRANSACTION: usize = 980;

/// Returns a name of 8 bytes for a directory.
fn directory(at: usize) -> String {
    format!("device{at:02}")
}

/// Makes one more directory of ten nodes for each guest. Half of the leaves have a second permission. A refusal ends
/// it. Returns how many nodes were made.
fn grow(host: &mut Host, at: usize) -> Result<usize, usize> {
    let mut made = 0;
    for domid in 1..=GUESTS {
        // Dom0 gets an event of every change, and reads.
        host.take(0);
        for leaf in 0..LEAVES {
            let path = format!("{}/nodena{leaf:02}", directory(at));
            match host.ask(domid, T::Write, format!("{path}\x000123456789abcdef")) {
                Ok(_) => made += if leaf == 0 { 2 } else { 1 },
                Err(error) => {
                    assert_eq!(error, "ENOSPC");
                    return Err(made);
                }
            }
            if leaf % 2 == 1 {
                let peer = domid % GUESTS + 1;
                let answer = host.ask(domid, T::SetPerms, format!("{path}\0n{domid}\0r{peer}\0"));
                assert!(answer.is_ok() || answer == Err("ENOSPC".into()), "{answer:?}");
            }
        }
    }
    Ok(made)
}

/// Starts guests, whose directories then take all memory that guests may take. Returns the number of nodes.
fn fill(host: &mut Host) -> usize {
    (1..=GUESTS).for_each(|domid| host.start(domid));
    host.ask(0, T::Watch, "/local\0dom0\0").unwrap();
    let with_guests = usage();
    let mut nodes = 0;
    for at in 0.. {
        match grow(host, at) {
            Ok(made) => nodes += made,
            Err(made) => {
                nodes += made;
                break;
            }
        }
        if at == 24 {
            let bytes = (usage().used - with_guests.used) as f64 / nodes as f64;
            println!("{nodes} nodes: {bytes:.1} bytes each, {} bytes free, largest {}", free_bytes(), largest_block());
        }
    }
    host.take(0);
    println!("full with {nodes} nodes: {:?}, largest {}, guests took {}", usage(), largest_block(), with_guests.used);
    nodes
}

#[test]
fn an_8_mib_domain_holds_25000_nodes_of_100_guests_and_still_serves_when_full() {
    set_size(HEAP_BYTES);
    let mut host = Host::new();
    let nodes = fill(&mut host);
    assert!(nodes >= NODES, "{nodes}");
    let left = free_bytes();
    assert!(left < limits::GUEST_RESERVE_BYTES + 64 * 1024, "the domain was not full");
    for domid in 1..=GUESTS {
        let path = format!("{}/nodena00", directory(usize::from(domid) % 25));
        assert_eq!(host.ask(domid, T::Read, format!("{path}\0")), Ok(b"0123456789abcdef".to_vec()));
        assert_eq!(host.ask(domid, T::Write, format!("{path}\0fedcba9876543210")), Ok(b"OK\0".to_vec()));
        assert_eq!(host.ask(domid, T::Write, format!("new{domid}\0{}", "v".repeat(1900))), Err("ENOSPC".into()));
    }
    // Removed nodes make room for growth.
    for domid in 1..=GUESTS {
        host.take(0);
        host.ask(domid, T::Rm, format!("{}\0", directory(0))).unwrap();
    }
    assert_eq!(host.ask(1, T::Write, "again\0value"), Ok(b"OK\0".to_vec()));
    assert_eq!(host.ask(0, T::Control, "check\0"), Ok(b"OK\0".to_vec()));
    for domid in 1..=GUESTS {
        host.take(0);
        host.ask(0, T::Rm, format!("/local/domain/{domid}\0")).unwrap();
        host.ask(0, T::Release, format!("{domid}\0")).unwrap();
    }
    host.take(0);
    println!("all removed: {:?}, largest {}, asked {}", usage(), largest_block(), largest_asked());
    assert!(largest_block() > HEAP_BYTES / 4, "freed memory is in large blocks again");
    host.check();
}

/// Lets guests change their nodes for a long time at the limit: other sizes, removed and new directories, transactions.
fn churn(host: &mut Host, rounds: usize) {
    let mut random = Random::new(1);
    for round in 0..rounds {
        let domid = 1 + random.below(usize::from(GUESTS)) as u16;
        let at = directory(random.below(30));
        let path = format!("{at}/nodena{:02}", random.below(LEAVES));
        let bytes = *random.one_of(&[0, 5, 16, 31, 60, 200, 1900]);
        let value = "v".repeat(bytes);
        let answer = match random.below(8) {
            0 => host.ask(domid, T::Rm, format!("{at}\0")),
            1 => host.ask(domid, T::Watch, format!("{path}\0{round}\0")),
            2 => host.ask(domid, T::ResetWatches, "\0"),
            3 => host.ask(domid, T::TransactionStart, "\0").and_then(|number| {
                let number = String::from_utf8_lossy(&number).trim_end_matches('\0').parse().unwrap();
                let answers = [
                    host.ask_in(domid, number, T::Read, format!("{path}\0")),
                    host.ask_in(domid, number, T::Write, format!("{path}\0{value}")),
                    host.ask_in(domid, number, T::TransactionEnd, "T\0"),
                ];
                answers.into_iter().find(Result::is_err).unwrap_or(Ok(Vec::new()))
            }),
            _ => host.ask(domid, T::Write, format!("{path}\0{value}")),
        };
        if let Err(error) = answer {
            assert!(matches!(&*error, "ENOSPC" | "ENOENT" | "EEXIST" | "EAGAIN"), "{error}");
        }
        host.take(domid);
        host.take(0);
    }
}

/// Opens a transaction of a guest and changes as many nodes as it may.
fn large_transaction(host: &mut Host, domid: u16) -> u32 {
    host.start(domid);
    for at in 0..LARGE_TRANSACTION {
        host.ask(domid, T::Write, format!("{}/{at:08}\0value", at / 100)).unwrap();
    }
    let number = host.begin(domid);
    for at in 0..LARGE_TRANSACTION {
        host.ask_in(domid, number, T::Write, format!("{}/{at:08}\0other", at / 100)).unwrap();
    }
    number
}

#[test]
fn after_a_long_history_at_the_limit_no_allocation_fails() {
    set_size(HEAP_BYTES);
    let mut host = Host::new();
    let number = large_transaction(&mut host, GUESTS + 1);
    fill(&mut host);
    for _ in 0..5 {
        churn(&mut host, 3000);
        println!("{:?}, largest {}, asked {}", usage(), largest_block(), largest_asked());
    }
    assert_eq!(host.ask_in(GUESTS + 1, number, T::TransactionEnd, "T\0"), Ok(b"OK\0".to_vec()));
    println!("committed: {:?}, largest {}, asked {}", usage(), largest_block(), largest_asked());
    // No client reads its events.
    host.stall(0);
    for round in 0..20 {
        for domid in 1..=GUESTS {
            let path = format!("{}/nodena01", directory(2 + round));
            host.send(domid, 0, T::Write, format!("{path}\0{round:016}").as_bytes());
        }
    }
    for _ in 0..UNREAD {
        host.send(0, 0, T::Write, b"/local\0");
    }
    println!("unread: {:?}, largest {}, asked {}", usage(), largest_block(), largest_asked());
    host.go_on(0);
    host.take(0);
    assert_eq!(host.ask(0, T::Rm, "/local\0"), Ok(b"OK\0".to_vec()));
    println!("removed: {:?}, largest {}, asked {}", usage(), largest_block(), largest_asked());
    host.check();
}
