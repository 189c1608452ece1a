//! The behaviour that clients rely on, rule by rule, over rings and without any Xen.
#![allow(missing_docs, reason = "a test")]

mod basics;
mod death;
mod errors;
mod events;
mod found_by_comparison;
mod introduce_release;
mod machine;
mod outstanding;
mod permissions;
mod quotas;
mod rings;
mod special_nodes;
mod targets;
mod transactions;
mod world;
