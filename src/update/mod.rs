//! Live update as far as it needs no Xen: what is uploaded, and whether it is a kernel that can be started.

pub mod image;
pub mod session;
pub mod upload;
