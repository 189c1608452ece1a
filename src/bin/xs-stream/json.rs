//! Items as JSON, one object for each.

use serde_json::{Map, Value, json};
use xenstore::engine::snapshot::{Item, NamedQuotas, StreamPeer};

use crate::describe::{hex, kind, permission};

/// Adds bytes to `object`: under `name` if they are text, and otherwise in hexadecimal under `name_hex`.
fn bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.into(), text.into()),
        Err(_) => object.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

fn quotas(list: &NamedQuotas<'_>) -> Value {
    list.iter().map(|(name, value)| (name.to_string(), Value::from(*value))).collect::<Map<_, _>>().into()
}

/// Converts an item to an object that names its record's type.
pub(crate) fn object(item: &Item<'_>) -> Value {
    let mut object = Map::new();
    object.insert("record".into(), kind(item).into());
    let mut put = |name: &str, value: Value| object.insert(name.into(), value);
    match item {
        Item::Global(global) => {
            put("socket", global.socket.into());
            put("event_channel", global.event_channel.into());
        }
        Item::GlobalQuotas(all) => {
            put("per_domain", quotas(&all.defaults));
            put("global", quotas(&all.global));
        }
        Item::Connection(connection) => {
            put("connection", connection.number.0.into());
            put(
                "peer",
                match connection.peer {
                    StreamPeer::Ring { domid, target, port } => {
                        json!({ "domid": domid.0, "target": target.map(|target| target.0), "port": port })
                    }
                    StreamPeer::Socket { descriptor } => json!({ "descriptor": descriptor }),
                },
            );
            put("unique_id", connection.unique_id.into());
            put("partial_bytes", connection.partial_bytes.into());
            put("input_hex", hex(&connection.input).into());
            put("output_hex", hex(&connection.output.to_block()).into());
        }
        Item::Domain(domain) => {
            put("domid", domain.domid.0.into());
            put("features", domain.features.into());
            put("quotas", quotas(&domain.quotas));
        }
        Item::Watch(watch) => {
            put("connection", watch.connection.0.into());
            put("path", watch.path.as_ref().into());
            put("depth", watch.depth.into());
            put("has_lost_depth", watch.has_lost_depth.into());
            bytes(&mut object, "token", &watch.token);
        }
        Item::Transaction(transaction) => {
            put("connection", transaction.connection.0.into());
            put("transaction", transaction.id.into());
        }
        Item::Node(node) => {
            if let Some((transaction, access)) = node.pending {
                put("connection", transaction.connection.0.into());
                put("transaction", transaction.id.into());
                put("access", access.bits().into());
            }
            put("path", node.path.as_ref().into());
            put("permissions", node.entries().iter().map(permission).collect::<Vec<_>>().into());
            bytes(&mut object, "value", &node.value);
        }
        Item::Extension(extension) => {
            put("type", extension.kind.into());
            put("body_hex", hex(&extension.body.to_block()).into());
        }
    }
    object.into()
}
