//! The boot options: the C server's by their names, long and short, and four additional ones:
//!
//! - `--log-level`: the lines that are logged
//! - `--stream-version`: the newest stream version that a live update may write
//! - `--crash-node`: the node that reports a crash
//! - `--no-replay`: refuse a conflicting commit at once, as the C server does
//!
//! The store must start with any command line. Parsing therefore never fails: each unknown or invalid option is ignored
//! with a warning.
//!
//! Source: the option table of `xenstored --help`, Xen 4.14 to 4.22.

use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

use log::LevelFilter;

use crate::engine::config::Config;
use crate::engine::connection::output::HashKey;
use crate::engine::report::trace::Trace;
use crate::limits;
use crate::store::domain::DomId;
use crate::store::path::{Path, PathScratch};
use crate::store::quota::{Quota, Quotas};

/// The values of the boot options.
#[derive(Clone, Debug)]
pub struct Options {
    /// The boot domain's port of its ring (`--event`).
    pub event: Option<u32>,
    /// The control domain (`--priv-domid`).
    pub priv_domid: Option<DomId>,
    /// The domain whose ring exists at boot (`--master-domid`), if it is not the control domain.
    pub master_domid: Option<DomId>,
    /// The quotas, defaults included.
    pub quotas: Quotas,
    /// Milliseconds until an unread event is dropped (`--timeout watch-event=<seconds>`).
    pub event_timeout_ms: u64,
    /// Whether dead domains' nodes pass to the control domain (`--keep-orphans`).
    pub keep_orphans: bool,
    /// Whether a conflicting transaction is replayed before its commit is refused (off with `--no-replay`).
    pub replay: bool,
    /// The newest version of the stream that a live update may write; `None` for the oldest one that loses nothing.
    pub stream_version: Option<u32>,
    /// The node that reports a crash after a warm restart (`--crash-node`).
    pub crash_node: String,
    /// The additional log switches (`--trace-control`).
    pub trace: Trace,
    /// The lines that are logged (`--log-level`).
    pub log_level: LevelFilter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            event: None,
            priv_domid: None,
            master_domid: None,
            quotas: Quotas::default(),
            event_timeout_ms: limits::EVENT_TIMEOUT_MS,
            keep_orphans: false,
            replay: true,
            stream_version: None,
            crash_node: String::from(CRASH_NODE),
            trace: Trace::default(),
            log_level: LevelFilter::Info,
        }
    }
}

/// The node that reports a crash, unless `--crash-node` names another.
const CRASH_NODE: &str = "/tool/xenstored/crash";

/// A message about an invalid option, and how it was treated.
pub type Warning = String;

/// The form of an option's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Needed,
    /// Only in the same word as the option.
    Attached,
}

/// An option: long name, short letter, form of the value, and the function that applies it.
struct Known {
    long: &'static str,
    short: Option<char>,
    value: Value,
    set: fn(&mut Options, &str) -> Result<(), &'static str>,
}

const fn known(
    long: &'static str,
    short: Option<char>,
    value: Value,
    set: fn(&mut Options, &str) -> Result<(), &'static str>,
) -> Known {
    Known { long, short, value, set }
}

/// The warning about an option of the C daemon that has no meaning here.
const MEANINGLESS: &str = "has no meaning here";

