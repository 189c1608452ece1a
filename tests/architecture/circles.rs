//! Circles of imports: modules that can only be understood together.

use std::collections::BTreeSet;

use crate::imports;
use crate::source::modules;

/// The circles that are tolerated, each with its reason.
///
/// Imports between a module and one that contains it don't count: a folder's `mod.rs` names its parts, and they use its type.
const TOLERATED: &[(&[&str], &str)] = &[
    (
        &[
            "kernel::main_loop",
            "kernel::platform",
            "kernel::update",
            "kernel::update::error",
            "kernel::update::in_place",
            "kernel::update::layout",
            "kernel::update::restart",
            "kernel::update::successor",
        ],
        "the main loop starts an update; a failed one and a crash continue the main loop with the same platform",
    ),
    (&["store::children", "store::node"], "a node has children, which are nodes"),
    (
        &["xen::entry", "xen::hypercall"],
        "hypercalls need the address of their stubs, which the entry's assembly defines; the entry registers its handlers \
         by hypercalls",
    ),
];

#[test]
fn no_circles_of_imports_but_the_tolerated_ones() {
    let modules = modules();
    let graph = imports::graph(&modules).without_ancestors();
    let circles: BTreeSet<_> = graph.components().into_iter().filter(|component| component.len() > 1).collect();
    println!("{} files, {} levels of imports, {} circles", modules.len(), graph.levels(), circles.len());

    let tolerated = TOLERATED.iter().map(|(circle, _)| circle.iter().copied().collect()).collect();
    let new: Vec<_> = circles.difference(&tolerated).collect();
    let gone: Vec<_> = tolerated.difference(&circles).collect();
    assert!(new.is_empty(), "circles that are not listed: {new:#?}");
    assert!(gone.is_empty(), "listed circles that no longer exist: {gone:#?}");
}
