//! The results as a document.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cases;
use crate::machine;
use crate::processors::Processors;
use crate::results::{Figure, Group, Results, Test};
use crate::server::Kind;

/// The goals of the plain tests: the largest part of the C server's cost, and of the OCaml server's.
const MOST_OF_C: f64 = 0.25;
const MOST_OF_OCAML: f64 = 0.2;
/// The goal of transactions: the largest part of the C server's cost.
const MOST_OF_C_FOR_TRANSACTIONS: f64 = 0.6;
/// The goal of building a large store: the largest part of the C server's cost of a node.
const MOST_OF_C_FOR_A_BUILD: f64 = 0.1;
/// The goal of growth: the cost of a request in a large store or directory, as a multiple of that in a small one.
const GROWTH: f64 = 1.5;
/// The same for watches and domains that the request does not concern.
const GROWTH_BY_OTHERS: f64 = 1.2;

/// Returns the document about some groups.
pub fn write(results: &Results, groups: &[Group], processors: &Processors, rounds: usize, took: Duration) -> String {
    let mut text = String::from(
        "# Host part\n\n`make bench` writes this page. The method: [benchmarks.md](../benchmarks.md).\n\n",
    );
    text.push_str(&machine::describe());
    let _ = writeln!(
        text,
        "- Rounds: {rounds}, but one for the C server with 100,000 nodes. The largest numbers of nodes, watches and \
         domains are for this project alone: other servers need many minutes to get there. Duration: {} minutes\n",
        took.as_secs().div_ceil(60)
    );
    text.push_str(
        "Server CPU time for one request in microseconds: the median of the rounds, with the minimum and the maximum in \
         parentheses. Client and server share one processor, except in \"On two processors\".\n",
    );
    for group in groups.iter().copied() {
        match group {
            Group::Two => two(&mut text, results, processors),
            _ if results.tests(group).is_empty() => {}
            Group::Plain => plain(&mut text, results),
            Group::Nodes => nodes(&mut text, results),
            _ => grown(&mut text, results, group),
        }
    }
    text
}

fn plain(text: &mut String, results: &Results) {
    text.push_str("\n## Requests of one kind\n\n32 requests in flight; transactions send one request at a time.\n\n");
    single_kinds(text, results, Group::Plain);
    throughput(text, results);
    latencies(text, results);
}

fn two(text: &mut String, results: &Results, processors: &Processors) {
    text.push_str("\n## On two processors\n\n");
    if !processors.are_several() {
        text.push_str("Skipped: the benchmark could use only one processor.\n");
        return;
    }
    text.push_str(
        "The requests of one kind again, on processors that the scheduler chooses for client and server. A single \
         request here costs mostly the wake-up of a sleeping processor, for every server. With 32 in flight, chance \
         decides how many requests come with each wake-up. The rest of this page is therefore measured on one \
         processor.\n\n",
    );
    single_kinds(text, results, Group::Two);
}

fn single_kinds(text: &mut String, results: &Results, group: Group) {
    text.push_str("| Test | This project | C | OCaml | of C | goal | of OCaml | goal | |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for test in &in_order(results.tests(group)) {
        let is_transaction = test.name.starts_with("ta-");
        let goal = if is_transaction { MOST_OF_C_FOR_TRANSACTIONS } else { MOST_OF_C };
        let (of_c, of_ocaml) = (ratio(results, *test, Kind::C), ratio(results, *test, Kind::Ocaml));
        let is_met = of_c.is_some_and(|of_c| of_c <= goal)
            && (is_transaction || of_ocaml.is_some_and(|of_ocaml| of_ocaml <= MOST_OF_OCAML));
        let goal_of_ocaml = if is_transaction { String::from("–") } else { format!("≤ {MOST_OF_OCAML}") };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | ≤ {goal} | {} | {goal_of_ocaml} | {} |",
            test.name,
            figure(results.cpu(*test, Kind::Ours)),
            figure(results.cpu(*test, Kind::C)),
            figure(results.cpu(*test, Kind::Ocaml)),
            number(of_c),
            number(of_ocaml),
            verdict(is_met)
        );
    }
}

fn throughput(text: &mut String, results: &Results) {
    text.push_str("\n### Throughput\n\nRequests per second, with the client on the same processor.\n\n");
    text.push_str("| Test | This project | C | OCaml |\n|---|---|---|---|\n");
    for test in &in_order(results.tests(Group::Plain)) {
        let [ours, c, ocaml] = Kind::ALL.map(|kind| match results.throughput(*test, kind) {
            Some(Figure { median, least, most }) => format!("{median:.0} ({least:.0}–{most:.0})"),
            None => "–".into(),
        });
        let _ = writeln!(text, "| {} | {ours} | {c} | {ocaml} |", test.name);
    }
}

fn latencies(text: &mut String, results: &Results) {
    text.push_str("\n### Latency\n\nMicroseconds from request to reply, one request at a time, over all rounds.\n\n");
    text.push_str("| Test | Server | 50 % | 90 % | 99 % | 99.9 % | most |\n|---|---|---|---|---|---|---|\n");
    for name in ["read1", "write1"] {
        for kind in Kind::ALL {
            let all = results.latencies(name, kind);
            if all.is_empty() {
                continue;
            }
            let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize];
            let _ = writeln!(
                text,
                "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} |",
                kind.name(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(1.0)
            );
        }
    }
    text.push_str("\n![Latency](latency.svg)\n");
}

