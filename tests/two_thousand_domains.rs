//! A host with two thousand domains: created, used and gone. All counts return to zero and memory returns to its start.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::allocator::{Accounting, used_bytes};
use support::testbed::{Testbed, ok};
use xenstore::store::domain::DomId;

const DOMAINS: u16 = 2000;
const WATCHES: usize = 30;
const NODES: usize = 50;

/// Bytes that may remain: queues and buffers that keep their room for reuse.
const KEPT_BYTES: usize = 256 * 1024;

/// The growth that is allowed in later rounds: a byte for each domain's life, less than any object that could leak.
const GROWTH_BYTES: usize = DOMAINS as usize;

const ROUNDS: usize = 3;

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::exact();

fn create(testbed: &mut Testbed) {
    for domid in 1..=DOMAINS {
        testbed.start(domid);
        testbed.make_home(domid);
    }
}

/// Lets each domain set its watches, make its nodes, a few of them in a transaction, and read a neighbour's.
fn use_it(testbed: &mut Testbed) {
    for domid in 1..=DOMAINS {
        for count in 0..WATCHES {
            assert_eq!(testbed.watch(domid, &format!("data/{}", count % 7), &count.to_string()), ok());
        }
        let transaction = testbed.begin(domid);
        for count in 0..5 {
            testbed.write_in(domid, transaction, &format!("data/{count}"), "in a transaction").unwrap();
        }
        assert_eq!(testbed.end(domid, transaction, true), ok());
        // The home, "data" and the five nodes.
        for count in 5..NODES - 2 {
            assert_eq!(testbed.write(domid, &format!("data/{}/n{count}", count % 5), "value"), ok());
        }
        testbed.set_perms(domid, "data/0", &format!("n{domid} r{}", domid % DOMAINS + 1)).unwrap();
        let neighbour = if domid == 1 { DOMAINS } else { domid - 1 };
        let _ = testbed.read(domid, &format!("/local/domain/{neighbour}/data/0"));
        testbed.events(domid);
        testbed.forget_incoming(domid);
    }
    // This transaction remains open. It comes last, as writes cost credits while a transaction is open.
    for domid in 1..=DOMAINS {
        testbed.begin(domid);
    }
}

/// Ends all domains: a third dies one by one, a third is released, and the rest dies at once.
fn destroy(testbed: &mut Testbed) {
    for domid in 1..=DOMAINS {
        match domid % 3 {
            0 => testbed.kill(domid),
            1 => assert_eq!(testbed.release(0, domid), ok()),
            _ => {}
        }
    }
    for domid in 1..=DOMAINS {
        testbed.machine.domains.remove(&DomId(domid));
        testbed.machine.pages.remove(&DomId(domid));
        testbed.forget_incoming(domid);
    }
    testbed.server.handle_domain_exception();
    testbed.run();
    testbed.rm(0, "/local").unwrap();
    // The times of dead domains' events are forgotten after their expiry.
    testbed.pass(30_000);
}

#[test]
fn two_thousand_domains_come_and_go_and_leave_nothing() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.forget_incoming(0);
    let begin = used_bytes();
    let (nodes, memory) = (testbed.nodes(0), testbed.server.engine().memory_of(DomId::DOM0));

    let mut after = Vec::new();
    for round in 1..=ROUNDS {
        create(&mut testbed);
        use_it(&mut testbed);
        let engine = testbed.server.engine();
        let (domains, watches) = (engine.state().domains.iter().count(), engine.state().watches.len());
        assert_eq!((domains, watches), (usize::from(DOMAINS) + 1, usize::from(DOMAINS) * WATCHES + 1));
        for domid in 1..=DOMAINS {
            assert_eq!(testbed.nodes(domid), NODES as u64, "domain {domid}");
        }
        testbed.check();
        println!(
            "round {round}: {DOMAINS} domains with {WATCHES} watches and {NODES} nodes each take {} KiB",
            (used_bytes() - begin) / 1024
        );

        destroy(&mut testbed);
        assert!(!testbed.events(0).is_empty());
        testbed.forget_incoming(0);
        testbed.check();
        let engine = testbed.server.engine();
        assert_eq!(engine.state().domains.iter().count(), 1);
        assert_eq!(engine.state().watches.len(), 1);
        assert_eq!(engine.open_transactions(), (0, 0));
        assert_eq!(engine.rings_and_ports(), (1, 1));
        assert_eq!((testbed.nodes(0), engine.memory_of(DomId::DOM0)), (nodes, memory));
        assert!(testbed.machine.mapped.len() == 1 && testbed.machine.bound.len() == 1);
        after.push(used_bytes());
    }
    let kept: Vec<usize> = after.iter().map(|after| after.saturating_sub(begin)).collect();
    println!("bytes kept after each round: {kept:?}");
    assert!(kept.iter().all(|kept| *kept < KEPT_BYTES), "{kept:?}");
    assert!(kept[ROUNDS - 1] <= kept[0] + GROWTH_BYTES, "{kept:?}");
}
