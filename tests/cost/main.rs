//! The cost search. It makes histories from seeds that are as expensive as possible within the default quotas. Each request,
//! each turn and each round of the main loop must keep to the bounds of `src/limits.rs`.
//!
//! - `shapes.rs` has histories that were written by hand.
//! - `search.rs` changes them at random and keeps the more expensive ones, for each type of request and for turns.
//! - `history/` defines the steps of a history, plays them, and keeps the greatest costs and the bounds.
//!
//! The fuzz target `cost` plays histories that it decodes from any bytes. `make simulate` runs a longer search and shortens the
//! histories that it prints. `make cost` compares steps with time.
#![allow(missing_docs, reason = "a test")]

mod clock;
mod crowd;
mod history;
mod search;
mod shapes;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::thread;

use history::found::{Cost, Found, Objective, Worst, spell};
use history::step::Step;
use search::{climb, measure, play_shapes, shorten};
use support::progress::Progress;
use xenstore::limits;
use xenstore::wire::header::MessageType as T;

/// The number of seeds without `SEED` and `SEEDS`.
const SEEDS: u64 = 2;
/// Types of requests that the search must measure, besides the ends of transactions.
const MEASURED: [T; 13] = [
    T::Read,
    T::Write,
    T::Mkdir,
    T::Rm,
    T::Directory,
    T::DirectoryPart,
    T::GetPerms,
    T::SetPerms,
    T::Watch,
    T::Unwatch,
    T::ResetWatches,
    T::TransactionStart,
    T::GetDomainPath,
];
/// Histories of each seed.
const TRIES: usize = 100;
/// Threads, between which the seeds are divided.
const THREADS: u64 = 2;

/// Returns the seeds that the environment requests. `SEEDS` counts histories of the simulation: a seed of the search takes
/// about as long as `HISTORIES` of them.
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
            // Each seed begins with the results of its thread's earlier seeds. Their order is the same in every run.
            let found = climb(*seed, TRIES, &worst, &|| progress.add());
            worst.merge(found, &[]);
        }
        worst
    };
    let part = &part;
    let parts: Vec<Worst> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || part(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread ends without a panic")).collect()
    });
    let mut worst = start.clone();
    parts.into_iter().for_each(|part| worst.merge(part, &[]));
    if is_long {
        let objectives: Vec<_> = worst.found.keys().copied().collect();
        for objective in objectives {
            let short = shorten(objective, &worst.found[&objective], by_time);
            worst.found.insert(objective, measure(objective, short, by_time));
        }
    }
    println!("{worst}");
    for (objective, found) in &worst.exceeded {
        println!("{objective} exceeds its bound: {:?}: {}", found.cost, spell(&found.steps));
    }
    assert!(worst.exceeded.is_empty(), "{} objectives exceed their bounds", worst.exceeded.len());
    // The bounds are only tested if the search reaches expensive requests.
    let steps_of = |objective| worst.found.get(&objective).map_or(0, |found: &Found| found.cost.steps);
    for kind in MEASURED {
        assert!(worst.found.contains_key(&Objective::Request(kind)), "{kind:?} was measured");
    }
    if !by_time {
        assert!(steps_of(Objective::Turn) >= limits::TURN_STEPS, "the steps of a turn end it");
        assert!(steps_of(Objective::Within(T::TransactionEnd)) > limits::TURN_STEPS, "commits are expensive");
    }
}

#[test]
fn a_cost_above_its_bound_is_reported_with_its_history() {
    let history = &shapes::shapes()[0];
    for objective in [
        Objective::Request(T::Read),
        Objective::Within(T::Read),
        Objective::Turn,
        Objective::Poll,
        Objective::Postponed,
    ] {
        let bound = objective.bound(2).expect("a bound");
        let note = |steps| {
            let (mut one, mut all) = (Worst::default(), Worst::default());
            one.note(objective, Cost { steps, works: 2, time: std::time::Duration::ZERO });
            all.merge(one, history);
            all.exceeded.get(&objective).map(|found: &Found| found.steps.clone())
        };
        assert_eq!(note(bound), None);
        assert_eq!(note(bound + 1).as_ref(), Some(history));
    }
}

#[test]
fn a_step_survives_encoding_and_decoding() {
    for step in shapes::shapes().into_iter().flatten() {
        assert_eq!(Step::decode(step.encode()), step);
    }
}

/// Checks that the fuzz target's corpus begins with the shapes. `COST_CORPUS=1` writes them.
#[test]
fn the_fuzz_corpus_begins_with_the_shapes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/cost");
    for (at, steps) in shapes::shapes().into_iter().enumerate() {
        let (file, bytes) = (folder.join(format!("shape-{at:02}")), steps.into_iter().flat_map(Step::encode));
        let bytes: Vec<u8> = bytes.collect();
        if std::env::var_os("COST_CORPUS").is_some() {
            fs::create_dir_all(&folder).and_then(|()| fs::write(&file, &bytes)).expect("the file is written");
        }
        assert_eq!(fs::read(&file).ok(), Some(bytes), "{}: COST_CORPUS=1 writes it again", file.display());
    }
}
