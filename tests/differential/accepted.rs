//! The intended differences from the C servers of 4.17 and 4.20. Each has its reason and is as narrow as possible.
//!
//! Between two C servers nothing is accepted.

use std::collections::BTreeSet;

use crate::coverage::{Coverage, outcome};
use crate::model::Request;
use crate::peers::client::Message;
use crate::peers::names;
use crate::quotas::Quotas;
use crate::server::{Kind, Release};

/// The circumstances that a difference can depend on.
pub struct Circumstances<'a> {
    pub request: &'a Request,
    pub is_privileged: bool,
    pub is_in_transaction: bool,
    /// Domains that died or were released at any time.
    pub gone: &'a BTreeSet<u32>,
    /// A domain died or was released while the request's transaction was open.
    pub has_outlived_a_domain: bool,
    /// A request in the transaction was refused for a quota.
    pub has_met_a_quota: bool,
    /// Whether a request in the transaction was refused for a special node's permissions.
    pub was_refused_special: bool,
    /// The C server lists more permissions for the node or for one above, as it keeps those of domains that are gone.
    pub more_entries: bool,
    pub quotas: &'a Quotas,
}

/// How to continue after an accepted difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Both servers are in the same state.
    GoOn,
    /// The servers differ only in the contents of the request's transaction.
    AbortTransaction,
    /// The servers differ.
    Restart,
}

/// An intended difference.
pub struct Accepted {
    pub reason: &'static str,
    pub then: Then,
}

