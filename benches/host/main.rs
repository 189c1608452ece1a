//! Load on this project's hosted server and on Debian's C and OCaml servers, on this machine and in one run.
//!
//! `make bench` runs it. Each round runs each group of tests on each server in turn: other load on the machine then
//! disturbs all servers alike. A figure is the median of the rounds. It is the server's CPU time, in user and kernel
//! mode, from the scheduler's account in nanoseconds. Client and server share one processor, except in the group `two`.
//! The results go to `docs/benchmarks/host.md`, and plots to the same folder.

mod cases;
mod commit;
mod load;
mod machine;
#[path = "../../tests/peers/mod.rs"]
mod peers;
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

/// The number of rounds without `ROUNDS`.
const ROUNDS: usize = 5;
/// Open files that the tests with the most clients need, in this process and in the servers.
const OPEN_FILES: u64 = 16384;
/// The folder for the results.
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
        Ok(word) if !word.is_empty() => word.parse().map_err(|_| io::Error::other("ROUNDS is not a number"))?,
        _ => ROUNDS,
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let groups: Vec<Group> = Group::ALL
        .into_iter()
        .filter(|group| only.is_empty() || only.split(',').any(|word| word == group.name()))
        .collect();
    if groups.is_empty() {
        let known = Group::ALL.map(Group::name).join(", ");
        return Err(io::Error::other(format!("ONLY={only}: unknown group; the groups are {known}")));
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
    // The results of some groups are only printed. They do not replace the document about all.
    if only.is_empty() {
        plots::write(&results, folder)?;
        fs::write(folder.join("host.md"), &text)?;
        eprintln!("==> {FOLDER}/host.md");
    } else {
        print!("{text}");
    }
    Ok(())
}
