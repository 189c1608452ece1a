//! Prints the records of a migration stream, one per line. `xs-stream dump` is the complete tool.
//!
//! ```text
//! cargo run --example read_stream -- tests/streams/c-xenstored-4.17.xs
//! ```

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use xenstore::engine::snapshot::{Item, StreamPeer};
use xenstore::stream::check::References;
use xenstore::stream::reader::Reader;

/// Exit status after a wrong command line.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let Some(path) = only_argument() else {
        eprintln!("usage: read_stream FILE\nPrints the records of a Xenstore migration stream.");
        return ExitCode::from(WRONG_USAGE);
    };
    let outcome = fs::read(&path).map_err(|error| error.to_string()).and_then(|bytes| print_stream(&bytes));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("read_stream: {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// Returns the only argument, unless it is an option.
fn only_argument() -> Option<OsString> {
    let mut arguments = env::args_os().skip(1);
    let path = arguments.next().filter(|path| !path.as_encoded_bytes().starts_with(b"-"))?;
    arguments.next().is_none().then_some(path)
}

/// Prints all records up to END, or up to the first invalid one.
fn print_stream(bytes: &[u8]) -> Result<(), String> {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = print_records(bytes, &mut out);
    let written = out.flush().map_err(Stop::Output);
    match outcome.and(written) {
        Err(Stop::Stream(error)) => Err(error),
        Err(Stop::Output(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("output: {error}")),
        // The reader of the output may close it early, as `head` does.
        _ => Ok(()),
    }
}

/// The reason to stop printing.
enum Stop {
    /// The stream is invalid; the error names the record's place.
    Stream(String),
    /// The output failed.
    Output(io::Error),
}

fn print_records(bytes: &[u8], out: &mut impl Write) -> Result<(), Stop> {
    let mut reader = Reader::new(bytes).map_err(|error| Stop::Stream(error.to_string()))?;
    // The objects that later records may refer to.
    let mut references = References::default();
    let mut records = 0_usize;
    while let Some(item) = reader.next_item().map_err(|error| Stop::Stream(error.to_string()))? {
        references.take(&item).map_err(|reason| Stop::Stream(reader.error(reason).to_string()))?;
        writeln!(out, "{}: {}", reader.place(), describe(&item)).map_err(Stop::Output)?;
        records += 1;
    }
    let (version, skipped) = (reader.version() as u32, reader.skipped());
    writeln!(out, "version {version}: {records} records, {skipped} of unknown types skipped").map_err(Stop::Output)
}

/// Describes a record in words.
fn describe(item: &Item<'_>) -> String {
    match item {
        Item::Global(global) => format!("global: socket {}, event channel {}", global.socket, global.event_channel),
        Item::GlobalQuotas(quotas) => {
            format!("quotas: {} for each domain, {} for the server", quotas.defaults.len(), quotas.global.len())
        }
        Item::Connection(connection) => {
            let peer = match connection.peer {
                StreamPeer::Ring { domid, port, .. } => format!("domain {domid}, port {port}"),
                StreamPeer::Socket { descriptor } => format!("socket {descriptor}"),
            };
            let (input, output) = (connection.input.len(), connection.output.len());
            format!("connection {}: {peer}, {input} bytes received, {output} to send", connection.number.0)
        }
        Item::Domain(domain) => format!("domain {}: {} quotas of its own", domain.domid, domain.quotas.len()),
        Item::Watch(watch) => {
            format!("watch of connection {}: {} token {}", watch.connection.0, watch.path, watch.token.escape_ascii())
        }
        Item::Transaction(transaction) => {
            format!("transaction {} of connection {}", transaction.id, transaction.connection.0)
        }
        Item::Node(node) => {
            let owner = node.entries().first().map_or("removed".into(), |entry| format!("owner {}", entry.domid));
            let place = node.pending.map_or(String::new(), |(transaction, _)| {
                format!(" in transaction {} of connection {}", transaction.id, transaction.connection.0)
            });
            format!("node {} = \"{}\", {owner}{place}", node.path, node.value.escape_ascii())
        }
        Item::Extension(extension) => format!("extension {:#010x}: {} bytes", extension.kind, extension.body.len()),
    }
}
