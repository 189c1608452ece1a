//! The server on the kernel's own allocator: the size of each kind of object, and the capacity of an 8 MiB domain.
#![allow(missing_docs, reason = "a test")]

#[path = "../../src/kernel/heap/arena.rs"]
#[allow(dead_code, reason = "the kernel's")]
mod arena;
mod capacity;
mod heap;
mod objects;
#[path = "../support/mod.rs"]
mod support;

/// A server on the kernel's heap.
type Host = support::host::Host<heap::KernelHeap>;
