//! Clients of servers that run as processes: over a socket, and over a ring in a mapped page.

#![allow(dead_code, missing_docs, reason = "the test and the benchmark each use a part")]

pub mod client;
pub mod names;
pub mod page;
