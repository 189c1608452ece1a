//! Pending console lines: a byte ring of fixed size that keeps a line whole or not at all.

use core::fmt::{self, Write};

/// A ring of `N` bytes. It drops and counts a line that does not fit, and reports the count before the next line that
/// it keeps.
#[derive(Debug)]
pub(crate) struct LineBuffer<const N: usize> {
    bytes: [u8; N],
    /// Index of the oldest byte.
    start: usize,
    /// Number of pending bytes.
    length: usize,
    /// Number of lines dropped since the last one that was kept.
    dropped: u32,
}

impl<const N: usize> LineBuffer<N> {
    /// Creates an empty buffer.
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

    /// Returns the oldest bytes that are contiguous.
    pub(crate) fn peek(&self) -> &[u8] {
        &self.bytes[self.start..N.min(self.start + self.length)]
    }

    /// Returns all bytes, the oldest first.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        (0..self.length).map(|at| self.bytes[(self.start + at) % N])
    }

    /// Adds all of the lines unchanged, or none of them.
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

    /// Removes the oldest `count` bytes; `count` is at most the length of what [`LineBuffer::peek`] returned.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.length);
        self.start = (self.start + count) % N;
        self.length -= count;
    }

    /// Returns whether no bytes are pending.
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
