//! Reads the text dump that oxenstored hands to its successor, as items.
//!
//! A line is a word and fields separated by commas: `global,<fd>`, `evtchn-dev,<fd>,<port>`, `socket,<fd>`,
//! `dom,<domid>,<frame>,<remote port>[,<local port>]`, `watch,<domid or -fd>,<path>,<token>`,
//! `store,<path>,<permissions>,<value>`. Texts are hexadecimal. (oxenstored 4.14 to 4.20, `module DB` of its
//! `xenstored.ml`; no document describes it.)
//!
//! If a line cannot be read, the import skips it and the lines that depend on it. These are the watches of a
//! connection, and the children of a node. The import reports each skipped line.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::engine::snapshot::{
    ConnectionItem, ConnectionNumber, Global, Item, NodeItem, StreamPeer, TransactionItem, WatchItem,
};
use crate::store::domain::DomId;
use crate::store::permission::Permissions;
use crate::wire::payload;

/// The first line.
const HEADER: &[u8] = b"$xenstored-dump-format";

/// Most bytes of a skipped line that a warning shows.
const SHOWN_BYTES: usize = 80;

/// The reason to refuse a whole dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpError {
    /// The dump does not begin with the first line of all dumps.
    NoDump,
    /// No line of the dump can be read.
    NoLine,
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDump => "line 1: not a dump of oxenstored",
            Self::NoLine => "no line of this dump can be read",
        })
    }
}

/// The reason to skip a line.
pub type Reason = Cow<'static, str>;

/// A skipped line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedLine<'a> {
    /// The line's number, from 1.
    pub line: usize,
    /// The line's text.
    pub text: &'a [u8],
    /// The error in the line.
    pub reason: Reason,
}

impl fmt::Display for SkippedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, text, reason } = self;
        let shown = text.get(..SHOWN_BYTES).unwrap_or(text);
        let more = if shown.len() < text.len() { "..." } else { "" };
        write!(f, "line {line} is skipped: {reason}: {}{more}", shown.escape_ascii())
    }
}

/// The numbers of skipped lines of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Lines that begin with an unknown word; oxenstored skips these too.
    pub unknown: usize,
    /// Invalid lines, and lines that contradict earlier ones.
    pub skipped: usize,
}

/// Returns whether bytes begin like a dump.
#[must_use]
pub fn is_dump(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADER)
}

