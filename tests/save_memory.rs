//! The memory that saving and restoring take besides the state itself: little.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::allocator::{Accounting, on_heap};
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

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::exact();

#[test]
fn a_save_makes_no_second_copy_and_a_restored_state_takes_no_more_than_before() {
    let (mut testbed, before) = on_heap(|| {
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
    let state_bytes = before.held.unsigned_abs() - rings;
    let options = SaveOptions { now_ms: testbed.now_ms, reply: None };
    let mut counter = Counter(0);
    let ((), save) = on_heap(|| testbed.server.save_to(&mut counter, Version::Two, &options).unwrap());
    let mut stream = Vec::with_capacity(counter.0);
    testbed.server.save_to(&mut stream, Version::Two, &options).unwrap();
    let (engine, restore) = on_heap(|| load(&stream, &Config::default(), testbed.now_ms).expect("a stream of its own"));
    let (save_bytes, engine_bytes, peak_bytes) = (save.peak, restore.held.unsigned_abs(), restore.peak);
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
