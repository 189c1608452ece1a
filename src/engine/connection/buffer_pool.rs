//! Buffers of sent messages, kept for the next replies. A reply that is sent at once then allocates nothing.
//!
//! The pool keeps one buffer of each size, 8 KiB in all. A buffer is at most twice as large as requested. Only the
//! reply that is sent next uses one. Other pending messages therefore take no more of the heap than is charged for
//! them.

use alloc::vec::Vec;

/// The exponent of the smallest size: 2^5 = 32 bytes, a header and a short payload.
const SMALLEST: usize = 5;
/// The number of sizes. The largest one has 4096 bytes: longer messages are few.
const SIZES: usize = 8;

/// The kept buffers, by size; one without capacity stands for none.
#[derive(Debug, Default)]
pub(in crate::engine) struct BufferPool([Vec<u8>; SIZES]);

impl BufferPool {
    /// Returns an empty buffer with room for `bytes`.
    pub(in crate::engine) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let Some(size) = size_of(bytes) else { return Vec::with_capacity(bytes) };
        let spare = self.0.get_mut(size).map(core::mem::take).unwrap_or_default();
        if spare.capacity() < bytes { Vec::with_capacity(capacity(size)) } else { spare }
    }

    /// Keeps a buffer that is no longer needed, if it has one of the sizes.
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

/// Returns the index of the smallest size that holds `bytes`; `None` if none does.
fn size_of(bytes: usize) -> Option<usize> {
    let exponent = usize::try_from(bytes.checked_next_power_of_two()?.trailing_zeros()).ok()?;
    Some(exponent.saturating_sub(SMALLEST)).filter(|size| *size < SIZES)
}

/// Returns the bytes of a size.
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
