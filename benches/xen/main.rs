//! The cost of a Xenstore on real Xen: this kernel, and the C daemon in dom0. `make bench-xen` runs it.
//!
//! The program boots emulated hosts in turn (`plan`). Their jobs in `tests/xen/jobs/bench-*.sh` print lines of figures
//! (`results`), which become `docs/benchmarks/xen.md` (`page`) and its plots (`plots`). The files of each boot stay in
//! `target/xen-bench/`: `--resume` continues an unfinished run, and `--report` writes the page again without a boot.
#![allow(missing_docs, reason = "a program")]

#[path = "../host/commit.rs"]
mod commit;
mod machine;
mod page;
mod plan;
mod plots;
mod results;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use plan::{Boot, Size};
use results::Results;

const USAGE: &str =
    "usage: cargo bench --features bench --bench xen -- [--rounds N] [--quick] [--only TEXT] [--resume | --report]

  --rounds N   rounds of boots (5)
  --quick      one round with little work, to test the benchmark itself: the page goes to target/xen-bench-quick/
  --only TEXT  only boots with TEXT in their names: 4.17-stubdom-round1, 4.20-c-large, 4.17-stubdom-scale, 4.17-c-ports
  --resume     keep the finished boots of an earlier run
  --report     boot no host: write the page from the existing files";

struct Options {
    rounds: u32,
    size: Size,
    only: String,
    resume: bool,
    report: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options { rounds: 5, size: Size::FULL, only: String::new(), resume: false, report: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            // `cargo bench` passes this to every benchmark.
            "--bench" => {}
            "--rounds" => {
                let count = words.next().and_then(|text| text.parse().ok());
                options.rounds = count.filter(|count| *count > 0).ok_or("--rounds takes a number from 1")?;
            }
            "--quick" => (options.rounds, options.size) = (1, Size::QUICK),
            "--only" => options.only = words.next().ok_or("--only takes a part of a name")?,
            "--resume" => options.resume = true,
            "--report" => options.report = true,
            _ => return Err(format!("unknown option {word:?}")),
        }
    }
    Ok(options)
}

/// Returns the project's folder.
fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The number of tries to boot a host. On a busy machine, an emulated host may hang with any store.
const TRIES: u32 = 2;

/// Runs the selected boots, one after the other. Returns the number of failed ones.
fn run(boots: &[Boot], options: &Options) -> usize {
    let begin = Instant::now();
    let is_wanted = |boot: &&Boot| boot.name().contains(&options.only) && !(options.resume && boot.is_done());
    let wanted: Vec<&Boot> = boots.iter().filter(is_wanted).collect();
    let mut failed = 0;
    for (at, boot) in wanted.iter().enumerate() {
        let minutes = begin.elapsed().as_secs() / 60;
        eprintln!("==> bench-xen: {} ({} of {}, after {minutes} min)", boot.name(), at + 1, wanted.len());
        let is_done = (0..TRIES).any(|_| {
            let outcome = boot.run();
            if let Err(why) = &outcome {
                eprintln!("==> bench-xen: {}: {why}", boot.name());
            }
            outcome.is_ok()
        });
        failed += usize::from(!is_done);
    }
    failed
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("bench-xen: {why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let boots = plan::boots(options.rounds, &options.size);
    let failed = if options.report { 0 } else { run(&boots, &options) };
    let results = Results::read(&boots);
    let docs = if options.size.is_full { project().join("docs/benchmarks") } else { options.size.folder() };
    let written = page::write(&docs, &results).and_then(|()| plots::write(&docs, &results));
    if let Err(why) = written {
        eprintln!("bench-xen: {why}");
        return ExitCode::FAILURE;
    }
    for failure in results.failures() {
        eprintln!("bench-xen: {failure}");
    }
    eprintln!("==> bench-xen: wrote {}; {failed} boots failed", docs.join("xen.md").display());
    if failed == 0 && results.failures().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
