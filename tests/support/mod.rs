//! Modules that several test crates share.

#![allow(dead_code, missing_docs, reason = "each test crate uses a part")]

pub mod allocator;
pub mod driver;
pub mod host;
pub mod items;
pub mod machine;
pub mod progress;
pub mod random;
pub mod requests;
pub mod testbed;
