//! The tree, its transactions, permissions and watches. This module has no input or output, and knows no requests.

pub mod children;
mod chunk_map;
pub mod connection_id;
pub mod descent;
pub mod domain;
pub mod domain_table;
pub mod name;
pub mod node;
pub mod path;
pub mod permission;
pub mod quota;
pub mod record;
pub mod special;
pub mod state;
pub mod transaction;
pub mod tree;
pub mod tree_builder;
pub mod unknown_quotas;
pub mod value;
pub mod watch;
