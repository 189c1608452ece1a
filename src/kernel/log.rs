//! Log lines and their way to the console.
//!
//! A line goes into a fixed buffer, and from there into the console's ring as far as there is room. The first lines
//! wait for the console, and a console without a reader never delays the store.

use alloc::vec::Vec;
use core::fmt;

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::{Mutex, MutexGuard};

use super::line_buffer::LineBuffer;
use crate::xen::console::Console;
use crate::xen::{sched, time};

/// Size of the buffer: some 150 lines, more than a boot prints at the most verbose level before the console's daemon
/// runs.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
/// How long the domain's last lines wait for the console's daemon to fetch them, in nanoseconds.
const LAST_WORDS_NS: u64 = 500_000_000;
/// Interval of the checks whether they have been fetched, in nanoseconds.
const LAST_WORDS_STEP_NS: u64 = 5_000_000;

struct Output {
    lines: LineBuffer<BUFFER_BYTES>,
    console: Option<Console>,
}

static OUTPUT: Mutex<Output> = Mutex::new(Output { lines: LineBuffer::new(), console: None });
static LOGGER: Logger = Logger;

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true // the level is checked before
    }

    fn log(&self, record: &Record<'_>) {
        let ms = time::now_ms();
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        print_line(format_args!("[{:6}.{:03}] {level}{}", ms / 1000, ms % 1000, record.args()));
    }

    fn flush(&self) {
        flush();
    }
}

impl Output {
    /// Moves as much as fits into the console's ring.
    fn flush(&mut self) {
        let Some(console) = &mut self.console else { return };
        let mut moved = 0;
        while !self.lines.is_empty() {
            let count = console.write(self.lines.peek());
            if count == 0 {
                break;
            }
            self.lines.consume(count);
            moved += count;
        }
        if moved > 0 {
            console.notify();
        }
    }
}

/// Returns the output, unless a caller further up the stack holds it: formatting a line must not print another.
fn output() -> Option<MutexGuard<'static, Output>> {
    OUTPUT.try_lock()
}

/// Starts logging into the buffer.
pub(crate) fn init() {
    // Only a second call could fail.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Sets the most verbose level that is logged.
pub(crate) fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Connects the console and sends pending lines to it.
pub(crate) fn connect(console: Console) {
    if let Some(mut output) = output() {
        output.console = Some(console);
        output.flush();
    }
}

/// Resumes after another kernel has written to the console.
pub(crate) fn resume() {
    if let Some(mut output) = output() {
        if let Some(console) = &mut output.console {
            console.resume();
        }
        output.flush();
    }
}

/// Prints a line unchanged.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    if let Some(mut output) = output() {
        output.lines.push_line(line);
        output.flush();
    }
}

/// Returns the bytes that do not fit into the console yet, for a successor to print.
pub(crate) fn waiting() -> Vec<u8> {
    output().map_or_else(Vec::new, |output| output.lines.bytes().collect())
}

/// Prints the lines that a predecessor could not print any more.
pub(crate) fn adopt(lines: &[u8]) {
    if let Some(mut output) = output() {
        output.lines.push_lines(lines);
        output.flush();
    }
}

/// Sends pending lines on. Must be called when the console's port has fired.
pub(crate) fn flush() {
    if let Some(mut output) = output() {
        output.flush();
    }
}

/// Returns the console's port.
pub(crate) fn console_port() -> Option<u32> {
    output()?.console.as_ref().map(Console::port)
}

/// Handles an event of the console's port: there is room in the ring, or input was typed.
pub(crate) fn console_event() {
    if let Some(mut output) = output() {
        if let Some(console) = &output.console {
            console.discard_input();
        }
        output.flush();
    }
}

/// Makes printing possible for a panic or a processor fault, which may have interrupted a print.
///
/// # Safety
/// The code that holds the output must never run again.
pub(crate) unsafe fn take_over() {
    if OUTPUT.is_locked() {
        // SAFETY: the holder never runs again, as the caller guarantees, and there is one processor. In the worst case
        // the holder left an incomplete line.
        unsafe { OUTPUT.force_unlock() };
    }
}

/// Gives the console's daemon a moment to fetch the printed lines before the domain ends.
pub(crate) fn last_words() {
    let start = time::now_ns();
    if start == 0 {
        return; // no clock yet
    }
    let mut now = start;
    while now.saturating_sub(start) < LAST_WORDS_NS {
        let Some(mut output) = output() else { return };
        output.flush();
        let done = output.lines.is_empty() && output.console.as_ref().is_none_or(Console::is_drained);
        drop(output);
        if done {
            return;
        }
        sched::sleep(now.saturating_add(LAST_WORDS_STEP_NS));
        now = time::now_ns();
    }
}
