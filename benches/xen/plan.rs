//! The hosts that are booted, their order, and their jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{machine, project};

/// The releases on which both stores support live update, and for which Debian packages `test-xenstore`.
pub(crate) const RELEASES: [&str; 2] = ["4.17", "4.20"];

/// Memory of the Xenstore domain in a round, in MiB: room for 10,000 nodes during a live update.
const ROUND_MEMORY_MIB: u32 = 32;
/// The same with [`LARGE_NODES`] nodes, in MiB.
const LARGE_MEMORY_MIB: u32 = 128;
/// Sizes of the store in a round.
pub(crate) const NODES: [u32; 2] = [100, 10_000];
/// The size with boots of its own: the store takes minutes to build, and the daemon pauses for minutes.
pub(crate) const LARGE_NODES: u32 = 100_000;
/// Memory of the emulated host with hundreds of guests of 4 MiB each, in MiB; dom0 has 896 of it.
const SCALE_HOST_MIB: u32 = 4096;
/// Seconds without a request, for the counts of an idle store.
pub(crate) const IDLE_S: u32 = 60;
/// Seconds that the job of a round may take: several times the duration on a quiet machine.
const ROUND_TIMEOUT_S: u32 = 400;
/// The same for the jobs with many nodes or guests.
const LONG_TIMEOUT_S: u32 = 1320;

/// A measured Xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Store {
    /// This kernel, in its own domain.
    Stubdom,
    /// The C daemon in dom0.
    Daemon,
}

impl Store {
    pub(crate) const BOTH: [Self; 2] = [Self::Stubdom, Self::Daemon];

    /// Returns its name for `boot.sh`.
    const fn name(self) -> &'static str {
        match self {
            Self::Stubdom => "stubdom",
            Self::Daemon => "c",
        }
    }

    /// Returns its name on the page.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Stubdom => "this kernel",
            Self::Daemon => "C daemon",
        }
    }
}

/// The task of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// One round of all short measurements.
    Round(u32),
    /// Live updates with [`LARGE_NODES`] nodes.
    Large,
    /// Measurements with hundreds of guests.
    Scale,
    /// The largest possible number of event channels.
    Ports,
}

/// The amount of work of a run.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// The folder in `target/` for the files of the boots.
    folder: &'static str,
    /// Whether the figures go to the page in `docs/`.
    pub(crate) is_full: bool,
    iterations: u32,
    guests: u32,
    work_ms: u32,
    nodes: [u32; 2],
    large_nodes: u32,
    idle_s: u32,
    scale_guests: u32,
}

impl Size {
    pub(crate) const FULL: Self = Self {
        folder: "xen-bench",
        is_full: true,
        iterations: 40,
        guests: 4,
        work_ms: 4000,
        nodes: NODES,
        large_nodes: LARGE_NODES,
        idle_s: IDLE_S,
        scale_guests: 300,
    };
    pub(crate) const QUICK: Self = Self {
        folder: "xen-bench-quick",
        is_full: false,
        iterations: 10,
        guests: 2,
        work_ms: 500,
        nodes: [100, 300],
        large_nodes: 1000,
        idle_s: 5,
        scale_guests: 10,
    };
}

impl Size {
    /// Returns the folder for the files of the boots.
    pub(crate) fn folder(&self) -> PathBuf {
        project().join("target").join(self.folder)
    }
}

/// One boot.
pub(crate) struct Boot {
    pub(crate) release: &'static str,
    pub(crate) store: Store,
    pub(crate) work: Work,
    size: Size,
}

/// Returns all boots, in order. Stores and releases take turns, so that changes of the machine's load affect all alike.
pub(crate) fn boots(rounds: u32, size: &Size) -> Vec<Boot> {
    let mut boots = Vec::new();
    let mut add = |release, store, work| boots.push(Boot { release, store, work, size: *size });
    for round in 0..rounds {
        for release in RELEASES {
            let mut stores = Store::BOTH;
            if round % 2 == 1 {
                stores.reverse();
            }
            stores.into_iter().for_each(|store| add(release, store, Work::Round(round)));
        }
    }
    for release in RELEASES {
        Store::BOTH.into_iter().for_each(|store| add(release, store, Work::Large));
    }
    add("4.17", Store::Stubdom, Work::Scale);
    add("4.17", Store::Daemon, Work::Ports);
    boots
}

