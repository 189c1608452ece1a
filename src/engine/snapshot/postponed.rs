//! Postponed work as an extension: announcements that are not done with, and domains whose nodes are being removed.

use alloc::collections::VecDeque;

use crate::engine::announcements::Announcement;
use crate::engine::output::{EventCause, Origin};
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
    /// The extension.
    pub(super) fn postponed(&self) -> Result<Item<'static>, NoMemory> {
        let engine = self.engine;
        let mut body = extension::body();
        body.size(engine.departures.domains().len());
        engine.departures.domains().for_each(|domid| body.number(domid.0.into()));
        // Those of clients of the hosted server are left out with them.
        let all = engine.announcements.in_order().map_err(NoMemory::from)?;
        let known =
            || all.iter().filter_map(|(_, announcement)| Some((self.number(announcement.connection?)?, *announcement)));
        body.size(known().count());
        for (number, announcement) in known() {
            body.number(number.0.into());
            let origin = announcement.cause.origin;
            body.number(origin.map_or(0, |origin| origin.ticket));
            let after = announcement.after.and_then(|after| self.number_before(after));
            body.optional(after.map(|after| after.0.into()));
            body.size(announcement.events.len());
            for event in &announcement.events {
                write_event(&mut body, event);
            }
        }
        extension::item(extension::POSTPONED, body)
    }

    /// The number of a connection, or of the last one before it that has one.
    fn number_before(&self, id: ConnectionId) -> Option<ConnectionNumber> {
        self.number(id)
            .or_else(|| self.numbers.iter().rfind(|known| **known < id).and_then(|known| self.number(*known)))
    }
}

fn write_event(body: &mut Writer, event: &CommitEvent) {
    body.bytes(event.path.as_path().as_str().as_bytes());
    body.flag(event.scope == Scope::Subtree);
    body.flag(event.before.is_some());
    if let Some(before) = &event.before {
        write_entries(body, before.permissions.entries());
        body.number(before.generation);
    }
}

fn read_event(body: &mut Reader<'_>) -> Option<CommitEvent> {
    let path = Path::parse_absolute(body.bytes()?, limits::PATH_BYTES).ok()?.to_owned();
    let scope = if body.flag()? { Scope::Subtree } else { Scope::Exact };
    let before = if body.flag()? {
        let permissions = Permissions::from_entries(&read_entries(body)?)?;
        Some(Before { permissions, generation: body.number()? })
    } else {
        None
    };
    Some(CommitEvent { path, scope, before })
}

impl Restorer {
    /// Continues what the extension says was postponed. To be called when all else is restored.
    pub(super) fn restore_postponed(&mut self) {
        let body = core::mem::take(&mut self.postponed);
        let taken = extension::read(&body).and_then(|mut body| self.read_postponed(&mut body));
        if taken.is_none() && !body.is_empty() {
            log::warn!("restore: postponed announcements can't be read: some events are lost");
        }
    }

    fn read_postponed(&mut self, body: &mut Reader<'_>) -> Option<()> {
        for _ in 0..body.count()? {
            let domid = DomId(body.small()?);
            let is_gone = self.engine.state.domains.get(domid).is_some_and(|domain| domain.connection.is_none());
            if is_gone {
                self.engine.restore_departure(domid);
            }
        }
        for _ in 0..body.count()? {
            let connection = ConnectionId(body.small::<u32>()?.into());
            let ticket = body.number()?;
            let after = body.optional()?.map(ConnectionId);
            let mut events = VecDeque::new();
            for _ in 0..body.count()? {
                events.push_back(read_event(body)?);
            }
            let is_guest = self.engine.guest_of(connection).is_some();
            let is_known = self.engine.connection(connection).is_some();
            let origin = Some(Origin { connection, ticket }).filter(|_| is_guest && ticket <= self.engine.next_ticket);
            let cause = EventCause { origin, originator: is_guest.then_some(connection), subject: None };
            let connection = is_known.then_some(connection);
            self.engine.restore_announcement(Announcement { connection, cause, events, after });
        }
        Some(())
    }
}