/// Reads a dump and calls `visit` with each item, in an order that a stream can have. Skips a line that cannot be read,
/// and a line whose item `visit` refuses with a reason. Calls `warn` with each skipped line.
///
/// # Errors
/// Fails with [`DumpError`] if the bytes are not a dump, or if no line can be read.
pub fn import(
    dump: &[u8],
    visit: &mut dyn FnMut(&Item<'_>) -> Result<(), Reason>,
    warn: &mut dyn FnMut(&SkippedLine<'_>),
) -> Result<LeftOut, DumpError> {
    let mut lines = dump.split(|byte| *byte == b'\n');
    if lines.next() != Some(HEADER) {
        return Err(DumpError::NoDump);
    }
    let mut import = Import { numbers: BTreeMap::new(), next_number: 1, taken: 0 };
    let mut left_out = LeftOut::default();
    for (at, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        let count = match import.line(line, visit) {
            Ok(Known::Yes) => &mut import.taken,
            Ok(Known::No) => &mut left_out.unknown,
            Err(reason) => {
                warn(&SkippedLine { line: at.saturating_add(2), text: line, reason });
                &mut left_out.skipped
            }
        };
        *count = count.saturating_add(1);
    }
    if import.taken == 0 { Err(DumpError::NoLine) } else { Ok(left_out) }
}

/// Whether oxenstored writes lines that begin with this word.
enum Known {
    Yes,
    No,
}

/// The state of an import.
struct Import {
    /// Connections by the number that the dump has for them: a domid, or a descriptor below zero.
    numbers: BTreeMap<i32, ConnectionNumber>,
    /// The number of the next connection.
    next_number: u32,
    /// Number of lines that were read.
    taken: usize,
}

/// The callback that receives the items.
type Visit<'v> = &'v mut dyn FnMut(&Item<'_>) -> Result<(), Reason>;

impl Import {
    fn line(&mut self, line: &[u8], visit: Visit<'_>) -> Result<Known, Reason> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b',').collect();
        match *fields.as_slice() {
            [b"global", socket, ..] => visit(&Item::Global(Global { socket: number(socket)?, event_channel: -1 }))?,
            [b"evtchn-dev", _, _] => {}
            [b"socket", descriptor] => {
                let descriptor: i32 = number(descriptor)?;
                let name = descriptor.checked_neg().ok_or("the descriptor is out of range")?;
                self.connection(name, StreamPeer::Socket { descriptor }, visit)?;
            }
            [b"dom", domid, _frame, _remote_port, ref rest @ ..] => {
                let domid: u16 = number(domid)?;
                let port = rest.first().map_or(Ok(0), |port| number(port))?;
                let peer = StreamPeer::Ring { domid: DomId(domid), target: None, port };
                self.connection(i32::from(domid), peer, visit)?;
            }
            [b"watch", of, path, token] => visit(&self.watch(of, path, token)?)?,
            [b"store", path, permissions, value] => store(path, permissions, value, visit)?,
            [b"global" | b"evtchn-dev" | b"socket" | b"dom" | b"watch" | b"store", ..] => {
                return Err("the number of fields is wrong".into());
            }
            _ => return Ok(Known::No),
        }
        Ok(Known::Yes)
    }

    fn connection(&mut self, name: i32, peer: StreamPeer, visit: Visit<'_>) -> Result<(), Reason> {
        if self.numbers.contains_key(&name) {
            return Err("an earlier line has the same connection".into());
        }
        let number = ConnectionNumber(self.next_number);
        let (input, output) = (Vec::new().into(), Vec::new().into());
        visit(&Item::Connection(ConnectionItem { number, peer, input, output, partial_bytes: 0, unique_id: None }))?;
        self.next_number = self.next_number.checked_add(1).ok_or("too many connections")?;
        self.numbers.insert(name, number);
        Ok(())
    }

    fn watch(&self, of: &[u8], path: &[u8], token: &[u8]) -> Result<Item<'static>, Reason> {
        let connection = self.numbers.get(&number(of)?).ok_or("no earlier line has its connection")?;
        let token = unhex(token)?;
        if token.contains(&0) {
            return Err("the token has a NUL".into());
        }
        Ok(Item::Watch(WatchItem {
            connection: *connection,
            path: text(path)?.into(),
            token: token.into(),
            depth: None,
            has_lost_depth: false,
        }))
    }
}

/// Visits a node. In a dump, special nodes are below the root.
fn store(path: &[u8], permissions: &[u8], value: &[u8], visit: Visit<'_>) -> Result<(), Reason> {
    let path = text(path)?;
    let path = if path.starts_with("/@") { path.get(1..).unwrap_or_default() } else { &path };
    let mut permissions = unhex(permissions)?;
    permissions.push(0);
    let permissions = Permissions::parse(&permissions, payload::count_strings(&permissions))
        .map_err(|_| "the permissions are invalid")?;
    let pending: Option<(TransactionItem, _)> = None;
    let (value, permissions) = (unhex(value)?.into(), Some(permissions));
    visit(&Item::Node(NodeItem { pending, path: path.into(), value, permissions }))
}

fn number<T: FromStr>(field: &[u8]) -> Result<T, &'static str> {
    core::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).ok_or("a number is invalid")
}

fn text(field: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(unhex(field)?).map_err(|_| "the path is not UTF-8")
}

fn unhex(field: &[u8]) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "a field is not hexadecimal";
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = field.as_chunks::<2>() else { return Err(WRONG) };
    let byte = |[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().ok_or(WRONG)
}
