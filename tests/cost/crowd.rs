//! Requests that many guests, or one that names others, make expensive, each within its quotas.

use xenstore::limits;
use xenstore::wire::header::MessageType as T;

use crate::history::found::{Cost, Objective, removal_of, spell};
use crate::history::scene::{Request, Scene};
use crate::history::step::GUESTS;

/// Guests of a crowd.
const CROWD: u16 = 120;

/// Returns a crowd, and a directory of guest 1 in which all guests may write.
fn crowd() -> Scene {
    let mut scene = Scene::new(1_000_000, false);
    (GUESTS + 1..=CROWD).for_each(|domid| scene.bear(domid));
    ask(&mut scene, 1, T::Mkdir, "/shared/x\0");
    scene
}

fn ask(scene: &mut Scene, domid: u16, kind: T, payload: &str) {
    scene.ask(domid, &Request { kind, transaction: 0, payload: payload.into() });
}

/// Returns the cost of the most expensive request of a type.
///
/// # Panics
///
/// If any cost exceeded its bound.
fn bounded(scene: &Scene, kind: T) -> Cost {
    let found = &scene.worst.found[&Objective::Request(kind)];
    println!("{kind:?}: {:?}", found.cost);
    if let Some((objective, found)) = scene.worst.exceeded.first_key_value() {
        panic!("{objective} exceeds its bound: {:?}: {}", found.cost, spell(&found.steps));
    }
    found.cost
}

fn watch(scene: &mut Scene) {
    for domid in 1..=CROWD {
        (0..125).for_each(|at| ask(scene, domid, T::Watch, &format!("/shared/x\0{at:01600}\0")));
    }
}

#[test]
fn the_death_of_a_domain_that_each_level_of_a_deep_chain_names_takes_many_turns() {
    const LEVELS: usize = 900;
    let mut scene = Scene::new(1_000_000, false);
    let path = |levels| format!("/shared{}", "/x".repeat(levels));
    ask(&mut scene, 1, T::Mkdir, &format!("{}\0", path(LEVELS)));
    (1..=LEVELS).for_each(|levels| ask(&mut scene, 1, T::SetPerms, &format!("{}\0b1\0r2\0", path(levels))));
    scene.settle();
    scene.end(2);
    let before = scene.testbed.server.steps();
    let turns = (0..).take_while(|_| scene.poll()).count();
    let steps = scene.testbed.server.steps() - before;
    assert!(steps > (LEVELS * LEVELS / 10) as u64, "the removal walks from the root for each level: {steps} steps");
    assert!(turns > 40, "{turns} turns");
    assert!(scene.worst.exceeded.is_empty());
}

#[test]
fn a_write_that_a_crowd_watches_keeps_to_its_bound() {
    let mut scene = crowd();
    watch(&mut scene);
    ask(&mut scene, 1, T::Write, "/shared/x\0v");
    assert!(bounded(&scene, T::Write).steps > limits::TURN_STEPS, "the write takes more steps than a turn");
}

#[test]
fn a_removal_that_a_crowd_watches_keeps_to_its_bound() {
    let mut scene = crowd();
    watch(&mut scene);
    ask(&mut scene, 1, T::Rm, "/shared/x\0");
    bounded(&scene, T::Rm);
}

#[test]
fn a_removal_of_nodes_that_a_crowd_made_costs_a_few_steps_for_each() {
    let mut scene = crowd();
    for domid in 1..=CROWD {
        (0..950).for_each(|at| ask(&mut scene, domid, T::Write, &format!("/shared/x/{domid}/{}/{at}\0", at / 300)));
    }
    ask(&mut scene, 1, T::Rm, "/shared/x\0");
    let cost = scene.worst.found[&Objective::Request(T::Rm)].cost;
    println!("{cost:?}");
    assert!(cost.steps > removal_of(CROWD, 900), "one request removes all nodes");
    assert!(cost.steps <= limits::PLAIN_REQUEST_STEPS_MOST + removal_of(CROWD, 1000));
}
