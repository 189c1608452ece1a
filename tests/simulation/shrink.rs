//! Shortens a history that fails: it leaves out steps as long as the history fails without them.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use crate::counts::Counts;
use crate::model::Flaw;
use crate::runner::Runner;
use crate::script::Step;

/// The most runs of a history.
const TRIES: usize = 3000;

thread_local! {
    /// Whether panics of this thread are expected.
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A failure: its description and its step.
#[derive(Clone, Debug)]
pub struct Failure {
    pub at: usize,
    pub what: String,
}

/// Runs a history from its beginning to its end.
pub fn history(seed: u64, steps: &[Step], flaw: Flaw) -> Result<Counts, Failure> {
    quiet_hook();
    let mut at = 0;
    IS_QUIET.with(|quiet| quiet.set(true));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut runner = Runner::new(seed, flaw);
        for step in steps {
            runner.step(step)?;
            at += 1;
        }
        runner.end()?;
        Ok(runner.counted())
    }));
    IS_QUIET.with(|quiet| quiet.set(false));
    match outcome {
        Ok(Ok(counts)) => Ok(counts),
        Ok(Err(what)) => Err(Failure { at, what }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Failure { at, what: format!("G1: a panic: {}", text.unwrap_or_default()) })
        }
    }
}

/// Panics of histories are reported once, with the seed and the steps.
fn quiet_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if !IS_QUIET.with(Cell::get) {
                hook(info);
            }
        }));
    });
}

/// Returns the shortest history found that fails in the same way.
pub fn shrink(seed: u64, steps: &[Step], failure: Failure, flaw: Flaw) -> (Vec<Step>, Failure) {
    let mut steps: Vec<Step> = steps[..steps.len().min(failure.at + 1)].to_vec();
    let mut failure = failure;
    let mut tries = 0;
    let mut chunk = steps.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        let mut was_shortened = false;
        while from < steps.len() && tries < TRIES {
            tries += 1;
            let mut fewer = steps.clone();
            fewer.drain(from..(from + chunk).min(steps.len()));
            match history(seed, &fewer, flaw) {
                Err(again) if is_alike(&again.what, &failure.what) => {
                    fewer.truncate(again.at + 1);
                    (steps, failure) = (fewer, again);
                    was_shortened = true;
                }
                _ => from += chunk,
            }
        }
        if chunk == 1 && (!was_shortened || tries >= TRIES) {
            break;
        }
        chunk = if chunk == 1 { 1 } else { chunk / 2 };
    }
    (steps, failure)
}

/// Returns whether two failures are of the same kind: their texts agree up to the first number or name.
fn is_alike(one: &str, other: &str) -> bool {
    let kind = |what: &str| what.chars().take_while(|letter| !letter.is_ascii_digit()).take(12).collect::<String>();
    kind(one) == kind(other)
}

/// Returns the printed form of a history that fails.
pub fn describe(seed: u64, steps: &[Step], failure: &Failure) -> String {
    let mut text = format!("seed {seed} fails: {}\nwith these {} steps alone:\n", failure.what, steps.len());
    for step in steps {
        text += &format!("  {step}\n");
    }
    text
}
