//! What is on the wire: messages, and the ring that carries them. Knows nothing of nodes.

pub mod errno;
pub mod feature;
pub mod header;
pub mod payload;
pub mod ring;
