//! The Xenstore server, as far as it needs no Xen.
//!
//! From the outside in: [`server`] moves bytes between rings and the [`engine`]; the engine turns one request into one
//! change of the [`store`]; [`wire`] knows messages and the ring's index arithmetic. Nothing points back up.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod engine;
pub mod server;
pub mod store;
pub mod wire;
