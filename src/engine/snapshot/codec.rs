//! Numbers and byte strings of extensions. Small numbers take one byte (LEB128), so that long lists stay short. The
//! reader trusts no input. A writer that runs out of memory fails at its end.

use alloc::vec::Vec;

use crate::engine::snapshot::{Bytes, NoMemory, varint};

/// Bytes of a piece of a long body. A nearly full heap may have such a block, but none for the times of all nodes'
/// writes.
const PIECE_BYTES: usize = 4096;

/// A writer of a body.
#[derive(Debug, Default)]
pub(in crate::engine) struct Writer {
    /// Full pieces.
    pieces: Vec<Vec<u8>>,
    last: Vec<u8>,
    /// Whether memory was missing for a part: the body is useless then.
    is_spoiled: bool,
}

impl Writer {
    /// Creates a body that begins with its version.
    pub(in crate::engine) fn new(version: u8) -> Self {
        let mut body = Self::default();
        body.byte(version);
        body
    }

    /// Makes room for `count` more bytes in one piece. Returns whether there is room.
    fn has_room(&mut self, count: usize) -> bool {
        if count <= self.last.capacity().saturating_sub(self.last.len()) {
            return true;
        }
        let is_full = self.last.len().saturating_add(count) > PIECE_BYTES && !self.last.is_empty();
        if is_full && self.pieces.try_reserve(1).is_ok() {
            self.pieces.push(core::mem::take(&mut self.last));
        }
        // A body that has filled a piece fills more of them; most are short.
        let room = if self.pieces.is_empty() {
            self.last.try_reserve(count)
        } else {
            self.last.try_reserve_exact(count.max(PIECE_BYTES))
        };
        self.is_spoiled |= room.is_err();
        room.is_ok()
    }

    fn byte(&mut self, byte: u8) {
        if self.has_room(1) {
            self.last.push(byte);
        }
    }

    /// Adds a number.
    pub(in crate::engine) fn number(&mut self, value: u64) {
        varint::write(value, |byte| self.byte(byte));
    }

    /// Adds a length or a count.
    pub(in crate::engine) fn size(&mut self, value: usize) {
        self.number(value as u64);
    }

    /// Adds a number that may be negative; those near zero are short.
    pub(in crate::engine) fn signed(&mut self, value: i64) {
        self.number(varint::from_signed(value));
    }

    /// Adds a boolean.
    pub(in crate::engine) fn flag(&mut self, value: bool) {
        self.byte(u8::from(value));
    }

    /// Adds a number that may be missing.
    pub(in crate::engine) fn optional(&mut self, value: Option<u64>) {
        self.flag(value.is_some());
        if let Some(value) = value {
            self.number(value);
        }
    }

    /// Adds bytes with their length.
    pub(in crate::engine) fn bytes(&mut self, bytes: &[u8]) {
        self.size(bytes.len());
        if self.has_room(bytes.len()) {
            self.last.extend_from_slice(bytes);
        }
    }

    /// Appends another body, whose pieces stay where they are.
    pub(in crate::engine) fn append(&mut self, mut other: Self) {
        let count = other.pieces.len().saturating_add(1);
        self.is_spoiled |= other.is_spoiled || self.pieces.try_reserve(count).is_err();
        if !self.is_spoiled {
            self.pieces.push(core::mem::replace(&mut self.last, other.last));
            self.pieces.append(&mut other.pieces);
        }
    }

    /// Returns the body.
    ///
    /// # Errors
    /// [`NoMemory`] if memory was missing for a part of it.
    pub(in crate::engine) fn into_body(self) -> Result<Bytes<'static>, NoMemory> {
        if self.is_spoiled { Err(NoMemory) } else { Ok(Bytes::in_pieces(self.pieces, self.last)) }
    }
}