const KNOWN: &[Known] = &[
    known("event", Some('e'), Value::Needed, |o, v| number(v).map(|port| o.event = Some(port))),
    known("priv-domid", Some('p'), Value::Needed, |o, v| domid(v).map(|domid| o.priv_domid = Some(domid))),
    known("master-domid", Some('m'), Value::Needed, |o, v| domid(v).map(|domid| o.master_domid = Some(domid))),
    known("quota", Some('Q'), Value::Needed, |o, v| set_named_quota(o, v, false)),
    known("quota-soft", Some('q'), Value::Needed, |o, v| set_named_quota(o, v, true)),
    known("timeout", Some('w'), Value::Needed, set_timeout),
    known("entry-nb", Some('E'), Value::Needed, |o, v| set_quota(o, Quota::Nodes, v)),
    known("entry-size", Some('S'), Value::Needed, |o, v| set_quota(o, Quota::NodeSize, v)),
    known("watch-nb", Some('W'), Value::Needed, |o, v| set_quota(o, Quota::Watches, v)),
    known("transaction", Some('t'), Value::Needed, |o, v| set_quota(o, Quota::Transactions, v)),
    known("perm-nb", Some('A'), Value::Needed, |o, v| set_quota(o, Quota::NodePermissions, v)),
    known("path-max", Some('M'), Value::Needed, |o, v| set_quota(o, Quota::PathMax, v)),
    known("keep-orphans", Some('K'), Value::None, |o, _| {
        o.keep_orphans = true;
        Ok(())
    }),
    known("no-replay", None, Value::None, |o, _| {
        o.replay = false;
        Ok(())
    }),
    known("stream-version", None, Value::Needed, set_stream_version),
    known("crash-node", None, Value::Needed, set_crash_node),
    known("log-level", None, Value::Needed, set_log_level),
    known("verbose", Some('V'), Value::None, |o, _| {
        o.log_level = LevelFilter::Debug;
        Ok(())
    }),
    known("trace-control", None, Value::Needed, set_trace),
    known("trace-file", Some('T'), Value::Needed, |_, _| Err(MEANINGLESS)),
    known("pid-file", Some('F'), Value::Needed, |_, _| Err(MEANINGLESS)),
    known("no-fork", Some('N'), Value::None, |_, _| Ok(())),
    known("output-pid", Some('P'), Value::None, |_, _| Err(MEANINGLESS)),
    known("no-domain-init", Some('D'), Value::None, |_, _| Err(MEANINGLESS)),
    known("no-recovery", Some('R'), Value::None, |_, _| Err(MEANINGLESS)),
    known("internal-db", Some('I'), Value::Attached, |_, _| Ok(())),
    // The mark that a predecessor leaves. The kernel detects a predecessor by other means.
    known("live-update", Some('U'), Value::None, |_, _| Ok(())),
];

impl Options {
    /// Reads the words of a command line. Returns a warning for each word that is ignored.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> (Self, Vec<Warning>) {
        let mut options = Self::default();
        let mut warnings = Vec::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let Some((option, attached)) = find(word) else {
                warnings.push(alloc::format!("option \"{word}\" is unknown and ignored"));
                continue;
            };
            let value = match (option.value, attached) {
                (Value::Needed, None) => words.next_if(|next| !next.starts_with("--")),
                (_, attached) => attached,
            };
            let outcome = match (option.value, value) {
                (Value::Needed, None) => Err("lacks its value"),
                (Value::None, Some(_)) => Err("takes no value"),
                (_, value) => (option.set)(&mut options, value.unwrap_or("")),
            };
            if let Err(why) = outcome {
                let value = value.map(|value| alloc::format!(" \"{value}\"")).unwrap_or_default();
                warnings.push(alloc::format!("option --{}{value} {why}: ignored", option.long));
            }
        }
        (options, warnings)
    }

    /// Returns the control domain.
    #[must_use]
    pub fn privileged(&self) -> DomId {
        self.priv_domid.unwrap_or(DomId::DOM0)
    }

    /// Returns the domain whose ring exists at boot.
    #[must_use]
    pub fn boot_domain(&self) -> DomId {
        self.master_domid.or(self.priv_domid).unwrap_or(DomId::DOM0)
    }

    /// Returns the engine's part of the options, with the host's random key for hashes.
    #[must_use]
    pub fn config(&self, hash_key: HashKey) -> Config {
        Config {
            privileged: self.privileged(),
            quotas: self.quotas.clone(),
            event_timeout_ms: self.event_timeout_ms,
            keep_orphans: self.keep_orphans,
            replay: self.replay,
            trace: self.trace,
            stream_version: self.stream_version,
            hash_key,
        }
    }
}

