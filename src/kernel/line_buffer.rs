//! Lines that wait for the console: a byte ring of fixed size in which a line is kept whole or not at all.

use core::fmt::{self, Write};

/// A ring of `N` bytes. A line that does not fit is dropped and counted, and what is kept says so later.
#[derive(Debug)]
pub(crate) struct LineBuffer<const N: usize> {
    bytes: [u8; N],
    /// Where the oldest byte is.
    start: usize,
    /// How many bytes wait.
    length: usize,
    /// Lines that were dropped since the last that was kept.
    dropped: u32,
}

impl<const N: usize> LineBuffer<N> {
    /// An empty buffer.
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], start: 0, length: 0, dropped: 0 }
    }

    /// Adds a line, with the console's line end. Returns whether it was kept.
    pub(crate) fn push_line(&mut self, line: fmt::Arguments<'_>) -> bool {
        let length = self.length;
        let kept = self.push(line).is_ok();
        if kept {
            self.dropped = 0;
        } else {
            self.length = length;
            self.dropped = self.dropped.saturating_add(1);
        }
        kept
    }

    fn push(&mut self, line: fmt::Arguments<'_>) -> fmt::Result {
        if self.dropped > 0 {
            let dropped = self.dropped;
            write!(self, "({dropped} lines dropped: the console was full)\r\n")?;
        }
        self.write_fmt(line)?;
        self.write_str("\r\n")
    }

    /// The oldest bytes that lie in one piece.
    pub(crate) fn peek(&self) -> &[u8] {
        &self.bytes[self.start..N.min(self.start + self.length)]
    }

    /// All bytes, the oldest first.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        (0..self.length).map(|at| self.bytes[(self.start + at) % N])
    }

    /// Adds lines as they are, or none of them.
    pub(crate) fn push_lines(&mut self, lines: &[u8]) {
        if lines.len() > N - self.length {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        for byte in lines {
            self.bytes[(self.start + self.length) % N] = *byte;
            self.length += 1;
        }
    }

    /// Removes the oldest `count` bytes; `count` is at most what [`LineBuffer::peek`] showed.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.length);
        self.start = (self.start + count) % N;
        self.length -= count;
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl<const N: usize> Write for LineBuffer<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > N - self.length {
            return Err(fmt::Error);
        }
        self.push_lines(text.as_bytes());
        Ok(())
    }
}
