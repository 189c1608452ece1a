//! An honest guest, which the same small kernel can be. It sleeps until dom0 writes a command to `data/command`, and
//! writes the outcome to `data/answer`. Hundreds of them fit where one Linux does.
//!
//! The guest answers the command `<serial> ping` at once. Two other commands last for a number of milliseconds, and the guest
//! checks the answer to every request:
//!
//! - `<serial> work <ms>`: requests one after the other.
//! - `<serial> rounds <ms>`: rounds one after the other. In each, the guest changes `data/state`, waits until dom0 acknowledges
//!   the event in `data/ack`, and makes and removes a node.
//!
//! An answer begins with the command's serial.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};

use crate::xen::event_channel::two_level;
use crate::xen::{sched, shared_info, time};

use super::client::Client;
use super::waits::Waits;

/// Requests between two different values: the node is written and read back as often.
const NODES: u64 = 10;
/// The time that the guest waits for an acknowledgement before it requests one. A late event is no failure: dom0 counts
/// an event as lost only if the question's event comes first.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Questions in one round before the guest gives up.
const QUESTIONS: u64 = 60;

/// Serves dom0's commands, for ever.
pub(super) fn serve(client: Client) -> ! {
    let mut guest = Guest { client, has_event: false, round: 0 };
    guest.demand(T::Watch, b"data/command\0token\0");
    log::info!("honest: ready");
    let mut done = Vec::new();
    loop {
        while !guest.has_event {
            guest.message();
        }
        guest.has_event = false;
        // The first event comes when the watch is set, before there is a command.
        let Ok(command) = guest.ask(T::Read, b"data/command\0") else { continue };
        if command == done {
            continue;
        }
        let answer = guest.obey(core::str::from_utf8(&command).unwrap_or_default());
        // While the server is short of memory, it may refuse this write: the answer is long.
        while guest.ask(T::Write, format!("data/answer\0{answer}").as_bytes()).is_err() {
            Client::rest();
        }
        done = command;
    }
}

/// The counts of some rounds.
#[derive(Default)]
struct Rounds {
    waits: Waits,
    rounds: u64,
    questions: u64,
    /// Rounds whose change dom0 did not acknowledge, after [`QUESTIONS`].
    unacknowledged: u64,
    /// Answers that were errors.
    wrong: u64,
    slowest_ns: u64,
}

/// A client that sleeps until its reply comes, and sends only necessary signals, as Linux does.
struct Guest {
    client: Client,
    has_event: bool,
    /// The number of the newest round.
    round: u64,
}

impl Guest {
    fn obey(&mut self, command: &str) -> String {
        let mut words = command.split(' ');
        let serial = words.next().unwrap_or_default();
        match (words.next(), words.next().and_then(|text| text.parse().ok())) {
            (Some("ping"), _) => String::from(serial),
            (Some("work"), Some(ms)) => format!("{serial} {}", self.work(ms)),
            (Some("rounds"), Some(ms)) => format!("{serial} {}", self.rounds(ms)),
            _ => format!("{serial} FAILED: no such command"),
        }
    }

    /// Writes its own nodes and reads them back. Returns the number of requests, their durations (the median, the 99th
    /// of a hundred, the longest), and the number of wrong answers.
    fn work(&mut self, ms: u64) -> String {
        let (mut waits, mut wrong) = (Waits::default(), 0_u64);
        let begin = time::now_ns();
        let end = begin + ms * 1_000_000;
        let mut before = begin;
        while before < end {
            let turn = waits.requests() / 2;
            let value = format!("value {turn:010}");
            let path = format!("data/work/{}\0", turn % NODES);
            let answer = if waits.requests().is_multiple_of(2) {
                self.ask(T::Write, format!("{path}{value}").as_bytes()).map(|_| value.clone().into_bytes())
            } else {
                self.ask(T::Read, path.as_bytes())
            };
            wrong += u64::from(answer.as_deref() != Ok(value.as_bytes()));
            let now = time::now_ns();
            waits.note((now - before) / 1000);
            before = now;
        }
        let us = (before - begin) / 1000;
        format!("requests={} us={us} {} wrong={wrong}", waits.requests(), waits.figures())
    }

