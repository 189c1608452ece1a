//! Saving the state with every amount of free memory: the save is complete or refused, for any state of guests, and
//! changes nothing.

use xenstore::engine::requests::in_flight::InFlight;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::limits;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::stream::writer::{Sink, SinkFull, WriteError};
use xenstore::wire::header::{Header, MessageType as T};

use crate::Host;
use crate::support::allocator::{self, failing, on_heap};

/// Nodes that a guest watches without reading its events.
const NODES: usize = 6000;
/// Bytes that a save may take without a check, such as one domain's quotas.
const UNASKED_BYTES: usize = 4096;
/// The end of the steps of free memory. This much has room for everything, one part after another.
const ENOUGH_BYTES: usize = limits::PRIVILEGED_WORK_BYTES;

/// A sink without memory: it counts and hashes the bytes (FNV-1a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sum(usize, u64);

impl Sink for Sum {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkFull> {
        self.0 += bytes.len();
        self.1 = bytes.iter().fold(self.1, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Ok(())
    }
}

const NOTHING: Sum = Sum(0, 0xcbf2_9ce4_8422_2325);

/// Returns a host with much of everything: nodes, also deep ones, pending output, and a transaction with many accesses
/// and changes.
fn host() -> Host {
    let mut host = Host::new();
    host.start(1);
    host.ask(0, T::Watch, "/shared\0token\0").unwrap();
    host.ask(0, T::SetPerms, "/local/domain/1\0n1\0r2\0r3\0r4\0r5\0").unwrap();
    host.ask(0, T::Write, ["/local/domain/1/", &vec!["d"; 1000].join("/"), "\0value"].concat()).unwrap();
    let transaction = host.begin(0);
    for at in 0..200 {
        host.ask(0, T::Write, format!("/seen/{at}\0{}", "v".repeat(1000))).unwrap();
        host.ask_in(0, transaction, T::Write, format!("/seen/{at}\0{}", "w".repeat(1000))).unwrap();
    }
    host.ask(0, T::SetPerms, "/seen/7\0n0\0r2\0r3\0r4\0r9\0").unwrap();
    host.stall(1);
    host.send(1, 0, T::Watch, b"/shared\0token\0");
    host.ask(0, T::Write, "/shared\0").unwrap();
    host.ask(0, T::SetPerms, "/shared\0n0\0r1\0").unwrap();
    for at in 0..NODES {
        // Not in the order of their names.
        let name = at * 7919 % 1_000_003;
        host.ask(0, T::Write, format!("/shared/{name:0200}\0value")).unwrap();
    }
    host
}

/// Returns the bytes of a domain's pending output.
fn queued(host: &Host, domid: u16) -> usize {
    let engine = host.server.engine();
    let connection = engine.state().domains.connection(DomId(domid)).expect("it is connected");
    engine.connection(connection).unwrap().session().unwrap().output.queued_bytes()
}

/// Tries with more and more memory until it suffices. Returns how often it did not.
fn with_every_amount(host: &mut Host, mut save: impl FnMut(&Host, &mut Sum) -> Result<(), WriteError>) -> usize {
    allocator::set_free(usize::MAX / 2);
    let before = host.state(false);
    let mut expected = NOTHING;
    save(host, &mut expected).unwrap();
    for (refused, free) in (UNASKED_BYTES..=ENOUGH_BYTES).step_by(1000).enumerate() {
        allocator::set_free(free);
        let mut sum = NOTHING;
        let (saved, taken) = on_heap(|| failing(|| save(host, &mut sum)));
        assert_eq!(taken.held, 0, "with {free} bytes free");
        match saved {
            Ok(()) => {
                assert_eq!((sum, taken.overdrafts), (expected, 0));
                println!("{} bytes saved with {free} free, after {refused} refusals", expected.0);
                allocator::set_free(usize::MAX / 2);
                assert!(before == host.state(false), "the state is unchanged");
                return refused;
            }
            Err(error) => assert_eq!((error, taken.overdrafts > 0), (WriteError::Full, true)),
        }
    }
    panic!("{ENOUGH_BYTES} bytes are not enough");
}

#[test]
fn a_save_reserves_its_memory_and_is_refused_or_complete() {
    let mut host = host();
    assert!(queued(&host, 1) > 4 * ENOUGH_BYTES, "{} bytes are pending", queued(&host, 1));
    let now_ms = host.now_ms;
    for version in [Version::One, Version::Two] {
        let refused = with_every_amount(&mut host, |host, sum| {
            host.server.save_to(sum, version, &SaveOptions { now_ms, reply: None })
        });
        assert!(refused > 10, "{refused}");
    }
    let connection = host.server.engine().state().domains.connection(DomId(1)).unwrap();
    let header = Header { kind: T::Write.to_wire(), request_id: 7, transaction_id: 0, payload_bytes: 5 };
    let request = InFlight { connection, header, payload: 0 };
    let refused = with_every_amount(&mut host, |host, sum| host.server.save_after_crash(&request, sum, now_ms));
    assert!(refused > 10, "{refused}");
    host.check();
}

#[test]
fn commands_that_save_the_state_report_missing_memory() {
    let mut host = host();
    let (mut refused, mut complete) = (0, 0);
    for free in (16 * 1024..ENOUGH_BYTES).step_by(4096) {
        allocator::set_free(free);
        let report = failing(|| host.ask(0, T::Control, "update-report\0")).unwrap();
        let report = String::from_utf8(report).unwrap();
        match report.contains("the state can't be saved: there is not enough memory") {
            true => refused += 1,
            false => complete += usize::from(report.contains("stream size: ")),
        }
        let part = failing(|| host.ask(0, T::Control, "stream\0")).unwrap();
        let part = String::from_utf8(part).unwrap();
        assert!(part.starts_with("The state can't be saved") || part.starts_with("Not enough memory"), "{part}");
    }
    println!("{refused} refused, {complete} complete");
    assert!(refused > 0 && complete > 0);
    host.check();
}

#[test]
fn a_saved_state_that_is_no_longer_requested_is_freed_after_a_minute() {
    let mut host = Host::new();
    for at in 0..1000 {
        host.ask(0, T::Write, format!("/{at}\0{}", "v".repeat(300))).unwrap();
    }
    host.now_ms += 10_000;
    host.run();
    host.taken();
    let part = host.ask(0, T::Control, "stream\0").unwrap();
    assert!(part.len() > limits::STREAM_PART_BYTES);
    let stream = host.taken().held;
    assert!(stream > 300_000, "{stream}");
    assert_eq!(host.ask(0, T::Control, "live-update\0-b\x00200000\0"), Ok(b"OK\0".to_vec()));
    for _ in 0..90 {
        let part = format!("live-update\0-d\x002048\0{}", "x".repeat(2048));
        assert_eq!(host.ask(0, T::Control, part), Ok(b"OK\0".to_vec()));
    }
    let kernel = host.taken().held;
    assert!(kernel > 180_000, "{kernel}");
    // No client sends anything.
    host.now_ms += limits::STREAM_KEPT_MS.max(limits::UPDATE_IDLE_MS);
    host.run();
    let given_back = -host.taken().held;
    assert!(given_back > 480_000, "{given_back} of {stream} and {kernel}");
}
