//! The cost search: histories within the default quotas that are as dear as possible, made from seeds, and the bounds of
//! `src/limits.rs` that each request, each turn and each round of the main loop keeps to.
//!
//! `shapes.rs` has histories that somebody has thought of; `search.rs` changes them at random and keeps what is dearer, for
//! each type of request and for turns. `step.rs` says what a history consists of, `play.rs` and `scene.rs` make it happen,
//! and `found.rs` keeps the dearest ones and knows the bounds. The fuzz target `cost` plays histories out of any bytes.
//!
//! `make simulate` runs more of it, and makes the histories that it shows short.
//! `make cost` compares steps with time.
#![allow(missing_docs, reason = "a test")]

mod found;
#[path = "../semantics/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
mod play;
#[path = "../simulation/progress.rs"]
mod progress;
#[path = "../semantics/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;
mod scene;
mod search;
mod shapes;
mod step;
#[path = "../semantics/world.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod world;

use std::thread;

use found::{Worst, spell};
use progress::Progress;
use search::{climb, play_shapes, shorten};

/// Seeds without `SEEDS`, each on a thread.
const SEEDS: u64 = 2;
/// Histories of each seed.
const TRIES: usize = 40;
/// Threads.
const THREADS: u64 = 2;

/// The seeds that the environment asks for. `SEEDS` counts histories of the simulation: a seed of the search takes about as
/// long as this many.
fn seeds() -> Vec<u64> {
    const HISTORIES: u64 = 500;
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text:?} is a number"));
    let from = |first: u64, histories: u64| (first..first + (histories / HISTORIES).max(1)).collect();
    match (std::env::var("SEED"), std::env::var("SEEDS")) {
        (Ok(seed), _) => vec![number(&seed)],
        (_, Ok(seeds)) => match seeds.split_once('-') {
            Some((first, last)) => from(number(first), (number(last) + 1).saturating_sub(number(first))),
            None => from(1, number(&seeds)),
        },
        _ => (1..=SEEDS).collect(),
    }
}

#[test]
fn no_history_within_the_quotas_exceeds_a_bound_of_work() {
    let by_time = std::env::var("COST_BY").is_ok_and(|what| what == "time");
    let is_long = ["SEED", "SEEDS", "COST_BY"].into_iter().any(|name| std::env::var_os(name).is_some());
    let seeds = seeds();
    let start = play_shapes(by_time);
    let progress = Progress::new((seeds.len() * TRIES) as u64);
    let part = |thread: u64| {
        let mut worst = start.clone();
        (worst.histories, worst.requests) = (0, 0);
        for seed in seeds.iter().filter(|seed| **seed % THREADS == thread) {
            // Each seed begins with what the ones before it found, in the same order each time.
            let found = climb(*seed, TRIES, &worst, &|| progress.add());
            worst.merge(found, &[]);
        }
        worst
    };
    let part = &part;
    let parts: Vec<Worst> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || part(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread ends by itself")).collect()
    });
    let mut worst = start.clone();
    parts.into_iter().for_each(|part| worst.merge(part, &[]));
    if is_long {
        let objectives: Vec<_> = worst.found.keys().copied().collect();
        for objective in objectives {
            let short = shorten(objective, &worst.found[&objective], by_time);
            worst.found.insert(objective, short);
        }
    }
    println!("{worst}");
    for (objective, found) in &worst.exceeded {
        println!("{objective} exceeds its bound: {:?}: {}", found.cost, spell(&found.steps));
    }
    assert!(worst.exceeded.is_empty(), "the work of {} objectives is not bounded", worst.exceeded.len());
}
