//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use xenstore::stream::record::Version;

pub(crate) const HELP: &str = "\
Usage: xs-stream COMMAND [OPTION...] FILE...

Checks, shows, compares and converts migration streams of Xenstore servers (docs/designs/xenstore-migration.md of the
Xen tree).

  check FILE                   checks that the stream is complete and consistent
  dump [--json] FILE           prints every record, as text or as JSON
  diff FILE FILE               prints the records that only one of two streams has
  convert --to 1|2 -o OUT FILE writes the stream in another version; --force even if records are lost
  import DUMP -o OUT           makes a version 1 stream of a dump of oxenstored
  stat FILE                    counts records, bytes and nodes

FILE may be - for standard input. Exit status: 0 success; 1 the stream is invalid, two streams differ, or records would
be lost; 2 the command line is wrong. `xs-stream COMMAND --help` describes a command.
";

const CHECK: &str = "\
Usage: xs-stream check FILE

Reads the whole stream. Every length must fit its record, every reference must name an earlier record, and an END record
must exist. Prints a warning for each watch whose depth the C server left out, and for each record at which the C
server's restore would end. Warnings do not change the exit status.
";
const DUMP: &str = "\
Usage: xs-stream dump [--json] FILE

Prints every record, with escapes in values. With --json, each record is one object. Values that are not UTF-8 are then
in hexadecimal, under the name with `_hex`.
";
const DIFF: &str = "\
Usage: xs-stream diff FILE FILE

Prints each record that only the first stream has with a -, and each that only the second has with a +. Ignores the
order of records, connection numbers, and descriptors of daemons. Exit status 1 if there is a difference.
";
const CONVERT: &str = "\
Usage: xs-stream convert --to 1|2 [--force] -o OUT FILE

Writes the stream in another version. Version 1 has no ring features, depth of watches, or open transactions: the
command lists them, and writes the stream without them only with --force.
";
const IMPORT: &str = "\
Usage: xs-stream import DUMP -o OUT

Makes a version 1 stream of the text dump that oxenstored hands to its successor. Skips each invalid line, and each line
that contradicts earlier ones, with a warning. Refuses a dump without any valid line.
";
const STAT: &str = "\
Usage: xs-stream stat FILE

Counts records and bytes by type, and nodes by owner.
";

/// A command with its options and files.
#[derive(Debug)]
pub(crate) enum Command {
    Help(&'static str),
    Check(PathBuf),
    Dump { file: PathBuf, json: bool },
    Diff(PathBuf, PathBuf),
    Convert { file: PathBuf, to: Version, force: bool, out: PathBuf },
    Import { file: PathBuf, out: PathBuf },
    Stat(PathBuf),
}

/// Options and files after the command's name.
#[derive(Default)]
struct Rest {
    files: Vec<PathBuf>,
    json: bool,
    force: bool,
    help: bool,
    to: Option<Version>,
    out: Option<PathBuf>,
}

/// Parses the words of the command line.
pub(crate) fn parse(words: &[OsString]) -> Result<Command, String> {
    let Some((name, words)) = words.split_first() else { return Err("a command is missing".into()) };
    let name = name.to_string_lossy();
    let (help, options, files) = match &*name {
        "--help" | "-h" | "help" => return Ok(Command::Help(HELP)),
        "check" => (CHECK, &[][..], 1),
        "dump" => (DUMP, &["--json"][..], 1),
        "diff" => (DIFF, &[][..], 2),
        "convert" => (CONVERT, &["--to", "--force", "-o"][..], 1),
        "import" => (IMPORT, &["-o"][..], 1),
        "stat" => (STAT, &[][..], 1),
        _ => return Err(format!("unknown command {name:?}")),
    };
    let rest = rest(&name, words, options)?;
    if rest.help {
        return Ok(Command::Help(help));
    }
    if rest.files.len() != files {
        return Err(format!("{name} takes {files} file{}", if files == 1 { "" } else { "s" }));
    }
    let Rest { files, json, force, to, out, .. } = rest;
    let mut files = files.into_iter();
    let mut file = || files.next().unwrap_or_default();
    let out = out.ok_or_else(|| format!("{name} needs -o OUT"));
    Ok(match &*name {
        "check" => Command::Check(file()),
        "dump" => Command::Dump { file: file(), json },
        "diff" => Command::Diff(file(), file()),
        "convert" => {
            Command::Convert { file: file(), to: to.ok_or("convert needs --to 1 or --to 2")?, force, out: out? }
        }
        "import" => Command::Import { file: file(), out: out? },
        _ => Command::Stat(file()),
    })
}

fn rest(name: &str, words: &[OsString], allowed: &[&str]) -> Result<Rest, String> {
    let mut rest = Rest::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--help" || text == "-h" {
            rest.help = true;
        } else if text == "-" || !text.starts_with('-') {
            rest.files.push(word.into());
        } else if !allowed.contains(&&*text) {
            return Err(format!("unknown option {text:?} of {name}"));
        } else if text == "--json" {
            rest.json = true;
        } else if text == "--force" {
            rest.force = true;
        } else {
            let value = words.next().ok_or_else(|| format!("{text} needs a value"))?;
            if text == "-o" {
                rest.out = Some(value.into());
            } else {
                let version = value.to_str().and_then(|text| text.parse().ok()).and_then(Version::from_number);
                rest.to = Some(version.ok_or("--to takes 1 or 2")?);
            }
        }
    }
    Ok(rest)
}
