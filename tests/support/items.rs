//! The state of an engine as owned items, and back.

use xenstore::engine::Engine;
use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{
    ConnectionItem, DomainItem, Extension, GlobalQuotas, Item, NamedQuotas, NoMemory, NodeItem, RestoreError, Restorer,
    SaveOptions, WatchItem,
};

/// Returns the items of an engine at a time.
pub fn save(engine: &Engine, options: &SaveOptions<'_>) -> Vec<Item<'static>> {
    let mut items = Vec::new();
    let saved = engine.save::<NoMemory>(options, &mut |item| {
        items.push(owned(item));
        Ok(())
    });
    saved.expect("there is memory");
    items
}

/// Restores an engine from items.
pub fn restore(items: &[Item<'_>], config: &Config, now_ms: u64) -> Result<Engine, RestoreError> {
    let mut restorer = Restorer::new(config, now_ms);
    for item in items {
        restorer.push(item)?;
    }
    restorer.finish()
}

/// Returns a copy that borrows nothing.
pub fn owned(item: &Item<'_>) -> Item<'static> {
    let quotas = |quotas: &NamedQuotas<'_>| {
        quotas.iter().map(|(name, value)| (name.clone().into_owned().into(), *value)).collect::<NamedQuotas<'static>>()
    };
    let bytes = |bytes: &[u8]| bytes.to_vec().into();
    match item {
        Item::Global(global) => Item::Global(*global),
        Item::GlobalQuotas(all) => {
            Item::GlobalQuotas(GlobalQuotas { defaults: quotas(&all.defaults), global: quotas(&all.global) })
        }
        Item::Connection(item) => Item::Connection(ConnectionItem {
            number: item.number,
            peer: item.peer,
            input: bytes(&item.input),
            output: item.output.to_block().into_owned().into(),
            partial_bytes: item.partial_bytes,
            unique_id: item.unique_id,
        }),
        Item::Domain(item) => {
            Item::Domain(DomainItem { domid: item.domid, features: item.features, quotas: quotas(&item.quotas) })
        }
        Item::Watch(item) => Item::Watch(WatchItem {
            connection: item.connection,
            path: item.path.to_string().into(),
            token: bytes(&item.token),
            depth: item.depth,
            has_lost_depth: item.has_lost_depth,
        }),
        Item::Transaction(item) => Item::Transaction(*item),
        Item::Node(item) => Item::Node(NodeItem {
            pending: item.pending,
            path: item.path.to_string().into(),
            value: bytes(&item.value),
            permissions: item.permissions.clone(),
        }),
        Item::Extension(item) => {
            Item::Extension(Extension { kind: item.kind, body: item.body.to_block().into_owned().into() })
        }
    }
}
