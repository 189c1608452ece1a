//! A server process, and the folder that stands for its Xen.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::quotas::Quotas;

/// The time limit for a server's start.
const START: Duration = Duration::from_secs(20);

/// The factor by which time runs faster for both servers. Their limits on writes per second then do not slow the
/// comparison.
const CLOCK_FACTOR: &str = "1000";

/// A release of Xen with a C server in Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Xen 4.17, of bookworm.
    V4_17,
    /// Xen 4.20, of trixie.
    V4_20,
}

impl Release {
    /// Returns the release's number for `tests/peers/fetch.sh`.
    pub const fn number(self) -> &'static str {
        match self {
            Self::V4_17 => "4.17",
            Self::V4_20 => "4.20",
        }
    }

    /// Returns the name of the release's C server for `tests/peers/peer.sh`.
    const fn c_server(self) -> &'static str {
        match self {
            Self::V4_17 => "c",
            Self::V4_20 => "c-4.20",
        }
    }
}

/// A server to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's C server.
    C(Release),
    /// This project's hosted server, which refuses each commit that conflicts, as the C server does.
    Ours,
    /// The hosted server with its defaults: it replays transactions that conflict.
    OursReplaying,
}

/// A running server. Dropping it ends the process.
pub struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(kind: Kind, quotas: &Quotas) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("xs-diff-{}-{number}", std::process::id()));
        fs::create_dir(&folder)?;
        fs::write(folder.join("ring.0"), [0; 4096])?;
        let mut command = match kind {
            Kind::C(release) => {
                let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/peer.sh"));
                command.arg(&folder).arg(release.c_server()).env("FAKEXEN_CLOCK", CLOCK_FACTOR);
                command.args(quotas.options_of_c(release));
                command
            }
            Kind::Ours | Kind::OursReplaying => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored-hosted"));
                command.arg("--dir").arg(&folder).args(["--log-level", "error", "--clock", CLOCK_FACTOR]);
                if kind == Kind::Ours {
                    command.arg("--no-replay");
                }
                command.args(quotas.options_of_ours());
                command
            }
        };
        let log = File::create(folder.join("log"))?;
        command.args(["--timeout", "watch-event=0"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Self { child: command.spawn()?, folder };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Returns the folder that stands for its Xen.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the server's output, and whether it still runs.
    pub fn report(&mut self) -> String {
        let state = match self.child.try_wait() {
            Ok(None) => "runs".into(),
            Ok(Some(status)) => format!("has ended: {status}"),
            Err(error) => error.to_string(),
        };
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        format!("{state}\n{log}")
    }

    fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let give_up = Instant::now() + START;
        while UnixStream::connect(self.folder.join("socket")).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > give_up {
                return Err(io::Error::other(format!("does not start: {}", self.report())));
            }
            // No event signals that a process begins to listen. The test polls the socket.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
