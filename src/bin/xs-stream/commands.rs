//! The implementation of the commands.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{Item, Restorer, StreamPeer};
use xenstore::store::domain::DomId;
use xenstore::stream::check::{References, Warning};
use xenstore::stream::oxenstored::{self, LeftOut};
use xenstore::stream::reader::Reader;
use xenstore::stream::record::Version;
use xenstore::stream::writer::{WriteError, Writer};
use xenstore::wire::feature::Features;

use crate::Found;
use crate::arguments::Command;
use crate::file::{self, Progress};
use crate::{describe, json};

/// Runs a command.
pub(crate) fn run(command: &Command) -> Result<Found, String> {
    match command {
        Command::Help(_) => Ok(Found::Fine),
        Command::Check(path) => check(path),
        Command::Dump { file, json } => dump(file, *json),
        Command::Diff(one, other) => diff(one, other),
        Command::Convert { file, to, force, out } => convert(file, *to, *force, out),
        Command::Import { file, out } => import(file, out),
        Command::Stat(path) => stat(path),
    }
}

/// Reads a stream and calls `visit` with each item and the bytes of its record. Returns the version and the number of
/// skipped records.
fn each(path: &Path, bytes: &[u8], visit: impl FnMut(&Item<'_>, usize)) -> Result<(Version, u32), String> {
    each_with_warnings(path, bytes, visit, |_, _| ())
}

/// Does the work of [`each`], and calls `warn` with each warning and the place of its record.
fn each_with_warnings(
    path: &Path,
    bytes: &[u8],
    mut visit: impl FnMut(&Item<'_>, usize),
    mut warn: impl FnMut(&str, Warning),
) -> Result<(Version, u32), String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut reader = Reader::new(bytes).map_err(|error| named(&error))?;
    let mut references = References::default();
    let mut progress = Progress::new(bytes.len());
    let mut before = reader.offset();
    while let Some(item) = reader.next_item().map_err(|error| named(&error))? {
        if let Some(warning) = references.warning(&item) {
            warn(&reader.place(), warning);
        }
        references.take(&item).map_err(|reason| named(&reader.error(reason)))?;
        visit(&item, reader.offset().saturating_sub(before));
        before = reader.offset();
        progress.at(before);
    }
    Ok((reader.version(), reader.skipped()))
}

fn check(path: &Path) -> Result<Found, String> {
    let bytes = file::read(path)?;
    let (mut items, mut names, mut warnings) = (0_usize, Names::default(), Vec::new());
    let (version, skipped) = each_with_warnings(
        path,
        &bytes,
        |item, _| {
            names.learn(item);
            items += 1;
        },
        |place, warning| warnings.push((place.to_owned(), warning)),
    )?;
    for (place, warning) in &warnings {
        println!("warning: {place}: {}", warning.text(&|at| names.get(at)));
    }
    let verdict = match warnings.len() {
        0 => "no warnings".into(),
        count => format!("{count} warnings"),
    };
    println!("{}: version {}, {items} records, {} bytes: {verdict}", path.display(), version as u32, bytes.len());
    if skipped > 0 {
        println!("{skipped} records of unknown types skipped");
    }
    Ok(Found::Fine)
}

/// Readable names of connection numbers.
#[derive(Default)]
struct Names(BTreeMap<u32, String>);

impl Names {
    fn learn(&mut self, item: &Item<'_>) {
        if let Item::Connection(connection) = item {
            let name = match connection.peer {
                StreamPeer::Ring { domid, .. } => format!("domain {domid}"),
                StreamPeer::Socket { .. } => format!("client {}", connection.number.0),
            };
            self.0.insert(connection.number.0, name);
        }
    }

    fn get(&self, number: u32) -> String {
        self.0.get(&number).cloned().unwrap_or_else(|| format!("connection {number}"))
    }
}

fn dump(path: &Path, as_json: bool) -> Result<Found, String> {
    let bytes = file::read(path)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut names = Names::default();
    let mut outcome = Ok(());
    each(path, &bytes, |item, _| {
        names.learn(item);
        let line = if as_json { json::object(item).to_string() } else { describe::line(item, &|at| names.get(at)) };
        if outcome.is_ok() {
            outcome = writeln!(out, "{line}");
        }
    })?;
    match outcome.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(Found::Fine),
    }
}

/// Returns the lines of a stream that matter for a comparison, with the number of times that each occurs.
fn lines(path: &Path) -> Result<BTreeMap<String, usize>, String> {
    let bytes = file::read(path)?;
    let (mut lines, mut names) = (BTreeMap::new(), Names::default());
    each(path, &bytes, |item, _| {
        names.learn(item);
        if !matches!(item, Item::Global(_)) {
            *lines.entry(describe::line(item, &|at| names.get(at))).or_default() += 1;
        }
    })?;
    Ok(lines)
}

