//! A hostile guest on real Xen: it harms no other domain, and leaves nothing.

use std::path::Path;

use crate::harness::boot;
use crate::update::{HEAP_TOLERANCE_BYTES, assert_nothing_lost, figure, image, line};

/// The modes of the guest, and their least counts: with less, a mode was no attack.
const MODES: [(&str, &[(&str, u64)]); 6] = [
    ("indices", &[("scribbled", 10_000), ("signals", 1000), ("errors", 5), ("reconnections", 5)]),
    ("flood", &[("signals", 10_000)]),
    ("garbage", &[("bytes", 5000), ("requests", 100), ("reconnections", 1)]),
    ("fill", &[("watches", 128), ("transactions", 10), ("nodes", 800), ("unread", 20)]),
    ("walk", &[("refused", 100)]),
    ("revoke", &[("granted", 1)]),
];

/// The factor by which dom0's median wait for a read may exceed that next to a guest that only computes. Such a guest
/// takes processors as well, and the emulated host has only two. A blocked store would exceed it by hundreds.
const SLOWER_AT_MOST: u64 = 20;

#[test]
fn a_hostile_guest_harms_no_other_domain_and_leaves_nothing() {
    let guest = image("hostile-guest");
    assert!(Path::new(&guest).exists());
    let job = ". /functions\nsection hostile 400 sh -l /job/hostile.sh\n";
    let run = boot("4.17 hostile", "4.17", job, &["--file", &format!("{guest}:hostile")]);
    let output = run.section("hostile");
    assert!(!output.contains("FAILED") && !output.contains("VIOLATION"), "{output}");
    let median = |what: &str| figure(line(&run, &output, &format!("latency {what}:")), "median");
    let quiet = median("quiet").max(median("spin"));
    println!("4.17: {}\n4.17: {}", line(&run, &output, "latency quiet:"), line(&run, &output, "latency spin:"));
    for (mode, counts) in MODES {
        let done = format!("hostile: {mode} is done:");
        let logged = output.lines().rfind(|line| line.contains(&done));
        let logged = logged.unwrap_or_else(|| run.fail(&format!("no {done:?} in\n{output}")));
        for (name, least) in counts {
            assert!(figure(logged, name) >= *least, "fewer than {least}: {logged}");
        }
        println!("4.17: {logged}");
    }
    assert!(output.contains("second-processor=yes"), "{output}");
    assert!(output.contains("violations=0 unanswered=0"), "{output}");
    for mode in MODES.map(|(mode, _)| mode).into_iter().chain(["die"]) {
        let latency = line(&run, &output, &format!("latency {mode}:"));
        println!("4.17: {latency}");
        assert!(figure(latency, "reads") >= 20, "{latency}");
        let median = median(mode);
        assert!(median <= quiet * SLOWER_AT_MOST, "{mode}: {median} us, {quiet} us without");
    }
    let (before, after) = (line(&run, &output, "before "), line(&run, &output, "after "));
    println!("4.17: {before}\n4.17: {after}");
    for what in ["rings", "ports"] {
        assert_eq!(figure(before, what), figure(after, what), "{what}");
    }
    assert!(
        figure(before, "used").abs_diff(figure(after, "used")) < HEAP_TOLERANCE_BYTES,
        "the use of the heap has changed"
    );
    assert_nothing_lost(&run, &output, "guest: rounds");
}
