//! Text descriptions of items, for human readers.

use std::fmt::Write as _;

use xenstore::engine::snapshot::{Item, NamedQuotas, StreamPeer};
use xenstore::store::permission::{Access, Entry};

/// Number of an extension's bytes that are shown.
const SHOWN_BYTES: usize = 32;

/// Returns the name of an item's kind.
pub(crate) fn kind(item: &Item<'_>) -> &'static str {
    match item {
        Item::Global(_) => "GLOBAL_DATA",
        Item::GlobalQuotas(_) => "GLOBAL_QUOTA_DATA",
        Item::Connection(_) => "CONNECTION_DATA",
        Item::Domain(_) => "DOMAIN_DATA",
        Item::Watch(watch) if watch.depth.is_some() || watch.has_lost_depth => "WATCH_DATA_EXTENDED",
        Item::Watch(_) => "WATCH_DATA",
        Item::Transaction(_) => "TRANSACTION_DATA",
        Item::Node(_) => "NODE_DATA",
        Item::Extension(_) => "extension",
    }
}

/// Formats bytes as text with escapes.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

/// Formats bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Formats a permission as in SET_PERMS, with a mark if it is stale and counts for no domain.
pub(crate) fn permission(entry: &Entry) -> String {
    let letter = match (entry.access.contains(Access::READ), entry.access.contains(Access::WRITE)) {
        (false, false) => 'n',
        (true, false) => 'r',
        (false, true) => 'w',
        (true, true) => 'b',
    };
    format!("{letter}{}{}", entry.domid, if entry.stale { "(stale)" } else { "" })
}

fn quotas(list: &NamedQuotas<'_>) -> String {
    let words: Vec<_> = list.iter().map(|(name, value)| format!("{name}={value}")).collect();
    words.join(" ")
}

/// Describes an item in one line. `name` translates a connection number.
pub(crate) fn line(item: &Item<'_>, name: &dyn Fn(u32) -> String) -> String {
    let text = match item {
        Item::Global(global) => format!("socket {} event-channel {}", global.socket, global.event_channel),
        Item::GlobalQuotas(all) => format!("per domain: {}; global: {}", quotas(&all.defaults), quotas(&all.global)),
        Item::Connection(connection) => {
            let peer = match connection.peer {
                StreamPeer::Ring { domid, target, port } => {
                    let target = target.map(|target| format!(" target {target}")).unwrap_or_default();
                    format!("domain {domid}{target} port {port}")
                }
                StreamPeer::Socket { descriptor } => format!("socket {descriptor}"),
            };
            let id = connection.unique_id.map(|id| format!(" unique-id {id:#x}")).unwrap_or_default();
            format!(
                "{peer}{id} input {} output {} partial {}",
                escaped(&connection.input),
                escaped(&connection.output.to_block()),
                connection.partial_bytes
            )
        }
        Item::Domain(domain) => {
            let features = domain.features.map(|features| format!(" features {features:#x}")).unwrap_or_default();
            format!("domain {}{features} {}", domain.domid, quotas(&domain.quotas))
        }
        Item::Watch(watch) => {
            let depth = match watch.depth {
                Some(depth) => format!(" depth {depth}"),
                None if watch.has_lost_depth => " depth lost".into(),
                None => String::new(),
            };
            format!("{} {} token {}{depth}", name(watch.connection.0), watch.path, escaped(&watch.token))
        }
        Item::Transaction(transaction) => format!("{} {}", name(transaction.connection.0), transaction.id),
        Item::Node(node) => {
            let permissions: Vec<_> = node.entries().iter().map(permission).collect();
            let pending = node.pending.map(|(transaction, access)| {
                let connection = name(transaction.connection.0);
                format!(" in transaction {} of {connection} access {:#x}", transaction.id, access.bits())
            });
            let pending = pending.unwrap_or_default();
            format!("{} = {} ({}){pending}", node.path, escaped(&node.value), permissions.join(","))
        }
        Item::Extension(extension) => {
            let body = extension.body.to_block();
            let shown = body.get(..SHOWN_BYTES).unwrap_or(&body);
            let more = if shown.len() < body.len() { "..." } else { "" };
            format!("{:#010x} {} bytes {}{more}", extension.kind, body.len(), hex(shown))
        }
    };
    format!("{} {text}", kind(item))
}
