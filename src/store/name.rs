//! A node's name in the list of children. Short names, as most are, are stored in the list itself, so that a search
//! reads no other memory. Copies of a long name share its text.

use alloc::rc::Rc;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;
use core::ops::Deref;

use crate::limits::SHORT_NAME_BYTES;

/// A name. Names are ordered and compared as text.
#[derive(Clone)]
pub struct Name(Text);

#[derive(Clone)]
enum Text {
    Short(heapless::String<SHORT_NAME_BYTES, u8>),
    Long(Rc<str>),
}

const _: () = assert!(size_of::<Name>() == 24, "the short form fills what the long one needs anyway");

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(heapless::String::try_from(text).map_or_else(|_| Text::Long(text.into()), Text::Short))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Text::Short(text) => text,
            Text::Long(text) => text,
        }
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(other)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_length_comes_back_and_is_ordered_as_text() {
        let texts =
            ["", "a", "backend", &"b".repeat(SHORT_NAME_BYTES), &"b".repeat(SHORT_NAME_BYTES + 1), &"c".repeat(2000)];
        for (at, text) in texts.iter().enumerate() {
            let name = Name::from(*text);
            assert_eq!(&*name, *text);
            assert_eq!(matches!(name.0, Text::Long(_)), text.len() > SHORT_NAME_BYTES);
            for (other_at, other) in texts.iter().enumerate() {
                assert_eq!(name.cmp(&Name::from(*other)), at.cmp(&other_at));
            }
        }
    }
}
