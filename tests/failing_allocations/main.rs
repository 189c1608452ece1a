//! The server when the next allocation would fail: it knows this before, refuses, and is unchanged. dom0 can always
//! list, remove and destroy.
#![allow(missing_docs, reason = "a test")]

mod each_request;
mod host;
mod long_paths;
mod save;
mod scarcity;
#[path = "../support/mod.rs"]
mod support;
mod unread;

use support::allocator as heap;

#[global_allocator]
static ALLOCATOR: support::allocator::Accounting = support::allocator::Accounting::as_the_kernel();
