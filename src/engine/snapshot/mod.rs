//! The engine's state as a sequence of items, and an engine from such a sequence.
//!
//! The neutral form between the engine and the encodings of `stream`.

mod item;

pub use item::*;
