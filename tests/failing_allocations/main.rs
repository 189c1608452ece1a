//! The server when the next allocation would fail: it knows this before, refuses, and is unchanged. dom0 can always
//! list, remove and destroy.
#![allow(missing_docs, reason = "a test")]

mod each_request;
mod heap;
mod host;
#[path = "../support/items.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod items;
mod long_paths;
#[path = "../support/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
#[path = "../support/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;
mod save;
mod scarcity;
mod unread;
