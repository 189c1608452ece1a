//! The memory that saving and restoring take besides the state itself: little.
#![allow(missing_docs, reason = "a test")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use support::testbed::{Testbed, ok};
use xenstore::engine::config::Config;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::stream::load;
use xenstore::stream::record::Version;
use xenstore::stream::writer::Counter;

const DOMAINS: u16 = 300;
const NODES: usize = 60;
const WATCHES: usize = 20;

/// Bytes that a save may take while it runs: it writes the times of all nodes' last writes at once.
const SAVE_BYTES: usize = 128 * 1024;

/// Counts the allocated bytes, and their maximum since the count began.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns the additional bytes in use after some work, and the most additional bytes meanwhile.
fn measure<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = ALLOCATED.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    let held = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before);
    (result, held, PEAK.load(Ordering::Relaxed) - before)
}

#[test]
fn a_save_makes_no_second_copy_and_a_restored_state_takes_no_more_than_before() {
    let (mut testbed, before_bytes, _) = measure(|| {
        let mut testbed = Testbed::with_homes(1..=DOMAINS);
        for domid in 1..=DOMAINS {
            for at in 0..NODES {
                assert_eq!(testbed.write(domid, &format!("device/{}/{at}", at % 5), &"value".repeat(at % 7)), ok());
            }
            for at in 0..WATCHES {
                assert_eq!(testbed.watch(domid, &format!("device/{at}"), "token"), ok());
            }
            testbed.events(domid);
        }
        testbed
    });
    // The rings of all domains do not belong to the server.
    let rings: usize = testbed.machine.pages.len() * 4096;
    let state_bytes = before_bytes - rings;
    let options = SaveOptions { now_ms: testbed.now_ms, reply: None };
    let mut counter = Counter(0);
    let ((), _, save_bytes) = measure(|| testbed.server.save_to(&mut counter, Version::Two, &options).unwrap());
    let mut stream = Vec::with_capacity(counter.0);
    testbed.server.save_to(&mut stream, Version::Two, &options).unwrap();
    let (engine, engine_bytes, peak_bytes) =
        measure(|| load(&stream, &Config::default(), testbed.now_ms).expect("a stream of its own"));
    println!(
        "state {state_bytes} bytes, stream {}, for a save {save_bytes}; restored {engine_bytes}, at most {peak_bytes}",
        counter.0
    );
    assert!(save_bytes < SAVE_BYTES, "{save_bytes}");
    assert!(engine_bytes < state_bytes, "{engine_bytes} {state_bytes}");
    assert!(peak_bytes < engine_bytes + SAVE_BYTES, "{peak_bytes} {engine_bytes}");
    drop(engine);
    testbed.check();
}
