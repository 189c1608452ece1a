//! Histories from which the search begins: one for each known kind of expensive work.

use crate::history::step::Mode::{Rings, Turns};
use crate::history::step::Spread::{Again, Children, Levels};
use crate::history::step::Within::{Each, Newest, Oldest};
use crate::history::step::{GUESTS, Op, Step};

/// All guests.
const ALL: u8 = GUESTS as u8 + 1;
/// The deepest spot.
const DEEP: u8 = 255;
/// Nearly as many requests as a guest may own nodes.
const MANY: u8 = 240;
/// Nearly as many requests as a guest may have watches.
const WATCHES: u8 = 31;

fn step(op: Op, who: u8) -> Step {
    Step::new(op, who)
}

/// Returns all shapes.
pub fn shapes() -> Vec<Vec<Step>> {
    vec![
        deep_chain(),
        missing_levels(),
        wide_directory(),
        watchers_of_one_node(),
        watchers_of_a_chain(),
        full_queues(),
        queues_that_are_reset(),
        large_commit(),
        conflicts(),
        replays(),
        deep_transaction(),
        reads_of_many_chains(),
        longest_paths(),
        replayed_removal(),
        removal_of_everything(),
        deaths(),
        rights_everywhere(),
        dom0_does_not_read(),
        full_rings(),
        full_turns(),
        others(),
    ]
}

/// Returns every request on the deepest path.
fn deep_chain() -> Vec<Step> {
    let at = |op| step(op, 1).at(0, DEEP);
    vec![
        at(Op::Write).size(120),
        at(Op::Watch).spread(Again, 4),
        at(Op::Write).size(120),
        at(Op::Read),
        at(Op::Directory),
        at(Op::GetPerms),
        at(Op::SetPerms).size(4),
        at(Op::DirectoryPart),
        at(Op::Unwatch).spread(Again, 4),
        step(Op::Rm, 1).at(0, 1),
    ]
}

