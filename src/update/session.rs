//! An update in preparation: the upload of the new kernel and of its command line.

use alloc::string::String;
use core::fmt;

use crate::limits;
use crate::store::connection_id::ConnectionId;
use crate::update::image::{Image, NotStartable};
use crate::update::upload::{NoMemory, Upload};

/// The reason why a step of the preparation is refused. `xenstore-control` shows its text unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// No kernel can have the announced size, in bytes.
    Size(usize),
    /// The announced kernel exceeds the free memory.
    NoRoom {
        /// Announced size in bytes.
        bytes: usize,
        /// Bytes of memory that are free for it.
        free_bytes: usize,
    },
    /// The parts exceed the announced size.
    TooMuch {
        /// Bytes of all parts.
        sent: usize,
        /// Announced size in bytes.
        announced: usize,
    },
    /// Memory is missing for a part of this many bytes.
    NoMemory(usize),
    /// The command line of this many bytes is too long.
    CommandLineLength(usize),
    /// The command line has characters other than printable ASCII, blank and tab.
    CommandLineCharacters,
    /// Parts of the kernel are missing.
    Incomplete {
        /// Bytes of all parts.
        sent: usize,
        /// Announced size in bytes.
        announced: usize,
    },
    /// The kernel cannot be started.
    NotStartable(NotStartable),
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(bytes) => {
                let most = limits::IMAGE_FILE_BYTES / 1024;
                write!(f, "A kernel has 1 byte to {most} KiB, and not {bytes} bytes.")
            }
            Self::NoRoom { bytes, free_bytes } => {
                let (bytes, free) = (bytes.div_ceil(1024), free_bytes / 1024);
                write!(f, "Not enough memory for a kernel of {bytes} KiB: {free} KiB are free for it.")
            }
            Self::TooMuch { sent, announced } => {
                write!(f, "More of the kernel was sent than was announced: {sent} of {announced} bytes.")
            }
            Self::NoMemory(bytes) => write!(f, "There is no memory for this part of the kernel, of {bytes} bytes."),
            Self::CommandLineLength(bytes) => {
                write!(f, "A command line has {} bytes at most, and not {bytes}.", limits::COMMAND_LINE_BYTES)
            }
            Self::CommandLineCharacters => f.write_str("A command line is printable ASCII."),
            Self::Incomplete { sent, announced } => {
                write!(f, "The kernel is not complete: {sent} of {announced} bytes were sent.")
            }
            Self::NotStartable(why) => write!(f, "This kernel can't be started: {why}."),
        }
    }
}

/// An update in preparation.
#[derive(Debug)]
pub struct Session {
    owner: ConnectionId,
    /// Announced size of the kernel in bytes.
    bytes: usize,
    file: Upload,
    command_line: Option<String>,
    /// Time of the owner's last command, in milliseconds.
    touched_ms: u64,
}

impl Session {
    /// Begins an update with the announced size of the kernel.
    ///
    /// # Errors
    /// Fails if no kernel can have that size, or if it exceeds `free_bytes`.
    pub fn begin(owner: ConnectionId, bytes: usize, free_bytes: usize, now_ms: u64) -> Result<Self, SessionError> {
        if bytes == 0 || bytes > limits::IMAGE_FILE_BYTES {
            return Err(SessionError::Size(bytes));
        }
        if bytes > free_bytes {
            return Err(SessionError::NoRoom { bytes, free_bytes });
        }
        Ok(Self { owner, bytes, file: Upload::new(), command_line: None, touched_ms: now_ms })
    }

    /// Returns the connection that prepares the update.
    #[must_use]
    pub const fn owner(&self) -> ConnectionId {
        self.owner
    }

    /// Returns the time at which the update is dropped if its owner sends no further command.
    #[must_use]
    pub const fn abandoned_ms(&self) -> u64 {
        self.touched_ms.saturating_add(limits::UPDATE_IDLE_MS)
    }

