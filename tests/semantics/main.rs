//! The behaviour that clients rely on, rule by rule, over rings and without any Xen.
#![allow(missing_docs, reason = "a test")]

mod basics;
mod death;
mod events;
mod found_by_comparison;
mod permissions;
mod special_nodes;
mod targets;
mod world;
