//! Reports for CONTROL that need more than a handler sees: use of limited resources, use of memory, and a check of all
//! counts. They change nothing, except that a report of maxima may reset them.

pub mod crash;
pub mod trace;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use crate::engine::connection::Connection;
use crate::engine::connection::output::{Origin, Output};
use crate::engine::requests::{self, Reply};
use crate::engine::{Action, Engine};
use crate::store::domain::DomId;
use crate::store::path::Path;
use crate::store::quota::Quota;

/// A report of CONTROL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A domain's use of each limited resource, now and at most.
    Usage(DomId),
    /// The maxima of all guests.
    Peaks {
        /// Whether to reset the maxima to the present use.
        clear: bool,
    },
    /// The use of memory, by kind of object.
    Memory,
    /// A check of all counts.
    Check,
}

/// A count that differs from the objects found, for CONTROL's `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disagreement {
    what: &'static str,
    domid: DomId,
    counted: u64,
    found: u64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of domain {}: counted {}, found {}", self.what, self.domid, self.counted, self.found)
    }
}

impl Engine {
    /// Writes a report into a reply. Lines that do not fit are left out.
    #[cold]
    #[inline(never)]
    pub(super) fn report(&mut self, report: Report, reply: &mut Reply) {
        match report {
            Report::Usage(domid) => self.report_usage(domid, reply),
            Report::Peaks { clear } => {
                if clear {
                    self.clear_peaks();
                }
                line(reply, format_args!("Max. seen accounting values:\n"));
                for quota in Quota::ALL.into_iter().filter(|quota| !quota.is_soft()) {
                    line(reply, format_args!("{:17}: {:8}\n", quota.name(), self.peaks.get(quota)));
                }
            }
            Report::Memory => self.report_memory(reply),
            Report::Check => self.report_check(reply),
        }
        // A full reply ends without a NUL, as with the C server.
        let _ = reply.push(0);
    }

    /// Resets the maxima of all domains to their present use.
    fn clear_peaks(&mut self) {
        self.peaks.clear();
        self.state.domains.clear_peaks();
        let known: Vec<DomId> = self.state.domains.iter().map(|(domid, _)| domid).collect();
        for domid in known {
            for quota in Quota::ALL {
                let has = usize::try_from(self.has(domid, quota)).unwrap_or(usize::MAX);
                if let Some(domain) = self.state.domains.get_mut(domid) {
                    domain.peaks.note(quota, has);
                }
                if domid != self.config.privileged {
                    self.peaks.note(quota, has);
                }
            }
        }
    }

    fn report_usage(&self, domid: DomId, reply: &mut Reply) {
        line(reply, format_args!("Domain {domid}:\n"));
        let Some(domain) = self.state.domains.get(domid) else { return };
        for quota in Quota::ALL.into_iter().filter(|quota| !quota.is_soft()) {
            let has = self.has(domid, quota);
            line(reply, format_args!("{:17}: {has:8} (max {:8})\n", quota.name(), domain.peaks.get(quota)));
        }
    }

    /// Returns a domain's present use of a limited resource; 0 for a limit on a single node, request or transaction.
    fn has(&self, domid: DomId, quota: Quota) -> u64 {
        let Some(domain) = self.state.domains.get(domid) else { return 0 };
        let connection = domain.connection.and_then(|id| self.connections.get(id));
        let session = connection.and_then(Connection::session);
        match quota {
            Quota::Nodes => domain.nodes,
            Quota::Watches => domain.watches as u64,
            Quota::Transactions => session.map_or(0, |session| session.open_transactions()) as u64,
            Quota::Outstanding => connection.map_or(0, Connection::outstanding) as u64,
            Quota::MemoryHard | Quota::MemorySoft => self.memory_of(domid) as u64,
            Quota::TransactionNodes | Quota::NodePermissions | Quota::PathMax | Quota::NodeSize => 0,
        }
    }

    fn report_memory(&mut self, reply: &mut Reply) {
        let (mut nodes, mut values, mut lists) = (0_u64, 0_u64, 0_u64);
        self.state.tree.visit_children_first(Path::ROOT, &mut |visit| {
            nodes = nodes.saturating_add(1);
            values = values.saturating_add(visit.node.value().len() as u64);
            lists = lists.saturating_add(visit.node.children().list_bytes() as u64);
        });
        let (open_transactions, _) = self.open_transactions();
        let queued: u64 = self.connections.sessions().map(|session| session.output.queued_bytes() as u64).sum();
        let lines = [
            ("nodes", nodes),
            ("bytes of values", values),
            ("bytes of names", lists),
            ("watches", self.state.watches.len() as u64),
            ("transactions", open_transactions as u64),
            ("domains", self.state.domains.iter().count() as u64),
            ("connections", self.connections.len() as u64),
            ("bytes to be sent", queued),
        ];
        for (what, value) in lines {
            line(reply, format_args!("{what:17}: {value:8}\n"));
        }
        line(
            reply,
            format_args!("The heap's figures are on the console of the Xenstore domain: xl console Xenstore\n"),
        );
        self.actions.push_back(Action::ReportMemory);
    }

