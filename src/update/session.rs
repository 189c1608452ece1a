//! An update in preparation: the upload of the new kernel and of its command line.
//!
//! A refusal is a text, which `xenstore-control` shows unchanged.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;

use crate::limits;
use crate::store::watch::ConnectionId;
use crate::update::image::Image;
use crate::update::upload::Upload;

/// The reason of a refusal, for the requester.
pub type Refusal = Cow<'static, str>;

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
    pub fn begin(owner: ConnectionId, bytes: usize, free_bytes: usize, now_ms: u64) -> Result<Self, Refusal> {
        if bytes == 0 || bytes > limits::IMAGE_FILE_BYTES {
            let most = limits::IMAGE_FILE_BYTES / 1024;
            return Err(format!("A kernel has 1 byte to {most} KiB, and not {bytes} bytes.").into());
        }
        if bytes > free_bytes {
            let (bytes, free) = (bytes.div_ceil(1024), free_bytes / 1024);
            return Err(format!("Not enough memory for a kernel of {bytes} KiB: {free} KiB are free for it.").into());
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
    pub fn add(&mut self, part: &[u8], now_ms: u64) -> Result<(), Refusal> {
        self.touched_ms = now_ms;
        if part.len() > self.bytes.saturating_sub(self.file.len()) {
            return Err("More of the kernel was sent than was announced.".into());
        }
        self.file.push(part).map_err(|_| "There is no memory for this part of the kernel.".into())
    }

    /// Sets the new kernel's command line. The default is the present one.
    ///
    /// # Errors
    /// Fails if the text is too long, or has characters other than printable ASCII, blank and tab.
    pub fn set_command_line(&mut self, text: String, now_ms: u64) -> Result<(), Refusal> {
        self.touched_ms = now_ms;
        if text.len() > limits::COMMAND_LINE_BYTES {
            return Err(format!("A command line has {} bytes at most.", limits::COMMAND_LINE_BYTES).into());
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t') {
            return Err("A command line is printable ASCII.".into());
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
    pub fn check(&mut self, now_ms: u64) -> Result<Image, Refusal> {
        self.touched_ms = now_ms;
        let have = self.file.len();
        if have < self.bytes {
            return Err(format!("The kernel is not complete: {have} of {} bytes were sent.", self.bytes).into());
        }
        Image::check(&self.file).map_err(|why| format!("This kernel can't be started: {why}.").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: ConnectionId = ConnectionId(1);

    fn begin(bytes: usize) -> Result<Session, Refusal> {
        Session::begin(OWNER, bytes, 1 << 20, 0)
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_with_the_reason() {
        for (bytes, why) in [(0, "and not 0 bytes"), (usize::MAX, "1 byte to"), ((1 << 20) + 1, "1024 KiB are free")] {
            let refusal = begin(bytes).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
        assert!(begin(1 << 20).is_ok());
    }

    #[test]
    fn exactly_what_was_announced_may_be_sent() {
        let mut session = begin(3000).unwrap();
        assert_eq!(session.add(&[1; 2048], 0), Ok(()));
        assert!(session.check(0).unwrap_err().contains("2048 of 3000"));
        assert!(session.add(&[1; 953], 0).is_err(), "one too many");
        assert_eq!(session.add(&[1; 952], 0), Ok(()));
        assert!(session.add(&[1; 1], 0).is_err());
        assert_eq!(session.check(0), Err("This kernel can't be started: it is no ELF file.".into()));
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
