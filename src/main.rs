//! The kernel's crate root: boots as a domain of Xen and runs the server of the library crate.
//!
//! `xen` speaks to the hypervisor and knows nothing of requests; `kernel` ties it to the library. Nothing else is here.
#![no_std]
#![no_main]

extern crate alloc;

mod kernel;
mod xen;