/// A reader of a body. Every method returns `None` if the body ends too early or is invalid.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Returns a reader of the bytes after the version; `None` for another version.
    pub(in crate::engine) fn of_version(body: &'a [u8], version: u8) -> Option<Self> {
        let (have, rest) = body.split_first()?;
        (*have == version).then_some(Self(rest))
    }

    /// Returns a reader of bytes without a version, or of the rest of a body.
    pub(in crate::engine) const fn of_rest(rest: &'a [u8]) -> Self {
        Self(rest)
    }

    /// Returns the remaining bytes.
    pub(in crate::engine) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads a number.
    pub(in crate::engine) fn number(&mut self) -> Option<u64> {
        varint::read(|| self.byte())
    }

    /// Reads a number of a smaller type.
    pub(in crate::engine) fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// Reads a count of entries that take at least a byte each.
    pub(in crate::engine) fn count(&mut self) -> Option<usize> {
        self.small().filter(|count| *count <= self.0.len())
    }

    /// Reads a number that may be negative.
    pub(in crate::engine) fn signed(&mut self) -> Option<i64> {
        self.number().map(varint::to_signed)
    }

    /// Reads a boolean.
    pub(in crate::engine) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Reads a number that may be missing.
    pub(in crate::engine) fn optional(&mut self) -> Option<Option<u64>> {
        if self.flag()? { self.number().map(Some) } else { Some(None) }
    }

    /// Reads bytes with their length.
    pub(in crate::engine) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Reads text with its length.
    pub(in crate::engine) fn text(&mut self) -> Option<&'a str> {
        core::str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX];
        let signed = [0, 1, -1, 63, -64, i64::MAX, i64::MIN];
        let mut writer = Writer::new(3);
        numbers.iter().for_each(|value| writer.number(*value));
        signed.iter().for_each(|value| writer.signed(*value));
        writer.optional(None);
        writer.optional(Some(9));
        writer.bytes(b"bytes");
        let body = writer.into_body().unwrap();
        let body = &body.to_block();
        let mut reader = Reader::of_version(body, 3).unwrap();
        assert!(numbers.iter().all(|value| reader.number() == Some(*value)));
        assert!(signed.iter().all(|value| reader.signed() == Some(*value)));
        assert_eq!((reader.optional(), reader.optional()), (Some(None), Some(Some(9))));
        assert_eq!((reader.text(), reader.number()), (Some("bytes"), None));
        assert!(Reader::of_version(body, 2).is_none() && Reader::of_version(b"", 3).is_none());
    }

    #[test]
    fn a_long_body_is_in_pieces_that_are_not_moved_once_they_are_full() {
        let mut writer = Writer::new(3);
        (0..50_000).for_each(|value| writer.number(value));
        writer.bytes(&[7; 3 * PIECE_BYTES]);
        let body = writer.into_body().unwrap();
        let lengths: Vec<usize> = body.pieces().map(<[u8]>::len).collect();
        let (long, short): (Vec<usize>, Vec<usize>) = lengths.iter().partition(|length| **length > PIECE_BYTES);
        assert_eq!(long, [3 * PIECE_BYTES], "what is longer than a piece has one of its own");
        assert!(short.len() > 30 && short.iter().rev().skip(1).all(|length| *length > PIECE_BYTES / 2), "{short:?}");
        let body = body.to_block();
        let mut reader = Reader::of_version(&body, 3).unwrap();
        assert!((0..50_000).all(|value| reader.number() == Some(value)));
        assert_eq!((reader.bytes().map(<[u8]>::len), reader.rest().len()), (Some(3 * PIECE_BYTES), 0));
    }

    #[test]
    fn what_cannot_be_is_not_read() {
        assert_eq!(Reader(&[0xff; 11]).number(), None, "too long");
        assert_eq!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).number(), None, "too large");
        assert_eq!(Reader(&[0x80]).number(), None, "cut off");
        assert_eq!(Reader(&[5, 1, 2]).bytes(), None);
        assert_eq!(Reader(&[2]).flag(), None);
        assert_eq!(Reader(&[0x80, 0x80, 4]).small::<u16>(), None);
    }
}
