//! Buffers of messages that were sent, kept for the next replies: a reply that is sent at once needs no memory of its own.
//!
//! One buffer of each size is kept, 8 KiB in all. A buffer is at most twice as large as what it is taken for, and only the
//! reply that is the next to be sent is in one, so that messages that wait take no more of the heap than is counted for them.

use alloc::vec::Vec;

/// Sizes are powers of two; the smallest one has 32 bytes: a header and a short payload.
const SMALLEST: usize = 5;
/// The largest one has 4096. Longer messages are few.
const SIZES: usize = 8;

/// The buffers.
#[derive(Debug, Default)]
pub(in crate::engine) struct BufferPool([Vec<u8>; SIZES]);

impl BufferPool {
    /// An empty buffer with room for `bytes`.
    pub(in crate::engine) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let Some(size) = size_of(bytes) else { return Vec::with_capacity(bytes) };
        let spare = self.0.get_mut(size).map(core::mem::take).unwrap_or_default();
        if spare.capacity() < bytes { Vec::with_capacity(capacity(size)) } else { spare }
    }

    /// Keeps a buffer that is not needed any more, if it is of one of the sizes.
    pub(in crate::engine) fn give(&mut self, mut buffer: Vec<u8>) {
        if let Some(size) = size_of(buffer.capacity())
            && buffer.capacity() == capacity(size)
            && let Some(spare) = self.0.get_mut(size)
        {
            buffer.clear();
            *spare = buffer;
        }
    }
}

/// Which size holds `bytes`; `None` for what is larger than all.
fn size_of(bytes: usize) -> Option<usize> {
    let exponent = usize::try_from(bytes.checked_next_power_of_two()?.trailing_zeros()).ok()?;
    Some(exponent.saturating_sub(SMALLEST)).filter(|size| *size < SIZES)
}

/// Bytes of a size.
const fn capacity(size: usize) -> usize {
    1 << (size.saturating_add(SMALLEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_for_what_it_fits_and_is_at_most_twice_as_large() {
        let mut buffer_pool = BufferPool::default();
        for bytes in [1, 17, 32, 33, 64, 100, 2016, 4096] {
            let buffer = buffer_pool.take(bytes);
            assert!(buffer.capacity() >= bytes && buffer.capacity() < (2 * bytes).max(33), "{bytes}");
            let place = buffer.as_ptr();
            buffer_pool.give(buffer);
            let again = buffer_pool.take(bytes);
            assert_eq!((again.as_ptr(), again.len()), (place, 0), "{bytes}");
            let other = buffer_pool.take(bytes);
            assert_ne!(other.as_ptr(), place, "there is one");
            buffer_pool.give(again);
        }
    }

    #[test]
    fn what_is_longer_or_of_another_size_is_not_kept() {
        let mut buffer_pool = BufferPool::default();
        for capacity in [31, 40, 4112] {
            buffer_pool.give(Vec::with_capacity(capacity));
        }
        assert!(buffer_pool.0.iter().all(|spare| spare.capacity() == 0));
        assert!(buffer_pool.take(4112).capacity() >= 4112);
    }
}
