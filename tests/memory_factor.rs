//! The memory that a counted byte really takes (`limits::HEAP_BYTES_PER_COUNTED_BYTE` and `HEAP_BYTES_PER_OBJECT`).
#![allow(missing_docs, reason = "a test")]

mod support;

use support::allocator::{Accounting, used_bytes};
use support::testbed::{Testbed, ok};
use xenstore::limits;
use xenstore::store::domain::DomId;

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::as_the_kernel();

/// Compares the bytes that `act` allocates for `objects` with the bytes that it makes domain 1 count, and with the
/// bound.
fn bounded(what: &str, objects: usize, testbed: &mut Testbed, act: impl FnOnce(&mut Testbed)) {
    let before = (used_bytes(), testbed.server.engine().memory_of(DomId(1)));
    act(testbed);
    testbed.events(1);
    testbed.forget_incoming(1);
    let heap = used_bytes().wrapping_sub(before.0);
    let counted = testbed.server.engine().memory_of(DomId(1)) - before.1;
    let bound = counted * limits::HEAP_BYTES_PER_COUNTED_BYTE + objects * limits::HEAP_BYTES_PER_OBJECT;
    println!("{what}: {heap} bytes of the heap, {counted} counted, {bound} allowed");
    assert!(heap > 0 && heap <= bound, "{what}: {heap} bytes of the heap, {counted} counted, {bound} allowed");
}

#[test]
fn small_nodes_take_no_more_than_their_bound() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "flat", "").unwrap();
    bounded("400 nodes in a directory", 400, &mut testbed, |testbed| {
        for count in 0..400 {
            testbed.write(1, &format!("flat/{count}"), "").unwrap();
        }
    });
    bounded("200 directories of one node", 400, &mut testbed, |testbed| {
        for count in 0..200 {
            testbed.write(1, &format!("{count}/a"), "").unwrap();
        }
    });
}

#[test]
fn nodes_whose_value_and_permissions_have_blocks_of_their_own_take_no_more_than_their_bound() {
    let mut testbed = Testbed::with_homes([1]);
    let value = "v".repeat(limits::SHORT_VALUE_BYTES + 1);
    bounded("100 nodes with values too long for them", 110, &mut testbed, |testbed| {
        for count in 0..100 {
            testbed.write(1, &format!("{}/{count}", count / 10), &value).unwrap();
        }
    });
    bounded("their permissions", 100, &mut testbed, |testbed| {
        for count in 0..100 {
            assert_eq!(testbed.set_perms(1, &format!("{}/{count}", count / 10), "n1 r2 r3 r4"), ok());
        }
    });
}

#[test]
fn short_watches_take_no_more_than_their_bound() {
    let mut testbed = Testbed::with_homes([1]);
    bounded("64 watches on one path", 64, &mut testbed, |testbed| {
        for count in 0..64 {
            assert_eq!(testbed.watch(1, "@", &count.to_string()), ok());
        }
    });
    bounded("64 watches on paths of their own", 64, &mut testbed, |testbed| {
        for count in 0..64 {
            assert_eq!(testbed.watch(1, &format!("@{count}"), ""), ok());
        }
    });
}

#[test]
fn paths_in_a_transaction_take_no_more_than_their_bound() {
    let mut testbed = Testbed::with_homes([1]);
    let transaction = testbed.begin(1);
    bounded("200 missing paths in a transaction", 200, &mut testbed, |testbed| {
        for count in 0..200 {
            let _ = testbed.read_in(1, transaction, &count.to_string());
        }
    });
    let transaction = testbed.begin(1);
    bounded("100 new nodes in a transaction", 100, &mut testbed, |testbed| {
        for count in 0..100 {
            testbed.write_in(1, transaction, &count.to_string(), "").unwrap();
        }
    });
}
