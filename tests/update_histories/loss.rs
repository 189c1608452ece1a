//! The losses of an update that is forced on version 1: exactly those of the list in the update's answer.

use xenstore::engine::snapshot::stream_requirements::StreamRequirement;
use xenstore::engine::snapshot::{ConnectionNumber, Item, StreamPeer};
use xenstore::store::domain::DomId;

/// The counts of losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub features: usize,
    pub depths: usize,
    pub transactions: usize,
}

/// Removes everything that `needs` lists from a state. Each figure of the list must agree with the state.
pub fn lose(items: &mut Vec<Item<'static>>, needs: &[StreamRequirement]) -> Loss {
    let mut sum = Loss::default();
    for need in needs {
        let domid = need.domid.expect("there are no clients here");
        let lost = lose_of(items, domid, need);
        assert_eq!((lost.depths, lost.transactions), (need.depth_watches, need.transactions), "{need}");
        assert_eq!(lost.features, usize::from(need.features.is_some()), "{need}");
        sum.features += lost.features;
        sum.depths += lost.depths;
        sum.transactions += lost.transactions;
    }
    sum
}

fn lose_of(items: &mut Vec<Item<'static>>, domid: DomId, need: &StreamRequirement) -> Loss {
    let connection = number_of(items, domid);
    let is_of = |number: ConnectionNumber| connection == Some(number);
    let mut lost = Loss::default();
    items.retain_mut(|item| match item {
        Item::Domain(domain) if domain.domid == domid && need.features.is_some() => {
            lost.features += usize::from(domain.features.take().is_some());
            true
        }
        Item::Watch(watch) if is_of(watch.connection) && need.depth_watches > 0 => {
            lost.depths += usize::from(watch.depth.take().is_some());
            true
        }
        Item::Transaction(transaction) if is_of(transaction.connection) && need.transactions > 0 => {
            lost.transactions += 1;
            false
        }
        Item::Node(node) => !node.pending.is_some_and(|(transaction, _)| is_of(transaction.connection)),
        _ => true,
    });
    lost
}

fn number_of(items: &[Item<'_>], domid: DomId) -> Option<ConnectionNumber> {
    items.iter().find_map(|item| match item {
        Item::Connection(connection) => match connection.peer {
            StreamPeer::Ring { domid: of, .. } if of == domid => Some(connection.number),
            _ => None,
        },
        _ => None,
    })
}
