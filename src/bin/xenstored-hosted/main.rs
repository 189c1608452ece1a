//! The engine on a plain Linux host.
fn main() {}