/// Returns every request on a path without an existing node.
fn missing_levels() -> Vec<Step> {
    let at = |op| step(op, 1).at(1, DEEP);
    vec![
        at(Op::Read),
        at(Op::Directory),
        at(Op::GetPerms),
        at(Op::SetPerms).size(4),
        at(Op::Rm),
        at(Op::Mkdir),
        step(Op::Rm, 1).at(1, 1),
        step(Op::Begin, 1),
        at(Op::Read).within(Newest),
        at(Op::Mkdir).within(Newest),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Lets dom0 fill a directory with long names, and lists it.
fn wide_directory() -> Vec<Step> {
    vec![
        step(Op::Write, 0).spread(Children, 255).width(3),
        step(Op::Directory, 1),
        step(Op::DirectoryPart, 1).spread(Again, 20).size(250),
        step(Op::Begin, 1),
        step(Op::DirectoryPart, 1).spread(Again, 20).size(255).within(Newest),
        step(Op::Write, 1).spread(Children, 10).within(Newest),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Sets all watches of all guests on the root, with short and long tokens.
fn watchers_of_one_node() -> Vec<Step> {
    vec![
        step(Op::Watch, ALL).spread(Again, WATCHES).size(1),
        step(Op::Write, 1).spread(Children, 2),
        step(Op::ResetWatches, ALL),
        step(Op::Watch, ALL).spread(Again, WATCHES).size(120),
        step(Op::Write, 1).spread(Children, 2).width(3),
        step(Op::Write, 1).spread(Children, 2).width(3).mode(Turns),
    ]
}

/// Sets a watch on each level of a chain, and changes its end.
fn watchers_of_a_chain() -> Vec<Step> {
    vec![
        step(Op::Write, 1).at(0, DEEP),
        step(Op::Watch, ALL).at(0, DEEP).spread(Levels, WATCHES),
        step(Op::Write, 1).at(0, DEEP),
        step(Op::SetPerms, 1).at(0, DEEP).size(4),
        step(Op::Rm, 1).at(0, 1),
    ]
}

/// Fills the queues of idle domains. The server drops their events in the end.
fn full_queues() -> Vec<Step> {
    vec![
        step(Op::Watch, ALL).spread(Again, WATCHES),
        step(Op::StopReading, ALL),
        step(Op::ReadAgain, 1),
        step(Op::Write, 1).spread(Children, MANY),
        step(Op::Write, 1).spread(Children, 4),
        step(Op::Pass, 0).size(250),
        step(Op::Write, 1).spread(Children, 4),
        step(Op::ReadAgain, ALL),
    ]
}

/// Resets queues while they are full.
fn queues_that_are_reset() -> Vec<Step> {
    vec![
        step(Op::Watch, ALL).spread(Again, WATCHES),
        step(Op::StopReading, ALL),
        step(Op::ReadAgain, 1),
        step(Op::Write, 1).spread(Children, MANY),
        step(Op::Reconnect, 2),
        step(Op::Die, 3),
        step(Op::Reconnect, ALL),
    ]
}

/// Commits as many changes as a transaction may have. All guests watch them.
fn large_commit() -> Vec<Step> {
    vec![
        step(Op::Watch, ALL).spread(Again, WATCHES),
        step(Op::Begin, 1),
        step(Op::Write, 1).spread(Children, MANY).within(Newest),
        step(Op::Commit, 1).within(Newest),
        step(Op::Begin, 1),
        step(Op::Rm, 1).spread(Children, MANY).within(Newest),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Reads many nodes in transactions. Their commits fail because other guests have removed the nodes.
fn conflicts() -> Vec<Step> {
    vec![
        step(Op::Write, 1).at(0, 170),
        step(Op::Write, 2).at(0, DEEP),
        step(Op::Begin, 3).spread(Again, 10),
        step(Op::Read, 3).at(0, DEEP).spread(Levels, 60).within(Each),
        step(Op::Rm, 2).at(0, 170),
        step(Op::Commit, 3).within(Oldest),
        step(Op::Commit, 3).within(Each),
    ]
}

/// Makes transactions that conflict and are replayed.
fn replays() -> Vec<Step> {
    vec![
        step(Op::Write, 1).spread(Children, 28),
        step(Op::Begin, 1).spread(Again, 10),
        step(Op::Read, 1).spread(Children, 28).within(Each),
        step(Op::Read, 1).at(1, DEEP).within(Each),
        step(Op::Write, 2).spread(Children, 2),
        step(Op::Write, 1).within(Oldest),
        step(Op::SetPerms, 1),
        step(Op::Commit, 1).within(Each),
    ]
}

/// Makes, changes and removes a deep chain in a transaction.
fn deep_transaction() -> Vec<Step> {
    vec![
        step(Op::Begin, 1),
        step(Op::Mkdir, 1).at(0, MANY).within(Newest),
        step(Op::Write, 1).at(0, MANY).within(Newest),
        step(Op::Write, 1).at(0, MANY).spread(Levels, 4).within(Newest),
        step(Op::SetPerms, 1).at(0, MANY).spread(Levels, 4).within(Newest),
        step(Op::Directory, 1).at(0, MANY).spread(Levels, 4).within(Newest),
        step(Op::Commit, 1).within(Newest),
        step(Op::Begin, 1),
        step(Op::Rm, 1).at(0, 1).within(Newest),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Reads the ends of chains of several guests in a transaction.
fn reads_of_many_chains() -> Vec<Step> {
    let chain = |at: u8| (4 + at % 4, at / 4);
    let mut steps: Vec<Step> = Vec::new();
    for at in 0..8 {
        let (root, letter) = chain(at);
        steps.push(step(Op::Write, 1 + at).at(root, MANY).letter(letter));
    }
    steps.push(step(Op::Begin, 1));
    for at in 0..8 {
        let (root, letter) = chain(at);
        steps.push(step(Op::Read, 1).at(root, MANY).letter(letter).within(Newest));
    }
    steps.push(step(Op::Write, 1).within(Newest));
    steps.push(step(Op::Write, 2).size(1));
    steps.push(step(Op::Commit, 1).within(Newest));
    steps
}

/// Uses as many and as long paths in a transaction as the quotas allow.
fn longest_paths() -> Vec<Step> {
    let read = step(Op::Read, 1).at(0, 230).spread(Children, MANY).within(Newest);
    vec![
        step(Op::Write, 2).at(0, 230),
        step(Op::Begin, 1),
        read,
        step(Op::Commit, 1).within(Newest),
        step(Op::Begin, 1),
        read,
        step(Op::Write, 2).at(0, 230).size(1),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Removes many large nodes with one request in a transaction, which is replayed.
fn replayed_removal() -> Vec<Step> {
    vec![
        step(Op::Write, 1).at(0, 1).spread(Children, MANY).size(90),
        step(Op::Begin, 1),
        step(Op::Rm, 1).at(0, 1).within(Newest),
        step(Op::Write, 2).at(0, 1).size(1),
        step(Op::Commit, 1).within(Newest),
    ]
}

/// Removes the nodes that all guests have made and watch, by one guest.
fn removal_of_everything() -> Vec<Step> {
    vec![
        step(Op::Write, ALL).at(0, 2).spread(Children, MANY),
        step(Op::Watch, ALL).at(0, 2).spread(Children, WATCHES),
        step(Op::Begin, 2),
        step(Op::Read, 2).at(0, 2).spread(Children, MANY).within(Newest),
        step(Op::Rm, 1).at(0, 1),
        step(Op::Commit, 2).within(Newest),
    ]
}

/// Ends domains that have used up their quotas.
fn deaths() -> Vec<Step> {
    vec![
        step(Op::Write, ALL).at(0, 1).spread(Children, MANY),
        step(Op::Watch, ALL).spread(Again, WATCHES),
        step(Op::Begin, ALL).spread(Again, 10),
        step(Op::Read, ALL).at(0, 1).spread(Children, 60).within(Each),
        step(Op::Die, 2),
        step(Op::Die, ALL),
    ]
}

/// Ends a domain that many nodes name, on each level of a chain and in a wide directory.
fn rights_everywhere() -> Vec<Step> {
    vec![
        step(Op::Write, 10).at(0, MANY),
        step(Op::SetPerms, 10).at(0, MANY).spread(Levels, MANY).size(3),
        step(Op::Write, 9).at(4, 0).spread(Children, MANY),
        step(Op::SetPerms, 9).at(4, 0).spread(Children, MANY).size(4),
        step(Op::SetPerms, 9).at(4, 0).size(250),
        step(Op::Die, 2),
        step(Op::Die, ALL),
    ]
}

/// Lets dom0 watch everything and not read.
fn dom0_does_not_read() -> Vec<Step> {
    vec![
        step(Op::Watch, 0).at(3, 0).spread(Again, 8).size(10),
        step(Op::StopReading, 0),
        step(Op::Write, ALL).spread(Children, 60),
        step(Op::Begin, 1),
        step(Op::Write, 1).spread(Children, MANY).within(Newest),
        step(Op::Commit, 1).within(Newest),
        step(Op::Die, 2),
        step(Op::Pass, 0).size(250),
        step(Op::ReadAgain, 0),
    ]
}

/// Fills the rings of all guests with requests.
fn full_rings() -> Vec<Step> {
    vec![
        step(Op::Watch, ALL).spread(Again, WATCHES),
        step(Op::Write, ALL).spread(Children, 8).mode(Rings),
        step(Op::Read, ALL).spread(Again, 60).mode(Rings),
        step(Op::Mkdir, ALL).at(1, 60).spread(Levels, 30).mode(Rings),
        step(Op::Rm, ALL).spread(Children, 8).mode(Rings),
    ]
}

/// Returns turns of expensive requests.
fn full_turns() -> Vec<Step> {
    vec![
        step(Op::Write, ALL).at(0, 1).spread(Children, MANY),
        step(Op::Watch, ALL).at(0, 1).spread(Again, WATCHES),
        step(Op::Directory, 1).at(0, 1).spread(Again, 4).mode(Turns),
        step(Op::DirectoryPart, 1).at(0, 1).spread(Again, 8).size(255).mode(Turns),
        step(Op::Read, 1).at(1, DEEP).spread(Again, 4).mode(Turns),
        step(Op::Mkdir, 1).at(1, 30).spread(Children, 4).mode(Turns),
        step(Op::Rm, 1).at(0, 1).spread(Children, 4).mode(Turns),
    ]
}

/// Returns all other types of requests.
fn others() -> Vec<Step> {
    let mut steps: Vec<Step> = (0..12).map(|kind| Step { count: 3, ..step(Op::Other, 1).size(kind) }).collect();
    steps.extend((0..12).map(|kind| Step { count: 3, depth: 1, ..step(Op::Other, 0).size(kind) }));
    steps.push(step(Op::ResetWatches, 1));
    steps.push(step(Op::Abort, 1).within(Newest));
    steps
}