/// The releases whose C server differs, the reason, how to continue, and whether two replies differ in this way.
type Rule =
    (&'static [Release], &'static str, Then, fn(&Circumstances<'_>, theirs: &Reply<'_>, ours: &Reply<'_>) -> bool);

const BOTH: &[Release] = &[Release::V4_17, Release::V4_20];
/// Differences that 4.20 no longer has.
const V4_17: &[Release] = &[Release::V4_17];
/// Differences that are new in 4.20.
const V4_20: &[Release] = &[Release::V4_20];

/// A reply as the rules compare it.
struct Reply<'a> {
    /// `OK` or the code.
    outcome: String,
    payload: &'a [u8],
}

const RULES: &[Rule] = &[
    (
        V4_17,
        "GET_PERMS takes special names (4.18): of a special node by its readers, of another name as of a missing node",
        Then::GoOn,
        |at, theirs, ours| {
            let is_as_of_a_node = match &ours.outcome[..] {
                "OK" => at.names_special(),
                "EACCES" => !at.is_privileged,
                "ENOENT" => !at.names_special(),
                _ => false,
            };
            at.request.kind == names::GET_PERMS
                && at.first().starts_with(b"@")
                && theirs.outcome == "EINVAL"
                && is_as_of_a_node
        },
    ),
    (
        V4_17,
        "SET_PERMS of a special node without the right is EACCES, of another name as of a missing node; no left-over code",
        Then::GoOn,
        |at, theirs, ours| {
            let is_as_of_a_node = match &ours.outcome[..] {
                "EACCES" => !at.is_privileged,
                "ENOENT" | "EINVAL" => !at.names_special(),
                _ => false,
            };
            at.request.kind == names::SET_PERMS
                && at.first().starts_with(b"@")
                && ["EINVAL", "ENOENT"].contains(&&theirs.outcome[..])
                && is_as_of_a_node
        },
    ),
    (
        V4_17,
        "a guest that owns a special node cannot give it away, as with any node",
        Then::Restart,
        |at, theirs, ours| {
            at.request.kind == names::SET_PERMS
                && !at.is_privileged
                && at.first().starts_with(b"@")
                && theirs.outcome == "OK"
                && ours.outcome == "EPERM"
        },
    ),
    (
        BOTH,
        "a watch beyond the quota is ENOSPC, as with all quotas (4.22), not E2BIG",
        Then::GoOn,
        |at, theirs, ours| at.request.kind == names::WATCH && theirs.outcome == "E2BIG" && ours.outcome == "ENOSPC",
    ),
    (BOTH, "UNWATCH of an invalid path is EINVAL (4.22), not ENOENT", Then::GoOn, |at, theirs, ours| {
        at.request.kind == names::UNWATCH
            && !(is_path(at.first()) && counted_bytes(at.first()) <= at.quotas.path_bytes)
            && theirs.outcome == "ENOENT"
            && ours.outcome == "EINVAL"
    }),
    (BOTH, "WATCH may have a depth (4.21), which is a third string", Then::Restart, |at, theirs, ours| {
        at.request.kind == names::WATCH
            && at.request.payload.iter().filter(|byte| **byte == 0).count() == 3
            && theirs.outcome == "EINVAL"
            && ["OK", "EEXIST", "ENOSPC"].contains(&&ours.outcome[..])
    }),
    (BOTH, "message types 23 to 26 came after 4.17", Then::GoOn, |at, theirs, _ours| {
        (23..=26).contains(&at.request.kind) && theirs.outcome == "ENOSYS"
    }),
    (BOTH, "a special name has the characters of a path", Then::Restart, |at, theirs, ours| {
        at.request.kind == names::WATCH
            && at.first().starts_with(b"@")
            && !is_path(at.first())
            && theirs.outcome == "OK"
            && ours.outcome == "EINVAL"
    }),
    (
        BOTH,
        "an entry for a domain that is gone is no longer listed (4.22), not only without effect",
        Then::GoOn,
        |at, theirs, ours| {
            let is_answered = theirs.outcome == "OK" && ours.outcome == "OK";
            at.request.kind == names::GET_PERMS && is_answered && entries_gone(at, theirs.payload, ours.payload)
        },
    ),
    (
        BOTH,
        "an entry for a domain that is gone does not count for the quota of a node's size",
        Then::Restart,
        |at, theirs, ours| {
            at.more_entries
                && !at.is_privileged
                && matches!(at.request.kind, names::WRITE | names::MKDIR)
                && theirs.outcome == "ENOSPC"
                && ours.outcome == "OK"
        },
    ),
    (
        V4_17,
        "dom0 is bound by the protocol's limit of a path, not by the quota for guests",
        Then::Restart,
        |at, theirs, ours| {
            at.is_privileged
                && is_path(at.first())
                && counted_bytes(at.first()) > at.quotas.path_bytes
                && theirs.outcome == "EINVAL"
                && ours.outcome != "EINVAL"
        },
    ),
    (
        BOTH,
        "a domid is decimal digits and has 16 bits (4.22), not any text that atoi reads",
        Then::GoOn,
        |at, theirs, ours| {
            let harmless = matches!(at.request.kind, names::GET_DOMAIN_PATH | names::IS_DOMAIN_INTRODUCED);
            harmless && !is_domid(at.first()) && theirs.outcome == "OK" && ours.outcome == "EINVAL"
        },
    ),
    (
        BOTH,
        "a transaction that gave nodes to a domain that has died since, or lost nodes of one, is EAGAIN, not ENOMEM",
        Then::GoOn,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_outlived_a_domain
                && theirs.outcome == "ENOMEM"
                && ours.outcome == "EAGAIN"
        },
    ),
    (
        BOTH,
        "a node is not given to a new domain with the number of one that is gone",
        Then::Restart,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_outlived_a_domain
                && theirs.outcome == "OK"
                && ours.outcome == "EAGAIN"
        },
    ),
    (
        BOTH,
        "a request that is refused for a quota spoils nothing: its transaction may be committed",
        Then::Restart,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_met_a_quota
                && theirs.outcome == "ENOMEM"
                && ours.outcome == "OK"
        },
    ),
    (
        BOTH,
        "a request that is refused for a quota spoils nothing: its transaction may be retried",
        Then::GoOn,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_met_a_quota
                && theirs.outcome == "ENOMEM"
                && ours.outcome == "EAGAIN"
        },
    ),
    (
        V4_17,
        "nodes that a transaction made or removed count for the quota at its next request, not only at its end",
        Then::AbortTransaction,
        |at, theirs, ours| {
            let one_refuses = [("OK", "ENOSPC"), ("ENOSPC", "OK")].contains(&(&theirs.outcome[..], &ours.outcome[..]));
            matches!(at.request.kind, names::WRITE | names::MKDIR)
                && at.is_in_transaction
                && at.has_few_nodes()
                && one_refuses
        },
    ),
    (
        BOTH,
        "a transaction that ends with as many nodes as the quota allows is checked for conflicts, and not refused before",
        Then::GoOn,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_few_nodes()
                && theirs.outcome == "ENOSPC"
                && ours.outcome == "EAGAIN"
        },
    ),
    (
        BOTH,
        "a transaction may end with as many nodes as the quota allows, not with one less",
        Then::Restart,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_few_nodes()
                && theirs.outcome == "ENOSPC"
                && ours.outcome == "OK"
        },
    ),
    (
        BOTH,
        "RM in a transaction of a node whose parent is gone outside is OK, and the commit is refused; no EINVAL",
        Then::AbortTransaction,
        |at, theirs, ours| {
            at.request.kind == names::RM
                && at.is_in_transaction
                && is_path(at.first())
                && at.first() != b"/"
                && theirs.outcome == "EINVAL"
                && ours.outcome == "OK"
        },
    ),
    (
        BOTH,
        "RM in a transaction of a node whose child is gone outside is OK, and the commit is refused; no EIO",
        Then::AbortTransaction,
        |at, theirs, ours| {
            at.request.kind == names::RM && at.is_in_transaction && theirs.outcome == "EIO" && ours.outcome == "OK"
        },
    ),
    (
        BOTH,
        "a child that is gone outside and made again in a transaction is listed once, not twice",
        Then::AbortTransaction,
        |at, theirs, ours| {
            let both = theirs.outcome == "OK" && ours.outcome == "OK";
            // A part of a list begins with a generation.
            let (theirs, ours) = match at.request.kind {
                names::DIRECTORY => (theirs.payload, ours.payload),
                names::DIRECTORY_PART => (after_first(theirs.payload), after_first(ours.payload)),
                _ => return false,
            };
            at.is_in_transaction && both && is_without_repeats(theirs, ours)
        },
    ),
    (
        V4_20,
        "dom0's paths have at most the protocol's 3,072 bytes, not any length",
        Then::Restart,
        |at, theirs, ours| {
            at.is_privileged
                && is_path(at.first())
                && absolute_bytes(at.first()) > 3072
                && theirs.outcome != "EINVAL"
                && ours.outcome == "EINVAL"
        },
    ),
    (
        V4_20,
        "a transaction that removed nodes, which others have removed since, is EAGAIN, not ENOSPC or ENOMEM",
        Then::GoOn,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && ["ENOSPC", "ENOMEM"].contains(&&theirs.outcome[..])
                && ours.outcome == "EAGAIN"
        },
    ),
    (
        V4_20,
        "a special node is below no other: a refused one adds no conflict over the root",
        Then::Restart,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.was_refused_special
                && theirs.outcome == "EAGAIN"
                && ours.outcome == "OK"
        },
    ),
    (
        V4_20,
        "a transaction may change nodes of a domain that has died since, and its commit is refused; no ENOMEM",
        Then::AbortTransaction,
        |at, theirs, ours| {
            matches!(at.request.kind, names::WRITE | names::MKDIR | names::RM | names::SET_PERMS)
                && at.is_in_transaction
                && at.has_outlived_a_domain
                && theirs.outcome == "ENOMEM"
                && ours.outcome == "OK"
        },
    ),
    (
        BOTH,
        "a request beyond a quota does not spoil its transaction: the commit is refused for the quota of nodes only",
        Then::GoOn,
        |at, theirs, ours| {
            at.request.kind == names::TRANSACTION_END
                && at.has_met_a_quota
                && theirs.outcome == "ENOMEM"
                && ours.outcome == "ENOSPC"
        },
    ),
];

