//! What is saved is what is restored.

use std::collections::BTreeMap;

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{Item, SaveOptions};

use crate::items::{restore, save};
use crate::random::Seed;
use crate::storm::Storm;

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
fn whatever_was_asked_the_state_is_restored_as_it_was_saved() {
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
            let now_ms = storm.world.now_ms;
            let options = SaveOptions { now_ms, reply: None };
            let saved = save(storm.world.server.engine(), &options);
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
