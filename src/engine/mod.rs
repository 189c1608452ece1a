//! One request, one change set.

pub mod hypervisor;
