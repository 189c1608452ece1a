//! The kernel's assembly, `boot/pv.s`, with the two functions that it calls. [`crate::xen::entry`] has the rest of its interface.

use core::arch::global_asm;

use crate::xen::entry::{FAULT_STACK_BYTES, STACK_BYTES};

global_asm!(
    include_str!("../../boot/pv.s"),
    start = sym super::start,
    fault = sym super::panic::fault,
    sched_op = const xen_sys::__HYPERVISOR_sched_op,
    sched_block = const xen_sys::SCHEDOP_block,
    stack_bytes = const STACK_BYTES,
    fault_stack_bytes = const FAULT_STACK_BYTES,
);
