//! Requests of several domains over rings, with all actions of domains and dom0 on each other and on the server.
//!
//! - Each request of a domain that follows the protocol has one reply.
//! - The engine's own recount agrees.
//! - After the end of all domains, none of their state is left.
//!
//! `script.rs` reads the bytes as steps, and `scene.rs` executes them. With SHOW_STEPS in the environment, the target
//! prints the steps. The machine is that of the behaviour tests.
#![no_main]

mod peer;
mod scene;
mod script;
#[path = "../../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut scene = scene::Scene::new();
    let shows = std::env::var_os("SHOW_STEPS").is_some();
    for step in script::Script::new(bytes) {
        if shows {
            eprintln!("{step:?}");
        }
        scene.step(step);
    }
    scene.end();
});
