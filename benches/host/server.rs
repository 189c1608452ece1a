//! The process of a measured server: this project's hosted server, or one of Debian's.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest time for a server's start.
const START: Duration = Duration::from_secs(30);
/// The longest time from a server's last reply until the server sleeps.
const REST: Duration = Duration::from_secs(120);

/// A measured server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This project's hosted server.
    Ours,
    /// Debian's C server of Xen 4.17.
    C,
    /// Debian's OCaml server of Xen 4.17.
    Ocaml,
}

impl Kind {
    /// All servers, in the order of their turns.
    pub const ALL: [Self; 3] = [Self::Ours, Self::C, Self::Ocaml];

    /// Returns the server's name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "this project",
            Self::C => "C 4.17",
            Self::Ocaml => "OCaml 4.17",
        }
    }
}

/// A running server. Dropping this ends the process.
pub struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(kind: Kind) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("xs-bench-{}-{number}", std::process::id()));
        fs::create_dir(&folder)?;
        let peer = |kind: &str| {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/peer.sh"));
            command.arg(&folder).arg(kind);
            command
        };
        let mut command = match kind {
            Kind::C => peer("c"),
            Kind::Ocaml => peer("ocaml"),
            Kind::Ours => {
                fs::write(folder.join("ring.0"), [0; 4096])?;
                let mut command = Command::new(env!("CARGO_BIN_EXE_xenstored-hosted"));
                command.arg("--dir").arg(&folder).args(["--log-level", "error"]);
                command
            }
        };
        let log = File::create(folder.join("output"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Self { child: command.spawn()?, folder };
        server.wait_until_it_listens()?;
        Ok(server)
    }

    /// Returns the folder that represents the server's Xen.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the CPU time of the process in nanoseconds, in user and kernel mode. Waits first until the process
    /// sleeps, so that the account is complete.
    pub fn cpu_ns(&self) -> io::Result<u64> {
        let give_up = Instant::now() + REST;
        while !self.is_at_rest()? {
            if Instant::now() > give_up {
                return Err(io::Error::other("the server does not become idle"));
            }
            std::thread::yield_now();
        }
        let mut sum = 0;
        for task in fs::read_dir(self.file("task"))? {
            let schedule = fs::read_to_string(task?.path().join("schedstat"))?;
            sum +=
                schedule.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok(sum)
    }

    /// Returns the bytes of resident memory.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let pages = fs::read_to_string(self.file("statm"))?;
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.map(|pages| pages * 4096).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns whether the process sleeps.
    fn is_at_rest(&self) -> io::Result<bool> {
        let state = fs::read_to_string(self.file("stat"))?;
        Ok(state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S')))
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let give_up = Instant::now() + START;
        while UnixStream::connect(self.folder.join("socket")).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > give_up {
                let output = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
                return Err(io::Error::other(format!("the server does not start: {output}")));
            }
            // A process does not report when it begins to listen, so this polls.
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