    /// Compares the outstanding requests with the pending messages and work that they caused.
    fn check_outstanding(&self, reply: &mut Reply) -> bool {
        let pending = self.connections.sessions().map(|session| &session.output).chain(&self.discarded.outputs);
        let postponed = self.announcements.iter().filter_map(|announcement| announcement.cause.origin);
        // Messages caused by requests of an earlier session no longer count for any request.
        let counts = |origin: &Origin| {
            self.connections.get(origin.connection).is_some_and(|sender| sender.has_ticket(origin.ticket))
        };
        let origins = pending.flat_map(Output::origins).chain(postponed).filter(counts);
        // One by one: collecting a sorted set at once takes 5 KB of code.
        let mut waiting = BTreeSet::new();
        waiting.extend(origins.map(|origin| (origin.connection, origin.ticket)));
        let mut is_fine = true;
        for (id, connection) in self.connections.iter() {
            let found = waiting.range((id, 0)..=(id, u64::MAX)).count() as u64;
            let counted = connection.outstanding() as u64;
            is_fine &= compare(reply, "outstanding requests", self.domid_of(id), counted, found);
        }
        is_fine
    }

    /// Visits all objects and counts them again.
    fn report_check(&mut self, reply: &mut Reply) {
        let mut is_fine = true;
        let mut nodes = self.state.count_nodes();
        for (domid, domain) in self.state.domains.iter() {
            let found = nodes.remove(&domid).unwrap_or_default();
            is_fine &= compare(reply, "nodes", domid, domain.nodes, found.nodes.cast_unsigned());
            is_fine &= compare(reply, "bytes of nodes", domid, domain.node_bytes, found.bytes.cast_unsigned());
            let watches = domain.connection.map_or(&[][..], |id| self.state.watches.of_connection(id));
            let bytes = watches.iter().map(|watch| watch.path.len().saturating_add(watch.token.len()));
            let bytes = bytes.fold(0, usize::saturating_add);
            is_fine &= compare(reply, "watches", domid, domain.watches as u64, watches.len() as u64);
            is_fine &= compare(reply, "bytes of watches", domid, domain.watch_bytes as u64, bytes as u64);
            let connection = domain.connection.and_then(|id| self.connections.get(id));
            if let Some(output) = connection.and_then(Connection::session).map(|session| &session.output) {
                let (counted, found) = (output.queued_bytes() as u64, output.count_bytes() as u64);
                is_fine &= compare(reply, "bytes to be sent", domid, counted, found);
            }
        }
        is_fine &= self.check_outstanding(reply);
        for (domid, found) in nodes {
            is_fine &= compare(reply, "nodes", domid, 0, found.nodes.cast_unsigned());
        }
        let (counted, open) = self.open_transactions();
        if counted != open {
            log::error!("check: open transactions: counted {counted}, found {open}");
            line(reply, format_args!("open transactions: counted {counted}, found {open}\n"));
            is_fine = false;
        }
        if !self.state.watches.agree() {
            log::error!("check: the indexes of watches differ");
            line(reply, format_args!("the indexes of watches differ\n"));
            is_fine = false;
        }
        if is_fine {
            line(reply, format_args!("OK"));
        }
        self.actions.push_back(Action::ReportMemory);
    }
}

/// Compares a count with the objects found, and reports a difference. Returns whether they agree.
fn compare(reply: &mut Reply, what: &'static str, domid: DomId, counted: u64, found: u64) -> bool {
    if counted == found {
        return true;
    }
    let disagreement = Disagreement { what, domid, counted, found };
    log::error!("check: {disagreement}");
    line(reply, format_args!("{disagreement}\n"));
    false
}

/// The last line of a reply in which others did not fit.
const MORE: &str = "...\n";

/// Appends a line if it fits whole, with room for [`MORE`] and a NUL after it. Otherwise appends [`MORE`] once.
fn line(reply: &mut Reply, text: fmt::Arguments<'_>) {
    let before = reply.len();
    let room = reply.capacity().saturating_sub(MORE.len()).saturating_sub(1);
    if requests::text(reply, text).is_err() || reply.len() > room {
        reply.truncate(before);
        if !reply.ends_with(MORE.as_bytes()) {
            let _ = reply.extend_from_slice(MORE.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::Config;
    use crate::store::domain_table::NodeCount;
    use std::string::String;

    fn check(engine: &mut Engine) -> String {
        let mut reply = Reply::new();
        engine.report(Report::Check, &mut reply);
        String::from_utf8(reply.to_vec()).unwrap()
    }

    #[test]
    fn a_check_names_every_count_that_is_wrong_and_repairs_none() {
        let mut engine = Engine::new(Config::default());
        assert_eq!(check(&mut engine), "OK\0");
        engine.state.domains.charge_nodes(DomId::DOM0, NodeCount { nodes: 2, bytes: -1 });
        engine.state.domains.get_mut(DomId::DOM0).unwrap().watches = 7;
        engine.note_opened(crate::store::watch::ConnectionId(1));
        let expected = "nodes of domain 0: counted 5, found 3\n\
                        bytes of nodes of domain 0: counted 108, found 109\n\
                        watches of domain 0: counted 7, found 0\n\
                        open transactions: counted 1, found 0\n\0";
        assert_eq!(check(&mut engine), expected);
        assert_eq!(check(&mut engine), expected, "nothing was repaired");
    }
}
