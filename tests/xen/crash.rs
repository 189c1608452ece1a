//! Warm restart on real Xen: a crash while a request is handled costs its client, and the host nothing.

use crate::harness::boot;
use crate::update::{assert_nothing_lost, image};

#[test]
fn a_crash_in_a_request_costs_its_client_alone_and_the_store_goes_on() {
    let kernel = image("boot-test");
    let job = ". /functions\nsection crash 300 sh -l /job/crash.sh\n";
    let run = boot("4.17 crash", "4.17", job, &["--kernel", &kernel]);
    let output = run.section("crash");
    assert!(!output.contains("FAILED"), "{output}");
    for wanted in [
        "dom0 panic: ",
        "domain 0, Some(Write) /crash-by-panic: panic at src/engine/in_hand.rs",
        "domain 0, Some(Write) /crash-by-fault: fault 6 (invalid opcode)",
        "guest: domain N, Some(Write) data/crash-by-panic: panic at src/engine/in_hand.rs",
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
