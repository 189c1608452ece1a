//! The PV console: a ring of bytes to the console daemon.
//!
//! It never waits: bytes that do not fit stay with the caller.

use super::abi::console_ring::{IN_CONSUMER, IN_PRODUCER, OUT, OUT_BYTES, OUT_CONSUMER, OUT_PRODUCER};
use super::event_channel;
use super::shared_page::SharedPage;

/// The console's ring and port.
#[derive(Debug)]
pub(crate) struct Console {
    page: SharedPage,
    port: u32,
    /// The kernel's own index; the page only ever gets a copy.
    producer: u32,
}

impl Console {
    /// Creates a console that continues at the page's index.
    pub(crate) fn new(page: SharedPage, port: u32) -> Self {
        let producer = page.load32(OUT_PRODUCER);
        Self { page, port, producer }
    }

    /// Continues at the index that another writer left in the page.
    pub(crate) fn resume(&mut self) {
        self.producer = self.page.load32(OUT_PRODUCER);
    }

    /// Returns the port of the daemon's signals.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Returns the bytes that the daemon has not fetched. It is more than the ring holds if the daemon's index is
    /// impossible.
    fn waiting(&self) -> usize {
        self.producer.wrapping_sub(self.page.load32(OUT_CONSUMER)) as usize
    }

    /// Returns whether the daemon has fetched everything.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting() == 0
    }

    /// Writes as many of the bytes into the ring as fit, and returns their number.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let room = OUT_BYTES.saturating_sub(self.waiting());
        let count = bytes.len().min(room);
        let at = self.producer as usize % OUT_BYTES;
        let first = count.min(OUT_BYTES - at);
        self.page.copy_in(OUT + at, &bytes[..first]);
        self.page.copy_in(OUT, &bytes[first..count]);
        self.producer = self.producer.wrapping_add(count as u32);
        self.page.store32(OUT_PRODUCER, self.producer);
        count
    }

    /// Signals the daemon that there is something to fetch.
    pub(crate) fn notify(&self) {
        // A console without a daemon is no reason to stop.
        let _ = event_channel::send(self.port);
    }

    /// Discards typed input: nothing reads it.
    pub(crate) fn discard_input(&self) {
        self.page.store32(IN_CONSUMER, self.page.load32(IN_PRODUCER));
    }
}
