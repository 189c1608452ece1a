//! The program xs-stream, on streams of real servers and on wrong ones.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use xenstore::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, Item, StreamPeer, TransactionItem, WatchItem,
};
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::stream::writer::Writer;

const OF_C: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams/c-xenstored-4.17.xs");
const OF_OCAML: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams/oxenstored-4.17.dump");

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xs-stream"));
    command.args(arguments).stdin(Stdio::null()).output().expect("xs-stream runs")
}

/// Returns the output, after the program ended with `status`.
fn printed(status: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {out}{error}");
    format!("{out}{error}")
}

/// Returns the path of a file of this test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("xs-stream");
    fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn watch(path: &'static str, depth: Option<u16>) -> WatchItem<'static> {
    let (connection, token) = (ConnectionNumber(1), b"t"[..].into());
    WatchItem { connection, path: path.into(), token, depth, has_lost_depth: false }
}

/// Returns a stream with everything that version 1 cannot hold.
fn version_2_only() -> PathBuf {
    let number = ConnectionNumber(1);
    let peer = StreamPeer::Ring { domid: DomId(7), target: None, port: 4 };
    let (input, output) = (Vec::new().into(), Vec::new().into());
    let items = [
        Item::Connection(ConnectionItem { number, peer, input, output, partial_bytes: 0, unique_id: Some(9) }),
        Item::Domain(DomainItem { domid: DomId(7), features: Some(2), quotas: vec![("colours".into(), 3)] }),
        Item::Watch(watch("a", Some(1))),
        Item::Transaction(TransactionItem { connection: number, id: 5 }),
    ];
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Version::Two).unwrap();
    items.iter().for_each(|item| writer.item(item).unwrap());
    writer.end().unwrap();
    let path = scratch("two.xs");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_good_stream_is_checked_counted_and_shown() {
    assert!(printed(0, &["check", OF_C]).contains("version 1, "));
    let stat = printed(0, &["stat", OF_C]);
    assert!(stat.contains("NODE_DATA") && stat.contains("nodes of domain 0"), "{stat}");
    let dump = printed(0, &["dump", OF_C]);
    assert!(dump.contains("NODE_DATA /local = \"\" (n0)\n"), "{dump}");
    let nodes = dump.lines().filter(|line| line.starts_with("NODE_DATA")).count();
    let json = printed(0, &["dump", "--json", OF_C]);
    let objects: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.iter().filter(|object| object["record"] == "NODE_DATA").count(), nodes);
    assert_eq!(objects.len(), dump.lines().count());
}

#[test]
fn a_wrong_stream_is_refused_with_the_place() {
    let path = scratch("cut.xs");
    let mut bytes = fs::read(OF_C).unwrap();
    bytes.truncate(1000);
    fs::write(&path, &bytes).unwrap();
    for command in ["check", "dump", "stat"] {
        let out = printed(1, &[command, text(&path)]);
        assert!(out.contains("at offset") && out.contains("ends before its END"), "{out}");
    }
    assert!(printed(1, &["check", OF_OCAML]).contains("not a migration stream"));
    assert!(printed(1, &["check", "/nonexistent"]).contains("/nonexistent"));
}

#[test]
fn losses_of_version_1_are_listed_and_written_only_by_force() {
    let (from, to) = (version_2_only(), scratch("one.xs"));
    let _ = fs::remove_file(&to);
    let out = printed(1, &["convert", "--to", "1", "-o", text(&to), text(&from)]);
    for loss in ["domain 7: features 0x2", "domain 7: watch of a with depth 1", "domain 7: transaction 5"] {
        assert!(out.contains(&format!("lost: {loss}\n")), "{loss} in {out}");
    }
    assert!(!to.exists());
    printed(0, &["convert", "--to", "1", "--force", "-o", text(&to), text(&from)]);
    assert!(printed(0, &["check", text(&to)]).contains("version 1"));
    let back = scratch("back.xs");
    printed(0, &["convert", "--to", "2", "-o", text(&back), text(&to)]);
    let difference = printed(1, &["diff", text(&from), text(&back)]);
    assert_eq!(difference.lines().count(), 5, "features, depth and transaction, and nothing else: {difference}");
    assert!(difference.contains("colours=3"));
}

