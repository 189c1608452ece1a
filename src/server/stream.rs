//! A server's state as the bytes of a migration stream, and back.

use core::fmt;

use crate::engine::Engine;
use crate::engine::config::Config;
use crate::engine::snapshot::{RestoreError, Restorer, SaveOptions};
use crate::server::Server;
use crate::stream::oxenstored::{self, DumpError};
use crate::stream::reader::Reader;
use crate::stream::record::{Reason, StreamError, Version};
use crate::stream::writer::{Sink, WriteError, Writer};

/// What whoever asked for a successor is answered by it.
const DONE: &[u8] = b"OK\0";

/// Why a stream is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// It is no stream, or a record is broken.
    Stream(StreamError),
    /// It is a dump of oxenstored with something wrong.
    Dump(DumpError),
    /// What a record says can't be.
    Item {
        /// Which record, counted from 1; of a dump, which item.
        record: u32,
        /// Where it begins, in bytes from the start; 0 in a dump.
        offset: usize,
        /// What is wrong.
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

/// An engine with the state of a stream, or of a dump of oxenstored, whole or not at all. Its clients are not connected yet:
/// [`Server::take_over`] does that.
///
/// # Errors
/// The first thing that is wrong with the stream.
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
    let mut items = 0_u32;
    let mut outcome = Ok(());
    let import = oxenstored::import(bytes, &mut |item| {
        items = items.saturating_add(1);
        if outcome.is_ok() {
            outcome = restorer.push(item).map_err(|reason| (items, reason));
        }
    });
    import.map_err(LoadError::Dump)?;
    let at = |(record, reason)| LoadError::Item { record, offset: 0, reason };
    outcome.map_err(at)?;
    restorer.finish().map_err(|reason| at((items, reason)))
}

impl Server {
    /// Writes the state as a stream.
    ///
    /// # Errors
    /// When there is no room, or something is too long for its field.
    pub fn save_to(&self, sink: &mut impl Sink, version: Version, options: &SaveOptions<'_>) -> Result<(), WriteError> {
        let mut writer = Writer::new(sink, version)?;
        self.engine.save(options, &mut |item| writer.item(item))?;
        writer.end()
    }

    /// Writes the state for the successor that [`Server::successor`] tells of, which is to answer whoever asked for it.
    ///
    /// # Errors
    /// As [`Server::save_to`]. Also when there is no update that waits for a successor.
    pub fn save_for_successor(&self, sink: &mut impl Sink, now_ms: u64) -> Result<(), WriteError> {
        let successor = self.successor().ok_or(WriteError::Full)?;
        let version = Version::from_number(successor.version).unwrap_or(Version::Two);
        let reply = successor.asked.reply(DONE);
        let options = SaveOptions { now_ms, reply: Some((successor.asked.connection, &reply)) };
        self.save_to(sink, version, &options)
    }
}
