//! One command table, and a handler for each request.
//!
//! A handler reads the state, and fills in a reply and a change set. It changes nothing. If it refuses the request, the
//! change set is discarded. For the order of checks and the error codes, see `docs/architecture.md`, "Error codes".

pub(super) mod apply;
pub mod change_set;
mod control;
mod directory;
mod domains;
mod features;
pub(super) mod handling;
pub mod in_flight;
pub mod lists;
mod live_update;
mod nodes;
mod permissions;
mod quotas;
pub mod replay;
mod transactions;
pub mod view;
mod watches;

use core::fmt;

use crate::engine::fairness::conflict_credit::History;
use crate::engine::hypervisor::{DomainState, Hypervisor};
use crate::engine::report::trace::Trace;
use crate::engine::requests::change_set::ChangeSet;
use crate::engine::requests::lists::KeptList;
use crate::engine::requests::view::View;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::path::{AnyPath, Path, PathScratch};
use crate::store::quota::{Quota, Quotas};
use crate::store::watch::ConnectionId;
use crate::wire::errno::Errno;
use crate::wire::feature::Features;
use crate::wire::header::MessageType;
use crate::wire::payload;

/// The payload of a reply.
pub type Reply = heapless::Vec<u8, { limits::PAYLOAD_BYTES }>;

/// The context of one request, for its handler.
pub struct RequestContext<'a> {
    /// The nodes, as the requester sees them.
    pub view: View<'a>,
    /// The connection that sent the request.
    pub connection: ConnectionId,
    /// The domain to which relative paths belong and to which new nodes are charged.
    pub domid: DomId,
    /// The number of the connection's open transactions, without the request's own.
    pub open_transactions: usize,
    /// The connection's lists that are read in parts.
    pub lists: &'a [KeptList],
    /// The newest writes of guests, to find the writes that made a commit fail.
    pub history: &'a History,
    /// The request's payload.
    pub payload: &'a [u8],
    /// The hypervisor.
    pub hypervisor: &'a mut dyn Hypervisor,
    /// The trace lines to log.
    pub trace: Trace,
    /// The request's changes, which the handler fills in.
    pub changes: &'a mut ChangeSet,
    /// Whether the request was refused memory.
    pub was_refused_memory: bool,
    /// The payload of the reply, which the handler fills in.
    pub reply: &'a mut Reply,
}