/// The reason why a commit may succeed that conflicts.
pub const REPLAYED: &str = "a transaction that conflicts is committed if all its replies would be the same now";

fn is_replayed(at: &Circumstances<'_>, theirs: &Reply<'_>, ours: &Reply<'_>) -> bool {
    // The C server's ENOMEM for a domain that is gone is EAGAIN here (see the rules), which the replay may spare.
    let theirs_fails = theirs.outcome == "EAGAIN" || theirs.outcome == "ENOMEM" && at.has_outlived_a_domain;
    at.request.kind == names::TRANSACTION_END && theirs_fails && ours.outcome == "OK"
}

/// Returns the reasons of rules for these servers that have accepted nothing.
pub fn unused(kinds: [Kind; 2], met: &Coverage) -> Vec<&'static str> {
    let [Kind::C(release), Kind::Ours] = kinds else { return Vec::new() };
    let rules = RULES.iter().filter(|(releases, ..)| releases.contains(&release)).map(|(_, reason, ..)| *reason);
    rules.filter(|reason| met.times_accepted(reason) == 0).collect()
}

/// Returns the rule that accepts two different replies.
pub fn find(kinds: [Kind; 2], at: &Circumstances<'_>, theirs: &Message, ours: &Message) -> Option<Accepted> {
    let [Kind::C(release), Kind::Ours | Kind::OursReplaying] = kinds else { return None };
    if theirs.request != ours.request {
        return None;
    }
    let reply = |message| Reply { outcome: outcome(message), payload: &message.payload };
    let (theirs, ours) = (reply(theirs), reply(ours));
    if kinds[1] == Kind::OursReplaying && is_replayed(at, &theirs, &ours) {
        return Some(Accepted { reason: REPLAYED, then: Then::Restart });
    }
    let found = RULES.iter().find(|(releases, _, _, fits)| releases.contains(&release) && fits(at, &theirs, &ours));
    found.map(|(_, reason, then, _)| Accepted { reason, then: *then })
}

