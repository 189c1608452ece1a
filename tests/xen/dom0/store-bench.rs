//! Measures a Xenstore from dom0, through `/dev/xen/xenbus`. Times are in microseconds.
//!
//! - `store-bench latency MS` reads a node repeatedly for MS milliseconds, and measures the duration of a read.
//! - `store-bench ping ROUNDS ID...` makes each of these guests answer: ROUNDS times one after the other, and once all
//!   at once.
//! - `store-bench work MS ID...` makes these guests work for MS milliseconds at once, and prints their counts.
//!
//! The guests are those of `hostile-guest/honest.rs`. The program waits for ever for a guest that does not answer: give
//! it a time limit.
//! `initramfs.sh` compiles it with `rustc` alone, statically: dom0's C library may be older than the machine's.

#[allow(dead_code, reason = "shared by the programs of this folder")]
mod xenbus;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use xenbus::{READ, RM, Store, WATCH, WATCH_EVENT};

/// The printed percentiles of a distribution, in 1/10,000.
const SHARES: [usize; 14] = [0, 100, 1000, 2500, 5000, 7500, 9000, 9500, 9800, 9900, 9950, 9980, 9990, 9999];

/// Returns a line that describes durations.
fn describe(mut taken: Vec<Duration>) -> String {
    taken.sort_unstable();
    let us = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
    let mean = taken.iter().sum::<Duration>().as_secs_f64() * 1e6 / taken.len().max(1) as f64;
    let shares = SHARES.map(|share| {
        let at = taken.get(taken.len() * share / 10_000);
        format!("p{}={:.1}", share as f64 / 100.0, us(at))
    });
    format!("count={} mean={mean:.1} {} longest={:.1}", taken.len(), shares.join(" "), us(taken.last()))
}

fn latency(length: Duration) -> io::Result<()> {
    let mut store = Store::open()?;
    let mut taken = Vec::new();
    let end = Instant::now() + length;
    let mut before = Instant::now();
    while before < end {
        store.request(READ, 0, b"/tool/xenstored\0").map_err(io::Error::other)?;
        let now = Instant::now();
        taken.push(now - before);
        before = now;
    }
    println!("latency {}", describe(taken));
    Ok(())
}

/// Guests that take commands.
struct Guests {
    store: Store,
    /// Reads the events of all answers, and sends nothing else.
    watcher: Store,
    ids: Vec<u32>,
    next_serial: u32,
}

impl Guests {
    fn new(ids: Vec<u32>) -> io::Result<Self> {
        let (mut store, mut watcher) = (Store::open()?, Store::open()?);
        for id in &ids {
            let _ = store.request(RM, 0, format!("{}\0", answer_path(*id)).as_bytes());
            let watch = format!("{}\0{id}\0", answer_path(*id));
            watcher.request(WATCH, 0, watch.as_bytes()).map_err(io::Error::other)?;
        }
        // Serials differ from those of an earlier run: a guest executes no command twice.
        Ok(Self { store, watcher, ids, next_serial: std::process::id() * 1000 })
    }

    /// Gives some guests a command, and waits until all have executed it. Returns their answers without the serial.
    fn order(&mut self, ids: &[u32], command: &str) -> io::Result<BTreeMap<u32, String>> {
        self.next_serial += 1;
        let serial = self.next_serial;
        for id in ids {
            let path = format!("/local/domain/{id}/data/command");
            self.store.write(&path, &format!("{serial} {command}")).map_err(io::Error::other)?;
        }
        let mut answers = BTreeMap::new();
        while answers.len() < ids.len() {
            let (kind, payload) = self.watcher.receive()?;
            if kind != WATCH_EVENT {
                continue;
            }
            let text = String::from_utf8_lossy(&payload).into_owned();
            let Some(id) = text.split('\0').nth(1).and_then(|token| token.parse().ok()) else { continue };
            // The watch's first event comes before there is an answer.
            let path = format!("{}\0", answer_path(id));
            let Ok(answer) = self.store.request(READ, 0, path.as_bytes()) else { continue };
            let answer = String::from_utf8_lossy(&answer).into_owned();
            if let Some(rest) = answer.strip_prefix(&serial.to_string()) {
                answers.insert(id, rest.trim_start().to_owned());
            }
        }
        Ok(answers)
    }
}

fn answer_path(id: u32) -> String {
    format!("/local/domain/{id}/data/answer")
}

fn ping(rounds: u32, ids: Vec<u32>) -> io::Result<()> {
    let mut guests = Guests::new(ids.clone())?;
    let mut taken = Vec::new();
    for _ in 0..rounds {
        for id in &ids {
            let begin = Instant::now();
            guests.order(&[*id], "ping")?;
            taken.push(begin.elapsed());
        }
    }
    println!("ping guests={} {}", ids.len(), describe(taken));
    let begin = Instant::now();
    let answers = guests.order(&ids, "ping")?;
    println!("at-once guests={} answered={} ms={}", ids.len(), answers.len(), begin.elapsed().as_millis());
    Ok(())
}

fn work(ms: u32, ids: Vec<u32>) -> io::Result<()> {
    let mut guests = Guests::new(ids)?;
    let ids = guests.ids.clone();
    for (id, answer) in guests.order(&ids, &format!("work {ms}"))? {
        println!("guest {id} {answer}");
    }
    Ok(())
}

fn numbers(words: &[&str]) -> io::Result<Vec<u32>> {
    let parsed: Result<_, _> = words.iter().map(|word| word.parse()).collect();
    parsed.map_err(|_| io::Error::other("numbers are wanted"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = numbers(words.get(1..).unwrap_or_default()).and_then(|numbers| match (words.first(), &numbers[..]) {
        (Some(&"latency"), [ms]) => latency(Duration::from_millis((*ms).into())),
        (Some(&"ping"), [rounds, ids @ ..]) => ping(*rounds, ids.to_vec()),
        (Some(&"work"), [ms, ids @ ..]) => work(*ms, ids.to_vec()),
        _ => Err(io::Error::other("usage: store-bench latency MS | ping ROUNDS ID... | work MS ID...")),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
