//! Log lines, and the way to the console.
//!
//! A line goes into a fixed buffer and from there into the console's ring as far as there is room: lines of the first
//! moments wait for the console, and a console that nobody reads never holds the store up.

use alloc::vec::Vec;
use core::fmt;

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::{Mutex, MutexGuard};

use super::line_buffer::LineBuffer;
use crate::xen::console::Console;
use crate::xen::{sched, time};

/// Bytes of lines that wait: some 150 lines, more than a boot prints at the most talkative level before the console's
/// daemon runs.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
/// How long the last words wait for the console's daemon to fetch them.
const LAST_WORDS_NS: u64 = 500_000_000;
/// How often it is looked whether they have been fetched.
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
    /// Moves what fits into the console's ring.
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

/// The output, unless somebody up the stack holds it: a line that is formatted may not print another.
fn output() -> Option<MutexGuard<'static, Output>> {
    OUTPUT.try_lock()
}

/// Starts logging, into the buffer.
pub(crate) fn init() {
    // Only a second call could fail.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Sets how much is logged.
pub(crate) fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Connects the console; what waits goes there.
pub(crate) fn connect(console: Console) {
    if let Some(mut output) = output() {
        output.console = Some(console);
        output.flush();
    }
}

/// Goes on after another kernel has written to the console.
pub(crate) fn resume() {
    if let Some(mut output) = output() {
        if let Some(console) = &mut output.console {
            console.resume();
        }
        output.flush();
    }
}

/// Prints a line as it is.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    if let Some(mut output) = output() {
        output.lines.push_line(line);
        output.flush();
    }
}

/// What the console has no room for yet, for a successor to print.
pub(crate) fn waiting() -> Vec<u8> {
    output().map_or_else(Vec::new, |output| output.lines.bytes().collect())
}

/// Prints what a predecessor could not print any more.
pub(crate) fn adopt(lines: &[u8]) {
    if let Some(mut output) = output() {
        output.lines.push_lines(lines);
        output.flush();
    }
}

/// Moves on what waits. To be called when the console's port fired.
pub(crate) fn flush() {
    if let Some(mut output) = output() {
        output.flush();
    }
}

/// The console's port.
pub(crate) fn console_port() -> Option<u32> {
    output()?.console.as_ref().map(Console::port)
}

/// The console's port fired: there is room, or somebody typed.
pub(crate) fn console_event() {
    if let Some(mut output) = output() {
        if let Some(console) = &output.console {
            console.discard_input();
        }
        output.flush();
    }
}

/// Makes printing possible for a panic or a fault that may have come in the middle of it.
///
/// # Safety
/// Whoever holds the output must never run again.
pub(crate) unsafe fn take_over() {
    if OUTPUT.is_locked() {
        // SAFETY: the holder never runs again, as the caller promises, and there is one processor. The worst that it
        // left is a torn line.
        unsafe { OUTPUT.force_unlock() };
    }
}

/// Gives the console's daemon a moment to fetch what was printed, before the domain ends.
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
