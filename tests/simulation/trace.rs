//! The actions of the server, in order: bytes that it takes out of rings and writes into them. The outcomes of requests
//! come from its log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use xenstore::store::domain::DomId;
use xenstore::wire::errno::Errno;
use xenstore::wire::ring::Field;

use crate::support::machine::{Onlooker, Touch};

/// An action of the server.
#[derive(Clone, Debug)]
pub enum Deed {
    Took(u16, Vec<u8>),
    Put(u16, Vec<u8>),
    /// It wrote the connection word: the domain has a reset connection.
    Connected(u16),
    /// It executed a request: the length of the reply, or the error.
    Handled(u16, Result<usize, &'static str>),
}

thread_local! {
    static DEEDS: RefCell<Vec<Deed>> = const { RefCell::new(Vec::new()) };
    static IS_TRAP_SET: Cell<bool> = const { Cell::new(false) };
}

/// Returns the actions since the last call.
pub fn take() -> Vec<Deed> {
    DEEDS.with(|deeds| std::mem::take(&mut *deeds.borrow_mut()))
}

fn note(deed: Deed) {
    DEEDS.with(|deeds| deeds.borrow_mut().push(deed));
}

/// Notes the server's operations on a domain's ring. The domain's own are noted too; [`take`] forgets them.
pub fn onlooker(domid: u16) -> Onlooker {
    Rc::new(move |touch| match touch {
        Touch::Took(bytes) => note(Deed::Took(domid, bytes.to_vec())),
        Touch::Put(bytes) => note(Deed::Put(domid, bytes.to_vec())),
        Touch::Stored(Field::Connection, 0) => note(Deed::Connected(domid)),
        Touch::Stored(..) => {}
    })
}

/// A domain that never exists.
pub const UNKNOWN: u16 = 9;

/// The payload of a deliberate panic.
pub struct OnPurpose;

/// Sets whether a handler that asks about [`UNKNOWN`] panics.
pub fn set_trap(is_set: bool) {
    IS_TRAP_SET.with(|trap| trap.set(is_set));
}

/// Panics if the trap is set.
pub fn probe(domid: DomId) {
    if domid.0 == UNKNOWN && IS_TRAP_SET.with(Cell::get) {
        std::panic::resume_unwind(Box::new(OnPurpose));
    }
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() == log::Level::Info
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(deed) = parse(&record.args().to_string())
        {
            note(deed);
        }
    }

    fn flush(&self) {}
}

/// Parses a log line such as `io: domain 3 gets 3 bytes` or `io: domain 3 gets ENOENT`.
fn parse(line: &str) -> Option<Deed> {
    let (domid, outcome) = line.strip_prefix("io: domain ")?.split_once(" gets ")?;
    let outcome = match outcome.strip_suffix(" bytes") {
        Some(count) => Ok(count.parse().ok()?),
        None => Err(Errno::ALL.into_iter().find(|errno| outcome == errno.name())?.name()),
    };
    Some(Deed::Handled(domid.parse().ok()?, outcome))
}

/// Makes the server's log readable.
pub fn listen() {
    // A second thread finds the logger set.
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
