//! The behaviour that clients rely on, rule by rule, over rings and without any Xen.
#![allow(missing_docs, reason = "a test")]

mod advisories_from_414;
mod advisories_to_353;
mod basics;
mod conflict_credit;
mod death;
mod errors;
mod events;
mod fair_commit;
mod found_by_comparison;
mod introduce_release;
mod machine;
mod model;
mod outstanding;
mod permissions;
mod quotas;
mod random;
mod replay;
mod rings;
mod special_nodes;
mod storm;
mod targets;
mod transactions;
mod world;
mod write_credit;
