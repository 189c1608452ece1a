//! `docs/benchmarks/xen.md`: tables of results with their goals.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::machine;
use crate::plan::{IDLE_S, LARGE_NODES, NODES, RELEASES, Store, image_bytes};
use crate::results::{Results, Samples};

/// The goal for the image, in bytes.
const IMAGE_GOAL: u64 = 512 * 1024;
/// The goal for the pause, as a part of the daemon's.
const PAUSE_GOAL: f64 = 0.1;
/// Wake-ups that the reading of the counts alone takes.
const IDLE_WAKEUPS: f64 = 20.0;
/// The number of nodes from which the pause has a goal.
const PAUSE_GOAL_FROM: u32 = 10_000;

/// Writes the page.
pub(crate) fn write(folder: &Path, results: &Results) -> io::Result<()> {
    let mut page = String::from(HEAD);
    machine_and_load(&mut page, results);
    test_xenstore(&mut page, results);
    latency(&mut page, results);
    guests(&mut page, results);
    work(&mut page, results);
    idle(&mut page, results);
    pause(&mut page, results);
    parts(&mut page, results);
    start_and_size(&mut page, results);
    scale(&mut page, results);
    failures(&mut page, results);
    fs::create_dir_all(folder)?;
    fs::write(folder.join("xen.md"), page)
}

const HEAD: &str = "# Benchmarks on real Xen

`make bench-xen` writes this page. It boots Xen, dom0 and a Xenstore in QEMU without KVM: in turn this kernel in its own
domain, and the C daemon in dom0, on the same Xen and the same dom0. The figures compare the two with each other;
hardware is many times faster than an emulator. Each figure is the median of the rounds, with the minimum and the
maximum in parentheses. Each round is one boot.

";

/// Formats a figure with the digits that are significant, such as `12.3`.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Formats a median with its spread, or a dash without samples.
fn cell(samples: Option<&Samples>) -> String {
    samples.map_or_else(
        || "–".to_owned(),
        |samples| {
            let median = number(samples.median());
            if samples.count() == 1 {
                return median;
            }
            format!("{median} ({}–{})", number(samples.least()), number(samples.most()))
        },
    )
}

const fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

/// Writes a row that compares both stores. `goal` is the upper bound of the ratio of the medians.
fn compare(page: &mut String, results: &Results, release: &'static str, what: &str, title: &str, goal: Option<f64>) {
    let [ours, daemon] = Store::BOTH.map(|store| results.get(release, store, what));
    let ratio = ours.as_ref().zip(daemon.as_ref()).map(|(ours, daemon)| ours.median() / daemon.median());
    let verdict = match (ratio, goal) {
        (Some(ratio), Some(goal)) => format!("≤ {goal}: {}", verdict(ratio <= goal)),
        _ => "–".to_owned(),
    };
    let ratio = ratio.map_or_else(|| "–".to_owned(), number);
    let _ = writeln!(
        page,
        "| {release} | {title} | {} | {} | {ratio} | {verdict} |",
        cell(ours.as_ref()),
        cell(daemon.as_ref())
    );
}

fn comparison_head(page: &mut String, what: &str) {
    let _ = writeln!(page, "\n| Xen | {what} | this kernel | C daemon | ratio | goal |\n|---|---|---|---|---|---|");
}

fn machine_and_load(page: &mut String, results: &Results) {
    for line in machine::describe() {
        let _ = writeln!(page, "- {line}");
    }
    if let Some(loads) = results.loads() {
        let _ = writeln!(
            page,
            "- Load of the machine when the {} hosts were booted: {}",
            loads.count(),
            cell(Some(&loads))
        );
    }
}

fn test_xenstore(page: &mut String, results: &Results) {
    page.push_str("\n## Xen's own test of a store\n\nThe means of `test-xenstore` in dom0, in microseconds.\n");
    comparison_head(page, "test");
    for release in RELEASES {
        for test in results.names("test ") {
            compare(page, results, release, &format!("test {test}"), &test, Some(1.0));
        }
    }
}