#[test]
fn check_shows_what_a_restore_loses_of_another_servers_stream() {
    let path = scratch("lost-depth.xs");
    let peer = StreamPeer::Ring { domid: DomId(7), target: None, port: 4 };
    let (number, input, output) = (ConnectionNumber(1), Vec::new().into(), Vec::new().into());
    let items = [
        Item::Connection(ConnectionItem { number, peer, input, output, partial_bytes: 0, unique_id: None }),
        Item::Watch(watch("data", None)),
        Item::Domain(DomainItem { domid: DomId(9), features: Some(15), quotas: vec![] }),
    ];
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Version::Two).unwrap();
    items.iter().for_each(|item| writer.item(item).unwrap());
    writer.end().unwrap();
    // The C server's record of a watch with a depth is that of one without, except for the type and perhaps the length.
    let at = bytes.windows(5).position(|bytes| bytes == b"data\0").unwrap() - 16;
    assert_eq!(bytes[at..at + 8], [3, 0, 0, 0, 16, 0, 0, 0]);
    (bytes[at], bytes[at + 4]) = (8, 24);
    fs::write(&path, bytes).unwrap();
    let out = printed(0, &["check", text(&path)]);
    let lost = "record 2 at offset 48: domain 7: watch of data: the record lacks its depth";
    assert!(out.contains(&format!("warning: {lost}")), "{out}");
    assert!(out.contains("domain 9 has neither a connection nor a node before this record"), "{out}");
    assert!(out.contains("3 records") && out.contains(": 2 warnings\n"), "{out}");
    assert!(printed(0, &["dump", text(&path)]).contains("WATCH_DATA_EXTENDED domain 7 data token \"t\" depth lost"));
    assert!(printed(0, &["check", OF_C]).contains(": no warnings\n"));
}

#[test]
fn a_stream_converts_to_version_2_and_back_without_a_difference() {
    let (two, one) = (scratch("c-two.xs"), scratch("c-one.xs"));
    printed(0, &["convert", "--to", "2", "-o", text(&two), OF_C]);
    printed(0, &["convert", "--to", "1", "-o", text(&one), text(&two)]);
    assert_eq!(printed(0, &["diff", OF_C, text(&one)]), "");
    assert!(fs::read(OF_C).unwrap() == fs::read(&one).unwrap(), "the same bytes");
}

#[test]
fn a_dump_of_oxenstored_is_imported() {
    let to = scratch("imported.xs");
    assert!(printed(0, &["import", OF_OCAML, "-o", text(&to)]).contains("0 unknown lines"));
    let dump = printed(0, &["dump", text(&to)]);
    assert!(dump.contains("WATCH_DATA domain 1 data/b token"), "{dump}");
    let unchanged = fs::read(&to).unwrap();
    assert!(printed(1, &["import", OF_C, "-o", text(&to)]).contains("line 1: not a dump"));
    assert!(fs::read(&to).unwrap() == unchanged, "a failed import leaves the file alone");
}

#[test]
fn a_broken_line_of_a_dump_is_skipped_with_a_warning_and_the_rest_imported() {
    let (from, to) = (scratch("broken.dump"), scratch("from-broken.xs"));
    let dump = fs::read_to_string(OF_OCAML).unwrap();
    let lines: Vec<&str> = dump.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("dom,")).unwrap();
    let broken = lines[at].replacen("dom,", "dom,x", 1);
    let domid = lines[at].split(',').nth(1).unwrap();
    let watches = lines.iter().filter(|line| line.starts_with(&format!("watch,{domid},"))).count();
    fs::write(&from, dump.replacen(lines[at], &broken, 1)).unwrap();
    let out = printed(0, &["import", text(&from), "-o", text(&to)]);
    let warning = format!("warning: {}: line {} is skipped: a number is invalid: {broken}\n", text(&from), at + 1);
    assert!(out.contains(&warning), "{out}");
    assert!(out.contains(&format!("0 unknown lines, {} invalid lines skipped", 1 + watches)), "{out}");
    let (nodes, connections) = (|of: &str| of.matches("\nNODE_DATA ").count(), "CONNECTION_DATA domain");
    let imported = printed(0, &["dump", text(&to)]);
    assert_eq!(nodes(&imported), dump.matches("\nstore,").count());
    assert_eq!(imported.matches(connections).count() + 1, dump.matches("\ndom,").count());

    fs::write(&from, "$xenstored-dump-format\ndom,x,1,1,1\n").unwrap();
    assert!(printed(1, &["import", text(&from), "-o", text(&to)]).contains("no line of this dump can be read"));
}

#[test]
fn wrong_usage_ends_with_a_message_and_status_2() {
    for (arguments, says) in [
        (&[][..], "a command is missing"),
        (&["chek", OF_C], "unknown command \"chek\""),
        (&["check"], "check takes 1 file"),
        (&["diff", OF_C], "diff takes 2 files"),
        (&["check", "--json", OF_C], "unknown option \"--json\" of check"),
        (&["convert", "-o", "x", OF_C], "convert needs --to"),
        (&["convert", "--to", "3", "-o", "x", OF_C], "--to takes 1 or 2"),
        (&["convert", "--to", "1", OF_C], "convert needs -o"),
        (&["import", OF_OCAML, "-o"], "-o needs a value"),
    ] {
        let out = printed(2, arguments);
        assert!(out.contains(says) && out.contains("--help"), "{arguments:?}: {out}");
    }
    assert!(printed(0, &["--help"]).contains("convert --to 1|2"));
    for command in ["check", "dump", "diff", "convert", "import", "stat"] {
        assert!(printed(0, &[command, "--help"]).contains(&format!("xs-stream {command}")));
    }
}