impl Circumstances<'_> {
    /// Returns whether a guest is the requester, and has so small a quota of nodes that it meets it.
    const fn has_few_nodes(&self) -> bool {
        !self.is_privileged && self.quotas.nodes <= Quotas::FEW_NODES.nodes
    }

    /// Returns the request's first string.
    fn first(&self) -> &[u8] {
        self.request.payload.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Returns whether the request names a special node.
    fn names_special(&self) -> bool {
        [&b"@releaseDomain"[..], b"@introduceDomain"].contains(&self.first())
    }
}

/// Returns whether our list of children equals the C server's without repeated names.
fn is_without_repeats(theirs: &[u8], ours: &[u8]) -> bool {
    let mut seen = BTreeSet::new();
    let once = theirs.split_inclusive(|byte| *byte == 0).filter(|name| seen.insert(*name));
    once.flatten().eq(ours)
}

/// Returns the bytes after the first string.
fn after_first(payload: &[u8]) -> &[u8] {
    let end = payload.iter().position(|byte| *byte == 0);
    end.and_then(|end| payload.get(end + 1..)).unwrap_or_default()
}

/// Returns whether a spelling, relative or not, has the form of a path or special name, and an allowed length.
fn is_path(spelling: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    let well_formed = spelling == b"/" || !(spelling.ends_with(b"/") || spelling.windows(2).any(|two| two == b"//"));
    !spelling.is_empty() && spelling.iter().all(allowed) && well_formed
}

/// Returns the length of dom0's path as an absolute path.
fn absolute_bytes(spelling: &[u8]) -> usize {
    let is_absolute = spelling.starts_with(b"/") || spelling.starts_with(b"@");
    if is_absolute { spelling.len() } else { b"/local/domain/0/".len() + spelling.len() }
}

/// Returns the bytes of a path that count for the quota: all but `/local/domain/<number>/`.
fn counted_bytes(spelling: &[u8]) -> usize {
    let rest = spelling.strip_prefix(b"/local/domain/");
    let rest = rest.and_then(|rest| Some(rest.split_at(rest.iter().position(|byte| *byte == b'/')?)));
    rest.map_or(spelling.len(), |(domid, path)| if is_number(domid) { path.len() - 1 } else { spelling.len() })
}

fn is_number(string: &[u8]) -> bool {
    !string.is_empty() && string.iter().all(u8::is_ascii_digit)
}

fn is_domid(string: &[u8]) -> bool {
    is_number(string) && std::str::from_utf8(string).is_ok_and(|text| text.parse::<u16>().is_ok())
}

/// Returns whether our list of permissions equals the C server's without some entries, other than the owner's, of
/// domains that were gone once.
fn entries_gone(at: &Circumstances<'_>, theirs: &[u8], ours: &[u8]) -> bool {
    let mut ours = ours.split_inclusive(|byte| *byte == 0).peekable();
    for (place, entry) in theirs.split_inclusive(|byte| *byte == 0).enumerate() {
        if ours.next_if_eq(&entry).is_some() {
            continue;
        }
        let domid = std::str::from_utf8(&entry[1..entry.len() - 1]).ok().and_then(|text| text.parse().ok());
        if place == 0 || !domid.is_some_and(|domid| at.gone.contains(&domid)) {
            return false;
        }
    }
    ours.next().is_none()
}
