//! The extension with postponed work: announcements, and domains whose nodes are being removed.

use alloc::collections::VecDeque;

use crate::engine::connection::output::{EventCause, Origin};
use crate::engine::events::announcements::{Announcement, Changes};
use crate::engine::events::{Change, Readable};
use crate::engine::snapshot::codec::{Reader, Writer};
use crate::engine::snapshot::extension::{self, read_entries, write_entries};
use crate::engine::snapshot::restore::Restorer;
use crate::engine::snapshot::save::Saver;
use crate::engine::snapshot::{ConnectionNumber, Item, NoMemory};
use crate::limits;
use crate::store::domain::DomId;
use crate::store::path::Path;
use crate::store::permission::Permissions;
use crate::store::transaction::{Before, CommitEvent};
use crate::store::watch::{ConnectionId, Scope};

impl Saver<'_> {
    /// Writes the extension.
    pub(super) fn postponed(&self) -> Result<Item<'static>, NoMemory> {
        let engine = self.engine;
        let mut body = extension::body();
        body.size(engine.departures.domains().len());
        engine.departures.domains().for_each(|domid| body.number(domid.0.into()));
        // Announcements of the hosted server's clients are left out, as the clients are. Number 0 is a connection that
        // is gone.
        let all = engine.announcements.in_order().map_err(NoMemory::from)?;
        let is_socket = |id| engine.connections.is_socket(id);
        let kept = || all.iter().filter(|(_, announcement)| !announcement.connection.is_some_and(is_socket));
        body.size(kept().count());
        for (_, announcement) in kept() {
            let number = announcement.connection.and_then(|id| self.number(id));
            body.number(number.map_or(0, |number| number.0.into()));
            let origin = announcement.cause.origin;
            let is_outstanding = |origin: &Origin| {
                engine.connection(origin.connection).is_some_and(|sender| sender.has_ticket(origin.ticket))
            };
            body.number(origin.filter(is_outstanding).map_or(0, |origin| origin.ticket));
            let after = announcement.after.and_then(|after| self.number_before(after));
            body.optional(after.map(|after| after.0.into()));
            self.write_changes(&mut body, &announcement.changes);
        }
        extension::item(extension::POSTPONED, body)
    }

    fn write_changes(&self, body: &mut Writer, changes: &Changes) {
        match changes {
            Changes::Listed(events) => {
                body.size(events.len());
                events.iter().for_each(|event| write_change(body, Change::committed(event)));
            }
            // A successor gets a list of the remaining watched nodes: all changes that still need events.
            Changes::Removal(removal) => {
                let watches = &self.engine.state.watches;
                let mut count = 0_usize;
                removal.for_each(watches, |_| count = count.saturating_add(1));
                body.size(count);
                removal.for_each(watches, |removed| write_change(body, Change::removed(removed)));
            }
        }
    }

    /// Returns the number of a connection, or of the last one before it that has one.
    fn number_before(&self, id: ConnectionId) -> Option<ConnectionNumber> {
        self.number(id)
            .or_else(|| self.numbers.iter().rfind(|known| **known < id).and_then(|known| self.number(*known)))
    }
}

fn write_change(body: &mut Writer, change: Change<'_>) {
    body.bytes(change.path.as_str().as_bytes());
    body.flag(change.scope == Scope::Subtree);
    for readable in [change.before, change.above] {
        body.flag(readable.is_some());
        if let Some(before) = readable.map(Readable::to_owned) {
            write_entries(body, before.permissions.entries());
            body.number(before.generation);
        }
    }
}

/// Reads a change. Returns `Some(None)` for an invalid path, and `None` for a body that cannot be read.
fn read_change(body: &mut Reader<'_>) -> Option<Option<CommitEvent>> {
    let path = Path::parse_absolute(body.bytes()?, limits::ABSOLUTE_PATH_BYTES).ok();
    let scope = if body.flag()? { Scope::Subtree } else { Scope::Exact };
    let (before, above) = (read_before(body)?, read_before(body)?);
    Some(path.map(|path| CommitEvent { path: path.to_owned(), scope, before, above }))
}

fn read_before(body: &mut Reader<'_>) -> Option<Option<Before>> {
    if !body.flag()? {
        return Some(None);
    }
    let permissions = Permissions::from_entries(&read_entries(body)?);
    let generation = body.number()?;
    Some(permissions.map(|permissions| Before { permissions, generation }))
}

impl Restorer {
    /// Restores the postponed work in the extension, after all else is restored.
    pub(super) fn restore_postponed(&mut self) {
        let body = core::mem::take(&mut self.postponed);
        let taken = extension::read(&body).and_then(|mut body| self.read_postponed(&mut body));
        if taken.is_none() && !body.is_empty() {
            log::warn!("restore: postponed work of {} bytes cannot be read: some events are lost", body.len());
        }
    }

    fn read_postponed(&mut self, body: &mut Reader<'_>) -> Option<()> {
        for _ in 0..body.count()? {
            let domid = DomId(body.small()?);
            let is_gone = self.engine.state.domains.get(domid).is_some_and(|domain| domain.connection.is_none());
            if is_gone && domid != self.engine.config.privileged {
                self.engine.restore_departure(domid);
            }
        }
        for _ in 0..body.count()? {
            let connection = ConnectionId(body.small::<u32>()?.into());
            let ticket = body.number()?;
            let after = body.optional()?.map(ConnectionId);
            let mut events = VecDeque::new();
            for _ in 0..body.count()? {
                events.extend(read_change(body)?);
            }
            let bytes = events.iter().map(CommitEvent::bytes).fold(0, usize::saturating_add);
            let is_guest = self.engine.guest_of(connection).is_some();
            let is_known = self.engine.connection(connection).is_some();
            // No request waits if its connection is gone.
            let origin = Some(Origin { connection, ticket }).filter(|_| is_guest && ticket <= self.engine.next_ticket);
            let cause = EventCause { origin, originator: is_guest.then_some(connection), subject: None };
            let connection = is_known.then_some(connection);
            let changes = Changes::Listed(events);
            self.engine.restore_announcement(Announcement { connection, cause, changes, after, bytes });
        }
        Some(())
    }
}
