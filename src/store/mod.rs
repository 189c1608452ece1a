//! The tree, its transactions, permissions and watches.

pub mod domain;
