//! The wire formats: messages, and the ring that carries them. This module has no nodes.

pub mod errno;
pub mod feature;
pub mod header;
pub mod payload;
pub mod ring;