fn latency(page: &mut String, results: &Results) {
    page.push_str(
        "\n## The time of one read\n\nOne client in dom0 that reads continuously, through `/dev/xen/xenbus`, in \
         microseconds.\n\n![latency](xen-latency.svg)\n",
    );
    comparison_head(page, "of all reads");
    for release in RELEASES {
        for (what, title) in
            [("mean", "mean"), ("p50", "median"), ("p90", "90 %"), ("p99", "99 %"), ("p99.9", "99.9 %")]
        {
            compare(page, results, release, &format!("alone latency {what}"), title, None);
        }
    }
}

fn guests(page: &mut String, results: &Results) {
    page.push_str(
        "\n## Four guests at once\n\nFour small PV guests write nodes of their own and read them back. Each sends its \
         next request after the reply. All replies are checked.\n",
    );
    comparison_head(page, "what");
    for release in RELEASES {
        compare(page, results, release, "guests mean us", "mean time of a request, µs", Some(1.0));
        compare(page, results, release, "guests median us", "median, µs", None);
        compare(page, results, release, "guests p99 us", "99 %, µs", None);
        compare(page, results, release, "guests rate", "requests per second, together (more is better)", None);
        compare(page, results, release, "guests ping mean", "a word from dom0 to a guest and back, mean, µs", None);
    }
}

fn work(page: &mut String, results: &Results) {
    page.push_str(
        "\n## Wake-ups, events and hypercalls\n\nThe kernel's counts. A single request needs two hypercalls: one \
         signals the reply, and one sleeps until the next event.\n\n\
         | Xen | what | one client in dom0 | four guests |\n|---|---|---|---|\n",
    );
    for release in RELEASES {
        for what in [
            "wakeups per request",
            "events per request",
            "notifications per request",
            "hypercalls per request",
            "events per hypercall",
            "running_us per request",
        ] {
            let [alone, guests] =
                ["alone", "guests"].map(|part| results.get(release, Store::Stubdom, &format!("{part} {what}")));
            let title = what.replace("running_us", "processor time, µs,");
            let _ = writeln!(page, "| {release} | {title} | {} | {} |", cell(alone.as_ref()), cell(guests.as_ref()));
        }
    }
}

fn idle(page: &mut String, results: &Results) {
    let _ = writeln!(
        page,
        "\n## An idle minute\n\nThe kernel's work in {IDLE_S} s without a request. The counts include the command that \
         reads them: two or three requests, and the lines on the console.\n\n\
         | Xen | wake-ups | hypercalls | processor time, ms | goal |\n|---|---|---|---|---|"
    );
    for release in RELEASES {
        let get = |what: &str| results.get(release, Store::Stubdom, &format!("idle {what}"));
        let (wakeups, hypercalls, running) = (get("wakeups"), get("hypercalls"), get("running_us"));
        let is_met = wakeups.as_ref().map(|wakeups| wakeups.median() <= IDLE_WAKEUPS);
        let running = running.map_or_else(|| "–".to_owned(), |us| number(us.median() / 1000.0));
        let goal = is_met.map_or("–", verdict);
        let (wakeups, hypercalls) = (cell(wakeups.as_ref()), cell(hypercalls.as_ref()));
        let _ = writeln!(page, "| {release} | {wakeups} | {hypercalls} | {running} | zero: {goal} |");
    }
}

fn pause(page: &mut String, results: &Results) {
    page.push_str(
        "\n## Live update\n\nThe longest wait of a client for one reply, in milliseconds. The client is in dom0 and \
         reads continuously while the store is updated to its own image or program.\n\n\
         ![pause against nodes](xen-pause.svg)\n",
    );
    comparison_head(page, "nodes");
    for release in RELEASES {
        for nodes in [NODES[0], NODES[1], LARGE_NODES] {
            let goal = (nodes >= PAUSE_GOAL_FROM).then_some(PAUSE_GOAL);
            compare(page, results, release, &format!("pause {nodes}"), &nodes.to_string(), goal);
        }
    }
}

