//! Requests of several domains over rings, with all that domains and dom0 may do to each other and to the server: whatever
//! comes, each request of a domain that keeps to the protocol has one reply, the engine's own recount agrees, and when
//! everybody has gone nothing is left.
//!
//! The bytes are read as steps (`script.rs`); `scene.rs` does them. With
//! SHOW_STEPS in the environment they are printed. The machine is the one of the tests of behaviour.
#![no_main]

#[path = "../../../tests/semantics/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
mod peer;
#[path = "../../../tests/semantics/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;
mod scene;
mod script;

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
