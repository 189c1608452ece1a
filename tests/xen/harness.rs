//! Boots emulated hosts and keeps their results.
//!
//! A [`Run`] is one boot. [`stubdom`] and [`c_server`] boot each host at its first use, and return the same run to all
//! tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The Xen releases that Debian packages, oldest first.
pub(crate) const RELEASES: [&str; 3] = ["4.14", "4.17", "4.20"];

/// The releases on which guests are created, and where Debian packages `test-xenstore`.
pub(crate) const RELEASES_WITH_GUESTS: [&str; 2] = ["4.17", "4.20"];

/// Requests of each kind in `test-xenstore`.
const TEST_XENSTORE_ITERATIONS: u32 = 50;

/// The most seconds of one job: twenty rounds of guests on a busy machine.
const JOB_TIMEOUT_S: u32 = 900;

/// The results of a host.
pub(crate) struct Run {
    /// The host, for messages.
    pub(crate) name: String,
    /// The job's exit status, or one of `boot.sh`'s own.
    pub(crate) status: i32,
    folder: PathBuf,
}

impl Run {
    /// Returns a file that the host sent back, or nothing.
    pub(crate) fn file(&self, name: &str) -> Option<String> {
        fs::read(self.folder.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns the path of a file that the host sent back.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the output of one part of the job. Fails the test unless that part ended with status 0.
    pub(crate) fn section(&self, name: &str) -> String {
        let status = self.file(&format!("{name}.status")).unwrap_or_else(|| self.fail(&format!("{name} never ran")));
        let output = self.file(&format!("{name}.out")).unwrap_or_default();
        if status.trim() != "0" {
            self.fail(&format!("{name} ended with status {} and printed:\n{output}", status.trim()));
        }
        output
    }

    /// Returns the output of a domain on its console.
    pub(crate) fn console(&self, domain: &str) -> String {
        self.file(&format!("console/guest-{domain}.log")).unwrap_or_default()
    }

    /// Fails the test, and shows the kernel's console.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let log = self.file("xen.log").unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n");
        panic!(
            "{}: {what}\n--- the kernel's console ---\n{}\n--- the end of Xen's log ---\n{tail}\n--- all in {} ---",
            self.name,
            self.console("Xenstore"),
            self.folder.display()
        );
    }
}

/// Returns the project's folder.
fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the kernel image. Fails the test without one, and names the command that builds it.
fn kernel() -> PathBuf {
    let path = project().join("target/xenstore-stubdom");
    assert!(path.exists(), "no kernel at {}: build it with `make`", path.display());
    path
}

/// Boots a host and runs a job in its dom0. The options are `boot.sh`'s.
pub(crate) fn boot(name: &str, release: &str, job: &str, options: &[&str]) -> Run {
    let folder = project().join("target/xen-tests").join(name.replace(' ', "-"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder for results under target/");
    let mut command = Command::new(project().join("tests/xen/boot.sh"));
    command.args(["--live", "--timeout", &JOB_TIMEOUT_S.to_string(), "--command", job]);
    command.arg("--kernel").arg(kernel()).arg("--out").arg(&folder);
    for entry in fs::read_dir(project().join("tests/xen/jobs")).expect("the folder of jobs") {
        command.arg("--file").arg(entry.expect("an entry of the folder of jobs").path());
    }
    command.arg("--file").arg(project().join("boot/xenstore-stubdom.cfg"));
    command.args(options).arg(release).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().expect("boot.sh starts").code().unwrap_or(-1);
    Run { name: name.to_owned(), status, folder }
}

/// Returns the position of a release.
fn index(release: &str) -> usize {
    RELEASES.iter().position(|known| *known == release).expect("one of RELEASES")
}

/// Returns the job that both stores run on every release.
fn common_job() -> String {
    format!(
        ". /functions\n\
         section commands 300 sh -l /job/commands.sh\n\
         [ ! -x $XEN_BIN/test-xenstore ] || section test-xenstore 300 test-xenstore -i {TEST_XENSTORE_ITERATIONS}\n"
    )
}

/// Returns the run of the host whose Xenstore is this kernel. On 4.20 the host's own start-up script starts it, by the
/// sample configuration.
pub(crate) fn stubdom(release: &str) -> &'static Run {
    static RUNS: [OnceLock<Run>; 3] = [const { OnceLock::new() }; 3];
    RUNS[index(release)].get_or_init(|| {
        let mut job = common_job();
        if RELEASES_WITH_GUESTS.contains(&release) {
            job += "section control 60 sh -l /job/control.sh\n\
                    section guests 200 sh -l /job/guests.sh\n\
                    section quotas 300 sh -l /job/quotas.sh\n\
                    section rounds 600 sh -l /job/rounds.sh\n";
        }
        let sample = project().join("boot/xencommons");
        let sample = sample.to_str().expect("a path in UTF-8");
        let options: &[&str] = if release == "4.20" { &["--xencommons", sample] } else { &[] };
        boot(&format!("{release} stubdom"), release, &job, options)
    })
}

/// Returns the run of the same host with the C daemon in dom0 as its Xenstore.
pub(crate) fn c_server(release: &str) -> &'static Run {
    static RUNS: [OnceLock<Run>; 3] = [const { OnceLock::new() }; 3];
    RUNS[index(release)].get_or_init(|| {
        let mut job = common_job() + "section alone 60 sh -l /job/alone.sh\n";
        if RELEASES_WITH_GUESTS.contains(&release) {
            job += "section dump 60 sh -l /job/dump.sh\n";
        }
        boot(&format!("{release} c"), release, &job, &["--store", "c"])
    })
}
