//! A witness in dom0 of guests' changes and deaths, through `/dev/xen/xenbus`.
//!
//! - `store-witness rounds HOME` watches `HOME/data/state`, which a guest counts up (`hostile-guest/honest.rs`). It
//!   writes each number that it reads to `HOME/data/ack`. The guest makes the node `HOME/data/question/<number>` to
//!   question that number. If that number's event has not come by then, it is lost: events of one connection come in
//!   order. Each change of `/witness/phase` prints the counts since the last change. The value `end` ends the program.
//! - `store-witness death SECONDS [DOMID]` waits for an event of `@releaseDomain`: for any event, or for the one after which the
//!   domain is no longer introduced.
//! - `store-witness read PATH` watches PATH and reads its events until the program is killed.
//!
//! `initramfs.sh` compiles it with `rustc` alone, statically: dom0's C library may be older than the machine's.

#[allow(dead_code, reason = "shared by the programs of this folder")]
mod xenbus;

use std::io;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use xenbus::{IS_DOMAIN_INTRODUCED, READ, Store, WATCH, WRITE};

/// The token of watches whose events must come. It is long: these events need more room than the events that fill a queue.
const TOKEN: &str = "a token that makes its events longer than those with which a hostile guest fills the rest of a queue";

/// The node that separates the parts of a run.
const PHASE: &str = "/witness/phase";

fn watch(store: &mut Store, path: &str, token: &str) -> io::Result<()> {
    store.request(WATCH, 0, format!("{path}\0{token}\0").as_bytes()).map(drop).map_err(io::Error::other)
}

/// Returns the path of the next event.
fn next_event(store: &mut Store) -> io::Result<String> {
    let payload = store.event()?;
    let path = payload.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(path).into_owned())
}

/// The counts of one part of a run.
#[derive(Default)]
struct Seen {
    rounds: u64,
    lost: u64,
    requests: u64,
    longest: Duration,
}

struct Witness {
    store: Store,
    home: String,
    /// The newest number whose event has come or is counted as lost.
    last: u64,
    seen: Seen,
}

impl Witness {
    fn request(&mut self, kind: u32, payload: &str) -> Option<String> {
        let begin = Instant::now();
        let answer = self.store.request(kind, 0, payload.as_bytes());
        self.seen.longest = self.seen.longest.max(begin.elapsed());
        self.seen.requests += 1;
        answer.ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads the number in a node of the guest.
    fn number(&mut self, name: &str) -> Option<u64> {
        self.request(READ, &format!("{}/data/{name}\0", self.home))?.parse().ok()
    }

    fn acknowledge(&mut self) {
        let payload = format!("{}/data/ack\0{:08}", self.home, self.last);
        if self.request(WRITE, &payload).is_none() {
            println!("FAILED: the acknowledgement of {} was refused", self.last);
        }
    }

    fn state_changed(&mut self) {
        let Some(number) = self.number("state").filter(|number| *number > self.last) else { return };
        self.seen.lost += number - self.last - 1;
        self.seen.rounds += 1;
        self.last = number;
        self.acknowledge();
    }

    /// Answers the guest's question for a number. The number comes from the event, as the node may have changed since.
    fn asked(&mut self, number: u64) {
        if number >= self.last {
            self.seen.lost += number - self.last;
            self.last = number;
            self.acknowledge();
        }
    }
}

fn rounds(home: &str) -> io::Result<()> {
    let mut events = Store::open()?;
    let mut witness =
        Witness { store: Store::open()?, home: home.to_owned(), last: 0, seen: Seen::default() };
    for path in [&format!("{home}/data/state"), &format!("{home}/data/question"), PHASE] {
        watch(&mut events, path, TOKEN)?;
    }
    println!("witness: ready");
    let mut phase = String::new();
    loop {
        let path = next_event(&mut events)?;
        if path.ends_with("/state") {
            witness.state_changed();
        } else if let Some((_, number)) = path.split_once("/question/") {
            witness.asked(number.parse().map_err(io::Error::other)?);
        } else if path == PHASE {
            let Some(next) = witness.request(READ, &format!("{PHASE}\0")) else { continue };
            let Seen { rounds, lost, requests, longest } = std::mem::take(&mut witness.seen);
            let longest = longest.as_micros();
            println!("witness {phase}: events={rounds} lost={lost} requests={requests} longest={longest} us");
            phase = next;
            if phase == "end" {
                return Ok(());
            }
        }
    }
}

fn death(seconds: &str, domid: Option<&str>) -> io::Result<()> {
    let seconds = seconds.parse().map_err(|_| io::Error::other("SECONDS is not a number"))?;
    let (mut events, mut store) = (Store::open()?, Store::open()?);
    watch(&mut events, "@releaseDomain", TOKEN)?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || while next_event(&mut events).is_ok_and(|_| sender.send(()).is_ok()) {});
    let begin = Instant::now();
    let left = || Duration::from_secs(seconds).saturating_sub(begin.elapsed());
    // The first event only shows that the watch is set.
    let mut count = 0;
    while receiver.recv_timeout(left()).is_ok() {
        count += 1;
        if count == 1 {
            println!("death: ready");
            continue;
        }
        let is_gone = domid.is_none_or(|domid| {
            let answer = store.request(IS_DOMAIN_INTRODUCED, 0, format!("{domid}\0").as_bytes());
            answer.is_ok_and(|answer| answer.starts_with(b"F"))
        });
        if is_gone {
            println!("death: seen after {} ms", begin.elapsed().as_millis());
            return Ok(());
        }
    }
    println!("death: LOST: {count} events within {seconds} s");
    Ok(())
}

fn read(path: &str) -> io::Result<()> {
    let mut events = Store::open()?;
    watch(&mut events, path, "token")?;
    loop {
        next_event(&mut events)?;
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["rounds", home] => rounds(home),
        ["death", seconds] => death(seconds, None),
        ["death", seconds, domid] => death(seconds, Some(domid)),
        ["read", path] => read(path),
        _ => {
            eprintln!("usage: store-witness rounds HOME | death SECONDS [DOMID] | read PATH");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store-witness: {error}");
            ExitCode::FAILURE
        }
    }
}
