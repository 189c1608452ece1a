//! The machine and the versions of a run.

use std::fs;
use std::process::Command;

use crate::commit;
use crate::plan::RELEASES;
use crate::project;

/// Returns the present load of the machine: runnable processes, averaged over one minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Returns the first line that a program prints.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// Returns lines that describe the machine and the versions.
pub(crate) fn describe() -> Vec<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let commit = commit::describe().unwrap_or_else(|| "unknown".to_owned());
    let mut lines = vec![
        format!("Machine: {model}, {cores} processors; {}", first_line("qemu-system-x86_64", &["--version"])),
        "Emulation: QEMU without KVM, two virtual processors; dom0 has one of them and 896 MiB".to_owned(),
        format!("This project: commit {commit}, built by {}", first_line("rustc", &["--version"])),
    ];
    for release in RELEASES {
        let names = fs::read_to_string(project().join("target/xen").join(release).join("packages")).unwrap_or_default();
        let version = |prefix: &str| {
            let found = names.lines().find(|name| name.starts_with(prefix)).unwrap_or("unknown");
            found.trim_end_matches(".deb").trim_end_matches("_amd64").replace("%2b", "+").replace("%3a", ":")
        };
        lines.push(format!("Xen {release}: {}, {}", version("xen-hypervisor-"), version("linux-image-")));
    }
    lines
}
