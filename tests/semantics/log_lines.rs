//! The server's log lines, for the thread that requests them.

use std::cell::RefCell;

use log::{LevelFilter, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

/// Returns the lines that the server logs during `work`.
pub fn of(work: impl FnOnce()) -> Vec<String> {
    // Another test may have set the logger first: all tests set the same.
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    LINES.take();
    work();
    LINES.take()
}
