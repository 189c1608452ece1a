//! The behaviour that clients rely on, rule by rule, over rings and without any Xen.
#![allow(missing_docs, reason = "a test")]

mod advisories_from_414;
mod advisories_to_353;
mod any_domain;
mod auto_introduction;
mod basics;
mod conflict_credit;
mod control;
mod death;
mod errors;
mod events;
mod fair_commit;
mod features;
mod found_by_comparison;
mod identity;
mod introduce_release;
mod machine;
mod memory_quota;
mod model;
mod outstanding;
mod permissions;
mod pressure;
mod quota_messages;
mod quotas;
mod random;
mod reconnection;
mod replay;
mod rings;
mod rules;
mod special_nodes;
mod storm;
mod targets;
mod transactions;
mod watch_depth;
mod world;
mod write_credit;