fn diff(one: &Path, other: &Path) -> Result<Found, String> {
    let (one, other) = (lines(one)?, lines(other)?);
    let all: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let mut found = Found::Fine;
    for line in all {
        let (here, there) = (one.get(line).copied().unwrap_or(0), other.get(line).copied().unwrap_or(0));
        let mark = if here > there { '-' } else { '+' };
        for _ in 0..here.abs_diff(there) {
            println!("{mark} {line}");
            found = Found::Wrong;
        }
    }
    Ok(found)
}

/// Returns the part of an item that version 1 cannot express.
fn loss(item: &Item<'_>, names: &Names) -> Option<String> {
    match item {
        Item::Domain(domain) => {
            let features = domain.features.filter(|bits| *bits != Features::all().bits())?;
            Some(format!("domain {}: features {features:#x}", domain.domid))
        }
        Item::Watch(watch) => {
            let depth = watch.depth?;
            Some(format!("{}: watch of {} with depth {depth}", names.get(watch.connection.0), watch.path))
        }
        Item::Transaction(transaction) => {
            Some(format!("{}: transaction {}", names.get(transaction.connection.0), transaction.id))
        }
        _ => None,
    }
}

/// Returns the text of a failure to write the stream made of `path`.
fn not_written(path: &Path, error: WriteError) -> String {
    let path = path.display();
    match error {
        WriteError::Full => format!("{path}: not enough memory to write the stream"),
        WriteError::TooLong(what) => format!("{path}: the {what} is too long for its field"),
    }
}

fn convert(path: &Path, to: Version, force: bool, out: &Path) -> Result<Found, String> {
    let bytes = file::read(path)?;
    let (mut written, mut names, mut losses) = (Vec::new(), Names::default(), Vec::new());
    let failed = |error| not_written(path, error);
    let mut writer = Writer::new(&mut written, to).map_err(failed)?;
    let mut outcome = Ok(());
    each(path, &bytes, |item, _| {
        names.learn(item);
        if to == Version::One {
            losses.extend(loss(item, &names));
        }
        if outcome.is_ok() {
            outcome = writer.item(item);
        }
    })?;
    outcome.and_then(|()| writer.end()).map_err(failed)?;
    for loss in &losses {
        println!("lost: {loss}");
    }
    if !losses.is_empty() && !force {
        return Err(format!(
            "version 1 would lose {} records or fields: nothing written (--force writes the rest)",
            losses.len()
        ));
    }
    file::write(out, &written)?;
    println!("{}: version {}, {} bytes", out.display(), to as u32, written.len());
    Ok(Found::Fine)
}

fn import(path: &Path, out: &Path) -> Result<Found, String> {
    let dump = file::read(path)?;
    let mut written = Vec::new();
    let failed = |error| not_written(path, error);
    let mut writer = Writer::new(&mut written, Version::One).map_err(failed)?;
    let mut outcome = Ok(());
    // An item that a restore would refuse is skipped too.
    let mut restorer = Restorer::new(&Config::default(), 0);
    let left_out = oxenstored::import(
        &dump,
        &mut |item| {
            restorer.push(item).map_err(|reason| reason.to_string())?;
            if outcome.is_ok() {
                outcome = writer.item(item);
            }
            Ok(())
        },
        &mut |line| println!("warning: {}: {line}", path.display()),
    );
    let left_out = left_out.map_err(|error| format!("{}: {error}", path.display()))?;
    outcome.and_then(|()| writer.end()).map_err(failed)?;
    each(path, &written, |_, _| ())?;
    file::write(out, &written)?;
    let LeftOut { unknown, skipped } = left_out;
    let bytes = written.len();
    println!("{}: version 1, {bytes} bytes; {unknown} unknown lines, {skipped} invalid lines skipped", out.display());
    Ok(Found::Fine)
}

fn stat(path: &Path) -> Result<Found, String> {
    let bytes = file::read(path)?;
    let mut kinds = BTreeMap::<&str, (usize, usize)>::new();
    let mut owners = BTreeMap::<DomId, (usize, usize)>::new();
    let (version, skipped) = each(path, &bytes, |item, bytes| {
        let (count, sum) = kinds.entry(describe::kind(item)).or_default();
        (*count, *sum) = (*count + 1, *sum + bytes);
        if let Item::Node(node) = item
            && let (None, Some(owner)) = (node.pending, node.entries().first())
        {
            let (count, sum) = owners.entry(owner.domid).or_default();
            (*count, *sum) = (*count + 1, *sum + bytes);
        }
    })?;
    println!("version {}, {} bytes, {skipped} records skipped", version as u32, bytes.len());
    for (kind, (count, sum)) in kinds {
        println!("{kind:20} {count:8} {sum:10} bytes");
    }
    for (owner, (count, sum)) in owners {
        println!("nodes of domain {owner:<5} {count:7} {sum:10} bytes");
    }
    Ok(Found::Fine)
}
