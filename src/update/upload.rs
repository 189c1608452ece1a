//! A file that arrives in parts, kept in pieces of one size. It grows without being moved, and needs no large
//! contiguous block of memory.

use alloc::vec::Vec;

/// Bytes of a piece.
const PIECE_BYTES: usize = 64 * 1024;

/// Memory is missing for the next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// The parts that have arrived, in order.
#[derive(Debug, Default)]
pub struct Upload {
    /// All pieces are full except the last one.
    pieces: Vec<Vec<u8>>,
}

impl Upload {
    /// Creates an empty upload.
    #[must_use]
    pub const fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    /// Appends a part.
    ///
    /// # Errors
    /// Fails with [`NoMemory`]. The earlier parts stay, perhaps with a beginning of this part.
    pub fn push(&mut self, mut part: &[u8]) -> Result<(), NoMemory> {
        while !part.is_empty() {
            if self.pieces.last().is_none_or(|piece| piece.len() >= PIECE_BYTES) {
                let mut piece = Vec::new();
                piece.try_reserve_exact(PIECE_BYTES).map_err(|_| NoMemory)?;
                self.pieces.try_reserve(1).map_err(|_| NoMemory)?;
                self.pieces.push(piece);
            }
            let Some(piece) = self.pieces.last_mut() else { return Err(NoMemory) };
            let room = PIECE_BYTES.saturating_sub(piece.len());
            let (now, later) = part.split_at_checked(room).unwrap_or((part, &[]));
            piece.extend_from_slice(now);
            part = later;
        }
        Ok(())
    }

    /// Returns the number of bytes that have arrived.
    #[must_use]
    pub fn len(&self) -> usize {
        let full = self.pieces.len().saturating_sub(1).saturating_mul(PIECE_BYTES);
        self.pieces.last().map_or(0, |last| full.saturating_add(last.len()))
    }

    /// Returns whether no byte has arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns `count` bytes from `at` on, in pieces; fewer if the file ends before.
    pub fn parts(&self, at: usize, count: usize) -> impl Iterator<Item = &[u8]> {
        let end = at.saturating_add(count);
        let first = at / PIECE_BYTES;
        self.pieces.iter().enumerate().skip(first).map_while(move |(number, piece)| {
            let start = number.saturating_mul(PIECE_BYTES);
            let from = at.saturating_sub(start).min(piece.len());
            let to = end.saturating_sub(start).min(piece.len());
            piece.get(from..to).filter(|part| !part.is_empty())
        })
    }

    /// Returns `N` bytes from `at` on, if the file is long enough.
    #[must_use]
    pub fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut rest = &mut bytes[..];
        for part in self.parts(at, N) {
            let (to, behind) = rest.split_at_mut_checked(part.len())?;
            to.copy_from_slice(part);
            rest = behind;
        }
        rest.is_empty().then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_can_be_read_across_pieces() {
        let file: Vec<u8> = (0..PIECE_BYTES * 2 + 777).map(|at| (at * 7 / 3) as u8).collect();
        for step in [1000, 4096, PIECE_BYTES, PIECE_BYTES + 1, file.len()] {
            let mut upload = Upload::new();
            for part in file.chunks(step) {
                upload.push(part).unwrap();
            }
            assert_eq!(upload.len(), file.len());
            for at in [0, 1, PIECE_BYTES - 3, PIECE_BYTES, 2 * PIECE_BYTES - 1, file.len() - 8] {
                assert_eq!(upload.read::<8>(at).unwrap(), file[at..at + 8]);
                let parts: Vec<&[u8]> = upload.parts(at, 70_000).collect();
                assert_eq!(parts.concat(), file[at..file.len().min(at + 70_000)]);
            }
            assert_eq!(upload.read::<8>(file.len() - 7), None);
            assert_eq!(upload.read::<8>(usize::MAX), None);
        }
    }

    #[test]
    fn nothing_can_be_read_of_nothing() {
        let upload = Upload::new();
        assert!(upload.is_empty());
        assert_eq!(upload.read::<1>(0), None);
        assert_eq!(upload.parts(0, 10).count(), 0);
    }
}
