//! The hosted server as a program: its start, its end, and its error messages.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_xenstored-hosted");

/// The time limit for any action of a server, far more than it needs: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of the test's own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("xs-hosted-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server, which is killed at the end of the test.
struct Server<'a> {
    child: Child,
    folder: &'a Folder,
}

impl<'a> Server<'a> {
    fn start(folder: &'a Folder) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("--dir").arg(&folder.0);
        Self::start_as(command, folder)
    }

    /// Starts the server with this command, and waits until it listens.
    fn start_as(mut command: Command, folder: &'a Folder) -> Self {
        let log = fs::File::create(folder.path("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Self { child, folder };
        wait_until("the server listens", || {
            assert!(server.child.try_wait().unwrap().is_none(), "ended at once: {}", server.log());
            UnixStream::connect(folder.path("socket")).is_ok()
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path("log")).unwrap()
    }

    fn end_by(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut status = None;
        wait_until("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls a condition, as no event signals another process's progress.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "time ran out before {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Requests the path of domain 7, which changes nothing, and checks the reply.
fn expect_an_answer(client: &mut UnixStream) {
    const GET_DOMAIN_PATH: u32 = 10;
    const ANSWER: &[u8] = b"/local/domain/7\0";
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let header = |payload_bytes: usize| [GET_DOMAIN_PATH, 1, 0, payload_bytes as u32].map(u32::to_le_bytes).concat();
    client.write_all(&[&header(2)[..], b"7\0"].concat()).unwrap();
    let mut answer = vec![0; 16 + ANSWER.len()];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [&header(ANSWER.len())[..], ANSWER].concat());
}

#[test]
fn help_names_the_options_and_the_servers_purpose() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["Usage: xenstored-hosted --dir DIR", "for development, comparison and benchmarks", "--log-level"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn wrong_usage_ends_with_a_message_and_status_2() {
    let wrong: [(&[&str], &str); 4] = [
        (&[], "--dir is missing"),
        (&["--dir"], "--dir needs a value"),
        (&["--dir", "/nonexistent/folder"], "/nonexistent/folder is not a folder"),
        (&["--dir=/dev/null"], "/dev/null is not a folder"),
    ];
    for (arguments, message) in wrong {
        let output = run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(message), "{arguments:?}: {text}");
    }
}

#[test]
fn an_unknown_option_is_a_warning_and_the_server_starts() {
    let folder = Folder::new();
    let mut command = Command::new(PROGRAM);
    command.arg("--dir").arg(&folder.0).args(["--nonsense", "--entry-nb=x"]);
    let server = Server::start_as(command, &folder);
    expect_an_answer(&mut UnixStream::connect(folder.path("socket")).unwrap());
    let log = server.log();
    assert!(log.contains("warn: option \"--nonsense\" is unknown and ignored"), "{log}");
    assert!(log.contains("warn: option --entry-nb \"x\" is not a number in range: ignored"), "{log}");
    assert!(log.contains("for development, comparison and benchmarks only"), "{log}");
}

#[test]
fn a_second_server_is_refused_and_the_first_keeps_its_sockets() {
    let folder = Folder::new();
    let _first = Server::start(&folder);
    let second = run(&["--dir", folder.0.to_str().unwrap()]);
    let text = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("another server listens"), "{text}");
    expect_an_answer(&mut UnixStream::connect(folder.path("socket")).unwrap());
    let sent = UnixDatagram::unbound().unwrap().send_to(&1_u32.to_ne_bytes(), folder.path("server"));
    assert!(sent.is_ok(), "no process takes events any more: {sent:?}");
}

#[test]
fn a_killed_server_leaves_nothing_that_stops_the_next() {
    let folder = Folder::new();
    drop(Server::start(&folder));
    assert!(folder.path("socket").exists(), "a killed server leaves its socket");
    let _next = Server::start(&folder);
    expect_an_answer(&mut UnixStream::connect(folder.path("socket")).unwrap());
}

#[test]
fn a_termination_signal_ends_the_server_and_leaves_no_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::new();
        let mut server = Server::start(&folder);
        let mut client = UnixStream::connect(folder.path("socket")).unwrap();
        expect_an_answer(&mut client);
        let status = server.end_by(signal);
        assert!(status.success(), "{signal:?}: {status}: {}", server.log());
        assert!(!folder.path("socket").exists() && !folder.path("server").exists(), "{signal:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client sees the end");
    }
}

#[test]
fn clients_beyond_the_limit_of_open_files_wait_for_their_turn() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 24; exec \"$@\"", "sh", PROGRAM, "--dir"]).arg(&folder.0);
    let server = Server::start_as(command, &folder);
    let mut clients: Vec<_> = (0..40).map(|_| UnixStream::connect(folder.path("socket")).unwrap()).collect();
    wait_until("the limit is met", || server.log().contains("no client accepted"));
    // A server that the waiting clients wake would log this in each round. The client of `start_as` may have gone
    // meanwhile, which causes one more attempt.
    (0..100).for_each(|_| expect_an_answer(&mut clients[0]));
    let log = server.log();
    assert!(log.matches("no client accepted").count() <= 2, "{log}");
    let waiting = clients.split_off(35);
    drop(clients);
    for mut client in waiting {
        expect_an_answer(&mut client);
    }
}
