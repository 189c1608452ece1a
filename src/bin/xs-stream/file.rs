//! File input and output, with progress reports for large files.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

/// Size in bytes from which the progress of a read is reported.
const LARGE_BYTES: usize = 32 * 1024 * 1024;
/// Bytes between two progress reports.
const STEP_BYTES: usize = 8 * 1024 * 1024;

/// Reads a whole file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    }
    fs::read(path).map_err(failed)
}

/// Writes a file atomically: `path` gets the whole contents or stays as it was.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    fs::write(&part, bytes).and_then(|()| fs::rename(&part, path)).map_err(failed)
}

/// The progress of reading a large file, reported on a terminal.
pub(crate) struct Progress {
    total: usize,
    next: usize,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        let is_shown = total >= LARGE_BYTES && io::stderr().is_terminal();
        Self { total, next: if is_shown { STEP_BYTES } else { usize::MAX } }
    }

    pub(crate) fn at(&mut self, bytes: usize) {
        if bytes >= self.next {
            eprint!("\r{:3} %", bytes.saturating_mul(100) / self.total.max(1));
            self.next = bytes.saturating_add(STEP_BYTES);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.next != usize::MAX {
            eprintln!("\r100 %");
        }
    }
}
