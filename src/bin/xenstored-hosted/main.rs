//! The kernel's engine and ring code on a plain Linux host, for development, comparison and benchmarks.
//!
//! The server serves dom0's clients on `DIR/socket`. Other processes play domains through files in `DIR`
//! ([`platform`]). There is no real Xen, and the server is not for production.

mod clients;
mod page;
mod platform;

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::epoll;
use rustix::fs::Timespec;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use xenstore::engine::connection::output::HashKey;
use xenstore::options::Options;
use xenstore::server::{Action, Server};

use clients::{CHANNEL, Clients, END, LISTENER, expect_no_server};
use platform::{EXCEPTION_PORT, FolderPlatform};

const HELP: &str = "\
Usage: xenstored-hosted --dir DIR [OPTION...]

Serves Xenstore on a plain Linux host, without Xen: for development, comparison and benchmarks.

  --dir DIR          the folder that represents Xen: `socket` is for dom0's clients, `ring.N`, `dom.N` and `state.N`
                     are domain N, `server` is the event channel
  --clock FACTOR     time passes FACTOR times as fast, so that rate limits don't slow a comparison
  --help             this text; SIGTERM ends the server
  --log-level LEVEL  off, error, warn, info (default), debug or trace

and the boot options of the kernel:
  --priv-domid N  --entry-nb N  --entry-size N  --watch-nb N  --transaction N  --perm-nb N  --path-max N
  --quota NAME=N  --quota-soft NAME=N  --timeout watch-event=SECONDS  --keep-orphans
  --stream-version N the newest version of the stream that a live update may write
  --no-replay        refuse a commit that conflicts, as the C server does, instead of replaying its requests
";

/// Maximum number of events taken from epoll at once.
const EVENTS: usize = 64;

fn main() -> ExitCode {
    let Arguments { folder, clock_factor, options } = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("xenstored-hosted: {message}\nTry 'xenstored-hosted --help'.");
            return ExitCode::from(2);
        }
    };
    match run(&folder, clock_factor, &options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xenstored-hosted: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// The parsed command line.
struct Arguments {
    /// The folder that represents Xen.
    folder: PathBuf,
    /// Milliseconds that pass for the server in one real millisecond.
    clock_factor: u32,
    /// The boot options.
    options: Options,
}

/// Parses the command line. Returns `None` if help was requested.
fn arguments() -> Result<Option<Arguments>, String> {
    let mut words = Vec::new();
    let mut folder = None;
    let mut clock_factor = 1;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let Some(word) = argument.to_str() else { return Err(format!("{argument:?} is not UTF-8")) };
        match word {
            "--help" | "-h" | "-H" => return Ok(None),
            "--clock" => clock_factor = arguments.next().as_deref().and_then(factor).ok_or("--clock needs a number")?,
            "--dir" => folder = Some(arguments.next().map(PathBuf::from).ok_or("--dir needs a value")?),
            _ => match word.strip_prefix("--dir=") {
                Some(path) => folder = Some(PathBuf::from(path)),
                None => words.push(word.to_owned()),
            },
        }
    }
    let folder = folder.ok_or("--dir is missing")?;
    if !folder.is_dir() {
        return Err(format!("{} is not a folder", folder.display()));
    }
    let (options, warnings) = Options::parse(words.iter().map(String::as_str));
    start_log(options.log_level);
    for warning in warnings {
        log::warn!("{warning}");
    }
    Ok(Some(Arguments { folder, clock_factor, options }))
}

/// Parses a factor of at least 1.
fn factor(word: &OsStr) -> Option<u32> {
    word.to_str()?.parse().ok().filter(|factor| *factor > 0)
}

/// Serves until a signal ends the process.
fn run(folder: &Path, clock_factor: u32, options: &Options) -> io::Result<()> {
    let started = Instant::now();
    let now_ms = || u64::try_from((started.elapsed() * clock_factor).as_millis()).unwrap_or(u64::MAX);
    let socket = folder.join("socket");
    expect_no_server(&socket)?;
    let end = signals_to_end()?;
    let mut platform = FolderPlatform::new(folder.to_owned())?;
    let mut server = Server::new(options.config(hash_key()));
    let boot_domain = options.boot_domain();
    if let Err(errno) = server.handle_boot_domain(boot_domain, options.event.unwrap_or(1), &mut platform) {
        log::info!("domain {boot_domain} has no ring here ({}): only its socket clients are served", errno.name());
    }
    let mut clients = Clients::listen(socket, platform.channel(), &end)?;
    log::info!("serving {}; for development, comparison and benchmarks only", folder.display());

    let mut events = Vec::with_capacity(EVENTS);
    loop {
        let poll = server.poll(&mut platform, now_ms());
        while let Some(action) = server.poll_action() {
            match action {
                Action::ReportMemory => {
                    let (rings, ports) = server.engine().rings_and_ports();
                    log::info!("memory: rings={rings} ports={ports}");
                }
                Action::StartUpdate => {
                    if let Some(successor) = server.take_successor() {
                        let why = "This server is a process: restart it to update it.";
                        server.successor_failed(successor.asked, &why);
                    }
                }
            }
        }
        // The clients' latest requests may leave work for the next turn, or set a deadline.
        let is_busy = clients.serve_waiting(&mut server, &mut platform, now_ms()) || server.is_busy();
        let deadline_ms = [poll.deadline_ms, server.engine().poll_timeout()].into_iter().flatten().min();
        let wait_ms = if is_busy { Some(0) } else { deadline_ms.map(|at_ms| at_ms.saturating_sub(now_ms())) };
        let wait_ms = wait_ms.map(|ms| ms.div_ceil(u64::from(clock_factor)));
        let timeout = wait_ms.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: (ms % 1000) as i64 * 1_000_000,
        });
        events.clear();
        match epoll::wait(clients.epoll(), rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => clients.accept(&mut server),
                CHANNEL => {
                    while let Some(port) = platform.next_port() {
                        if port == EXCEPTION_PORT {
                            server.handle_domain_exception();
                        } else {
                            server.handle_event(port);
                        }
                    }
                }
                END => {
                    log::info!("ending after a signal");
                    return Ok(());
                }
                descriptor => clients.serve(descriptor, &mut server, &mut platform, now_ms()),
            }
        }
    }
}

/// Returns a stream that becomes readable on a signal to end: SIGTERM or an interrupt from the keyboard.
fn signals_to_end() -> io::Result<UnixStream> {
    let (end, told) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, told.try_clone()?)?;
    }
    Ok(end)
}

/// A logger that writes to standard error.
struct StandardError;

impl Log for StandardError {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Standard error may be closed, which must not stop the server.
        let _ = writeln!(io::stderr(), "{}: {}", record.level().as_str().to_lowercase(), record.args());
    }

    fn flush(&self) {}
}

fn start_log(level: LevelFilter) {
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
}

/// Makes a random key for hashes, from the random state that the standard library makes for its hash maps.
fn hash_key() -> HashKey {
    let [first, second] = [0, 1].map(|half: u64| RandomState::new().hash_one(half));
    HashKey(first, second)
}
