//! The request that a connection is receiving: a header, then the payload bytes that it announces. If there is no
//! memory for a long payload, the server receives and skips it. The sender then still gets a reply, and the next
//! message is found.

use alloc::vec::Vec;

use crate::limits;
use crate::wire::header::{HEADER_BYTES, Header};

/// The received part of the next request.
#[derive(Debug, Default)]
pub struct Input {
    header: [u8; HEADER_BYTES],
    payload: Vec<u8>,
    /// Bytes of payload that the header announces.
    announced: usize,
    /// Whether the payload is skipped. `payload` then only holds the part received last.
    is_skipped: bool,
    /// Bytes received, of header and payload together.
    received: usize,
    /// Bytes that a predecessor received and that come before all others.
    backlog: Vec<u8>,
    /// The number of bytes of `backlog` that have been taken.
    taken: usize,
}

/// The error for a header that announces more payload than a message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Input {
    /// Returns the place of the next bytes; empty when the request is complete.
    pub fn space(&mut self) -> &mut [u8] {
        match self.received.checked_sub(HEADER_BYTES) {
            None => self.header.get_mut(self.received..).unwrap_or_default(),
            Some(at) if !self.is_skipped => self.payload.get_mut(at..).unwrap_or_default(),
            Some(at) => {
                let left = self.announced.saturating_sub(at).min(self.payload.len());
                self.payload.get_mut(..left).unwrap_or_default()
            }
        }
    }

    /// Notes that `count` bytes were put into [`Input::space`]. `has_room` is whether there is memory for a payload of
    /// more than [`limits::KEPT_INPUT_BYTES`]. It counts when these bytes complete the header.
    ///
    /// # Errors
    /// [`TooLong`] if these bytes complete a header that announces too much payload.
    pub fn advance(&mut self, count: usize, has_room: bool) -> Result<(), TooLong> {
        let in_header = self.received < HEADER_BYTES;
        self.received = self.received.saturating_add(count);
        if in_header && self.received == HEADER_BYTES {
            let bytes = usize::try_from(Header::parse(&self.header).payload_bytes).map_err(|_| TooLong)?;
            if bytes > limits::PAYLOAD_BYTES {
                return Err(TooLong);
            }
            self.announced = bytes;
            self.is_skipped = !has_room && bytes > limits::KEPT_INPUT_BYTES;
            self.payload.resize(if self.is_skipped { limits::KEPT_INPUT_BYTES } else { bytes }, 0);
        }
        Ok(())
    }

    /// Adds bytes that a predecessor received. They come before all others.
    pub fn restore(&mut self, bytes: &[u8]) {
        self.backlog = bytes.into();
        self.taken = 0;
    }

    /// Puts bytes that a predecessor received into [`Input::space`], and returns their number. The caller then calls
    /// [`Input::advance`].
    pub fn take_backlog(&mut self) -> usize {
        let mut backlog = core::mem::take(&mut self.backlog);
        let waiting = backlog.get(self.taken..).unwrap_or_default();
        let space = self.space();
        let count = waiting.len().min(space.len());
        if let (Some(to), Some(from)) = (space.get_mut(..count), waiting.get(..count)) {
            to.copy_from_slice(from);
        }
        self.taken = self.taken.saturating_add(count);
        if self.taken >= backlog.len() {
            (backlog, self.taken) = (Vec::new(), 0);
        }
        self.backlog = backlog;
        count
    }

    /// Returns all bytes that were received and not handled. Zeros replace a skipped payload: no request of that length
    /// accepts zeros as arguments.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        let header = self.header.get(..self.received.min(HEADER_BYTES)).unwrap_or_default();
        let backlog = self.backlog.get(self.taken..).unwrap_or_default();
        let bytes = self.received.saturating_sub(HEADER_BYTES);
        if self.is_skipped {
            return [header, &alloc::vec![0; bytes], backlog].concat();
        }
        [header, self.payload.get(..bytes).unwrap_or_default(), backlog].concat()
    }

    /// Returns whether the request is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.received == HEADER_BYTES.saturating_add(self.announced) && self.received >= HEADER_BYTES
    }

    /// Returns the header of the complete request.
    #[must_use]
    pub fn header(&self) -> Header {
        Header::parse(&self.header)
    }

    /// Lends the payload of the complete request, until [`Input::put_payload_back`]; `None` if the payload was skipped.
    pub fn take_payload(&mut self) -> Option<Vec<u8>> {
        (!self.is_skipped).then(|| core::mem::take(&mut self.payload))
    }

    /// Puts back the payload that [`Input::take_payload`] lent.
    pub fn put_payload_back(&mut self, payload: Vec<u8>) {
        self.payload = payload;
    }

    /// Takes the complete request out: its header, and its payload unless that was skipped.
    pub fn take(&mut self) -> (Header, Option<Vec<u8>>) {
        (self.received, self.announced) = (0, 0);
        let payload = core::mem::take(&mut self.payload);
        let is_skipped = core::mem::take(&mut self.is_skipped);
        (Header::parse(&self.header), (!is_skipped).then_some(payload))
    }

    /// Keeps the payload buffer of a finished request for the next one, unless it is large.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= limits::KEPT_INPUT_BYTES && self.payload.is_empty() {
            buffer.clear();
            self.payload = buffer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::MessageType;

    fn feed(input: &mut Input, mut bytes: &[u8], step: usize) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            let space = input.space();
            let count = space.len().min(step).min(bytes.len());
            assert!(count > 0);
            space[..count].copy_from_slice(&bytes[..count]);
            input.advance(count, true)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    #[test]
    fn a_request_is_whole_however_it_is_split() {
        let payload = *b"some payload\0";
        let header = Header {
            kind: MessageType::Read.to_wire(),
            request_id: 3,
            transaction_id: 4,
            payload_bytes: payload.len() as u32,
        };
        let bytes = [&header.emit()[..], &payload].concat();
        for step in 1..bytes.len() {
            let mut input = Input::default();
            for _ in 0..3 {
                feed(&mut input, &bytes, step).unwrap();
                assert!(input.is_complete());
                let (have, buffer) = input.take();
                let buffer = buffer.unwrap();
                assert_eq!((have, &buffer[..]), (header, &payload[..]));
                input.recycle(buffer);
                assert!(!input.is_complete());
            }
        }
    }

    #[test]
    fn four_thousand_and_ninety_six_bytes_are_a_message_and_one_more_is_not() {
        let header = |payload_bytes| Header { kind: 0, request_id: 0, transaction_id: 0, payload_bytes }.emit();
        assert_eq!(feed(&mut Input::default(), &header(4096), 16), Ok(()));
        for wrong in [4097, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(feed(&mut Input::default(), &header(wrong), 16), Err(TooLong));
        }
    }

    #[test]
    fn what_a_predecessor_received_comes_first_and_is_told_as_received() {
        let header = |payload_bytes| Header { kind: 1, request_id: 7, transaction_id: 0, payload_bytes }.emit();
        let bytes = [&header(3)[..], b"abc", &header(5), b"de"].concat();
        let mut input = Input::default();
        input.restore(&bytes);
        let mut requests = Vec::new();
        for _ in 0..10 {
            assert_eq!(input.received(), bytes[bytes.len() - input.received().len()..]);
            let count = input.take_backlog();
            input.advance(count, true).unwrap();
            if input.is_complete() {
                requests.push(input.take().1.unwrap());
            }
        }
        assert_eq!(requests, [b"abc"]);
        assert_eq!(input.received(), bytes[19..]);
        feed(&mut input, b"fgh", 2).unwrap();
        assert_eq!(input.take().1.unwrap(), b"defgh");
    }

    #[test]
    fn a_long_payload_without_memory_is_skipped_and_what_follows_is_found() {
        let header = |payload_bytes| Header { kind: 1, request_id: 7, transaction_id: 0, payload_bytes }.emit();
        let (long, short) = ([7; 4000], [8; limits::KEPT_INPUT_BYTES]);
        let bytes = [&header(4000)[..], &long, &header(short.len() as u32), &short].concat();
        for step in [1, 100, 255, 256, 257, 5000] {
            let mut input = Input::default();
            let mut requests = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let space = input.space();
                let count = space.len().min(step).min(rest.len());
                space[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                input.advance(count, false).unwrap();
                assert!(input.payload.capacity() <= limits::KEPT_INPUT_BYTES);
                assert_eq!(input.received().len(), input.received);
                if input.is_complete() {
                    requests.push(input.take().1);
                }
            }
            assert_eq!(requests, [None, Some(short.to_vec())], "{step}");
        }
    }

    #[test]
    fn a_request_without_payload_is_complete_with_its_header() {
        let mut input = Input::default();
        feed(&mut input, &[0; 16], 16).unwrap();
        assert!(input.is_complete());
    }
}
