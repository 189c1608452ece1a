//! The server when the next allocation would fail: it knows this before, refuses, and is unchanged. dom0 can always
//! list, remove and destroy.
#![allow(missing_docs, reason = "a test")]

mod each_request;
mod long_paths;
mod save;
mod scarcity;
#[path = "../support/mod.rs"]
mod support;
mod unread;

use support::allocator::{Accounting, Limited};

/// A server on a limited heap.
type Host = support::host::Host<Limited>;

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::as_the_kernel();
