//! CONTROL `update-report` and `stream`: report what a live update would hand over, without starting one.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use base64ct::{Base64, Encoding as _};

use crate::engine::snapshot::SaveOptions;
use crate::limits;
use crate::server::update::list;
use crate::server::{Platform, Server, UpdateFigures};
use crate::stream::record::Version;
use crate::stream::writer::Counter;

/// Most bytes of a part of the stream as Base64: four for each three.
const BASE64_BYTES: usize = limits::STREAM_PART_BYTES.div_ceil(3) * 4;

/// The reason why a part of the stream cannot be read. `xenstore-control` shows its text unchanged.
#[derive(Clone, Copy, Debug)]
enum NoPart {
    /// No stream is kept, and the offset is not 0.
    NotKept,
    /// The offset is at or after the end of the stream of this many bytes.
    AfterEnd(usize),
    /// Memory is missing.
    NoMemory,
    /// The stream exceeds the free memory.
    NoRoom {
        /// Bytes of the stream.
        bytes: usize,
        /// Bytes of memory that are free for it.
        free: usize,
    },
}

impl fmt::Display for NoPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKept => f.write_str("Begin at offset 0: the state is not kept for longer than a minute."),
            Self::AfterEnd(bytes) => write!(f, "The state has {bytes} bytes."),
            Self::NoMemory => f.write_str("The state can't be saved: there is not enough memory for it."),
            Self::NoRoom { bytes, free } => {
                write!(f, "Not enough memory: the state has {bytes} bytes, and {free} are free for it.")
            }
        }
    }
}

impl Server {
    /// Returns a report on an update that would start now. Changes nothing.
    pub(super) fn update_report<P: Platform>(&self, version: Option<u32>, platform: &P, now_ms: u64) -> String {
        let is_enough = !self.engine().requires_version_2();
        let limit = self.version_limit(version);
        let mut text = String::new();
        let verdict = match (is_enough, limit >= Version::Two as u32) {
            (true, _) => "a version 1 stream holds everything",
            (false, true) => "version 2 is needed, and may be written",
            (false, false) => "version 2 is needed, and may not be written: wait, or lose what is listed",
        };
        let _ = writeln!(text, "stream: {verdict}");
        if !is_enough {
            let _ = writeln!(text, "version 1 would lose:\n{}", list(self.engine(), now_ms));
        }
        let needed = if is_enough || limit < Version::Two as u32 { Version::One } else { Version::Two };
        let Some(bytes) = self.stream_bytes(needed, now_ms) else {
            text.push_str("the state can't be saved: there is not enough memory for it\n");
            return text;
        };
        let _ = writeln!(text, "version 2 would lose nothing\nstream size: {bytes} bytes");
        if let Some(UpdateFigures { needed_bytes, free_bytes, pause_ms }) = platform.update_figures(bytes) {
            let (needed, free) = (needed_bytes.div_ceil(1024), free_bytes / 1024);
            let verdict = if needed_bytes <= free_bytes { "enough" } else { "not enough" };
            let _ = writeln!(text, "memory: {needed} KiB needed, {free} KiB free: {verdict}");
            let _ = writeln!(text, "expected pause: {pause_ms} ms");
        }
        text
    }

    fn stream_bytes(&self, version: Version, now_ms: u64) -> Option<usize> {
        let mut counter = Counter::default();
        let options = SaveOptions { now_ms, reply: None };
        self.save_to(&mut counter, version, &options).ok().map(|()| counter.0)
    }

    /// Returns a part of the state as a stream, or the reason why it cannot be read. The part is a line with the offset
    /// and the total size, then the bytes as Base64. The state is that of the request for the first part. It is kept
    /// until the last part was read, or for [`limits::STREAM_KEPT_MS`] after the last read.
    pub(super) fn stream_part<P: Platform>(&mut self, offset: usize, platform: &P, now_ms: u64) -> String {
        self.read_part(offset, platform, now_ms).unwrap_or_else(|why| why.to_string())
    }

    fn read_part<P: Platform>(&mut self, offset: usize, platform: &P, now_ms: u64) -> Result<String, NoPart> {
        if offset == 0 {
            self.updates.kept_stream = None;
            self.updates.kept_stream = Some((self.whole_stream(platform, now_ms)?, now_ms));
        }
        let (stream, read_ms) = self.updates.kept_stream.as_mut().ok_or(NoPart::NotKept)?;
        *read_ms = now_ms;
        let total = stream.len();
        let rest = stream.get(offset..).filter(|_| offset < total).ok_or(NoPart::AfterEnd(total))?;
        let part = rest.get(..limits::STREAM_PART_BYTES).unwrap_or(rest);
        let mut text = format!("{offset} {total}\n");
        push_base64(part, &mut text);
        if part.len() == rest.len() {
            self.updates.kept_stream = None;
        }
        Ok(text)
    }

    fn whole_stream<P: Platform>(&self, platform: &P, now_ms: u64) -> Result<Vec<u8>, NoPart> {
        let version = self.lossless_version();
        let bytes = self.stream_bytes(version, now_ms).ok_or(NoPart::NoMemory)?;
        let free = platform.free_memory().saturating_sub(limits::UPDATE_RESERVE_BYTES);
        if bytes > free {
            return Err(NoPart::NoRoom { bytes, free });
        }
        let mut stream = Vec::new();
        stream.try_reserve_exact(bytes).map_err(|_| NoPart::NoMemory)?;
        self.save_to(&mut stream, version, &SaveOptions { now_ms, reply: None }).map_err(|_| NoPart::NoMemory)?;
        Ok(stream)
    }
}

/// Appends bytes as padded Base64 (RFC 4648); at most [`limits::STREAM_PART_BYTES`] bytes.
fn push_base64(bytes: &[u8], text: &mut String) {
    let mut digits = [0; BASE64_BYTES];
    text.push_str(Base64::encode(bytes, &mut digits).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standards_examples() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut text = String::new();
            push_base64(bytes.as_bytes(), &mut text);
            assert_eq!(text, expected);
        }
    }
}
