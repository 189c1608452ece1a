//! Random histories with live updates at random points, which do not differ from the same histories without updates.
//!
//! Each history runs twice, once without updates. Every byte that a domain receives must be the same, at the same step.
//! The states must be the same after each update, and all domains see the same tree in the end. If an update is forced
//! on version 1, the run without updates loses exactly what the update's list says (`loss.rs`). `UPDATE_SEED=<n>` runs
//! one history, `UPDATE_HISTORIES=<n>` runs n.
#![allow(missing_docs, reason = "a test")]

mod loss;
mod runner;
mod script;
#[path = "../support/mod.rs"]
mod support;

use runner::{Counts, Runner};
use script::{Step, script};
use support::random::Seed;

/// The number of histories without `UPDATE_HISTORIES`.
const HISTORIES: u64 = 2000;
/// Steps of each history.
const STEPS: usize = 250;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn a_history_with_updates_does_not_differ_from_one_without() {
    let seeds = match from_environment("UPDATE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=from_environment("UPDATE_HISTORIES").unwrap_or(HISTORIES),
    };
    let mut counts = Counts::default();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        let steps = script(seed, STEPS);
        let mut without = Runner::new(false, seed);
        let mut with = Runner::new(true, seed);
        for (at, step) in steps.iter().enumerate() {
            without.step(step);
            with.step(step);
            without.compare(&with, at, step);
            if matches!(step, Step::Update | Step::ForcedUpdate) {
                without.compare_states(&with, at);
            }
        }
        without.end();
        with.end();
        without.compare(&with, steps.len(), "the end");
        with.add_to(&mut counts);
        without.add_losses_to(&mut counts);
    }
    println!("{counts:#?}");
    if seeds.clone().count() > 100 {
        counts.assert_all_happened();
    }
}
