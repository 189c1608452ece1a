//! The engine's state as a sequence of items, and an engine from such a sequence.
//!
//! The sequence is the neutral form between the engine and the encodings of `stream`. [`Engine::save`] produces the
//! items, [`Restorer`] consumes them. With this server's own extensions, the restored engine equals the saved one, to
//! the byte of every later reply. Without them, it has only the state in the other records.

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
