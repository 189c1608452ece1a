//! The PV console: a ring of bytes to the console daemon.
//!
//! Never waits: what does not fit stays with the caller.

use super::abi::console_ring::{IN_CONSUMER, IN_PRODUCER, OUT, OUT_BYTES, OUT_CONSUMER, OUT_PRODUCER};
use super::event_channel;
use super::shared_page::SharedPage;

/// The console's ring and port.
#[derive(Debug)]
pub(crate) struct Console {
    page: SharedPage,
    port: u32,
    /// Our own index; the page only ever gets a copy.
    producer: u32,
}

impl Console {
    /// Goes on where the page stands.
    pub(crate) fn new(page: SharedPage, port: u32) -> Self {
        let producer = page.load32(OUT_PRODUCER);
        Self { page, port, producer }
    }

    /// Goes on where another writer left the page.
    pub(crate) fn resume(&mut self) {
        self.producer = self.page.load32(OUT_PRODUCER);
    }

    /// The port by which the daemon signals.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Bytes that the daemon has not fetched. More than the ring holds, when the daemon's index can't be.
    fn waiting(&self) -> usize {
        self.producer.wrapping_sub(self.page.load32(OUT_CONSUMER)) as usize
    }

    /// Whether the daemon has fetched everything.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting() == 0
    }

    /// Puts as many of the bytes into the ring as fit, and returns how many.
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

    /// Tells the daemon that there is something to fetch.
    pub(crate) fn notify(&self) {
        // A console without a daemon is no reason to stop.
        let _ = event_channel::send(self.port);
    }

    /// Throws typed input away: there is nothing to type to.
    pub(crate) fn discard_input(&self) {
        self.page.store32(IN_CONSUMER, self.page.load32(IN_PRODUCER));
    }
}