/// A handler: reads the state, and fills in reply and changes.
pub type Handler = fn(&mut RequestContext<'_>) -> Result<(), Errno>;

/// A command's entry in the table.
#[derive(Clone, Copy)]
pub struct CommandSpec {
    /// The function that executes the command.
    pub handler: Handler,
    /// Whether only the control domain may send the request.
    pub is_privileged: bool,
    /// Whether a transaction number in the header is ignored.
    pub ignores_transaction: bool,
    /// Whether the request ends its transaction.
    pub ends_transaction: bool,
}

impl CommandSpec {
    const fn open(handler: Handler) -> Option<Self> {
        Some(Self { handler, is_privileged: false, ignores_transaction: false, ends_transaction: false })
    }

    const fn privileged(handler: Handler) -> Option<Self> {
        Some(Self { handler, is_privileged: true, ignores_transaction: false, ends_transaction: false })
    }

    const fn at_end(handler: Handler) -> Option<Self> {
        Some(Self { handler, is_privileged: false, ignores_transaction: false, ends_transaction: true })
    }

    const fn without_transaction(handler: Handler) -> Option<Self> {
        Some(Self { handler, is_privileged: false, ignores_transaction: true, ends_transaction: false })
    }
}

/// Returns the entry of a message type; `None` if no request has that type.
#[must_use]
pub const fn command_spec(kind: MessageType) -> Option<CommandSpec> {
    match kind {
        MessageType::Control => CommandSpec::privileged(control::control),
        MessageType::Directory => CommandSpec::open(directory::directory),
        MessageType::DirectoryPart => CommandSpec::open(directory::directory_part),
        MessageType::Read => CommandSpec::open(nodes::read),
        MessageType::Write => CommandSpec::open(nodes::write),
        MessageType::Mkdir => CommandSpec::open(nodes::mkdir),
        MessageType::Rm => CommandSpec::open(nodes::rm),
        MessageType::GetPerms => CommandSpec::open(permissions::get_perms),
        MessageType::SetPerms => CommandSpec::open(permissions::set_perms),
        MessageType::Watch => CommandSpec::without_transaction(watches::watch),
        MessageType::Unwatch => CommandSpec::without_transaction(watches::unwatch),
        MessageType::ResetWatches => CommandSpec::open(watches::reset_watches),
        MessageType::TransactionStart => CommandSpec::open(transactions::start),
        MessageType::TransactionEnd => CommandSpec::at_end(transactions::end),
        MessageType::Introduce => CommandSpec::privileged(domains::introduce),
        MessageType::Release => CommandSpec::privileged(domains::release),
        MessageType::Resume => CommandSpec::privileged(domains::resume),
        MessageType::SetTarget => CommandSpec::privileged(domains::set_target),
        MessageType::IsDomainIntroduced => CommandSpec::privileged(domains::is_domain_introduced),
        MessageType::GetDomainPath => CommandSpec::open(domains::get_domain_path),
        MessageType::GetQuota => CommandSpec::privileged(quotas::get_quota),
        MessageType::SetQuota => CommandSpec::privileged(quotas::set_quota),
        MessageType::GetFeature => CommandSpec::open(features::get_feature),
        MessageType::SetFeature => CommandSpec::privileged(features::set_feature),
        MessageType::WatchEvent | MessageType::Error => None,
    }
}

impl RequestContext<'_> {
    /// Parses a path as the client spells it.
    ///
    /// # Errors
    /// [`Errno::Inval`] if it is not a path.
    pub fn path<'b>(&mut self, spelling: &'b [u8], scratch: &'b mut PathScratch) -> Result<Path<'b>, Errno> {
        let path = Path::parse(spelling, self.domid, self.path_limit(), scratch).map_err(|_| Errno::Inval)?;
        self.changes.peaks.note(Quota::PathMax, path.counted_bytes());
        Ok(path)
    }

    /// Parses a path or special name as the client spells it.
    ///
    /// # Errors
    /// [`Errno::Inval`] if it is neither.
    pub fn any_path<'b>(&self, spelling: &'b [u8], scratch: &'b mut PathScratch) -> Result<AnyPath<'b>, Errno> {
        AnyPath::parse(spelling, self.domid, self.path_limit(), scratch).map_err(|_| Errno::Inval)
    }

    /// Returns the state of a domain that the client names.
    pub fn domain_state(&mut self, domid: DomId) -> DomainState {
        if domid.is_reserved() { DomainState::Absent } else { self.hypervisor.domain_state(domid) }
    }

    /// Returns the features that the client is offered.
    #[must_use]
    pub fn features(&self) -> Features {
        self.view.state.domains.features(self.domid)
    }

    /// Takes memory from the budget for objects that the request adds or enlarges.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] if the budget is smaller.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Errno> {
        let outcome = self.view.budget.take(bytes);
        self.was_refused_memory |= outcome.is_err();
        outcome
    }

    /// Takes memory from the budget for a reply that is not short.
    ///
    /// # Errors
    /// [`Errno::NoSpc`] if the budget is smaller.
    pub fn grow_reply(&mut self) -> Result<(), Errno> {
        self.view.budget.admit_reply();
        self.grow(self.reply.len().saturating_add(limits::MESSAGE_OVERHEAD_BYTES))
    }

    /// Returns whether `value` exceeds the client's quota. Records it as the client's use otherwise.
    #[must_use]
    pub fn exceeds(&mut self, quota: Quota, value: usize) -> bool {
        let exceeds = !self.view.requester.is_privileged() && !self.quotas().allows(quota, value);
        if !exceeds {
            self.changes.peaks.note(quota, value);
        }
        exceeds
    }

    /// Returns the client's quotas.
    fn quotas(&self) -> &Quotas {
        self.view.state.domains.quotas(self.domid)
    }

    /// Answers "OK".
    ///
    /// # Errors
    /// None; the type is that of a handler.
    pub fn ok(&mut self) -> Result<(), Errno> {
        self.answer(b"OK\0")
    }

    /// Appends to the reply.
    ///
    /// # Errors
    /// [`Errno::TooBig`] if it does not fit into a message.
    pub fn answer(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.reply.extend_from_slice(bytes).map_err(|_| Errno::TooBig)
    }

    /// Appends text to the reply, without a NUL.
    ///
    /// # Errors
    /// [`Errno::TooBig`] if it does not fit into a message.
    pub fn answer_text(&mut self, text: fmt::Arguments<'_>) -> Result<(), Errno> {
        self::text(self.reply, text)
    }

    /// Appends a decimal number and a NUL to the reply.
    ///
    /// # Errors
    /// [`Errno::TooBig`] if they do not fit into a message.
    pub fn answer_number(&mut self, number: impl itoa::Integer) -> Result<(), Errno> {
        self::number(self.reply, number)
    }

    /// Returns the length limit, in bytes, of paths that the client spells.
    fn path_limit(&self) -> usize {
        let is_privileged = self.view.requester.is_privileged();
        let of_guests = || self.quotas().limit(Quota::PathMax).min(limits::PATH_BYTES);
        if is_privileged { limits::ABSOLUTE_PATH_BYTES } else { of_guests() }
    }
}

/// Parses a domid in decimal.
pub(super) fn parse_domid(string: &[u8]) -> Result<DomId, Errno> {
    payload::decimal(string).and_then(|domid| u16::try_from(domid).ok()).map(DomId).ok_or(Errno::Inval)
}

/// Refuses a request about a domain that is neither known nor existing.
fn refuse_missing(context: &mut RequestContext<'_>, domid: DomId) -> Result<(), Errno> {
    let is_known = context.view.state.domains.get(domid).is_some();
    if is_known || context.domain_state(domid) != DomainState::Absent { Ok(()) } else { Err(Errno::NoEnt) }
}

/// Appends text to a reply, without a NUL.
///
/// # Errors
/// [`Errno::TooBig`] if it does not fit into a message.
pub(super) fn text(reply: &mut Reply, text: fmt::Arguments<'_>) -> Result<(), Errno> {
    fmt::Write::write_fmt(&mut ReplyText(reply), text).map_err(|_| Errno::TooBig)
}

/// Appends a decimal number and a NUL to a reply.
///
/// # Errors
/// [`Errno::TooBig`] if they do not fit into a message.
pub(super) fn number(reply: &mut Reply, number: impl itoa::Integer) -> Result<(), Errno> {
    let mut buffer = itoa::Buffer::new();
    reply.extend_from_slice(buffer.format(number).as_bytes()).map_err(|_| Errno::TooBig)?;
    reply.push(0).map_err(|_| Errno::TooBig)
}

/// A reply to which text is appended.
struct ReplyText<'a>(&'a mut Reply);

impl fmt::Write for ReplyText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
