//! A request's changes. The handler fills the change set in and changes nothing itself. [`crate::engine`] applies it in a
//! step that cannot fail, or discards it. Only an introduction has a step in between that can fail ([`Introduction`]).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::engine::hypervisor::Port;
use crate::engine::report::Report;
use crate::engine::report::trace::Trace;
use crate::engine::requests::lists::ListChange;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::quota::{Peaks, Quota};
use crate::store::transaction::{NodeChange, Transaction};
use crate::wire::feature::Features;

/// The changes of one request.
#[derive(Debug, Default)]
pub struct ChangeSet {
    /// Domains that exist and become known because permissions name them.
    pub domains: Vec<DomId>,
    /// Changes of nodes, in order; in a transaction they stay in it.
    pub nodes: Vec<NodeChange>,
    /// The introduction to prepare before anything is applied.
    pub introduction: Option<Introduction>,
    /// The change besides those of nodes.
    pub effect: Option<Effect>,
    /// How the request is answered.
    pub answer: Answer,
    /// The change to the connection's lists that are read in parts.
    pub list: Option<ListChange>,
    /// What the client would have of what is limited.
    pub peaks: Peaks,
    /// The request's transaction is over, even if the request is refused.
    pub ends_transaction: bool,
    /// The generations of the writes that made a commit fail; they count although it is refused.
    pub in_the_way: Vec<u64>,
}

/// What CONTROL's `live-update` says (`docs/misc/xenstore.txt`; the words are those of the C server).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateCommand {
    /// `-a`: the update is off.
    Abort,
    /// `-b`: a kernel of so many bytes follows.
    Begin {
        /// Its size.
        bytes: usize,
    },
    /// `-d`: a part of it.
    Data(Vec<u8>),
    /// `-c`: the new kernel's command line.
    CommandLine(String),
    /// `-s`: now.
    Start {
        /// `-F`: also if something is lost.
        force: bool,
        /// `-t`: how many seconds it may wait for transactions to end.
        timeout_s: u32,
        /// `-v`: the newest version of the stream that the new kernel reads.
        version: Option<u32>,
    },
    /// `stream-version`: which version of the stream may be written.
    ShowVersion,
    /// `stream-version <version>|auto`: `None` for what is needed.
    LimitVersion(Option<u32>),
    /// `update-report [<version>]`: what an update would do.
    Report {
        /// The newest version that it may take; `None` for the limit that holds.
        version: Option<u32>,
    },
    /// `stream [<offset>]`: a part of the state as a stream.
    Stream {
        /// From where on, in bytes.
        offset: usize,
    },
}

/// A change of the state besides nodes. At most one per request.
#[derive(Debug)]
pub enum Effect {
    /// A watch is set.
    Watch {
        /// A path or a special name.
        path: Box<str>,
        /// The client's word for it.
        token: Box<[u8]>,
        /// Whether the client spelled a relative path.
        relative: bool,
        /// How many levels below are watched; `None` for all.
        depth: Option<u32>,
    },
    /// A watch is withdrawn.
    Unwatch {
        /// A path or a special name.
        path: Box<str>,
        /// The client's word for it.
        token: Box<[u8]>,
    },
    /// All watches and transactions of the connection are withdrawn.
    Reset,
    /// A transaction is opened; the reply carries its number.
    StartTransaction,
    /// The request's transaction is committed; it has been checked.
    Commit,
    /// The request's transaction conflicts. Its requests were executed again, and the result is committed.
    CommitReplayed(Box<Replayed>),
    /// A domain is introduced. Its ring is mapped and its port bound ([`Introduction`]).
    Introduce {
        /// The domain.
        domid: DomId,
        /// The server's port of its event channel.
        port: Port,
    },
    /// An introduced domain is introduced again, with another port.
    Rebind {
        /// Which domain.
        domid: DomId,
        /// The domain's new port. It can be bound only after ours of the old one is closed, so that it is bound late,
        /// and a port that can't be bound leaves the domain without one.
        remote_port: u32,
    },
    /// A domain's connection is dropped, and all that it owns.
    Release(DomId),
    /// A domain runs again.
    Resume(DomId),
    /// A domain gets the rights of another too.
    SetTarget {
        /// Which domain.
        domid: DomId,
        /// Whose rights.
        target: DomId,
    },
    /// A domain that is not introduced yet will be offered these features.
    SetFeatures {
        /// Which domain.
        domid: DomId,
        /// What it is offered.
        features: Features,
    },
    /// A quota is set.
    SetQuota {
        /// For whom.
        whom: QuotaScope,
        /// Which.
        quota: Quota,
        /// Its value.
        value: u32,
    },
    /// Switches of what is logged.
    SetTrace(Trace),
    /// A line is logged.
    Print(String),
}

/// The answer to a request that is granted.
#[derive(Debug, Default)]
pub enum Answer {
    /// The reply that the handler wrote, and what applying its effect adds.
    #[default]
    Complete,
    /// A report on the state after the request.
    Report(Report),
    /// The host executes the command and answers later.
    Deferred(UpdateCommand),
}

/// A step between handler and change set, which may fail: the ring of a domain is mapped and its port bound.
#[derive(Clone, Copy, Debug)]
pub struct Introduction {
    /// The domain.
    pub domid: DomId,
    /// The domain's port that the request names.
    pub remote_port: u32,
}

/// A transaction whose requests were executed again on the current state, ready to be committed.
#[derive(Debug)]
pub struct Replayed {
    /// The new transaction, with the changes.
    pub transaction: Transaction,
    /// The newest generation that the replay used.
    pub generation: u64,
    /// Domains that become known, each with the generation at which it does.
    pub domains: Vec<(DomId, u64)>,
}

/// Whose quota is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaScope {
    /// That of one domain.
    Domain(DomId),
    /// That of domains that become known from now on.
    NewDomains,
    /// That of all domains that have no value of their own, now and later.
    AllDomains,
}

impl ChangeSet {
    /// Drops everything, and keeps the room for the next request, unless it is more than most need.
    pub fn clear(&mut self) {
        self.domains.clear();
        if self.nodes.capacity() > limits::KEPT_CHANGES {
            self.nodes = Vec::new();
        } else {
            self.nodes.clear();
        }
        self.introduction = None;
        self.effect = None;
        self.answer = Answer::default();
        self.list = None;
        self.peaks.clear();
        self.ends_transaction = false;
        self.in_the_way.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::path::Path;

    #[test]
    fn the_room_of_many_changes_is_given_back_and_that_of_a_few_is_kept() {
        let mut changes = ChangeSet::default();
        for (count, kept) in [(3, 3..=limits::KEPT_CHANGES), (1000, 0..=limits::KEPT_CHANGES)] {
            changes.nodes.resize(count, NodeChange::Remove { path: Path::TOOL.to_owned() });
            changes.clear();
            assert!(changes.nodes.is_empty() && kept.contains(&changes.nodes.capacity()));
        }
    }
}