fn parts(page: &mut String, results: &Results) {
    page.push_str(
        "\nThe parts of this kernel's pause in milliseconds, and its needs. \"Memory\" must be free for the stream, \
         the new kernel and a second copy of the state.\n\n\
         | Xen | nodes | saved | switched | restored | took over | stream, bytes per node | memory, KiB |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for release in RELEASES {
        let few = results.get(release, Store::Stubdom, &format!("bytes {}", NODES[0]));
        for nodes in [NODES[0], NODES[1], LARGE_NODES] {
            let get = |what: &str| results.get(release, Store::Stubdom, &format!("{what} {nodes}"));
            let [saved, switched, restored, took_over, needed] =
                ["saved", "switched", "restored", "took_over", "needed"].map(|what| cell(get(what).as_ref()));
            let per_node = few.as_ref().zip(get("bytes")).filter(|_| nodes > NODES[0]).map_or_else(
                || "–".to_owned(),
                |(few, many)| number((many.median() - few.median()) / f64::from(nodes - NODES[0])),
            );
            let _ = writeln!(
                page,
                "| {release} | {nodes} | {saved} | {switched} | {restored} | {took_over} | {per_node} | {needed} |"
            );
        }
    }
}

fn start_and_size(page: &mut String, results: &Results) {
    page.push_str(
        "\n## Start and size\n\nMilliseconds from the command that starts the store until its first reply. \
         `init-xenstore-domain` builds the domain and writes to the store; `xenstored` is followed by a first read.\n",
    );
    comparison_head(page, "what");
    for release in RELEASES {
        compare(page, results, release, "start ms", "start command, ms", None);
    }
    for release in RELEASES {
        if let Some(us) = results.get(release, Store::Stubdom, "first reply us") {
            let _ =
                writeln!(page, "\nXen {release}: from the kernel's entry to its first reply: {} µs.", cell(Some(&us)));
        }
    }
    if let Some(bytes) = image_bytes() {
        let verdict = verdict(bytes <= IMAGE_GOAL);
        let _ = writeln!(
            page,
            "\nImage: {bytes} bytes. Goal: at most {IMAGE_GOAL}: {verdict}. (C server's PV stub domain: about 262,000.)"
        );
    }
}

fn scale(page: &mut String, results: &Results) {
    let get = |what: &str| results.get("4.17", Store::Stubdom, what);
    let text = |what: &str| cell(get(what).as_ref());
    let _ = writeln!(
        page,
        "\n## Hundreds of guests\n\nPV guests of 4 MiB, the minimum of Xen's domain builder, all connected at once on \
         Xen 4.17. Goal: at least 300, all served.\n\n\
         | what | figure |\n|---|---|\n\
         | guests created | {} |\n| time to create them, s | {} |\n| rings mapped | {} |\n| heap in use, KiB | {} |\n\
         | guests that answered when all were called at once | {} of {} |\n| time until the last answer, ms | {} |\n\
         | call and answer of one guest, mean, µs | {} |\n\
         | a read by dom0 with no guest: median, 99 %, µs | {}, {} |\n\
         | a read by dom0 with all of them: median, 99 %, µs | {}, {} |\n\
         | time to destroy them, s | {} |",
        text("scale created count"),
        get("scale created ms").map_or_else(|| "–".to_owned(), |ms| number(ms.median() / 1000.0)),
        text("scale rings"),
        get("scale used").map_or_else(|| "–".to_owned(), |bytes| number(bytes.median() / 1024.0)),
        text("scale at-once answered"),
        text("scale at-once guests"),
        text("scale at-once ms"),
        text("scale ping mean"),
        text("scale none p50"),
        text("scale none p99"),
        text("scale all p50"),
        text("scale all p99"),
        get("scale destroyed ms").map_or_else(|| "–".to_owned(), |ms| number(ms.median() / 1000.0)),
    );
    let get = |what: &str| results.get("4.17", Store::Daemon, what).map(|samples| samples.median());
    let ports = (get("ports ports channels"), get("ports ports woke"), get("ports ports highest"));
    if let (Some(channels), Some(woke), Some(highest)) = ports {
        let _ = writeln!(
            page,
            "\nEvent channels: one domain bound both ends of {channels} channels, up to port {highest}. {woke} of them \
             woke the domain. The two-level interface ends at 4,096 ports (docs/boot.md)."
        );
    }
}

fn failures(page: &mut String, results: &Results) {
    if results.failures().is_empty() {
        return;
    }
    page.push_str("\n## Failures\n\n");
    for failure in results.failures() {
        let _ = writeln!(page, "- {failure}");
    }
}
