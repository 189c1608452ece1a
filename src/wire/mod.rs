//! What is on the wire: messages, and the ring that carries them.

pub mod errno;
pub mod ring;
