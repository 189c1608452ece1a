//! A host with two thousand domains: created, used and gone. All counts return to zero and memory returns to its start.
#![allow(missing_docs, reason = "a test")]

#[path = "semantics/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
#[path = "semantics/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;
#[path = "semantics/world.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use world::{World, ok};
use xenstore::store::domain::DomId;

const DOMAINS: u16 = 2000;
const WATCHES: usize = 30;
const NODES: usize = 50;

/// What may stay: queues and buffers that keep their room for the next time.
const KEPT_BYTES: usize = 256 * 1024;

/// By how much that may grow in later rounds, in all: a byte in each domain's life, and there are more bytes in anything
/// that could leak.
const GROWTH_BYTES: usize = DOMAINS as usize;

const ROUNDS: usize = 3;

/// Counts the bytes that are allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

fn create(world: &mut World) {
    for domid in 1..=DOMAINS {
        world.start(domid);
        world.make_home(domid);
    }
}

/// Each domain sets its watches and makes its nodes, a few of them in a transaction, and looks at a neighbour's.
fn use_it(world: &mut World) {
    for domid in 1..=DOMAINS {
        for count in 0..WATCHES {
            assert_eq!(world.watch(domid, &format!("data/{}", count % 7), &count.to_string()), ok());
        }
        let transaction = world.begin(domid);
        for count in 0..5 {
            world.write_in(domid, transaction, &format!("data/{count}"), "in a transaction").unwrap();
        }
        assert_eq!(world.end(domid, transaction, true), ok());
        // The home, "data" and the five are there.
        for count in 5..NODES - 2 {
            assert_eq!(world.write(domid, &format!("data/{}/n{count}", count % 5), "value"), ok());
        }
        world.set_perms(domid, "data/0", &format!("n{domid} r{}", domid % DOMAINS + 1)).unwrap();
        let neighbour = if domid == 1 { DOMAINS } else { domid - 1 };
        let _ = world.read(domid, &format!("/local/domain/{neighbour}/data/0"));
        world.events(domid);
        world.forget_incoming(domid);
    }
    // Left open. While any is, writing is rationed, so that it comes last.
    for domid in 1..=DOMAINS {
        world.begin(domid);
    }
}

/// A third dies one by one, a third is released, and the rest dies at once.
fn destroy(world: &mut World) {
    for domid in 1..=DOMAINS {
        match domid % 3 {
            0 => world.kill(domid),
            1 => assert_eq!(world.release(0, domid), ok()),
            _ => {}
        }
    }
    for domid in 1..=DOMAINS {
        world.machine.domains.remove(&DomId(domid));
        world.machine.pages.remove(&DomId(domid));
        world.forget_incoming(domid);
    }
    world.server.handle_domain_exception();
    world.run();
    world.rm(0, "/local").unwrap();
    // The times of the dead's events are forgotten when they are over.
    world.pass(30_000);
}

#[test]
fn two_thousand_domains_come_and_go_and_leave_nothing() {
    let mut world = World::new();
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    world.forget_incoming(0);
    let begin = allocated();
    let (nodes, memory) = (world.nodes(0), world.server.engine().memory_of(DomId::DOM0));

    let mut after = Vec::new();
    for round in 1..=ROUNDS {
        create(&mut world);
        use_it(&mut world);
        let engine = world.server.engine();
        let (domains, watches) = (engine.state().domains.iter().count(), engine.state().watches.len());
        assert_eq!((domains, watches), (usize::from(DOMAINS) + 1, usize::from(DOMAINS) * WATCHES + 1));
        for domid in 1..=DOMAINS {
            assert_eq!(world.nodes(domid), NODES as u64, "domain {domid}");
        }
        world.check();
        println!(
            "round {round}: {DOMAINS} domains with {WATCHES} watches and {NODES} nodes each take {} KiB",
            (allocated() - begin) / 1024
        );

        destroy(&mut world);
        assert!(!world.events(0).is_empty());
        world.forget_incoming(0);
        world.check();
        let engine = world.server.engine();
        assert_eq!(engine.state().domains.iter().count(), 1);
        assert_eq!(engine.state().watches.len(), 1);
        assert_eq!(engine.open_transactions(), (0, 0));
        assert_eq!(engine.rings_and_ports(), (1, 1));
        assert_eq!((world.nodes(0), engine.memory_of(DomId::DOM0)), (nodes, memory));
        assert!(world.machine.mapped.len() == 1 && world.machine.bound.len() == 1);
        after.push(allocated());
    }
    let kept: Vec<usize> = after.iter().map(|after| after.saturating_sub(begin)).collect();
    println!("bytes kept after each round: {kept:?}");
    assert!(kept.iter().all(|kept| *kept < KEPT_BYTES), "{kept:?}");
    assert!(kept[ROUNDS - 1] <= kept[0] + GROWTH_BYTES, "{kept:?}");
}
