//! The hypervisor's interfaces, as far as the kernel needs them.
//!
//! A wrapper is safe where Xen checks the arguments. It is `unsafe` where a wrong argument would break memory safety
//! (page tables, stacks). Nothing here knows what a request is.

pub(crate) mod abi;
pub(crate) mod console;
pub(crate) mod domain_state;
pub(crate) mod domctl;
pub(crate) mod entry;
pub(crate) mod event_channel;
pub(crate) mod grant;
pub(crate) mod hypercall;
pub(crate) mod memory;
pub(crate) mod page_table;
pub(crate) mod sched;
pub(crate) mod shared_info;
pub(crate) mod shared_page;
pub(crate) mod time;
pub(crate) mod time_scale;
pub(crate) mod trampoline;
