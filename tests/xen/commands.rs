//! The Xenstore domain starts on every release, and dom0's tools cannot tell it from the C server.

use crate::harness::{RELEASES_WITH_GUESTS, Run, c_server, stubdom};

/// Fails unless the kernel was started as the Xenstore and answered. Prints the time that this took.
fn starts_as_xenstore(release: &str) {
    let run = stubdom(release);
    let status = run.file("init-xenstore-domain.status");
    if status.as_deref().map(str::trim) != Some("0") {
        run.fail(&format!("the Xenstore domain did not start: status {status:?}"));
    }
    assert_eq!(run.status, 0, "{}: the job ended with status {}", run.name, run.status);
    let taken = run.file("init-xenstore-domain.ms").unwrap_or_default();
    println!("Xen {release}: {} ms from the start of the Xenstore domain to its last answer", taken.trim());
}

#[test]
fn init_xenstore_domain_returns_0_on_4_14() {
    starts_as_xenstore("4.14");
}

#[test]
fn init_xenstore_domain_returns_0_on_4_17() {
    starts_as_xenstore("4.17");
}

#[test]
fn launch_xenstore_with_the_sample_configuration_starts_it_on_4_20() {
    starts_as_xenstore("4.20");
}

/// Fails at the first line that differs, and shows its command.
fn commands_match_c_server(release: &str) {
    let (ours, theirs) = (stubdom(release).section("commands"), c_server(release).section("commands"));
    let mut command = "";
    let (mut our_lines, mut their_lines) = (ours.lines(), theirs.lines());
    let mut compared = 0;
    loop {
        let (our_line, their_line) = (our_lines.next(), their_lines.next());
        if our_line != their_line {
            panic!(
                "Xen {release}, after {command:?} (line {compared}):\n  C server: {their_line:?}\n  ours:     {our_line:?}"
            );
        }
        let Some(line) = our_line else { break };
        if line.starts_with("$ ") {
            command = line;
        }
        compared += 1;
    }
    assert_eq!(ours, theirs);
    let commands = ours.lines().filter(|line| line.starts_with("-> ")).count();
    assert!(commands > 90, "the script ran {commands} commands only");
    println!("Xen {release}: {commands} commands and {compared} lines of output as the C server's");
}

#[test]
fn commands_give_the_same_as_with_the_c_server_on_4_14() {
    commands_match_c_server("4.14");
}

#[test]
fn commands_give_the_same_as_with_the_c_server_on_4_17() {
    commands_match_c_server("4.17");
}

#[test]
fn commands_give_the_same_as_with_the_c_server_on_4_20() {
    commands_match_c_server("4.20");
}

/// Returns the tests that `test-xenstore` reported, with their mean times in ns.
fn means(run: &Run) -> Vec<(String, u64)> {
    let output = run.section("test-xenstore");
    output
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let mean = rest.trim().strip_prefix("avg: ")?.split(' ').next()?.parse().ok()?;
            Some((name.trim().to_owned(), mean))
        })
        .collect()
}

#[test]
fn test_xenstore_passes_all_its_tests() {
    for release in RELEASES_WITH_GUESTS {
        let (ours, theirs) = (means(stubdom(release)), means(c_server(release)));
        assert_eq!(ours.len(), theirs.len(), "Xen {release}: as many tests for both stores");
        assert!(ours.len() >= 12, "Xen {release}: test-xenstore ran {} tests", ours.len());
        println!("Xen {release}: means of test-xenstore, in microseconds\n  {:14}{:>8}{:>8}", "test", "ours", "C");
        for ((name, our_mean), (_, their_mean)) in ours.iter().zip(&theirs) {
            println!("  {name:14}{:>8}{:>8}", our_mean / 1000, their_mean / 1000);
        }
    }
}
