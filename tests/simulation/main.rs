//! Histories of many domains, dom0 and a hypervisor that lies and fails, from seeds: whatever happens, the server does what a
//! simple model says, to the byte.
#![allow(missing_docs, reason = "a test")]

#[path = "../semantics/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
#[path = "../semantics/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;

mod client;
mod counts;
mod life;
mod model;
mod nodes;
mod oracle;
mod others;
mod queue;
mod rules;
mod runner;
mod script;
mod shrink;
mod trace;

use counts::Counts;
use model::Flaw;
use script::script;
use shrink::{describe, history, shrink};

/// Histories without `SEEDS`.
const SEEDS: u64 = 5000;
/// Steps of each.
const STEPS: usize = 500;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Makes the history of a seed.
fn simulate(seed: u64) -> Counts {
    let steps = script(seed, STEPS);
    match history(seed, &steps, Flaw::None) {
        Ok(mut counts) => {
            counts.add("histories", 1);
            counts.add("steps", steps.len() as u64);
            counts
        }
        Err(failure) => {
            let (steps, failure) = shrink(seed, &steps, failure, Flaw::None);
            panic!("{}", describe(seed, &steps, &failure));
        }
    }
}

#[test]
fn the_server_does_what_the_model_says() {
    let seeds = match from_environment("SEED") {
        Some(seed) => seed..=seed,
        None => 1..=from_environment("SEEDS").unwrap_or(SEEDS),
    };
    let mut counts = Counts::default();
    for seed in seeds {
        counts.merge(&simulate(seed));
    }
    println!("{counts:#?}");
}
