//! A request's payload: NUL-terminated strings, one after the other (`docs/misc/xenstore.txt`).

/// Returns the one string of the payload, without its NUL; `None` unless the only NUL is at the end.
#[must_use]
pub fn only_string(payload: &[u8]) -> Option<&[u8]> {
    match split_string(payload)? {
        (string, []) => Some(string),
        _ => None,
    }
}

/// Returns the first string, without its NUL, and the bytes after it.
#[must_use]
pub fn split_string(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = payload.iter().position(|byte| *byte == 0)?;
    let (string, rest) = payload.split_at_checked(end)?;
    Some((string, rest.get(1..)?))
}

/// Returns the number of strings: the number of NULs. Bytes after the last NUL belong to no string.
#[must_use]
pub fn count_strings(payload: &[u8]) -> usize {
    payload.iter().filter(|byte| **byte == 0).count()
}

/// Returns the first `N` strings; `None` if there are fewer.
#[must_use]
pub fn first_strings<const N: usize>(mut payload: &[u8]) -> Option<[&[u8]; N]> {
    let mut strings = [&[][..]; N];
    for string in &mut strings {
        (*string, payload) = split_string(payload)?;
    }
    Some(strings)
}

/// Returns the strings of a payload that has exactly `N`. Bytes after the last NUL are ignored, as by the C server.
#[must_use]
pub fn exact_strings<const N: usize>(payload: &[u8]) -> Option<[&[u8]; N]> {
    if count_strings(payload) == N { first_strings(payload) } else { None }
}

/// Reads a decimal number without sign, blanks or other characters.
#[must_use]
pub fn decimal(string: &[u8]) -> Option<u64> {
    if string.is_empty() || !string.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(string).ok()?.parse().ok()
}

/// Returns the number at the beginning of a string, as C's `atoi` reads it: 0 if there is none.
#[must_use]
pub fn leading_number(string: &[u8]) -> i64 {
    let string = string.trim_ascii_start();
    let (is_negative, digits) = match string.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, string),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits
        .fold(0_i64, |number, byte| number.saturating_mul(10).saturating_add(i64::from(byte.saturating_sub(b'0'))));
    if is_negative { number.saturating_neg() } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_string_is_one_nul_at_the_end() {
        assert_eq!(only_string(b"a\0"), Some(&b"a"[..]));
        assert_eq!(only_string(b"\0"), Some(&b""[..]));
        for wrong in [&b""[..], b"a", b"a\0\0", b"a\0b", b"a\0b\0"] {
            assert_eq!(only_string(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn strings_are_counted_by_their_nuls() {
        assert_eq!(exact_strings::<2>(b"a\0b\0"), Some([&b"a"[..], b"b"]));
        assert_eq!(exact_strings::<2>(b"a\0b\0c"), Some([&b"a"[..], b"b"]));
        assert_eq!(exact_strings::<2>(b"a\0b"), None);
        assert_eq!(exact_strings::<2>(b"a\0b\0c\0"), None);
        assert_eq!(first_strings::<2>(b"a\0b\0c\0"), Some([&b"a"[..], b"b"]));
    }

    #[test]
    fn the_number_at_the_beginning_is_read_as_atoi_does() {
        for (string, number) in
            [(&b""[..], 0), (b"x", 0), (b"12", 12), (b"12x", 12), (b" +7", 7), (b"-1", -1), (b"-", 0)]
        {
            assert_eq!(leading_number(string), number, "{string:?}");
        }
        assert_eq!(leading_number(b"99999999999999999999"), i64::MAX);
    }

    #[test]
    fn numbers_are_decimal_digits_only() {
        assert_eq!(decimal(b"65535"), Some(65535));
        for wrong in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"0x10", b"99999999999999999999"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
    }
}
