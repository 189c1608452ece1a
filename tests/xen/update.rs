//! Live update on real Xen: many in a row under load, and successors that fail.

use std::path::Path;
use std::sync::OnceLock;

use crate::harness::{Run, boot};

/// Updates in a row on each release, without `XEN_UPDATES`. Each takes some three seconds, most of them for the upload
/// of the kernel.
const UPDATES: u32 = 30;
/// The use of the heap may vary a little with pending output and the places where trees split. One lost connection, or
/// a hundred bytes lost at each update, exceed this.
pub(crate) const HEAP_TOLERANCE_BYTES: u64 = 16 * 1024;

/// The least rounds of each client: it worked all the time.
const ROUNDS_LEAST: u64 = 100;

/// Returns the number of updates.
fn update_count() -> usize {
    let asked = std::env::var("XEN_UPDATES").ok();
    asked.map_or(UPDATES as usize, |asked| asked.parse().expect("XEN_UPDATES is a number"))
}

pub(crate) fn image(kind: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/xenstore-stubdom-{kind}"));
    assert!(path.exists(), "no image at {}: build it with `make test-kernels`", path.display());
    path.display().to_string()
}

fn updates(release: &'static str) -> &'static Run {
    static RUNS: [OnceLock<Run>; 2] = [const { OnceLock::new() }; 2];
    RUNS[usize::from(release == "4.20")].get_or_init(|| {
        let job = format!(
            ". /functions\n\
             section update 800 env UPDATES={} sh -l /job/update.sh\n",
            update_count()
        );
        // In the larger domain, part of the predecessor's memory joins the heap only while guests are served again.
        let memory_mib = if release == "4.20" { "32" } else { "8" };
        boot(&format!("{release} update"), release, &job, &["--memory", memory_mib])
    })
}

fn failures() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let job = ". /functions\nsection failures 800 sh -l /job/update-failures.sh\n";
        let (test, old) = (image("boot-test") + ":test-kernel", image("stream-v1") + ":old-kernel");
        boot("4.17 failures", "4.17", job, &["--file", &test, "--file", &old])
    })
}

/// Returns a number after `name=` in a line.
pub(crate) fn figure(line: &str, name: &str) -> u64 {
    let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name}= in {line:?}"))
}

pub(crate) fn line<'a>(run: &Run, output: &'a str, prefix: &str) -> &'a str {
    let found = output.lines().find(|line| line.starts_with(prefix));
    found.unwrap_or_else(|| run.fail(&format!("no line {prefix:?} in\n{output}")))
}

/// Checks the client's own counts: as many events as rounds, and enough rounds.
pub(crate) fn assert_nothing_lost(run: &Run, output: &str, client: &str) {
    let line = line(run, output, client);
    let (rounds, events) = (figure(line, "rounds"), figure(line, "events"));
    println!("{}: {line}", run.name);
    assert!(rounds >= ROUNDS_LEAST, "{client} hardly worked: {line}");
    assert_eq!(rounds, events, "{line}");
}

fn updates_in_a_row(release: &'static str) {
    let run = updates(release);
    let output = run.section("update");
    assert!(!output.contains("FAILED"), "Xen {release}:\n{output}");
    let good = output.lines().filter(|line| line.starts_with("update ") && line.contains(": status 0 ")).count();
    assert_eq!(good, update_count(), "Xen {release}:\n{output}");
    // The emulator may reset the PVH guest; the job then creates another one, with rounds of its own.
    let was_reset = output.contains("a guest was reset by the emulator");
    for client in ["dom0: ", "pv guest: ", "pvh guest: "].into_iter().take(if was_reset { 2 } else { 3 }) {
        assert_nothing_lost(run, &output, client);
    }
    let (before, after) = (line(run, &output, "before "), line(run, &output, "after "));
    println!("Xen {release}: {before}\nXen {release}: {after}");
    for name in ["rings", "ports"] {
        let (before, after) = (figure(before, name), figure(after, name));
        assert_eq!(after, before, "Xen {release}: {name}");
    }
    assert!(figure(after, "used").abs_diff(figure(before, "used")) < HEAP_TOLERANCE_BYTES, "{before}\n{after}");
    let pauses = run.console("Xenstore");
    let pauses: Vec<&str> = pauses.lines().filter(|line| line.contains("took over in")).collect();
    println!("Xen {release}: {}", pauses.last().unwrap_or(&"no log line of an update"));
    assert_eq!(pauses.len(), update_count());
}

#[test]
fn updates_in_a_row_lose_nothing_on_4_17() {
    updates_in_a_row("4.17");
}

#[test]
fn updates_in_a_row_lose_nothing_on_4_20() {
    updates_in_a_row("4.20");
}

#[test]
fn after_each_failure_of_a_successor_the_predecessor_serves_and_reports_the_reason() {
    let run = failures();
    let output = run.section("failures");
    assert!(!output.contains("FAILED"), "{output}");
    let mut count = 0;
    for (failure, why) in [
        ("garbage", "it is not an ELF file"),
        ("half", "is not in the file"),
        ("fault-early", "ended with fault 6"),
        ("jump-early", "ended with fault 14 at 0x12345678"),
        ("hang-early", "did not finish within"),
        ("panic-before", "panic at src/kernel/update_test.rs"),
        ("fault-before", "fault 14 (page fault)"),
        ("panic-twice", "while another was reported"),
        ("panic-during", "panic at src/kernel/update_test.rs"),
        ("panic-after", "panic at src/kernel/update_test.rs"),
        ("fault-after", "fault 14 (page fault)"),
        ("hang-after", "did not finish within"),
        ("memory", "memory allocation of 10000 bytes failed"),
        ("corrupt", "at offset"),
        ("truncated", "the stream ends before its END record"),
        ("version", "version 3 is not supported"),
        ("nonsense", "not a migration stream"),
        ("too-new", "version 2 is not supported"),
        ("no-room", "-F drops the"),
        ("no-room-panic", "panic at src/kernel/update_test.rs"),
        ("no-room-corrupt", "at offset"),
    ] {
        let answer = line(run, &output, &format!("{failure}: "));
        assert!(answer.contains(why), "{failure}: no {why:?} in {answer:?}");
        println!("{answer}");
        count += 1;
    }
    for wanted in [
        "older: \n",
        "no-room-good: \n",
        "the transaction: held committed in a transaction",
        "version 2 is needed, and may be written",
        "memory: ",
        "expected pause: ",
    ] {
        assert!(output.contains(wanted), "no {wanted:?} in\n{output}");
    }
    println!("{count} failures, {}", line(run, &output, "kernels that served"));
    for client in ["dom0: ", "guest: "] {
        assert_nothing_lost(run, &output, client);
    }
}
