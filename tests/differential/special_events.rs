//! Accepted differences between the servers' events of special nodes.
//!
//! The C server of 4.17 sends no event for SET_PERMS of a special node. The C server of 4.20 sends one, and takes the root for
//! the parent of the special node.

use crate::coverage::Coverage;
use crate::model::Request;
use crate::peers::client::{Message, WATCH_EVENT};
use crate::peers::names;
use crate::server::{Kind, Release};

/// The reason why our server alone sends some events.
const UNSENT: &str = "SET_PERMS of a special node fires the watches of its name (from 4.18 on)";

/// The reason why the C server alone sends events to watches on the root.
const WATCHED_BY_ROOT: &str = "a special node is below no other: a watch on the root does not report it";

/// The reason why the C server alone sends events to guests that may read the root.
const SEEN_BY_ROOT: &str =
    "a special node is below no other: a guest that may read the root does not see special events by this";

/// The reason why the events of a commit may have another order.
const SORTED: &str = "a commit reports special nodes after the others, not in the order of access";

/// Returns whether a release's C server is compared with ours.
fn compares(kinds: [Kind; 2], release: Release) -> bool {
    matches!(kinds, [Kind::C(of), Kind::Ours | Kind::OursReplaying] if of == release)
}

/// Returns whether the first server takes the root for the parent of special nodes.
pub fn root_shows_special_nodes(kinds: [Kind; 2]) -> bool {
    compares(kinds, Release::V4_20)
}

/// Drops our events of a special node after SET_PERMS, if the first server sends none.
pub fn leave_unsent_out(kinds: [Kind; 2], request: &Request, ours: &mut Vec<Message>, coverage: &mut Coverage) {
    if !compares(kinds, Release::V4_17) || request.kind != names::SET_PERMS {
        return;
    }
    let name = request.payload.split_inclusive(|byte| *byte == 0).next().unwrap_or_default();
    let before = ours.len();
    ours.retain(|event| !(is_of_special_node(event) && event.payload.starts_with(name)));
    if ours.len() < before {
        coverage.count_accepted(UNSENT);
    }
}

/// Moves a commit's events of special nodes to the end of its events.
pub fn sort(kinds: [Kind; 2], request: &Request, [theirs, ours]: [&mut Vec<Message>; 2], coverage: &mut Coverage) {
    if !compares(kinds, Release::V4_20) || request.kind != names::TRANSACTION_END {
        return;
    }
    let before = theirs.clone();
    for messages in [&mut *theirs, ours] {
        messages.sort_by_key(|message| (message.kind != WATCH_EVENT, is_of_special_node(message)));
    }
    if *theirs != before {
        coverage.count_accepted(SORTED);
    }
}

/// Drops the first server's events of special nodes that come from a watch on the root.
pub fn leave_watched_by_root_out(
    kinds: [Kind; 2],
    watches: &[Vec<u8>],
    [theirs, ours]: [&mut Vec<Message>; 2],
    coverage: &mut Coverage,
) {
    if !root_shows_special_nodes(kinds) {
        return;
    }
    let is_of_root = |event: &Message| {
        let token = event.payload.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
        let of_root = [b"/\0", token].concat();
        // A request may have more than the two strings.
        is_of_special_node(event) && watches.iter().any(|watch| watch.starts_with(&of_root))
    };
    let (before, mut ours) = (theirs.len(), ours.iter().peekable());
    // The same event may come from a watch on the special node too.
    theirs.retain(|event| ours.next_if_eq(&event).is_some() || !is_of_root(event));
    if theirs.len() < before {
        coverage.count_accepted(WATCHED_BY_ROOT);
    }
}

/// Drops the first server's events of special nodes that a guest gets because it may read the root.
pub fn leave_unread_out(theirs: &mut Vec<Message>, ours: &[Message], coverage: &mut Coverage) {
    let before = theirs.len();
    theirs.retain(|event| !is_of_special_node(event) || ours.contains(event));
    if theirs.len() < before {
        coverage.count_accepted(SEEN_BY_ROOT);
    }
}

fn is_of_special_node(event: &Message) -> bool {
    event.kind == WATCH_EVENT && event.payload.starts_with(b"@")
}
