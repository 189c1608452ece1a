//! Any bytes as a history within the default quotas. No request, turn or round of the main loop takes more steps of the
//! work meter than `src/limits.rs` allows.
//!
//! `tests/cost/` decodes and plays the history. A cost that is reached for the first time counts as coverage: libFuzzer
//! keeps its input although no new code ran. With SHOW_STEPS in the environment, the target prints the history.
#![no_main]

#[path = "../../tests/cost/history/mod.rs"]
mod history;
#[path = "../../tests/support/mod.rs"]
mod support;

/// The search compares steps here, not time.
mod clock {
    pub const fn now() -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

use std::sync::atomic::{AtomicU8, Ordering};

use libfuzzer_sys::fuzz_target;

use history::found::{Found, Objective, Worst, spell};
use history::step::Step;

/// Bounds of a history's steps and requests, so that several histories take a second.
const LONGEST: usize = 16;
const REQUESTS: usize = 3000;

/// Objectives: the types of requests, the same in transactions, and three more.
const ROWS: usize = 64;
/// Counters of one objective: a cost that is greater by an eighth has another counter.
const OF_OBJECTIVE: usize = 256;

/// Counters that libFuzzer takes for coverage, as it does those of the code, and clears before each input.
// SAFETY: libFuzzer looks for the section of this name, and its contents are plain bytes.
#[unsafe(link_section = "__libfuzzer_extra_counters")]
static REACHED: [AtomicU8; ROWS * OF_OBJECTIVE] = [const { AtomicU8::new(0) }; ROWS * OF_OBJECTIVE];

fuzz_target!(|bytes: &[u8]| {
    let (steps, _) = bytes.as_chunks();
    let steps: Vec<Step> = steps.iter().take(LONGEST).map(|step| Step::decode(*step)).collect();
    if std::env::var_os("SHOW_STEPS").is_some() {
        eprintln!("{}", spell(&steps));
    }
    let mut worst = Worst::default();
    worst.merge(history::play::play(&steps, REQUESTS, false), &steps);
    for (objective, Found { cost, .. }) in &worst.found {
        reach(*objective, cost.steps / cost.works.max(1));
    }
    if let Some((objective, found)) = worst.exceeded.first_key_value() {
        panic!("{objective} exceeds its bound: {:?}: {}", found.cost, spell(&found.steps));
    }
});

/// Notes that an objective reached a cost.
fn reach(objective: Objective, steps: u64) {
    let row = match objective {
        Objective::Request(kind) => kind.to_wire() as usize,
        Objective::Within(kind) => 32 + kind.to_wire() as usize,
        Objective::Turn => 29,
        Objective::Poll => 30,
        Objective::Postponed => 31,
        Objective::Privileged(_) => return,
    };
    // The position of the highest bit, and the three bits below it.
    let bits = (steps | 8).ilog2();
    let column = (bits as usize) << 3 | (steps >> (bits - 3) & 7) as usize;
    if let Some(counter) = REACHED.get(row.min(ROWS - 1) * OF_OBJECTIVE + column.min(OF_OBJECTIVE - 1)) {
        counter.store(1, Ordering::Relaxed);
    }
}
