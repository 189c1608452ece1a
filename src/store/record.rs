//! A transaction's requests and replies, kept so that its requests can be re-executed against a newer state.
//!
//! Replies are kept whole, not as a digest: a client that chooses values could make two with the same digest. A record
//! that would exceed its limits is dropped, and its transaction cannot be replayed.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::store::domain::DomId;
use crate::store::permission::Permissions;
use crate::wire::errno::Errno;
use crate::wire::header::MessageType;
use crate::wire::payload;

/// The limits of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    /// Number of requests.
    pub requests: usize,
    /// Bytes, as [`Record::bytes`] counts them.
    pub bytes: usize,
}

/// A request and its reply.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The request's type.
    pub kind: MessageType,
    /// The request's payload, followed by the reply's.
    bytes: Box<[u8]>,
    payload_bytes: usize,
    refused: Option<Errno>,
}

/// The requests of a transaction, in order.
#[derive(Clone, Debug, Default)]
pub struct Record {
    requests: Vec<Recorded>,
    bytes: usize,
    is_dropped: bool,
}

impl Recorded {
    /// Returns the request's payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..self.payload_bytes).unwrap_or_default()
    }

    /// Returns the reply's payload.
    ///
    /// # Errors
    /// Fails with the error in the reply.
    pub fn reply(&self) -> Result<&[u8], Errno> {
        match self.refused {
            Some(errno) => Err(errno),
            None => Ok(self.bytes.get(self.payload_bytes..).unwrap_or_default()),
        }
    }
}

impl Record {
    /// Adds a request with its reply, or drops the record if it would exceed `limits`.
    pub fn push(&mut self, kind: MessageType, payload: &[u8], reply: Result<&[u8], Errno>, limits: RecordLimits) {
        if self.is_dropped {
            return;
        }
        let (answer, refused) = match reply {
            Ok(answer) => (answer, None),
            Err(errno) => (&[][..], Some(errno)),
        };
        let bytes = Self::bytes_of(payload, reply);
        let sum = self.bytes.saturating_add(bytes);
        if self.requests.len() >= limits.requests || sum > limits.bytes {
            *self = Self::dropped();
            return;
        }
        self.bytes = sum;
        self.requests.push(Recorded {
            kind,
            bytes: [payload, answer].concat().into(),
            payload_bytes: payload.len(),
            refused,
        });
    }

    /// Returns the bytes by which a request with its reply makes a record grow.
    #[must_use]
    pub fn bytes_of(payload: &[u8], reply: Result<&[u8], Errno>) -> usize {
        size_of::<Recorded>().saturating_add(payload.len()).saturating_add(reply.map_or(0, <[u8]>::len))
    }

    /// Returns a dropped record.
    #[must_use]
    pub fn dropped() -> Self {
        Self { is_dropped: true, ..Self::default() }
    }

    /// Returns the requests; `None` if the record was dropped.
    #[must_use]
    pub fn requests(&self) -> Option<&[Recorded]> {
        (!self.is_dropped).then_some(&self.requests)
    }

    /// Returns whether a successful SET_PERMS names `domid`.
    #[must_use]
    pub fn gives_rights_to(&self, domid: DomId) -> bool {
        let granted = self.requests.iter().filter(|request| request.refused.is_none());
        granted.filter(|request| request.kind == MessageType::SetPerms).any(|request| {
            let (_, entries) = payload::split_string(request.payload()).unwrap_or_default();
            let permissions = Permissions::parse(entries, payload::count_strings(entries));
            permissions.is_ok_and(|permissions| permissions.entries().iter().any(|entry| entry.domid == domid))
        })
    }

    /// Returns the bytes of the record for its owner's account: payloads, replies, and the entries that hold them.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RecordLimits = RecordLimits { requests: 3, bytes: 1000 };

    #[test]
    fn requests_and_replies_are_kept_in_order() {
        let mut record = Record::default();
        record.push(MessageType::Read, b"/a\0", Ok(b"value"), LIMITS);
        record.push(MessageType::Write, b"/b\0x", Err(Errno::Acces), LIMITS);
        let requests = record.requests().unwrap();
        assert_eq!((requests[0].kind, requests[0].payload()), (MessageType::Read, &b"/a\0"[..]));
        assert_eq!(requests[0].reply(), Ok(&b"value"[..]));
        assert_eq!((requests[1].payload(), requests[1].reply()), (&b"/b\0x"[..], Err(Errno::Acces)));
        assert_eq!(record.bytes(), 2 * size_of::<Recorded>() + 8 + 4);
    }

    #[test]
    fn a_record_at_its_limit_is_kept_and_one_past_it_is_dropped_for_good() {
        let mut by_count = Record::default();
        for _ in 0..3 {
            by_count.push(MessageType::Read, b"", Ok(b""), LIMITS);
        }
        assert_eq!(by_count.requests().unwrap().len(), 3);
        by_count.push(MessageType::Read, b"", Ok(b""), LIMITS);
        assert!(by_count.requests().is_none());
        by_count.push(MessageType::Read, b"", Ok(b""), LIMITS);
        assert!(by_count.requests().is_none() && by_count.bytes() == 0);

        let room = LIMITS.bytes - size_of::<Recorded>();
        for (bytes, is_kept) in [(room, true), (room + 1, false)] {
            let mut by_bytes = Record::default();
            by_bytes.push(MessageType::Read, &vec(bytes - 1), Ok(b"x"), LIMITS);
            assert_eq!(by_bytes.requests().is_some(), is_kept);
        }
    }

    fn vec(bytes: usize) -> Vec<u8> {
        alloc::vec![b'x'; bytes]
    }
}
