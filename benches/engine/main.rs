//! The engine alone: nanoseconds and allocations for one request of each type, without any input or output.
//!
//! `make bench` runs it. The results go to `docs/benchmarks/engine.md`.

mod requests;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::time::{ClockId, clock_gettime};

use requests::{CASES, Case};
use support::allocator::{self, Accounting, on_heap};
use support::driver::{Driver, Message, Who};

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::exact();

/// The document with the results.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks/engine.md");
/// Criterion's name for the results.
const GROUP: &str = "engine";
/// Rounds over which allocations are counted. As many rounds before them fill the kept buffers.
const COUNTED: usize = 1000;

/// The CPU time of this thread, on which other programs have the least influence.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn end(&self, begin: Duration) -> Duration {
        self.start() - begin
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn main() {
    // Timed runs count no allocations.
    allocator::reset();
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group(GROUP);
    for case in CASES {
        group.bench_function(case.name, |bencher| {
            let mut scene = Scene::new(case);
            bencher.iter(|| scene.round());
        });
    }
    group.finish();
    criterion.final_summary();
    if let Err(error) = write() {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

/// An engine with a case's requests.
struct Scene {
    driver: Driver,
    messages: Vec<Message>,
    in_transaction: bool,
}

impl Scene {
    fn new(case: &Case) -> Self {
        let mut driver = Driver::new();
        for (who, kind, payload) in case.before {
            driver.succeed(&mut Message::new(*who, *kind, payload));
        }
        let messages = case.requests.iter().map(|(kind, payload)| Message::new(case.who, *kind, payload)).collect();
        let mut scene = Self { driver, messages, in_transaction: case.in_transaction };
        // A refused request would be a different measurement.
        for at in 0..scene.messages.len() {
            let mut message = scene.messages[at].clone();
            scene.driver.succeed(&mut message);
            scene.note_transaction(at);
        }
        scene
    }

    /// Executes each request once.
    fn round(&mut self) {
        for at in 0..self.messages.len() {
            self.driver.ask(&self.messages[at]);
            self.note_transaction(at);
        }
    }

    /// Returns a request of the transaction that the first request opened.
    fn note_transaction(&mut self, at: usize) {
        if self.in_transaction && at == 0 {
            let digits = self.driver.reply().iter().take_while(|byte| byte.is_ascii_digit());
            let transaction = digits.fold(0, |number, digit| number * 10 + u32::from(*digit - b'0'));
            self.messages[1..].iter_mut().for_each(|message| message.set_transaction(transaction));
        }
    }
}

/// Returns the allocations of one round of a case.
fn allocations_of(case: &Case) -> f64 {
    let mut scene = Scene::new(case);
    let mut rounds = || (0..COUNTED).for_each(|_| scene.round());
    rounds();
    on_heap(rounds).1.allocations as f64 / COUNTED as f64
}

fn write() -> std::io::Result<()> {
    let mut text = String::from(
        "# Engine alone\n\n`make bench` writes this page. The method: [benchmarks.md](../benchmarks.md).\n\n\
         CPU time from the bytes of a request to the bytes of its reply, in one thread, without input or output. \
         If a row names several requests, the figures are for all of them in sequence.\n\n\
         | Requests | Requester | ns | 95 % confidence interval | allocations |\n|---|---|---|---|---|\n",
    );
    for case in CASES {
        let Some((ns, low, high)) = estimate(case.name) else { continue };
        let who = if case.who == Who::Guest { "guest" } else { "dom0" };
        let _ = writeln!(
            text,
            "| {} | {who} | {ns:.0} | {low:.0}–{high:.0} | {} |",
            case.name,
            (allocations_of(case) * 100.0).round() / 100.0
        );
    }
    fs::create_dir_all(Path::new(DOCUMENT).parent().unwrap_or_else(|| Path::new(".")))?;
    fs::write(DOCUMENT, text)?;
    eprintln!("==> {DOCUMENT}");
    Ok(())
}

/// Returns Criterion's result for a case in nanoseconds: the estimate, and the bounds of its confidence interval.
fn estimate(name: &str) -> Option<(f64, f64, f64)> {
    let folder = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target")), PathBuf::from);
    let file = folder.join("criterion").join(GROUP).join(name).join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    Some((median["point_estimate"].as_f64()?, interval["lower_bound"].as_f64()?, interval["upper_bound"].as_f64()?))
}
