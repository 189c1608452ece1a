//! What the server does, in order: the bytes that it takes out of rings and puts into them, and the outcome of each
//! request, which it tells in its log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use xenstore::store::domain::DomId;
use xenstore::wire::errno::Errno;
use xenstore::wire::ring::Field;

use crate::machine::{Onlooker, Touch};

/// Something that the server did.
#[derive(Clone, Debug)]
pub enum Deed {
    Took(u16, Vec<u8>),
    Put(u16, Vec<u8>),
    /// It wrote the connection word: the domain has a fresh connection.
    Connected(u16),
    /// It handled a request: so many bytes are answered, or it is refused.
    Handled(u16, Result<usize, &'static str>),
}

thread_local! {
    static DEEDS: RefCell<Vec<Deed>> = const { RefCell::new(Vec::new()) };
    static IS_TRAP_SET: Cell<bool> = const { Cell::new(false) };
}

/// The deeds since the last time.
pub fn take() -> Vec<Deed> {
    DEEDS.with(|deeds| std::mem::take(&mut *deeds.borrow_mut()))
}

fn note(deed: Deed) {
    DEEDS.with(|deeds| deeds.borrow_mut().push(deed));
}

/// Notes what the server does to a domain's ring. What the domain does to it is noted too; forget that by [`take`].
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

/// What a panic carries that was made on purpose.
pub struct OnPurpose;

/// From now on a handler that asks about [`UNKNOWN`] panics, or not any more.
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

/// `io: domain 3 gets Ok(3)`.
fn parse(line: &str) -> Option<Deed> {
    let (domid, outcome) = line.strip_prefix("io: domain ")?.split_once(" gets ")?;
    let outcome = match outcome.strip_prefix("Ok(") {
        Some(count) => Ok(count.strip_suffix(')')?.parse().ok()?),
        None => {
            let named = |errno: &Errno| outcome == format!("Err({errno:?})");
            Err(Errno::ALL.into_iter().find(named)?.name())
        }
    };
    Some(Deed::Handled(domid.parse().ok()?, outcome))
}

/// Lets the server's log be read.
pub fn listen() {
    // The second thread that comes here finds it done.
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
