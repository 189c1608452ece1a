//! The Xenstore server, as far as it needs no Xen.
//!
//! From the outside in: [`server`] moves bytes between rings and the [`engine`]; the engine turns one request into one
//! change of the [`store`]; [`wire`] knows messages and the ring's index arithmetic; [`limits`] has every bound with its
//! reason. Nothing points back up.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::todo,
        clippy::unimplemented
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod engine;
pub mod limits;
pub mod options;
pub mod server;
pub mod store;
pub mod stream;
pub mod update;
pub mod wire;
