//! Histories of many domains, dom0 and a hypervisor that lies and fails, made from seeds. In each of them, the server
//! does what a simple model says, to the byte.
//!
//! `script.rs` makes a history, and `runner.rs` and `replacement.rs` run it. `model.rs` (with `rules.rs`, `nodes.rs`,
//! `others.rs`, `life.rs` and `queue.rs`) predicts the server's actions, and `oracle.rs` checks the whole state after
//! each step. The server chooses the order of its actions. The model learns it from the bytes that the server takes out
//! of rings, and from its log (`trace.rs`). `shrink.rs` shortens and prints a history that fails.
//!
//! `make simulate SEEDS=<n>` or `SEEDS=<first>-<last>` runs as many histories and prints its progress; `SEED=<n>` runs
//! one.
#![allow(missing_docs, reason = "a test")]

mod client;
mod counts;
mod ending;
mod life;
mod model;
mod nodes;
mod oracle;
mod others;
mod queue;
mod replacement;
mod rules;
mod runner;
mod script;
mod shrink;
#[path = "../support/mod.rs"]
mod support;
mod trace;

use std::ops::RangeInclusive;
use std::thread;

use counts::Counts;
use model::Flaw;
use script::{Step, script};
use shrink::{describe, history, shrink};
use support::progress::Progress;
use xenstore::wire::header::MessageType as T;

/// The number of histories without `SEEDS`.
const SEEDS: u64 = 5000;
/// Steps of each history.
const STEPS: usize = 500;
/// Threads that run them.
const THREADS: u64 = 2;

/// Events that at least one of a hundred histories must have; otherwise the test would not cover them.
const HAPPENS: [&str; 43] = [
    "answered EACCES",
    "answered EAGAIN",
    "answered EBUSY",
    "answered EEXIST",
    "answered EINVAL",
    "answered ENOENT",
    "answered ENOMEM",
    "answered ENOSPC",
    "answered ENOSYS",
    "answered EPERM",
    "commits",
    "commits by a replay",
    "connections lost in an update",
    "connections shut over an index",
    "crashes by dom0",
    "crashes by guests",
    "deaths",
    "deaths in an update",
    "domains dying",
    "domains shut down",
    "erased rings",
    "events",
    "events about domains",
    "events that their watch may not know",
    "expired events",
    "garbage",
    "grants taken back",
    "half replies in an update",
    "half requests in an update",
    "impossible indices",
    "introductions that fail",
    "lost signals",
    "memory shrinks",
    "numbers used again",
    "open transactions in an update",
    "ports closed in an update",
    "refused for memory",
    "requests out of scribbled rings",
    "steps at which a guest has too much outstanding",
    "steps at which a guest has to read first",
    "steps at which a guest is held back",
    "updates, version 1",
    "updates, version 2",
];

/// Returns the seeds that the environment requests.
fn seeds() -> RangeInclusive<u64> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is a number"));
    match (std::env::var("SEED"), std::env::var("SEEDS")) {
        (Ok(seed), _) => number(&seed)..=number(&seed),
        (_, Ok(seeds)) => match seeds.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => 1..=number(&seeds),
        },
        _ => 1..=SEEDS,
    }
}

/// Runs the history of a seed. Returns the description of a failure.
fn simulate(seed: u64) -> Result<Counts, String> {
    let steps = script(seed, STEPS);
    match history(seed, &steps, Flaw::None) {
        Ok(mut counts) => {
            counts.add("histories", 1);
            counts.add("steps", steps.len() as u64);
            Ok(counts)
        }
        Err(failure) => {
            let (steps, failure) = shrink(seed, &steps, failure, Flaw::None);
            Err(describe(seed, &steps, &failure))
        }
    }
}

#[test]
fn the_server_does_what_the_model_says() {
    let seeds = seeds();
    let progress = Progress::new(seeds.clone().count() as u64);
    let part = |thread: u64| {
        let mut counts = Counts::default();
        for seed in seeds.clone().filter(|seed| seed % THREADS == thread) {
            counts.merge(&simulate(seed)?);
            progress.add();
        }
        Ok::<_, String>(counts)
    };
    let part = &part;
    let parts: Vec<Result<Counts, String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || part(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread ends by itself")).collect()
    });
    let mut counts = Counts::default();
    for part in parts {
        counts.merge(&part.unwrap_or_else(|failure| panic!("{failure}")));
    }
    println!("{counts}");
    if counts.get("histories") >= 1000 {
        for what in HAPPENS {
            assert!(counts.get(what) >= counts.get("histories") / 100, "{what}: {}", counts.get(what));
        }
    }
}

/// Returns the first history that a wrong model fails, shortened.
fn first_failure(flaw: Flaw) -> (u64, Vec<Step>, String) {
    let failing = (1..100).find_map(|seed| {
        let steps = script(seed, STEPS);
        history(seed, &steps, flaw).err().map(|failure| (seed, steps, failure))
    });
    let (seed, steps, failure) = failing.expect("a wrong model is detected");
    let (steps, failure) = shrink(seed, &steps, failure, flaw);
    (seed, steps.clone(), describe(seed, &steps, &failure))
}

#[test]
fn a_failure_is_reported_with_its_seed_and_the_few_steps_that_lead_to_it() {
    for (flaw, culprit) in [(Flaw::DeadKeepNodes, T::SetPerms), (Flaw::EventsForAll, T::Watch)] {
        let (seed, steps, report) = first_failure(flaw);
        println!("{report}");
        assert!(steps.len() <= 8 && steps.iter().any(|step| step.asks(culprit)), "{report}");
        assert!(
            report.starts_with(&format!("seed {seed} fails: ")) && report.lines().count() == steps.len() + 2,
            "{report}"
        );
        assert!(history(seed, &steps, Flaw::None).is_ok(), "the server is right, and the model was wrong");
        for at in 0..steps.len() {
            let mut fewer = steps.clone();
            let step = fewer.remove(at);
            assert!(history(seed, &fewer, flaw).is_ok(), "{step} is needed for it");
        }
    }
}
