//! The kernel where it cannot serve: started without the rights of a Xenstore domain, or with too little memory.

use std::sync::OnceLock;

use crate::harness::{RELEASES, Run, boot, c_server};

/// The smallest size that is tried, in MiB.
const SMALL_MEMORY_MIB: &str = "4";

#[test]
fn without_the_rights_of_a_xenstore_the_kernel_logs_one_line_and_powers_off() {
    for release in RELEASES {
        let run = c_server(release);
        let output = run.section("alone");
        assert!(!output.contains("FAILED"), "Xen {release}:\n{output}");
        assert!(output.contains("shutdown reason: 0\n"), "Xen {release}: not powered off:\n{output}");
        let console = run.console("xenstore-stubdom");
        let lines: Vec<&str> = console.lines().filter(|line| line.contains("privilege")).collect();
        assert_eq!(lines.len(), 1, "Xen {release}: one line about the missing privilege, in\n{console}");
        println!("Xen {release}: {}", lines.concat());
    }
}

fn small() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    let job = ". /functions\nsection small 60 xenstore-ls -f /tool\n";
    RUN.get_or_init(|| boot("4.17 small", "4.17", job, &["--memory", SMALL_MEMORY_MIB]))
}

#[test]
fn four_mib_are_enough() {
    let run = small();
    if run.status != 0 {
        run.fail("the kernel did not start with 4 MiB");
    }
    let output = run.section("small");
    assert!(output.contains("/tool/xenstored/domid = "), "{output}");
    println!("4 MiB are enough: {}", run.console("Xenstore").lines().next().unwrap_or_default());
}