    /// Makes rounds. Returns the durations of their requests, the number of rounds that dom0 did not acknowledge, and
    /// the number of errors.
    fn rounds(&mut self, ms: u64) -> String {
        // From the second command on, the watch exists already.
        let _ = self.ask(T::Watch, b"data/ack\0token\0");
        let mut tally = Rounds::default();
        let begin = time::now_ns();
        while time::now_ns() < begin + ms * 1_000_000 {
            self.round(&mut tally);
        }
        let Rounds { waits, rounds, questions, unacknowledged, wrong, slowest_ns } = tally;
        format!(
            "requests={} us={} {} wrong={wrong} rounds={rounds} unacknowledged={unacknowledged} questions={questions} \
             slowest-round={}",
            waits.requests(),
            (time::now_ns() - begin) / 1000,
            waits.figures(),
            slowest_ns / 1000
        )
    }

    /// Changes a node and waits until dom0 acknowledges the change; then makes a node and removes it.
    fn round(&mut self, tally: &mut Rounds) {
        self.round += 1;
        let (round, began) = (self.round, time::now_ns());
        self.timed(tally, T::Write, &format!("data/state\0{round:08}"));
        let (mut asked, mut acknowledged) = (0, false);
        while !acknowledged && asked < QUESTIONS {
            if self.await_event(time::now_ns() + PATIENCE_NS) {
                let seen = self.timed(tally, T::Read, "data/ack\0");
                acknowledged = core::str::from_utf8(&seen).is_ok_and(|seen| seen.parse() == Ok(round));
            } else {
                asked += 1;
                self.timed(tally, T::Write, &format!("data/question/{round}\0"));
            }
        }
        if asked > 0 {
            self.timed(tally, T::Rm, &format!("data/question/{round}\0"));
        }
        tally.rounds += 1;
        tally.questions += asked;
        tally.unacknowledged += u64::from(!acknowledged);
        tally.slowest_ns = tally.slowest_ns.max(time::now_ns() - began);
        self.timed(tally, T::Mkdir, &format!("data/grown/{round:08}\0"));
        self.timed(tally, T::Rm, &format!("data/grown/{round:08}\0"));
    }

    /// Sends a request that should succeed, and measures the wait for its answer. Returns the payload.
    fn timed(&mut self, tally: &mut Rounds, kind: T, payload: &str) -> Vec<u8> {
        let begin = time::now_ns();
        let answer = self.ask(kind, payload.as_bytes());
        tally.waits.note((time::now_ns() - begin) / 1000);
        tally.wrong += u64::from(answer.is_err());
        answer.unwrap_or_default()
    }

    /// Waits for an event until system time `until_ns`. Returns whether there was one since the last call.
    fn await_event(&mut self, until_ns: u64) -> bool {
        while !self.has_event {
            if !self.client.is_quiet() {
                self.message();
            } else if time::now_ns() < until_ns {
                self.client.wait(until_ns);
            } else {
                return false;
            }
        }
        self.has_event = false;
        true
    }

    /// Sends a request that must succeed: without it there is no test.
    fn demand(&mut self, kind: T, payload: &[u8]) {
        let outcome = self.ask(kind, payload);
        assert!(outcome.is_ok(), "{kind:?} was refused: {:?}", outcome.err());
    }

    /// Sends a request, and sleeps until its reply comes. Returns the payload or the error's name. Events are noted.
    fn ask(&mut self, kind: T, payload: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        let request = self.client.request(kind.to_wire(), 0, payload);
        let mut rest = &request[..];
        while !rest.is_empty() {
            let count = self.client.put(rest);
            rest = &rest[count..];
            if count == 0 {
                sleep();
            } else {
                self.client.signal();
            }
        }
        loop {
            let (header, payload) = self.message();
            match T::from_wire(header.kind) {
                Some(T::WatchEvent) => {}
                Some(T::Error) => return Err(payload),
                _ => return Ok(payload),
            }
        }
    }

    /// Returns the next message. An event is noted.
    fn message(&mut self) -> (Header, Vec<u8>) {
        let header = self.receive(HEADER_BYTES);
        let header = Header::parse(header.first_chunk().expect("so many bytes were received"));
        let payload = self.receive(header.payload_bytes as usize);
        self.has_event |= header.kind == T::WatchEvent.to_wire();
        (header, payload)
    }

    /// Receives exactly so many bytes.
    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let more = self.client.read(count - bytes.len());
            if more.is_empty() {
                sleep();
            }
            bytes.extend(more);
        }
        bytes
    }
}

/// Sleeps until a port fires. Returns at once for a port that fired before: a caller that checks its state again
/// afterwards misses nothing.
fn sleep() {
    sched::block();
    two_level::take_fired(shared_info::page().expect("mapped before"), |_| ());
}
