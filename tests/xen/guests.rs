//! Linux guests find their Xenstore in the kernel, and leave nothing behind.

use crate::harness::{RELEASES_WITH_GUESTS, Run, stubdom};

/// The report of every guest: its id, its own node read back, two events, and four refused writes.
const REPORT: &str = "domid=ID written=by domain ID fired=2 refused=4";

/// The heap use may vary a little with the same content, as trees split in different places. One guest's nodes take
/// many times as much. Twenty leaked guests, or a hundred bytes leaked in each round, exceed this.
const HEAP_TOLERANCE_BYTES: u64 = 2048;

fn section_without_failures(run: &Run, name: &str) -> String {
    let output = run.section(name);
    if output.contains("FAILED") {
        run.fail(&format!("{name} printed:\n{output}"));
    }
    output
}

fn line_after<'a>(output: &'a str, prefix: &str) -> &'a str {
    output.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or("(no such line)").trim()
}

#[test]
fn pv_and_pvh_guests_use_their_store_and_may_not_touch_the_nodes_of_others() {
    for release in RELEASES_WITH_GUESTS {
        let output = section_without_failures(stubdom(release), "guests");
        for guest in ["pv:", "pvh:"] {
            assert_eq!(line_after(&output, guest), REPORT, "Xen {release}, {guest} in\n{output}");
        }
    }
}

#[test]
fn shut_down_and_destroyed_guests_vanish_and_can_be_created_again() {
    for release in RELEASES_WITH_GUESTS {
        let output = section_without_failures(stubdom(release), "guests");
        for line in ["pv: gone after xl shutdown", "pvh: gone after xl destroy", "again: gone"] {
            assert!(output.lines().any(|printed| printed == line), "Xen {release}: no {line:?} in\n{output}");
        }
        assert_eq!(line_after(&output, "domains before:"), line_after(&output, "domains after:"), "Xen {release}");
        assert_eq!(line_after(&output, "again:"), REPORT, "Xen {release}");
    }
}

/// Returns a figure of the kernel's log line about its memory.
fn figure(line: &str, name: &str) -> u64 {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name}= in {line:?}"))
}

/// Returns how many grants the Xenstore domain has mapped, by Xen's own dump of the grant tables: one line each.
fn mapped_grants(run: &Run, moment: &str) -> usize {
    let dump = run.file(&format!("grants-{moment}.txt")).unwrap_or_default();
    assert!(dump.contains("gnttab_usage_print_all"), "{}: Xen's dump of grant tables {moment}:\n{dump}", run.name);
    // An entry in use begins with its reference: "(XEN) [0x001]".
    dump.lines().filter(|line| line.trim_start_matches("(XEN) ").starts_with("[0x")).count()
}

#[test]
fn twenty_rounds_of_guests_leave_the_store_the_heap_and_the_grant_maps_as_they_were() {
    for release in RELEASES_WITH_GUESTS {
        let run = stubdom(release);
        let output = section_without_failures(run, "rounds");
        assert_eq!(line_after(&output, "rounds:"), "20", "Xen {release}");
        assert_eq!(run.file("store-before.txt"), run.file("store-after.txt"), "Xen {release}: the store has changed");

        let (before, after) = (line_after(&output, "before memory:"), line_after(&output, "after memory:"));
        println!("Xen {release}: before 20 rounds: {before}\nXen {release}: after 20 rounds:  {after}");
        let (used_before, used_after) = (figure(before, "used"), figure(after, "used"));
        let change = used_before.abs_diff(used_after);
        assert!(
            change <= HEAP_TOLERANCE_BYTES,
            "Xen {release}: heap use went from {used_before} to {used_after} bytes"
        );
        for name in ["rings", "ports"] {
            assert_eq!(figure(before, name), figure(after, name), "Xen {release}: {name}");
        }
        let (maps_before, maps_after) = (mapped_grants(run, "before"), mapped_grants(run, "after"));
        println!("Xen {release}: grants in use: {maps_before} before, {maps_after} after");
        assert!(maps_before > 0, "Xen {release}: dom0's own ring is a grant in use");
        assert_eq!(maps_before, maps_after, "Xen {release}: grants in use");
    }
}
