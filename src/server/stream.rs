//! A server's state as the bytes of a migration stream, and back.

use alloc::string::ToString as _;
use core::fmt;

use crate::engine::config::Config;
use crate::engine::snapshot::{RestoreError, Restorer, SaveOptions};
use crate::engine::{Deferred, Engine};
use crate::limits;
use crate::server::reattach::{Reattached, Reattachment};
use crate::server::update::{Successor, payload};
use crate::server::{Platform, Server};
use crate::stream::oxenstored::{self, DumpError};
use crate::stream::reader::Reader;
use crate::stream::record::{Reason, StreamError, Version};
use crate::stream::writer::{Sink, WriteError, Writer};

/// The reason to refuse a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The bytes are not a stream, or a record is invalid.
    Stream(StreamError),
    /// The bytes are a dump of oxenstored, and no line of it can be read.
    Dump(DumpError),
    /// A record contradicts the records before it, or the limits.
    Item {
        /// The record's number, from 1; in a dump, the item's number.
        record: u32,
        /// The record's offset in bytes from the start; 0 in a dump.
        offset: usize,
        /// The error in the item.
        reason: RestoreError,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::Dump(error) => error.fmt(f),
            Self::Item { record, offset, reason } => write!(f, "record {record} at offset {offset}: {reason}"),
        }
    }
}

/// Makes an engine from a stream, or from a dump of oxenstored. A stream is restored whole or not at all. Of a dump,
/// all readable lines are restored. The clients are not connected yet: [`Server::reattach`] connects them.
///
/// # Errors
/// Fails with the first error in the stream, or with [`DumpError`] if no line of a dump can be read.
pub fn load(bytes: &[u8], config: &Config, now_ms: u64) -> Result<Engine, LoadError> {
    if oxenstored::is_dump(bytes) {
        return load_dump(bytes, config, now_ms);
    }
    let mut reader = Reader::new(bytes).map_err(LoadError::Stream)?;
    let mut restorer = Restorer::new(config, now_ms);
    let at = |reader: &Reader<'_>, reason| {
        let StreamError { record, offset, .. } = reader.error(Reason::Ends);
        LoadError::Item { record, offset, reason }
    };
    while let Some(item) = reader.next_item().map_err(LoadError::Stream)? {
        restorer.push(&item).map_err(|reason| at(&reader, reason))?;
    }
    if reader.skipped() > 0 {
        log::warn!("restore: {} records of unknown types are passed over", reader.skipped());
    }
    restorer.finish().map_err(|reason| at(&reader, reason))
}

fn load_dump(bytes: &[u8], config: &Config, now_ms: u64) -> Result<Engine, LoadError> {
    let mut restorer = Restorer::new(config, now_ms);
    let (mut items, mut logged) = (0_u32, 0_usize);
    let import = oxenstored::import(
        bytes,
        &mut |item| {
            items = items.saturating_add(1);
            restorer.push(item).map_err(|reason| reason.to_string().into())
        },
        &mut |line| {
            logged = logged.saturating_add(1);
            if logged <= limits::SKIPPED_LINES_LOGGED {
                log::warn!("restore: {line}");
            }
        },
    );
    let left_out = import.map_err(LoadError::Dump)?;
    if left_out.skipped > limits::SKIPPED_LINES_LOGGED {
        log::warn!("restore: {} lines are skipped in all", left_out.skipped);
    }
    restorer.finish().map_err(|reason| LoadError::Item { record: items, offset: 0, reason })
}

impl Server {
    /// Returns the oldest version of the stream that can express the whole state.
    pub(super) fn lossless_version(&self) -> Version {
        if self.engine.requires_version_2() { Version::Two } else { Version::One }
    }

    /// Writes the state as a stream.
    ///
    /// # Errors
    /// Fails if the sink is full, if memory is missing, or if a text is too long for its field. The state does not
    /// change.
    pub fn save_to(&self, sink: &mut dyn Sink, version: Version, options: &SaveOptions<'_>) -> Result<(), WriteError> {
        let mut writer = Writer::new(sink, version)?;
        self.engine.save(options, &mut |item| writer.item(item))?;
        writer.end()
    }

    /// Writes the state for a successor, together with the reply that the successor sends to the requester.
    ///
    /// # Errors
    /// As [`Server::save_to`].
    pub fn save_for(&self, successor: &Successor, sink: &mut dyn Sink, now_ms: u64) -> Result<(), WriteError> {
        let reply = successor.asked.reply(&successor.done());
        let options = SaveOptions { now_ms, reply: Some((successor.asked.connection, &reply)) };
        self.save_to(sink, successor.version, &options)
    }

    /// Drops all state to make room for a successor. The caller has saved the state in a stream before. The host closes
    /// no port, but unmaps all rings. Only [`Server::take_state_back`] may be called next.
    pub fn drop_state(&mut self) {
        self.engine = Engine::new(Config::default());
    }

    /// Restores the saved state after a failed update, and resumes service. The requester receives the reason of the
    /// failure in place of the successor's reply.
    pub fn take_state_back<P: Platform>(
        &mut self,
        mut engine: Engine,
        asked: &Deferred,
        why: &dyn fmt::Display,
        platform: &mut P,
        now_ms: u64,
    ) -> Reattached {
        log::warn!("live update: {why}");
        // Connections have new numbers. Only the control domain requests updates.
        if let Some(control) = engine.state().domains.connection(engine.privileged()) {
            engine.replace_last_reply(control, asked, &payload(&why.to_string()));
        }
        self.engine = engine;
        self.reattach(platform, now_ms, Reattachment::Live)
    }
}
