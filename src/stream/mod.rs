//! Migration streams (`docs/designs/xenstore-migration.md` of the Xen tree): encodings of the items of a server's
//! state.
//!
//! [`reader`] reads versions 1 and 2 in either byte order. [`writer`] writes both, little-endian as the C server does.
//! [`check`] finds references to missing items.

pub mod check;
pub mod oxenstored;
pub mod reader;
pub mod record;
pub mod writer;
