//! The machine and the servers of a run.

use std::fs;
use std::process::Command;

use crate::commit;

/// Returns list items that describe the machine and the versions.
pub fn describe() -> String {
    let kernel = ["ostype", "osrelease"].map(|name| fs::read_to_string(format!("/proc/sys/kernel/{name}")));
    let kernel = kernel.map(|part| part.unwrap_or_default().trim().to_owned()).join(" ");
    let (model, processors) = processor();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "- Machine: {processors} processors \"{model}\", {} MiB of memory, {kernel}\n\
         - Load averages at the end: {}\n\
         - This project: {}, `xenstored-hosted`, {}\n\
         - C and OCaml: Debian's `xenstored` and `oxenstored`, {}\n",
        memory_mib(),
        load.join(", "),
        version(),
        output("rustc", &["--version"]).unwrap_or_default(),
        peers(),
    )
}

fn processor() -> (String, usize) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models =
        text.lines().filter_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1.to_owned()));
    let first = models.next().unwrap_or_else(|| "unknown".into());
    (first, 1 + models.count())
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse::<u64>().ok());
    total.unwrap_or(0) / 1024
}

/// Returns this project's version, with the commit if it is known.
fn version() -> String {
    let commit = commit::describe().map_or_else(String::new, |commit| format!(" ({commit})"));
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

/// Returns the version of Debian's packages, from their change log.
fn peers() -> String {
    let log =
        concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/root/usr/share/doc/xen-utils-4.17/changelog.Debian.gz");
    let first = output("sh", &["-c", &format!("zcat '{log}' | head -n 1")]).unwrap_or_default();
    let version = first.split(['(', ')']).nth(1).unwrap_or("4.17");
    format!("package version {version}")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
