//! The arrows of `docs/architecture.md`: which part may use which other one.
//!
//! Each table has a row for each part. A part that is in no row fails the test. So does a row without a part, and an arrow
//! that nothing uses.

use std::collections::BTreeSet;

use crate::graph::contains;
use crate::imports;
use crate::source::modules;

/// For each part, the parts that it may use.
type Table = &'static [(&'static str, &'static [&'static str])];

/// The parts of `src/`.
const LAYERS: Table = &[
    ("limits", &[]),
    ("log_throttle", &[]),
    ("wire", &[]),
    ("store", &["limits", "log_throttle", "wire"]),
    ("engine", &["limits", "store", "wire"]),
    ("stream", &["engine", "store", "wire"]),
    ("options", &["engine", "limits", "store"]),
    ("update", &["limits", "store"]),
    ("server", &["engine", "limits", "store", "stream", "update", "wire"]),
    // The hypervisor's interfaces know neither the library nor the kernel.
    ("xen", &[]),
    // Of the engine, the kernel uses only the named modules.
    (
        "kernel",
        &[
            "engine::config",
            "engine::connection::output::pending",
            "engine::hypervisor",
            "engine::report::crash",
            "engine::requests::in_flight",
            "engine::snapshot::restore",
            "options",
            "server",
            "store::connection_id",
            "store::domain",
            "stream",
            "update",
            "wire",
            "xen",
        ],
    ),
    (
        "bin::xenstored-hosted",
        &["engine::connection::output::pending", "engine::hypervisor", "limits", "options", "server", "store", "wire"],
    ),
    ("bin::xs-stream", &["engine::config", "engine::snapshot", "store", "stream", "wire"]),
];

/// The folders and files of `src/engine/`. Its `mod.rs` has the type `Engine`, which all share: each folder adds methods to
/// it. Therefore all may use `mod.rs`, and `mod.rs` may use all.
const ENGINE: Table = &[
    ("config", &["connection", "report"]),
    ("connection", &["hypervisor", "requests"]),
    ("domains", &["connection", "hypervisor", "report", "requests", "turn", "work"]),
    ("events", &["connection", "snapshot", "turn", "work"]),
    ("fairness", &["connection", "events", "report", "requests", "snapshot", "turn"]),
    ("hypervisor", &[]),
    ("report", &["connection", "hypervisor", "requests", "turn"]),
    ("requests", &["config", "connection", "events", "fairness", "hypervisor", "report", "turn", "work"]),
    ("snapshot", &["config", "connection", "events", "fairness", "hypervisor", "report", "work"]),
    ("turn", &["connection", "hypervisor", "work"]),
    ("work", &[]),
];

/// The modules of `src/kernel/`. Its `mod.rs` is the boot, which uses all.
const KERNEL: Table = &[
    ("assembly", &["mod.rs", "panic"]),
    ("boot_info", &[]),
    ("boot_test", &["boot_info"]),
    ("heap", &[]),
    ("in_flight", &["update_test"]),
    ("intrinsics", &[]),
    ("line_buffer", &[]),
    ("log", &["line_buffer"]),
    ("main_loop", &["heap", "log", "platform", "update", "work"]),
    ("panic", &["log", "update"]),
    ("platform", &["heap", "in_flight", "slots", "update", "work"]),
    ("random", &[]),
    ("slots", &[]),
    ("update", &["boot_info", "heap", "in_flight", "log", "main_loop", "mod.rs", "platform", "random", "update_test"]),
    ("update_test", &["boot_info"]),
    ("work", &[]),
];

/// Checks that the parts inside `scope` use each other as the table says. All may use the modules `shared`.
fn check(table: Table, scope: &str, shared: &[&str]) {
    let full = |part: &str| match (scope, part) {
        ("", _) => part.to_owned(),
        (_, "mod.rs") => scope.to_owned(),
        _ => format!("{scope}::{part}"),
    };
    let is_inside = |module: &str| scope.is_empty() || contains(scope, module) && module != scope;
    let row_of = |module: &str| {
        let row = table.iter().find(|(part, _)| contains(&full(part), module));
        *row.unwrap_or_else(|| panic!("{module} is in no row"))
    };
    let modules = modules();
    for module in modules.iter().filter(|module| is_inside(&module.name)) {
        row_of(&module.name);
    }
    for (part, _) in table {
        assert!(modules.iter().any(|module| contains(&full(part), &module.name)), "{part} has a row but no module");
    }

    let mut unused: BTreeSet<_> = arrows(table).collect();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (user, used) in imports::graph(&modules).edges() {
        // Another table has the arrows that leave the scope.
        if !is_inside(user) || !(scope.is_empty() || contains(scope, used)) || shared.contains(&used) {
            continue;
        }
        checked += 1;
        let (part, uses) = row_of(user);
        let is_allowed = |name: &&&str| **name != "mod.rs" && contains(&full(name), used) || full(name) == used;
        match uses.iter().find(is_allowed) {
            Some(allowed) => _ = unused.remove(&(part, *allowed)),
            None if contains(&full(part), used) => {}
            None => wrong.push(format!("{user} may not use {used}")),
        }
    }
    let mutual: Vec<_> =
        arrows(table).filter(|(part, used)| part < used && arrows(table).any(|back| back == (used, part))).collect();
    println!("{checked} imports checked; {} pairs use each other: {mutual:?}", mutual.len());
    assert!(checked > 10, "the imports were not found");
    assert!(wrong.is_empty(), "imports that the table does not allow:\n{}", wrong.join("\n"));
    assert!(unused.is_empty(), "arrows that nothing uses: {unused:?}");
}

/// All pairs of a part and one that it may use.
fn arrows(table: Table) -> impl Iterator<Item = (&'static str, &'static str)> {
    table.iter().flat_map(|(part, uses)| uses.iter().map(move |used| (*part, *used)))
}

#[test]
fn no_part_uses_one_above_it() {
    check(LAYERS, "", &[]);
}

#[test]
fn the_folders_of_the_engine_use_each_other_only_as_listed() {
    check(ENGINE, "engine", &["engine"]);
}

#[test]
fn the_modules_of_the_kernel_use_each_other_only_as_listed() {
    check(KERNEL, "kernel", &[]);
}
