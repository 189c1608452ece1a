//! The search: it changes histories at random, and keeps a history that makes an objective more expensive.

use crate::history::found::{Found, Objective, Worst};
use crate::history::play::play;
use crate::history::step::{STEP_BYTES, Step};
use crate::shapes::shapes;
use crate::support::random::Random;

/// The most steps of a history.
const LONGEST: usize = 24;
/// The most requests of a history: more than all guests need to make all of their nodes.
pub const REQUESTS: usize = 16_000;

/// Plays all shapes.
pub fn play_shapes(by_time: bool) -> Worst {
    let mut worst = Worst::new(by_time);
    for steps in shapes() {
        worst.merge(play(&steps, REQUESTS, by_time), &steps);
    }
    worst
}

/// Changes the most expensive histories `tries` times, each time that of a random objective.
pub fn climb(seed: u64, tries: usize, start: &Worst, done: &dyn Fn()) -> Worst {
    let mut random = Random::new(seed);
    let mut worst = start.clone();
    (worst.histories, worst.requests) = (0, 0);
    let all = shapes();
    for _ in 0..tries {
        let objectives: Vec<Objective> = worst.found.keys().copied().filter(|one| one.bound(1).is_some()).collect();
        let Some(found) = worst.found.get(random.one_of(&objectives)) else { break };
        let steps = changed(&found.steps, &all, &mut random);
        worst.merge(play(&steps, REQUESTS, start.by_time), &steps);
        done();
    }
    worst
}

/// Returns a history with one to four changes.
fn changed(steps: &[Step], shapes: &[Vec<Step>], random: &mut Random) -> Vec<Step> {
    let mut steps = steps.to_vec();
    for _ in 0..=random.below(4) {
        change(&mut steps, shapes, random);
    }
    steps.truncate(LONGEST);
    steps
}

fn change(steps: &mut Vec<Step>, shapes: &[Vec<Step>], random: &mut Random) {
    let at = random.below(steps.len() + 1);
    let Some(step) = steps.get(at).copied() else {
        return steps.push(Step::random(random));
    };
    match random.below(8) {
        0 | 1 => steps[at] = with_other_byte(step, random),
        2 => steps[at] = with_greater_byte(step, random),
        3 => steps.insert(at, Step::random(random)),
        4 => {
            let borrowed = *{
                let shape = random.below(shapes.len());
                random.one_of(&shapes[shape])
            };
            steps.insert(at, borrowed);
        }
        5 => _ = steps.remove(at),
        6 => steps.push(step),
        _ => {
            // The beginning of one history, and all of another.
            steps.truncate(at);
            steps.extend(random.one_of::<Vec<Step>>(shapes));
        }
    }
}

fn with_other_byte(step: Step, random: &mut Random) -> Step {
    let mut bytes = step.encode();
    bytes[random.below(STEP_BYTES)] = random.next() as u8;
    Step::decode(bytes)
}

/// Doubles depth, count or size.
fn with_greater_byte(step: Step, random: &mut Random) -> Step {
    let mut bytes = step.encode();
    let byte = &mut bytes[*random.one_of(&[4, 5, 7])];
    *byte = byte.saturating_mul(2).saturating_add(1);
    Step::decode(bytes)
}

/// Measures a history five more times, and takes the shortest time: other programs can only make it longer.
pub fn measure(objective: Objective, mut found: Found, by_time: bool) -> Found {
    for _ in 0..5 {
        let again = play(&found.steps, REQUESTS, by_time);
        if let Some(again) = again.found.get(&objective)
            && again.cost.steps == found.cost.steps
        {
            found.cost.time = found.cost.time.min(again.cost.time);
        }
    }
    found
}

/// Removes steps from a history as long as it costs at least 98 percent of the original.
pub fn shorten(objective: Objective, found: &Found, by_time: bool) -> Found {
    let mut best = found.clone();
    let value = |found: &Found| found.cost.steps / found.cost.works.max(1);
    let mut at = best.steps.len();
    while at > 0 {
        at -= 1;
        let mut fewer = best.steps.clone();
        fewer.remove(at);
        let mut worst = Worst::new(by_time);
        worst.merge(play(&fewer, REQUESTS, by_time), &fewer);
        if let Some(other) = worst.found.get(&objective)
            && value(other) >= value(found) - value(found) / 50
        {
            best = other.clone();
        }
    }
    best
}
