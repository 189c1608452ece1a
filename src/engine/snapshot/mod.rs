//! The engine's state as a sequence of items, and an engine from such a sequence.
//!
//! The neutral form between the engine and the encodings of `stream`. [`Engine::save`] tells the items, [`Restorer`] takes
//! them. What the engine restores is what was saved, to the byte of every later reply, as long as this server's own
//! extensions are among the items; without them it is what the other records say.

mod bytes;
mod codec;
mod error;
mod extended;
mod extension;
mod finish;
mod item;
mod pending;
mod postponed;
mod restore;
mod save;
pub mod stream_requirements;
mod varint;

pub use bytes::Bytes;
pub(in crate::engine) use codec::{Reader, Writer};
pub use error::{NoMemory, RestoreError};
pub use item::*;
pub use restore::Restorer;
pub use save::SaveOptions;
pub(in crate::engine) use save::has_record;

#[cfg(doc)]
use crate::engine::Engine;
