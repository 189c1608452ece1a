//! Live update, as far as it needs no Xen.

pub mod image;
