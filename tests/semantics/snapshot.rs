//! A restored state equals the saved state.

use std::collections::BTreeMap;

use xenstore::engine::Engine;
use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{Extension, Item, SaveOptions};
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::storm::Storm;
use crate::support::items::{restore, save};
use crate::support::random::{Random, Seed};
use crate::support::testbed::Testbed;

fn kind(item: &Item<'_>) -> &'static str {
    match item {
        Item::Global(_) => "global",
        Item::GlobalQuotas(_) => "global quotas",
        Item::Connection(_) => "connection",
        Item::Domain(_) => "domain",
        Item::Watch(_) => "watch",
        Item::Transaction(_) => "transaction",
        Item::Node(node) if node.pending.is_some() => "pending node",
        Item::Node(_) => "node",
        Item::Extension(_) => "extension",
    }
}

#[test]
fn after_any_requests_the_state_is_restored_as_it_was_saved() {
    let (mut saves, mut items_of_kind) = (0, BTreeMap::<&str, usize>::new());
    for seed in 1..=40 {
        let _seed = Seed(seed);
        let mut storm = Storm::new(seed);
        for step in 1..=2000 {
            storm.request();
            if storm.random.once_in(100) {
                storm.upheaval();
            }
            if step % 25 != 0 {
                continue;
            }
            let now_ms = storm.testbed.now_ms;
            let options = SaveOptions { now_ms, reply: None };
            let saved = save(storm.testbed.server.engine(), &options);
            // The successor has another clock.
            let later_ms = now_ms + storm.random.below(1_000_000) as u64;
            let engine = restore(&saved, &Config::default(), later_ms).unwrap();
            let again = save(&engine, &SaveOptions { now_ms: later_ms, reply: None });
            for (one, other) in saved.iter().zip(&again) {
                assert_eq!(one, other, "{} items", saved.len());
            }
            assert_eq!(saved.len(), again.len());
            assert_eq!(engine.state().check(), Ok(()));
            saves += 1;
            for item in &saved {
                *items_of_kind.entry(kind(item)).or_default() += 1;
            }
        }
    }
    println!("{saves} saves, {items_of_kind:?}");
    assert!(items_of_kind.values().all(|count| *count > 1000), "{items_of_kind:?}");
}

/// Returns a storm's testbed after some time.
fn stormy(seed: u64, steps: usize) -> Storm {
    let mut storm = Storm::new(seed);
    for _ in 0..steps {
        storm.request();
        if storm.random.once_in(60) {
            storm.upheaval();
        }
    }
    storm
}

fn now(storm: &Storm) -> SaveOptions<'static> {
    SaveOptions { now_ms: storm.testbed.now_ms, reply: None }
}

#[test]
fn without_extension_records_the_other_records_are_restored() {
    let is_record = |item: &&Item<'_>| !matches!(item, Item::Extension(_));
    let is_committed =
        |item: &&Item<'_>| is_record(item) && !matches!(item, Item::Node(node) if node.pending.is_some());
    let (mut compared, mut transactions) = (0, 0);
    for seed in 1..=200 {
        let _seed = Seed(seed);
        let mut storm = stormy(seed, 400);
        let saved = save(storm.testbed.server.engine(), &now(&storm));
        let records: Vec<_> = saved.iter().filter(is_record).cloned().collect();
        let engine = restore(&records, &Config::default(), storm.testbed.now_ms).unwrap();
        let mut again = save(&engine, &now(&storm));
        // A domain that only a transaction names, and that may be dead, remains known until the next check.
        again.retain(|item| !matches!(item, Item::Domain(_)) || saved.contains(item));
        for (one, other) in saved.iter().filter(is_committed).zip(again.iter().filter(is_committed)) {
            assert_eq!(one, other);
            compared += 1;
        }
        assert_eq!(saved.iter().filter(is_committed).count(), again.iter().filter(is_committed).count());
        transactions += engine.open_transactions().1;
        serve(&mut storm, engine);
    }
    println!("{compared} items, {transactions} transactions");
    assert!(compared > 10_000 && transactions > 500);
}

