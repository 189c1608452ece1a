//! The server's state as a migration stream, and a server from one: where the engine's items meet their encoding.

use core::fmt;

use crate::engine::Engine;
use crate::engine::config::Config;
use crate::engine::snapshot::{RestoreError, Restorer, SaveOptions};
use crate::server::{DONE, Server};
use crate::stream::reader::Reader;
use crate::stream::record::{StreamError, Version};
use crate::stream::writer::{Sink, WriteError, Writer};

/// Why a stream can't be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrestorable {
    /// The stream is wrong.
    Stream(StreamError),
    /// What it says can't be: in which record, and where it begins.
    Item(u32, usize, RestoreError),
    /// The whole is not consistent.
    Whole(RestoreError),
}

impl fmt::Display for Unrestorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::Item(record, offset, error) => write!(f, "record {record} at offset {offset}: {error}"),
            Self::Whole(error) => error.fmt(f),
        }
    }
}

impl From<StreamError> for Unrestorable {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl Server {
    /// Writes the state for a successor, in the version that the update takes. The successor finds the answer to whoever
    /// asked for the update among what is to be sent.
    ///
    /// # Errors
    /// When there is no room, or something has no room in a record.
    pub fn save<S: Sink>(&self, sink: &mut S, now_ms: u64) -> Result<(), WriteError> {
        let Some(successor) = self.successor() else { return self.save_as(sink, Version::Two, now_ms) };
        let version = Version::from_number(successor.version).unwrap_or(Version::One);
        let reply = Engine::reply_message(&successor.asked, DONE);
        let options = SaveOptions { now_ms, reply: Some((successor.asked.connection, &reply)) };
        write(&self.engine, sink, version, &options)
    }

    /// Writes the state.
    ///
    /// # Errors
    /// As [`Server::save`].
    pub fn save_as<S: Sink>(&self, sink: &mut S, version: Version, now_ms: u64) -> Result<(), WriteError> {
        write(&self.engine, sink, version, &SaveOptions { now_ms, reply: None })
    }

    /// A server with the state of a stream, whole or not at all. No ring is mapped yet ([`Server::take_over`]).
    ///
    /// # Errors
    /// What is wrong with the stream, and where.
    pub fn restore(stream: &[u8], config: &Config, now_ms: u64) -> Result<Self, Unrestorable> {
        let mut reader = Reader::new(stream)?;
        let mut restorer = Restorer::new(config, now_ms);
        while let Some(item) = reader.next_item()? {
            restorer.push(&item).map_err(|error| {
                let (record, offset) = reader.place();
                Unrestorable::Item(record, offset, error)
            })?;
        }
        if reader.skipped() > 0 {
            log::warn!("{} records of the stream are not known here and were skipped", reader.skipped());
        }
        let engine = restorer.finish().map_err(Unrestorable::Whole)?;
        Ok(Self::of(engine))
    }
}

fn write<S: Sink>(
    engine: &Engine,
    sink: &mut S,
    version: Version,
    options: &SaveOptions<'_>,
) -> Result<(), WriteError> {
    let mut writer = Writer::new(sink, version)?;
    engine.save(options, &mut |item| writer.item(item))?;
    writer.end()
}