impl Boot {
    pub(crate) fn name(&self) -> String {
        let work = match self.work {
            Work::Round(round) => format!("round{}", round + 1),
            Work::Large => "large".to_owned(),
            Work::Scale => "scale".to_owned(),
            Work::Ports => "ports".to_owned(),
        };
        format!("{}-{}-{work}", self.release, self.store.name())
    }

    /// Returns the text of a file of this boot; `None` if it is missing.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        fs::read(self.folder().join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn folder(&self) -> PathBuf {
        self.size.folder().join(self.name())
    }

    /// Returns whether the boot's job has ended successfully.
    pub(crate) fn is_done(&self) -> bool {
        self.file("status").is_some_and(|status| status.trim() == "0")
    }

    /// Returns the seconds that the job may take.
    const fn timeout_s(&self) -> u32 {
        match self.work {
            Work::Round(_) | Work::Ports => ROUND_TIMEOUT_S,
            Work::Large | Work::Scale => LONG_TIMEOUT_S,
        }
    }

    /// Returns the sections of the job: name, maximum seconds, and command.
    pub(crate) fn sections(&self) -> Vec<(&'static str, u32, String)> {
        let Size { iterations, guests, work_ms, nodes: [few, many], large_nodes, idle_s, scale_guests, .. } = self.size;
        let part = |what: &str| format!("sh -l /job/bench-round.sh {what}");
        match self.work {
            Work::Round(round) => {
                let sizes = format!("env NODES='{few} {many}' ROUNDS=1 ");
                let mut sections = vec![
                    ("test-xenstore", 180, format!("test-xenstore -i {iterations}")),
                    ("alone", 60, part("alone")),
                    ("guests", 180, format!("env GUESTS={guests} WORK_MS={work_ms} ") + &part("guests")),
                    ("updates", 240, sizes + &part("updates")),
                ];
                if round == 0 && self.store == Store::Stubdom {
                    sections.insert(2, ("idle", idle_s + 60, format!("env IDLE={idle_s} ") + &part("idle")));
                }
                sections
            }
            Work::Large => {
                let rounds = if self.store == Store::Stubdom { 3 } else { 1 };
                vec![("updates", 900, format!("env NODES={large_nodes} ROUNDS={rounds} ") + &part("updates"))]
            }
            Work::Scale => vec![("scale", 1200, format!("env COUNT={scale_guests} sh -l /job/bench-scale.sh"))],
            Work::Ports => vec![("ports", 120, "sh -l /job/bench-ports.sh".to_owned())],
        }
    }

    /// Boots the host and runs its job.
    pub(crate) fn run(&self) -> Result<(), String> {
        let folder = self.folder();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let _ = fs::write(folder.join("load"), machine::load());
        let mut job = String::from(". /functions\n");
        for (name, seconds, command) in self.sections() {
            job += &format!("section {name} {seconds} {command}\n");
        }
        let memory = if self.work == Work::Large { LARGE_MEMORY_MIB } else { ROUND_MEMORY_MIB };
        let mut command = Command::new(project().join("tests/xen/boot.sh"));
        command.args(["--live", "--store", self.store.name(), "--command", &job]);
        command.args(["--timeout", &self.timeout_s().to_string(), "--memory", &memory.to_string()]);
        if self.work == Work::Scale {
            command.args(["--host-memory", &SCALE_HOST_MIB.to_string()]);
        }
        command.arg("--kernel").arg(image("xenstore-stubdom"));
        add_file(&mut command, &image("xenstore-stubdom-hostile-guest"), "guest");
        add_file(&mut command, &image("xenstore-stubdom-boot-test"), "boot-test");
        for entry in fs::read_dir(project().join("tests/xen/jobs")).map_err(|error| error.to_string())? {
            command.arg("--file").arg(entry.map_err(|error| error.to_string())?.path());
        }
        command.arg("--out").arg(&folder).arg(self.release).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().map_err(|error| format!("boot.sh cannot be started: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("boot.sh ended with {status}")) }
    }
}

fn image(name: &str) -> PathBuf {
    project().join("target").join(name)
}

fn add_file(command: &mut Command, path: &Path, name: &str) {
    command.arg("--file").arg(format!("{}:{name}", path.display()));
}

/// Returns the size of the kernel's image in bytes.
pub(crate) fn image_bytes() -> Option<u64> {
    fs::metadata(image("xenstore-stubdom")).ok().map(|metadata| metadata.len())
}
