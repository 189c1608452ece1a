//! A node's value. Short values, as most are, are stored in the node itself; a longer one has a block of its own.

use alloc::boxed::Box;
use core::fmt;
use core::ops::Deref;

use crate::limits::SHORT_VALUE_BYTES;

/// A value, compared by its bytes.
#[derive(Clone)]
pub struct Value(Bytes);

#[derive(Clone)]
enum Bytes {
    Short(heapless::Vec<u8, SHORT_VALUE_BYTES, u8>),
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Value>() == 40, "as `SHORT_VALUE_BYTES` says");

impl Default for Value {
    /// Returns the empty value.
    fn default() -> Self {
        Self(Bytes::Short(heapless::Vec::new()))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(heapless::Vec::from_slice(bytes).map_or_else(|_| Bytes::Long(bytes.into()), Bytes::Short))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short(bytes) => bytes,
            Bytes::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_number_come_back_and_only_many_take_a_block() {
        for count in [0, 1, SHORT_VALUE_BYTES - 1, SHORT_VALUE_BYTES, SHORT_VALUE_BYTES + 1, 4096] {
            let bytes = alloc::vec![0xa5; count];
            let value = Value::from(&bytes[..]);
            assert_eq!(&*value, &bytes[..]);
            assert_eq!(value.clone(), value);
            assert_eq!(matches!(value.0, Bytes::Long(_)), count > SHORT_VALUE_BYTES);
        }
        assert_eq!(Value::default(), Value::from(&b""[..]));
    }
}