/// Finds the option of a word, and the value in the same word, if any.
fn find(word: &str) -> Option<(&'static Known, Option<&str>)> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        return KNOWN.iter().find(|known| known.long == name).map(|known| (known, value));
    }
    let mut rest = word.strip_prefix('-')?.chars();
    let letter = rest.next()?;
    let value = Some(rest.as_str()).filter(|value| !value.is_empty());
    KNOWN.iter().find(|known| known.short == Some(letter)).map(|known| (known, value))
}

fn number<T: FromStr>(value: &str) -> Result<T, &'static str> {
    if value.starts_with('+') {
        return Err("is not a number in range");
    }
    value.parse().map_err(|_| "is not a number in range")
}

fn domid(value: &str) -> Result<DomId, &'static str> {
    let domid = DomId(number(value)?);
    if domid < DomId::FIRST_RESERVED { Ok(domid) } else { Err("is not the number of a domain") }
}

fn set_quota(options: &mut Options, quota: Quota, value: &str) -> Result<(), &'static str> {
    let value: u32 = number(value)?;
    options.quotas.set(quota, value);
    Ok(())
}

fn set_named_quota(options: &mut Options, text: &str, soft: bool) -> Result<(), &'static str> {
    let (name, value) = text.split_once('=').ok_or("is not of the form name=number")?;
    set_quota(options, Quota::from_name(name, soft).ok_or("is not a known quota")?, value)
}

fn set_timeout(options: &mut Options, text: &str) -> Result<(), &'static str> {
    let (name, value) = text.split_once('=').ok_or("is not of the form name=seconds")?;
    if name != "watch-event" {
        return Err("is not a known time-out");
    }
    options.event_timeout_ms = u64::from(number::<u32>(value)?).saturating_mul(1000);
    Ok(())
}

fn set_stream_version(options: &mut Options, version: &str) -> Result<(), &'static str> {
    options.stream_version = match version {
        "auto" => None,
        "1" => Some(1),
        "2" => Some(2),
        _ => return Err("is not 1, 2 or auto"),
    };
    Ok(())
}

fn set_crash_node(options: &mut Options, path: &str) -> Result<(), &'static str> {
    let mut scratch = PathScratch::new();
    match Path::parse(path.as_bytes(), DomId::DOM0, limits::PATH_BYTES, &mut scratch) {
        Ok(_) if path.starts_with('/') => {
            options.crash_node = String::from(path);
            Ok(())
        }
        _ => Err("is not an absolute path"),
    }
}

fn set_log_level(options: &mut Options, level: &str) -> Result<(), &'static str> {
    options.log_level = level.parse().map_err(|_| "is not off, error, warn, info, debug or trace")?;
    Ok(())
}

