//! The behaviour that clients rely on, rule by rule, over rings and without Xen.
#![allow(missing_docs, reason = "a test")]

mod advisories_from_414;
mod advisories_to_353;
mod any_domain;
mod as_xen_4_22;
mod auto_introduction;
mod basics;
mod conflict_credit;
mod control;
mod crash;
mod death;
mod errors;
mod events;
mod events_kept;
mod fair_commit;
mod features;
mod foreign_state;
mod found_by_comparison;
mod identity;
mod introduce_release;
mod lists_in_parts;
mod live_update;
mod log_lines;
mod long_turns;
mod memory_quota;
mod model;
mod outstanding;
mod permissions;
mod pressure;
mod quota_messages;
mod quotas;
mod reattach;
mod reconnection;
mod replay;
mod rings;
mod rules;
mod slow_reader;
mod snapshot;
mod special_nodes;
mod storm;
mod stream_order;
#[path = "../support/mod.rs"]
mod support;
mod targets;
mod transactions;
mod watch_depth;
mod write_credit;

use support::{items, random, testbed};
