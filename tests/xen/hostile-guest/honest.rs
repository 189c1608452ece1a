//! What an honest guest does, which the same small kernel can be: it sleeps until dom0 writes a command to `data/command`,
//! and writes what came of it to `data/answer`. Hundreds of it fit where one Linux does.
//!
//! A command is `<serial> ping`, answered at once, or `<serial> work <ms>`: requests one after the other for so long, with
//! every answer checked. An answer begins with the command's serial.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use xenstore::wire::header::{HEADER_BYTES, Header, MessageType as T};
use xenstore::wire::ring::{Field, RING_BYTES};

use crate::xen::event_channel::two_level;
use crate::xen::{sched, shared_info, time};

use super::client::Client;

/// Requests between two different values: the node is written, and read back as often.
const NODES: u64 = 10;
/// Bars of the histogram: eight for each doubling of a time in microseconds.
const BARS: usize = 256;

/// Serves dom0's commands, for ever.
pub(super) fn serve(client: Client) -> ! {
    let mut guest = Guest { client, has_event: false };
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
        guest.demand(T::Write, format!("data/answer\0{answer}").as_bytes());
        done = command;
    }
}

/// A client that sleeps until it is answered, and signals only what the server has to know, as Linux does.
struct Guest {
    client: Client,
    has_event: bool,
}

impl Guest {
    fn obey(&mut self, command: &str) -> String {
        let mut words = command.split(' ');
        let serial = words.next().unwrap_or_default();
        match (words.next(), words.next().and_then(|text| text.parse().ok())) {
            (Some("ping"), _) => String::from(serial),
            (Some("work"), Some(ms)) => format!("{serial} {}", self.work(ms)),
            _ => format!("{serial} FAILED: no such command"),
        }
    }

    /// Writes nodes of its own and reads them back. Says how many requests that were, how long they took (the median, the
    /// 99th of a hundred, the longest), and how many answers were wrong.
    fn work(&mut self, ms: u64) -> String {
        let (mut bars, mut longest, mut wrong, mut requests) = ([0_u64; BARS], 0, 0, 0_u64);
        let begin = time::now_ns();
        let end = begin + ms * 1_000_000;
        let mut before = begin;
        while before < end {
            let value = format!("value {:010}", requests / 2);
            let path = format!("data/work/{}\0", requests / 2 % NODES);
            let answer = if requests % 2 == 0 {
                self.ask(T::Write, format!("{path}{value}").as_bytes()).map(|_| value.clone().into_bytes())
            } else {
                self.ask(T::Read, path.as_bytes())
            };
            wrong += u64::from(answer.as_deref() != Ok(value.as_bytes()));
            let now = time::now_ns();
            let us = (now - before) / 1000;
            bars[bar(us)] += 1;
            longest = us.max(longest);
            requests += 1;
            before = now;
        }
        let at = |share: u64| {
            let mut left = requests * share / 100;
            let found = bars.iter().position(|count| {
                let is_here = left < *count;
                left = left.saturating_sub(*count);
                is_here
            });
            bar_begin_us(found.unwrap_or(0))
        };
        let us = (before - begin) / 1000;
        let mut text = format!("requests={requests} us={us} median={} p99={} longest={longest}", at(50), at(99));
        let _ = write!(text, " wrong={wrong}");
        text
    }

    /// A request that has to succeed: there is no test without it.
    fn demand(&mut self, kind: T, payload: &[u8]) {
        let outcome = self.ask(kind, payload);
        assert!(outcome.is_ok(), "{kind:?} was refused: {:?}", outcome.err());
    }

    /// Asks, and sleeps until the answer is there: its payload, or the error's name. Events are noted.
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

    /// The next message. An event is noted.
    fn message(&mut self) -> (Header, Vec<u8>) {
        let header = self.receive(HEADER_BYTES);
        let header = Header::parse(header.first_chunk().expect("so many bytes were received"));
        let payload = self.receive(header.payload_bytes as usize);
        self.has_event |= header.kind == T::WatchEvent.to_wire();
        (header, payload)
    }

    /// Exactly so many bytes.
    fn receive(&self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let (produced, consumed) = (self.client.load(Field::ReplyProducer), self.client.load(Field::ReplyConsumer));
            let was_full = produced.wrapping_sub(consumed) as usize >= RING_BYTES;
            let more = self.client.take(count - bytes.len());
            if more.is_empty() {
                sleep();
            } else if was_full {
                self.client.signal();
            }
            bytes.extend(more);
        }
        bytes
    }
}

/// Sleeps until something fires. What fired before is seen first, so that whoever looks again afterwards misses nothing.
fn sleep() {
    sched::block();
    two_level::take_fired(shared_info::page().expect("mapped before"), |_| ());
}

/// The bar for a time: eight equal ones between two powers of two.
fn bar(us: u64) -> usize {
    if us < 8 {
        return us as usize;
    }
    let power = us.ilog2();
    ((power as usize - 2) * 8 + ((us >> (power - 3)) & 7) as usize).min(BARS - 1)
}

/// The shortest time of a bar.
fn bar_begin_us(bar: usize) -> u64 {
    if bar < 8 { bar as u64 } else { (8 + bar as u64 % 8) << (bar / 8 - 1) }
}
