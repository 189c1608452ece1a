//! Numbers of variable length (LEB128): 7 bits in each byte, the lowest first. A small number takes one byte.

/// Bits of a number in each byte.
const BITS: u32 = 7;
/// The flag of a byte that another one follows.
const MORE: u8 = 1 << BITS;

/// Calls `put` with each byte of a number.
pub(super) fn write(mut value: u64, mut put: impl FnMut(u8)) {
    while value >= u64::from(MORE) {
        put(MORE | value.to_le_bytes().first().copied().unwrap_or(0));
        value >>= BITS;
    }
    put(value.to_le_bytes().first().copied().unwrap_or(0));
}

/// Reads a number, whose bytes `next` returns. Returns `None` if the bytes end too early, or if the number has more than
/// 64 bits.
pub(super) fn read(mut next: impl FnMut() -> Option<u8>) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(BITS as usize) {
        let byte = next()?;
        let bits = u64::from(byte & !MORE);
        let shifted = bits.checked_shl(shift)?;
        if shifted.checked_shr(shift) != Some(bits) {
            return None;
        }
        value |= shifted;
        if byte & MORE == 0 {
            return Some(value);
        }
    }
    None
}

/// Returns the number that stands for a signed one. Numbers near zero stay small.
pub(super) const fn from_signed(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Returns the signed number of [`from_signed`].
pub(super) const fn to_signed(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}
