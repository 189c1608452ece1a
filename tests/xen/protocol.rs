//! The store's own commands, and a guest at each of its limits.

use crate::harness::{RELEASES_WITH_GUESTS, Run, stubdom};

/// Returns the output of one command of a script that shows `$ command`, the output, and `-> status`.
fn printed<'a>(output: &'a str, command: &str, status: u32) -> &'a str {
    let begin = format!("$ {command}\n");
    let from = output.find(&begin).unwrap_or_else(|| panic!("{command:?} never ran in\n{output}")) + begin.len();
    let rest = &output[from..];
    let end = rest.find("-> ").unwrap_or_else(|| panic!("{command:?} did not end in\n{output}"));
    let expected = format!("-> {status}\n");
    assert!(rest[end..].starts_with(&expected), "{command:?} should have ended with {status} in\n{output}");
    &rest[..end]
}

#[test]
fn xenstore_control_commands_answer_in_dom0() {
    for release in RELEASES_WITH_GUESTS {
        let run = stubdom(release);
        let output = run.section("control");
        let control =
            |command: &str, status| printed(&output, &format!("xenstore-control {command}"), status).to_owned();
        let contains = |command: &str, wanted: &[&str]| {
            let answer = control(command, 0);
            for wanted in wanted {
                assert!(answer.contains(wanted), "Xen {release}: no {wanted:?} in the answer to {command}:\n{answer}");
            }
        };
        contains("check", &["OK"]);
        contains("help", &["check", "memreport", "quota-soft"]);
        for command in ["print hello", "log on", "log off"] {
            control(command, 0);
        }
        contains("logfile /var/log/store", &["xl console"]);
        contains("memreport", &["nodes ", "connections "]);
        contains("quota", &["Quota settings:", "nodes            :     1000", "watches          :      128"]);
        contains("quota-soft", &["memory           :  2097152"]);
        contains("quota 0", &["Domain 0:", "nodes "]);
        contains("quota max", &["Max. seen accounting values:"]);
        contains("quota set watches 129", &["OK"]);
        for command in ["quota set nonsense 1", "quota 9999", "nonsense"] {
            control(command, 3);
        }
        let console = run.console("Xenstore");
        assert!(console.contains("control: hello"), "Xen {release}: the console shows\n{console}");
        println!("Xen {release}: {} commands of xenstore-control", output.matches("\n-> ").count());
    }
}

/// Returns a guest's report of a quota: the number that was allowed, and the error at the end.
fn limit<'a>(run: &Run, output: &'a str, quota: &str) -> (u32, &'a str) {
    let line = output.lines().find_map(|line| line.strip_prefix(&format!("{quota}: "))?.split_once(" then "));
    let Some((count, error)) = line else { run.fail(&format!("no end of {quota} in\n{output}")) };
    (count.parse().expect("a count"), error)
}

#[test]
fn a_guest_meets_each_of_its_quotas_with_the_right_error_and_works_on() {
    for release in RELEASES_WITH_GUESTS {
        let run = stubdom(release);
        let output = run.section("quotas");
        assert!(!output.contains("FAILED"), "Xen {release}:\n{output}");
        // The most that may fit: the nodes of Linux and the toolstack count as well.
        for (quota, least, most, error) in [
            ("nodes", 900, 1000, "ENOSPC"),
            // Some three thousand bytes each: the quota of nodes would have allowed more.
            ("memory", 700, 930, "ENOSPC"),
            ("node-size", 0, 48, "ENOSPC"),
            ("path-max", 1, 48, "EINVAL"),
            ("node-permissions", 5, 5, "ENOSPC"),
            ("watches", 100, 128, "ENOSPC"),
            ("transactions", 1, 10, "ENOSPC"),
            ("transaction-nodes", 900, 1024, "ENOSPC"),
        ] {
            let (count, ended_with) = limit(run, &output, quota);
            assert_eq!(ended_with, error, "Xen {release}, {quota}:\n{output}");
            assert!((least..=most).contains(&count), "Xen {release}, {quota} allowed {count}:\n{output}");
        }
        for quota in ["nodes", "memory", "node-size", "watches", "transactions"] {
            assert!(output.contains(&format!("{quota}: works again")), "Xen {release}, {quota}:\n{output}");
        }
        for line in output.lines().filter(|line| line.contains("reads=") || line.contains(" then ")) {
            println!("Xen {release}: {line}");
        }
    }
}