/// Puts a defect into a sequence of items.
fn spoil(items: &mut Vec<Item<'static>>, others: &[Item<'static>], random: &mut Random) {
    let at = random.below(items.len());
    match random.below(7) {
        0 if items.len() > 1 => drop(items.remove(at)),
        1 => items.insert(at, items[at].clone()),
        2 => {
            let other = random.below(items.len());
            items.swap(at, other);
        }
        3 => items[at] = random.one_of(others).clone(),
        4 => items.insert(at, random.one_of(others).clone()),
        5 => items.truncate(at + 1),
        _ => {
            let extensions: Vec<_> = items.iter_mut().filter_map(as_extension).collect();
            let count = extensions.len();
            if let Some(extension) = extensions.into_iter().nth(random.below(count.max(1))) {
                let mut body = extension.body.to_block().into_owned();
                for _ in 0..=random.below(4) {
                    let at = random.below(body.len());
                    match random.below(3) {
                        0 => body[at] = body[at].wrapping_add(1),
                        1 => body[at] = random.next() as u8,
                        _ => body.truncate(at.max(1)),
                    }
                }
                extension.body = body.into();
            }
        }
    }
}

fn as_extension<'i>(item: &'i mut Item<'static>) -> Option<&'i mut Extension<'static>> {
    if let Item::Extension(extension) = item { Some(extension) } else { None }
}

/// The transaction saw a node, and later its parent without that node.
#[test]
fn a_transaction_that_saw_nodes_of_different_tree_versions_is_restored_as_it_was_saved() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "data/old", "").unwrap();
    let transaction = testbed.begin(1);
    testbed.write_in(1, transaction, "data/old", "changed").unwrap();
    testbed.rm(1, "data").unwrap();
    testbed.write(1, "data/new", "").unwrap();
    testbed.rm_in(1, transaction, "data").unwrap();
    let options = SaveOptions { now_ms: testbed.now_ms, reply: None };
    let saved = save(testbed.server.engine(), &options);
    let engine = restore(&saved, &Config::default(), testbed.now_ms).unwrap();
    assert_eq!(save(&engine, &options), saved);
}

/// Lets a restored engine serve the machine of a storm, and every client end all transactions.
fn serve(storm: &mut Storm, engine: Engine) {
    let testbed = &mut storm.testbed;
    testbed.machine.mapped.clear();
    testbed.server = Server::restored(engine);
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    testbed.run();
    for domid in 0..5 {
        if !testbed.machine.pages.contains_key(&DomId(domid)) {
            continue;
        }
        for transaction in 0..12 {
            let begins = testbed.word(domid, Field::RequestProducer) == testbed.word(domid, Field::RequestConsumer);
            if begins && testbed.connection(domid).is_some() {
                testbed.receive(domid);
                testbed.send(domid, transaction, MessageType::TransactionEnd.to_wire(), b"T\0");
            }
        }
    }
    testbed.pass(30_000);
    testbed.check();
}

#[test]
fn wrong_items_are_an_error_or_a_consistent_state() {
    let (mut errors, mut engines) = (BTreeMap::<String, usize>::new(), 0);
    let others = save(stormy(99, 1500).testbed.server.engine(), &SaveOptions::default());
    for seed in 1..=2500 {
        let _seed = Seed(seed);
        let mut storm = stormy(seed % 25, 300 + seed as usize % 7 * 100);
        let mut items = save(storm.testbed.server.engine(), &now(&storm));
        let mut random = Random::new(seed);
        for _ in 0..=random.below(3) {
            spoil(&mut items, &others, &mut random);
        }
        match restore(&items, &Config::default(), storm.testbed.now_ms) {
            Ok(engine) => {
                assert_eq!(engine.state().check(), Ok(()));
                serve(&mut storm, engine);
                engines += 1;
            }
            Err(error) => *errors.entry(format!("{error:?}").split('(').next().unwrap().into()).or_default() += 1,
        }
    }
    println!("{engines} engines, errors: {errors:?}");
    assert!(engines > 500 && errors.len() > 6, "{engines} {errors:?}");
    assert!(!errors.contains_key("Inconsistent"));
}

#[test]
fn wrong_bytes_in_a_stream_are_an_error_or_a_consistent_state() {
    let (mut errors, mut engines) = (0, 0);
    for seed in 1..=1500 {
        let _seed = Seed(seed);
        let mut storm = stormy(seed % 25, 300 + seed as usize % 7 * 100);
        let mut bytes = Vec::new();
        storm.testbed.server.save_to(&mut bytes, Version::Two, &now(&storm)).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = bytes[at].wrapping_add(1),
                _ => {
                    let from = random.below(bytes.len() - 3) & !3;
                    bytes.copy_within(from..from + 4, at & !3);
                }
            }
        }
        match load(&bytes, &Config::default(), storm.testbed.now_ms) {
            Ok(engine) => {
                serve(&mut storm, engine);
                engines += 1;
            }
            Err(_) => errors += 1,
        }
    }
    println!("{engines} engines, {errors} errors");
    assert!(engines > 100 && errors > 100, "{engines} {errors}");
}
