//! The kernel's crate root.
#![allow(missing_docs)]
fn main() {}