/// Applies `--trace-control=+io` and similar: the C server's switches, as CONTROL `log` sets them.
fn set_trace(options: &mut Options, switch: &str) -> Result<(), &'static str> {
    let is_switch = switch.starts_with(['+', '-']);
    options.trace = options.trace.after(switch).filter(|_| is_switch).ok_or("is not a known switch")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Options, Vec<Warning>) {
        Options::parse(line.split_ascii_whitespace())
    }

    #[test]
    fn every_option_is_read_in_each_of_its_forms() {
        for line in [
            "--event 5 --entry-nb 7 --quota watches=9 --timeout watch-event=3",
            "--event=5 --entry-nb=7 --quota=watches=9 --timeout=watch-event=3",
            "-e 5 -E 7 -Q watches=9 -w watch-event=3",
            "-e5 -E7 -Qwatches=9 -wwatch-event=3",
        ] {
            let (options, warnings) = parse(line);
            assert!(warnings.is_empty(), "{line}: {warnings:?}");
            assert_eq!(options.event, Some(5), "{line}");
            assert_eq!(options.quotas.get(Quota::Nodes), 7, "{line}");
            assert_eq!(options.quotas.get(Quota::Watches), 9, "{line}");
            assert_eq!(options.event_timeout_ms, 3000, "{line}");
        }
    }

    #[test]
    fn each_of_the_c_servers_limits_has_its_option() {
        let (options, warnings) =
            parse("-S 1 -W 2 -t 3 -A 4 -M 5 -E 6 -q memory=7 -Q memory=8 -Q transaction-nodes=9 -K");
        assert!(warnings.is_empty(), "{warnings:?}");
        let quotas = [
            (Quota::NodeSize, 1),
            (Quota::Watches, 2),
            (Quota::Transactions, 3),
            (Quota::NodePermissions, 4),
            (Quota::PathMax, 5),
            (Quota::Nodes, 6),
            (Quota::MemorySoft, 7),
            (Quota::MemoryHard, 8),
            (Quota::TransactionNodes, 9),
            (Quota::Outstanding, 20),
        ];
        for (quota, value) in quotas {
            assert_eq!(options.quotas.get(quota), value, "{quota:?}");
        }
        assert!(options.keep_orphans && options.config(HashKey::default()).keep_orphans);
    }

    #[test]
    fn the_time_out_of_events_is_20_seconds_and_0_is_for_never() {
        for (line, timeout_ms) in [("", 20_000), ("-w watch-event=0", 0), ("--timeout=watch-event=7", 7000)] {
            let (options, warnings) = parse(line);
            assert!(warnings.is_empty());
            assert_eq!(options.config(HashKey::default()).event_timeout_ms, timeout_ms, "{line}");
        }
    }

    #[test]
    fn conflicts_are_replayed_unless_an_option_says_otherwise() {
        assert!(parse("").0.config(HashKey::default()).replay);
        let (options, warnings) = parse("--no-replay");
        assert!(warnings.is_empty() && !options.config(HashKey::default()).replay);
        assert!(!parse("--no-replay=1").1.is_empty());
    }

    #[test]
    fn the_stream_has_the_version_that_is_needed_unless_an_option_limits_it() {
        for (line, limit) in [("", None), ("--stream-version=1", Some(1)), ("--stream-version auto", None)] {
            let (options, warnings) = parse(line);
            assert!(warnings.is_empty());
            assert_eq!(options.stream_version, limit, "{line}");
        }
        assert!(!parse("--stream-version=3").1.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_a_warning_and_changes_nothing() {
        for line in [
            "--nonsense",
            "word",
            "-z",
            "-",
            "--event=x",
            "--event",
            "--event --keep-orphan",
            "--event=4294967296",
            "--event=-1",
            "--event=+1",
            "--priv-domid=32752",
            "--quota=nodes",
            "--quota=nodes=x",
            "--quota=unheard=1",
            "--quota-soft=nodes=1",
            "--timeout=other=1",
            "--keep-orphans=1",
            "--log-level=loud",
            "--trace-control=io",
            "--trace-file=/tmp/x",
        ] {
            let (options, warnings) = parse(line);
            assert!(!warnings.is_empty(), "{line}");
            assert_eq!((options.event, options.priv_domid, options.keep_orphans), (None, None, false), "{line}");
            assert_eq!(options.quotas, Quotas::default(), "{line}");
        }
    }

    #[test]
    fn an_option_after_a_wrong_one_still_counts() {
        let (options, warnings) = parse("--nonsense --event=x --event 9 --log-level debug");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert_eq!((options.event, options.log_level), (Some(9), LevelFilter::Debug));
    }

    #[test]
    fn the_control_domain_is_dom0_unless_an_option_says_otherwise() {
        assert_eq!((parse("").0.privileged(), parse("").0.boot_domain()), (DomId(0), DomId(0)));
        let options = parse("--priv-domid 3").0;
        assert_eq!((options.privileged(), options.boot_domain()), (DomId(3), DomId(3)));
        assert_eq!(parse("--master-domid 4").0.boot_domain(), DomId(4));
    }
}
