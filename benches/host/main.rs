//! Load on this project's hosted server and on Debian's C and OCaml servers, on this machine and in one run.
//!
//! `make bench` runs it. Each round runs each group of tests on each server in turn, so that whatever else the machine does
//! hits all alike; a figure is the median of the rounds. What is measured is the server's own CPU time, in the kernel and
//! outside of it, from the scheduler's account in nanoseconds. Client and server share one processor, save in the group `two`.
//! The results go to `docs/benchmarks/host.md`, and plots beside it.

mod cases;
#[path = "../../tests/differential/client.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the comparison of replies")]
mod client;
mod commit;
mod load;
mod machine;
#[path = "../../tests/differential/names.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the comparison of replies")]
mod names;
#[path = "../../tests/differential/page.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the comparison of replies")]
mod page;
mod plots;
mod processors;
mod report;
mod results;
mod server;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use processors::Processors;
use results::{Group, Results};
use server::Kind;

/// Rounds, unless `ROUNDS` says otherwise.
const ROUNDS: usize = 5;
/// Open files that the tests with the most clients need, here and in the servers.
const OPEN_FILES: u64 = 16384;
/// Where the results go.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks");

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let rounds = match std::env::var("ROUNDS") {
        Ok(word) if !word.is_empty() => word.parse().map_err(|_| io::Error::other("ROUNDS is no number"))?,
        _ => ROUNDS,
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let groups: Vec<Group> = Group::ALL
        .into_iter()
        .filter(|group| only.is_empty() || only.split(',').any(|word| word == group.name()))
        .collect();
    if groups.is_empty() {
        let known = Group::ALL.map(Group::name).join(", ");
        return Err(io::Error::other(format!("ONLY={only}: there are {known}")));
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum.map(|most| most.min(OPEN_FILES)), ..limit })?;

    let processors = Processors::allowed()?;
    let begin = Instant::now();
    let mut results = Results::default();
    for round in 0..rounds {
        for group in &groups {
            match group {
                Group::Two if !processors.are_several() => continue,
                Group::Two => processors.use_all()?,
                _ => processors.share_one()?,
            }
            for kind in Kind::ALL {
                let seconds = begin.elapsed().as_secs();
                eprintln!("==> round {} of {rounds}, {}, {} ({seconds} s)", round + 1, group.name(), kind.name());
                cases::run(*group, kind, round, &mut results)?;
            }
        }
    }
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder)?;
    let text = report::write(&results, &groups, &processors, rounds, begin.elapsed());
    // A part alone is shown, and does not take the place of the whole.
    if only.is_empty() {
        plots::write(&results, folder)?;
        fs::write(folder.join("host.md"), &text)?;
        eprintln!("==> {FOLDER}/host.md");
    } else {
        print!("{text}");
    }
    Ok(())
}