fn nodes(text: &mut String, results: &Results) {
    text.push_str(
        "\n## Nodes\n\nRequests on random nodes of a store with this number of nodes, a hundred in each directory. \
         At 1,000,000 nodes, \"of C\" is relative to the C server's cost at 100,000.\n\n",
    );
    text.push_str("| Test | Nodes | This project | C | OCaml | of C | of its own at 1,000 | goal | |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for test in in_order(results.tests(Group::Nodes)) {
        let own = growth(results, test, Test { size: cases::NODES[0], ..test });
        let is_largest = Some(&test.size) == cases::NODES.last();
        let of_c = ratio(results, test, Kind::C).or_else(|| of_smaller(results, test).filter(|_| is_largest));
        let (goal, is_met) = match test.name {
            "build" => {
                (format!("≤ {MOST_OF_C_FOR_A_BUILD} of C"), of_c.is_some_and(|of_c| of_c <= MOST_OF_C_FOR_A_BUILD))
            }
            "death" => ("only its own nodes".into(), own.is_some_and(|own| own <= GROWTH)),
            _ => (format!("≤ {GROWTH} of its own"), own.is_some_and(|own| own <= GROWTH)),
        };
        let (goal, verdict) = if is_largest { (goal.as_str(), verdict(is_met)) } else { ("", "") };
        row(text, results, test, of_c, own, goal, verdict);
    }
    text.push_str(
        "\nA death is the RELEASE of a domain that owns 1,000 nodes, five in each round.\n\n![Nodes](nodes.svg)\n",
    );
    text.push_str("\nGrowth of resident memory for one node (8 to 15 bytes of path below `/load`, 16 of value):\n\n");
    text.push_str("| Nodes | This project | C | OCaml |\n|---|---|---|---|\n");
    for size in cases::NODES.into_iter().skip(2) {
        let [ours, c, ocaml] = Kind::ALL.map(|kind| match results.memory(size, kind) {
            Some(Figure { median, .. }) => format!("{median:.0} bytes"),
            None => "–".into(),
        });
        let _ = writeln!(text, "| {} | {ours} | {c} | {ocaml} |", thousands(size));
    }
}

fn grown(text: &mut String, results: &Results, group: Group) {
    let (title, what, goal, plot) = match group {
        Group::Children => {
            let what = "MKDIR and RM in a directory with this number of children, 32 requests in flight.";
            ("Children", what, GROWTH, None)
        }
        Group::Watches => (
            "Watches",
            "A WRITE that matches none of this number of watches, 300 for each client, 32 requests in flight.",
            GROWTH_BY_OTHERS,
            Some("watches.svg"),
        ),
        _ => (
            "Domains",
            "READ by one domain over its ring, one request at a time, with this number of connected domains.",
            GROWTH_BY_OTHERS,
            Some("domains.svg"),
        ),
    };
    let tests = results.tests(group);
    let Some(first) = tests.first().copied() else { return };
    let _ = writeln!(text, "\n## {title}\n\n{what}\n");
    let _ = writeln!(
        text,
        "| Test | {title} | This project | C | OCaml | of C | of its own at {} | goal | |\n\
         |---|---|---|---|---|---|---|---|---|",
        thousands(first.size)
    );
    for test in &tests {
        let own = growth(results, *test, first);
        let (goal, verdict) = if *test == first {
            (String::new(), "")
        } else {
            (format!("≤ {goal} of its own"), verdict(own.is_some_and(|own| own <= goal)))
        };
        row(text, results, *test, ratio(results, *test, Kind::C), own, &goal, verdict);
    }
    if let Some(plot) = plot {
        let _ = writeln!(text, "\n![{title}]({plot})");
    }
}

fn row(
    text: &mut String,
    results: &Results,
    test: Test,
    of_c: Option<f64>,
    own: Option<f64>,
    goal: &str,
    verdict: &str,
) {
    let [ours, c, ocaml] = Kind::ALL.map(|kind| figure(results.cpu(test, kind)));
    let _ = writeln!(
        text,
        "| {} | {} | {ours} | {c} | {ocaml} | {} | {} | {goal} | {verdict} |",
        test.name,
        thousands(test.size),
        number(of_c),
        number(own)
    );
}

/// Returns our cost as a part of the C server's cost on a tenth of the store, which is less than on the whole store.
fn of_smaller(results: &Results, test: Test) -> Option<f64> {
    let smaller = Test { size: test.size / 10, ..test };
    Some(results.cpu(test, Kind::Ours)?.median / results.cpu(smaller, Kind::C)?.median)
}

/// Returns our cost as a part of another server's.
fn ratio(results: &Results, test: Test, of: Kind) -> Option<f64> {
    Some(results.cpu(test, Kind::Ours)?.median / results.cpu(test, of)?.median)
}

/// Returns our cost as a part of that of another test.
fn growth(results: &Results, test: Test, of: Test) -> Option<f64> {
    Some(results.cpu(test, Kind::Ours)?.median / results.cpu(of, Kind::Ours)?.median)
}

/// Returns the tests in the order of the run.
fn in_order(mut tests: Vec<Test>) -> Vec<Test> {
    const ORDER: [&str; 12] = [
        "read1",
        "read2000",
        "write1",
        "write2000",
        "dir100",
        "mkdir-rm",
        "ta-empty",
        "build",
        "read",
        "write",
        "ta-rmw",
        "death",
    ];
    tests.sort_by_key(|test| ORDER.iter().position(|name| *name == test.name));
    tests
}

fn figure(figure: Option<Figure>) -> String {
    let Some(Figure { median, least, most }) = figure else { return "–".into() };
    let digits = if median < 100.0 { 2 } else { 0 };
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.2}"))
}

const fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

/// Formats a number with a comma after each three digits.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
