//! The text dump that oxenstored hands to its successor, as items.
//!
//! A line is a word and fields separated by commas: `global,<fd>`, `evtchn-dev,<fd>,<port>`, `socket,<fd>`,
//! `dom,<domid>,<frame>,<remote port>[,<local port>]`, `watch,<domid or -fd>,<path>,<token>`,
//! `store,<path>,<permissions>,<value>`. Texts are hexadecimal. (oxenstored 4.14 to 4.20, `module DB` of its
//! `xenstored.ml`; no document describes it.)

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

/// What is wrong with a dump, and in which line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpError {
    /// The line.
    pub line: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Whether bytes begin like a dump.
#[must_use]
pub fn is_dump(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADER)
}

/// Reads a dump and calls `visit` with each item, in an order that a stream can have. Lines of other words are left out, as
/// oxenstored does; returns how many.
///
/// # Errors
/// The first line that can't be read.
pub fn import(dump: &[u8], visit: &mut dyn FnMut(&Item<'_>)) -> Result<usize, DumpError> {
    let mut lines = dump.split(|byte| *byte == b'\n');
    if lines.next() != Some(HEADER) {
        return Err(DumpError { line: 1, reason: "this is no dump of an oxenstored" });
    }
    let mut import = Import { numbers: BTreeMap::new(), unknown: 0 };
    for (at, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
        import.line(line, visit).map_err(|reason| DumpError { line: at.saturating_add(2), reason })?;
    }
    Ok(import.unknown)
}

/// What has been read.
struct Import {
    /// Connections by the number that the dump has for them: a domid, or a descriptor below zero.
    numbers: BTreeMap<i32, ConnectionNumber>,
    unknown: usize,
}

impl Import {
    fn line(&mut self, line: &[u8], visit: &mut dyn FnMut(&Item<'_>)) -> Result<(), &'static str> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b',').collect();
        let item = match *fields.as_slice() {
            [b"global", socket, ..] => Item::Global(Global { socket: number(socket)?, event_channel: -1 }),
            [b"evtchn-dev", _, _] => return Ok(()),
            [b"socket", descriptor] => {
                let descriptor: i32 = number(descriptor)?;
                let name = descriptor.checked_neg().ok_or("there is no such descriptor")?;
                self.connection(name, StreamPeer::Socket { descriptor })?
            }
            [b"dom", domid, _frame, _remote_port, ref rest @ ..] => {
                let domid: u16 = number(domid)?;
                let port = rest.first().map_or(Ok(0), |port| number(port))?;
                self.connection(i32::from(domid), StreamPeer::Ring { domid: DomId(domid), target: None, port })?
            }
            [b"watch", of, path, token] => self.watch(of, path, token)?,
            [b"store", path, permissions, value] => return store(path, permissions, value, visit),
            _ => {
                self.unknown = self.unknown.saturating_add(1);
                return Ok(());
            }
        };
        visit(&item);
        Ok(())
    }

    fn connection(&mut self, name: i32, peer: StreamPeer) -> Result<Item<'static>, &'static str> {
        let number = u32::try_from(self.numbers.len()).ok().and_then(|count| count.checked_add(1));
        let number = ConnectionNumber(number.ok_or("there are too many connections")?);
        if self.numbers.insert(name, number).is_some() {
            return Err("this connection was in the dump before");
        }
        let (input, output) = (Vec::new().into(), Vec::new().into());
        Ok(Item::Connection(ConnectionItem { number, peer, input, output, partial_bytes: 0, unique_id: None }))
    }

    fn watch(&self, of: &[u8], path: &[u8], token: &[u8]) -> Result<Item<'static>, &'static str> {
        let connection = self.numbers.get(&number(of)?).ok_or("its connection is not in the dump before it")?;
        let token = unhex(token)?;
        if token.contains(&0) {
            return Err("its token has a NUL");
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

/// A node. Special nodes stand below the root there.
fn store(path: &[u8], permissions: &[u8], value: &[u8], visit: &mut dyn FnMut(&Item<'_>)) -> Result<(), &'static str> {
    let path = text(path)?;
    let path = if path.starts_with("/@") { path.get(1..).unwrap_or_default() } else { &path };
    let mut permissions = unhex(permissions)?;
    permissions.push(0);
    let permissions = Permissions::parse(&permissions, payload::count_strings(&permissions))
        .map_err(|_| "its permissions can't be read")?;
    let pending: Option<(TransactionItem, _)> = None;
    let (value, permissions) = (unhex(value)?.into(), Some(permissions));
    visit(&Item::Node(NodeItem { pending, path: path.into(), value, permissions }));
    Ok(())
}

fn number<T: FromStr>(field: &[u8]) -> Result<T, &'static str> {
    core::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).ok_or("a number can't be read")
}

fn text(field: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(unhex(field)?).map_err(|_| "a path can't be read")
}

fn unhex(field: &[u8]) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "a field is no hexadecimal text";
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = field.as_chunks::<2>() else { return Err(WRONG) };
    let byte = |[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().ok_or(WRONG)
}