    /// Adds a part of the kernel.
    ///
    /// # Errors
    /// Fails if the part exceeds the announced size, or if memory is missing.
    pub fn add(&mut self, part: &[u8], now_ms: u64) -> Result<(), SessionError> {
        self.touched_ms = now_ms;
        if part.len() > self.bytes.saturating_sub(self.file.len()) {
            let sent = self.file.len().saturating_add(part.len());
            return Err(SessionError::TooMuch { sent, announced: self.bytes });
        }
        self.file.push(part).map_err(|NoMemory| SessionError::NoMemory(part.len()))
    }

    /// Sets the new kernel's command line. The default is the present one.
    ///
    /// # Errors
    /// Fails if the text is too long, or has characters other than printable ASCII, blank and tab.
    pub fn set_command_line(&mut self, text: String, now_ms: u64) -> Result<(), SessionError> {
        self.touched_ms = now_ms;
        if text.len() > limits::COMMAND_LINE_BYTES {
            return Err(SessionError::CommandLineLength(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t') {
            return Err(SessionError::CommandLineCharacters);
        }
        self.command_line = Some(text);
        Ok(())
    }

    /// Returns the kernel's file, and its command line if one was set.
    #[must_use]
    pub fn into_parts(self) -> (Upload, Option<String>) {
        (self.file, self.command_line)
    }

    /// Checks the kernel.
    ///
    /// # Errors
    /// Fails if the kernel is incomplete or cannot be started.
    pub fn check(&mut self, now_ms: u64) -> Result<Image, SessionError> {
        self.touched_ms = now_ms;
        let (sent, announced) = (self.file.len(), self.bytes);
        if sent < announced {
            return Err(SessionError::Incomplete { sent, announced });
        }
        Image::check(&self.file).map_err(SessionError::NotStartable)
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::*;

    const OWNER: ConnectionId = ConnectionId(1);

    fn begin(bytes: usize) -> Result<Session, SessionError> {
        Session::begin(OWNER, bytes, 1 << 20, 0)
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_with_the_reason() {
        for (bytes, why) in [(0, "and not 0 bytes"), (usize::MAX, "1 byte to"), ((1 << 20) + 1, "1024 KiB are free")] {
            let refusal = begin(bytes).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        }
        assert!(begin(1 << 20).is_ok());
    }

    #[test]
    fn exactly_what_was_announced_may_be_sent() {
        let mut session = begin(3000).unwrap();
        assert_eq!(session.add(&[1; 2048], 0), Ok(()));
        assert!(session.check(0).unwrap_err().to_string().contains("2048 of 3000"));
        assert_eq!(session.add(&[1; 953], 0), Err(SessionError::TooMuch { sent: 3001, announced: 3000 }));
        assert_eq!(session.add(&[1; 952], 0), Ok(()));
        assert!(session.add(&[1; 1], 0).is_err());
        assert_eq!(
            session.check(0).unwrap_err().to_string(),
            "This kernel can't be started: it is not an ELF file (first bytes 01 01 01 01)."
        );
    }

    #[test]
    fn a_command_line_fits_and_can_be_printed() {
        let mut session = begin(1).unwrap();
        assert!(session.set_command_line("x".repeat(limits::COMMAND_LINE_BYTES + 1), 0).is_err());
        assert!(session.set_command_line("a\u{7f}b".into(), 0).is_err());
        assert_eq!(session.command_line, None);
        assert_eq!(session.set_command_line("x".repeat(limits::COMMAND_LINE_BYTES), 0), Ok(()));
        assert_eq!(session.set_command_line("--quota nodes=5 -E 7".into(), 0), Ok(()));
        assert_eq!(session.into_parts().1.as_deref(), Some("--quota nodes=5 -E 7"));
    }

    #[test]
    fn it_is_abandoned_when_its_owner_is_silent_for_long() {
        let mut session = begin(10).unwrap();
        session.add(b"x", 1000).unwrap();
        assert_eq!(session.abandoned_ms(), 1000 + limits::UPDATE_IDLE_MS);
    }
}
