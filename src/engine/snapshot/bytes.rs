//! The bytes of an item, in one block of memory or several: pending output, and long extensions. A save with little
//! memory may not find one large block.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use crate::engine::connection::output::Output;

/// Bytes in one piece or several. Two values are equal if their bytes are, however they are divided.
#[derive(Clone, Default)]
pub struct Bytes<'a> {
    /// An output queue, whose bytes come first.
    queue: Option<&'a Output>,
    pieces: Vec<Vec<u8>>,
    last: Cow<'a, [u8]>,
}

impl<'a> Bytes<'a> {
    /// Joins the pending output of a queue, and the bytes after it.
    pub(super) fn waiting(queue: Option<&'a Output>, behind: &'a [u8]) -> Self {
        Self { queue, pieces: Vec::new(), last: behind.into() }
    }

    /// Joins some pieces and the last one.
    pub(super) const fn in_pieces(pieces: Vec<Vec<u8>>, last: Vec<u8>) -> Self {
        Self { queue: None, pieces, last: Cow::Owned(last) }
    }

    /// Returns all pieces in order. Some may be empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let queue = self.queue.into_iter().flat_map(Output::pieces);
        queue.chain(self.pieces.iter().map(Vec::as_slice)).chain(core::iter::once(&*self.last))
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces().fold(0, |sum, piece| sum.saturating_add(piece.len()))
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes in one block. Bytes of a stream that was read are already in one, and are not copied.
    #[must_use]
    pub fn to_block(&self) -> Cow<'_, [u8]> {
        if self.queue.is_none() && self.pieces.is_empty() {
            return Cow::Borrowed(&self.last);
        }
        self.pieces().flatten().copied().collect::<Vec<u8>>().into()
    }
}

impl From<Vec<u8>> for Bytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self { last: bytes.into(), ..Self::default() }
    }
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { last: bytes.into(), ..Self::default() }
    }
}

impl PartialEq for Bytes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.pieces().flatten().eq(other.pieces().flatten())
    }
}

impl Eq for Bytes<'_> {}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pieces().flatten()).finish()
    }
}
