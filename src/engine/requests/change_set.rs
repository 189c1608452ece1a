//! A request's changes. The handler fills the change set in and changes nothing itself. [`crate::engine`] applies it in
//! a step that cannot fail, or discards it. Only an introduction has a step in between that can fail
//! ([`Introduction`]).

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
    /// The change of the state besides nodes.
    pub effect: Option<Effect>,
    /// The source of the answer.
    pub answer: Answer,
    /// The change to the connection's lists that are read in parts.
    pub list: Option<ListChange>,
    /// The client's use of limited resources after the request.
    pub peaks: Peaks,
    /// The request's transaction is over, even if the request is refused.
    pub ends_transaction: bool,
    /// The generations of the writes that made a commit fail. Their writers pay although the commit is refused.
    pub in_the_way: Vec<u64>,
}

/// A command of CONTROL's `live-update`, in the C server's syntax (`docs/misc/xenstore.txt`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateCommand {
    /// `-a`: abort the update.
    Abort,
    /// `-b`: an upload of a kernel begins.
    Begin {
        /// The kernel's size.
        bytes: usize,
    },
    /// `-d`: a part of the kernel.
    Data(Vec<u8>),
    /// `-c`: the new kernel's command line.
    CommandLine(String),
    /// `-s`: start the update.
    Start {
        /// `-F`: whether to update even if state is lost.
        force: bool,
        /// `-t`: the number of seconds to wait for transactions to end.
        timeout_s: u32,
        /// `-v`: the newest version of the stream that the new kernel reads.
        version: Option<u32>,
    },
    /// `stream-version`: show the limit of the stream's version.
    ShowVersion,
    /// `stream-version <version>|auto`: set that limit; `None` for the version that the state requires.
    LimitVersion(Option<u32>),
    /// `update-report [<version>]`: report the effects of an update.
    Report {
        /// The newest version that the update may write; `None` for the limit in force.
        version: Option<u32>,
    },
    /// `stream [<offset>]`: a part of the state as a stream.
    Stream {
        /// The offset of the part, in bytes.
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
        /// The token that the client chose.
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
        /// The token that the client chose.
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
        /// The domain to introduce again.
        domid: DomId,
        /// The domain's new port. It can be bound only after the server's old port is closed, when the change set is
        /// applied. If it cannot be bound, the domain stays without a port.
        remote_port: u32,
    },
    /// A domain's connection and all that it owns are removed.
    Release(DomId),
    /// A domain runs again; its next shutdown is reported.
    Resume(DomId),
    /// A domain gets the rights of another one in addition.
    SetTarget {
        /// The domain that gets the rights.
        domid: DomId,
        /// The domain whose rights it gets.
        target: DomId,
    },
    /// The features to offer to a domain that is not introduced yet.
    SetFeatures {
        /// The domain to introduce later.
        domid: DomId,
        /// Its features.
        features: Features,
    },
    /// A quota is set.
    SetQuota {
        /// The domains that get the quota.
        scope: QuotaScope,
        /// The quota to set.
        quota: Quota,
        /// Its value.
        value: u32,
    },
    /// The trace switches are set.
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

/// The domains that a new quota applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaScope {
    /// One domain.
    Domain(DomId),
    /// Domains that become known from now on.
    NewDomains,
    /// All domains that have no value of their own, now and later.
    AllDomains,
}

impl ChangeSet {
    /// Clears all changes but the effect and the answer, which the end of each request takes out. Keeps the capacity
    /// for the next request, unless it is larger than most requests need.
    pub fn clear(&mut self) {
        self.domains.clear();
        if self.nodes.capacity() > limits::KEPT_CHANGES {
            self.nodes = Vec::new();
        } else {
            self.nodes.clear();
        }
        self.introduction = None;
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
