//! Warm restart on real Xen: a crash in a request costs only its client's connection.

use crate::harness::boot;
use crate::update::{assert_nothing_lost, image};

#[test]
fn a_crash_in_a_request_costs_only_its_client_and_the_store_still_serves() {
    let kernel = image("boot-test");
    let job = ". /functions\nsection crash 300 sh -l /job/crash.sh\n";
    // With less memory, the heap is full sooner.
    let run = boot("4.17 crash", "4.17", job, &["--kernel", &kernel, "--memory", "5"]);
    let output = run.section("crash");
    assert!(!output.contains("FAILED"), "{output}");
    for wanted in [
        "dom0 panic: ",
        "domain 0, Write /crash-by-panic: panic at src/kernel/in_flight.rs",
        "domain 0, Write /crash-by-fault: fault 6 (invalid opcode)",
        "guest: domain N, Write data/crash-by-panic: panic at src/kernel/in_flight.rs",
        "no room: xenstore-write: could not write path /crash-by-panic; domain 0, Write /crash-by-panic: panic at",
        "restarts: 3\n",
    ] {
        assert!(output.contains(wanted), "no {wanted:?} in\n{output}");
    }
    for client in ["dom0: ", "guest: rounds"] {
        assert_nothing_lost(&run, &output, client);
    }
    let console = run.console("Xenstore");
    for line in console.lines().filter(|line| line.contains("warm restart:")) {
        println!("4.17: {line}");
    }
}

#[test]
fn a_crash_during_the_restart_ends_it_with_both_reports() {
    let kernel = image("boot-test");
    let job = ". /functions\nsection crash-twice 100 sh -l /job/crash-twice.sh\n";
    let run = boot("4.17 crash twice", "4.17", job, &["--kernel", &kernel, "--param", "--update-test=panic-before"]);
    let output = run.section("crash-twice");
    assert!(!output.contains("FAILED"), "{output}");
    let mut rest = output.as_str();
    for wanted in [
        "panic at src/kernel/in_flight.rs",
        "requested by a test",
        "panic at src/kernel/update_test.rs",
        "asked for",
        "no warm restart: the restart failed as well",
    ] {
        let Some((_, behind)) = rest.split_once(wanted) else { run.fail(&format!("no {wanted:?} in\n{output}")) };
        rest = behind;
    }
}
