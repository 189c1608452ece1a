//! The hosted server against Debian's C servers of Xen 4.17 and 4.20, and a C server against itself. Both get the same random
//! requests, and the test compares every reply and every watch event, byte for byte.
//!
//! dom0 uses a socket and its ring, three guests use their rings. Transactions overlap, and domains come and go.
//! [`accepted`] and [`special_events`] have the accepted differences from each release, with their reasons.
//!
//! - `DIFF_SEEDS=N` runs N sequences, `DIFF_REQUESTS=N` makes each N requests long.
//! - `DIFF_SEED=S` runs one sequence; a failure names its seed.
//! - `DIFF_HISTORY=N` makes a failure print its last N steps.

mod accepted;
mod comparison;
mod coverage;
mod generator;
mod model;
mod payloads;
#[path = "../peers/mod.rs"]
mod peers;
mod quotas;
mod random;
mod server;
mod special_events;

use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use comparison::{Comparison, Difference, Onward};
use coverage::Coverage;
use generator::Generator;
use model::Step;
use quotas::Quotas;
use server::{Kind, Release};

/// Two servers and their client keep two cores busy: only one comparison runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn replies_and_events_equal_those_of_the_c_server() {
    assert_met_all(&run([Kind::C(Release::V4_17), Kind::Ours], 24, 9_000));
}

#[test]
fn replies_and_events_equal_those_of_the_c_server_of_4_20() {
    assert_met_all(&run([Kind::C(Release::V4_20), Kind::Ours], 12, 9_000));
}

#[test]
fn with_replay_every_commit_that_succeeds_in_the_c_server_succeeds_here_too() {
    // There are few requests between two replayed commits: no sequence is long enough to cover everything.
    let met = run([Kind::C(Release::V4_17), Kind::OursReplaying], 6, 6_000);
    assert!(setting("DIFF_SEED").is_some() || met.times_accepted(accepted::REPLAYED) >= 50, "too few replays");
}

#[test]
fn the_c_server_agrees_with_itself() {
    assert_met_all(&run([Kind::C(Release::V4_17); 2], 6, 6_000));
}

/// Fails if the sequences covered too little.
fn assert_met_all(met: &Coverage) {
    let missing = met.missing();
    assert!(setting("DIFF_SEED").is_some() || missing.is_empty(), "the sequences met too little: {missing:?}");
}

/// Runs all sequences, and fails at the first difference.
fn run(kinds: [Kind; 2], seeds: u64, requests: usize) -> Coverage {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    kinds.iter().for_each(|kind| {
        if let Kind::C(release) = kind {
            fetch(*release)
        }
    });
    let only = setting("DIFF_SEED");
    let seeds = if let Some(seed) = only { seed..seed + 1 } else { 1..setting("DIFF_SEEDS").unwrap_or(seeds) + 1 };
    let requests = setting("DIFF_REQUESTS").map_or(requests, |requests| requests as usize);
    let started = Instant::now();
    let mut total = Coverage::default();
    for seed in seeds {
        let coverage = sequence(kinds, seed, requests);
        let seconds = started.elapsed().as_secs_f64();
        println!("seed {seed}: {} requests, {seconds:.1} s so far", coverage.requests);
        total.add(coverage);
    }
    println!("{kinds:?}: {total}");
    for reason in accepted::unused(kinds, &total) {
        println!("  accepted nothing: {reason}");
    }
    total
}

/// Runs one sequence of at least `requests` requests.
fn sequence(kinds: [Kind; 2], seed: u64, requests: usize) -> Coverage {
    let quotas = match seed % 3 {
        0 => Quotas::SMALL,
        1 => Quotas::DEFAULT,
        _ => Quotas::FEW_NODES,
    };
    let mut coverage = Coverage::default();
    let mut part = 0;
    while coverage.requests < requests {
        // Each start of the servers begins a part with its own random numbers.
        part += 1;
        coverage.starts += 1;
        let outcome = run_part(kinds, &quotas, seed << 32 | part, requests, &mut coverage);
        if let Err(Difference(what)) = outcome {
            panic!("seed {seed} (DIFF_SEED={seed}), part {part}, after {} requests: {what}", coverage.requests);
        }
    }
    coverage
}

/// Runs from a start of both servers to an accepted difference after which they cannot continue, or to the end.
fn run_part(
    kinds: [Kind; 2],
    quotas: &Quotas,
    seed: u64,
    requests: usize,
    coverage: &mut Coverage,
) -> Result<(), Difference> {
    let mut comparison = Comparison::start(kinds, quotas)?;
    let mut generator = Generator::new(seed, &comparison.model);
    while coverage.requests < requests {
        let step: Step = generator.next(&comparison.model);
        if comparison.step(&step, coverage)? == Onward::Restart {
            break;
        }
    }
    Ok(())
}

/// Fetches a release's C server unless it is in the cache.
fn fetch(release: Release) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/fetch.sh");
    let status = Command::new(script).arg(release.number()).stdout(std::process::Stdio::null()).status();
    let number = release.number();
    assert!(status.is_ok_and(|status| status.success()), "{script} failed: Debian's C server {number} is needed");
}

/// Returns a number from the environment.
pub fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number and is {value:?}")))
}
