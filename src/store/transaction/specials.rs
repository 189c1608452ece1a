//! The special nodes that a transaction has seen, and its changes of them. There are only two special nodes, so that
//! they do not count for the quota `transaction-nodes`.

use crate::limits;
use crate::store::domain::DomId;
use crate::store::node::Node;
use crate::store::permission::Permissions;
use crate::store::special::{Special, SpecialNode, Specials};
use crate::store::transaction::{Before, Transaction};

/// A special node that a transaction has seen.
#[derive(Clone, Debug)]
pub(crate) struct SeenSpecial {
    /// The node at the first access.
    pub(crate) base: SpecialNode,
    /// The node after the transaction's changes; `None` if it has not changed the node.
    pub(crate) local: Option<SpecialNode>,
}

/// One entry for each special node; `None` if the transaction has not seen it.
pub(crate) type SeenSpecials = [Option<SeenSpecial>; Special::ALL.len()];

impl Transaction {
    /// Returns the special node as the transaction sees it; `None` if it has not looked at this node.
    #[must_use]
    pub fn special(&self, special: Special) -> Option<&SpecialNode> {
        let seen = self.specials.as_ref()?.get(special as usize)?.as_ref()?;
        Some(seen.local.as_ref().unwrap_or(&seen.base))
    }

    /// Returns the bytes that count for an access to a special node.
    #[must_use]
    pub fn bytes_of_special(node: &SpecialNode) -> usize {
        limits::TRANSACTION_ENTRY_BYTES.saturating_add(entries_bytes(node))
    }

    /// Notes the transaction's first access to a special node.
    pub fn note_special(&mut self, special: Special, base: SpecialNode) {
        self.bytes = self.bytes.saturating_add(Self::bytes_of_special(&base));
        self.restore_special(special, SeenSpecial { base, local: None });
    }

    /// Changes a special node that the transaction has seen.
    pub(super) fn set_special(&mut self, special: Special, permissions: Permissions, generation: u64) {
        let seen = self.specials.as_mut().and_then(|specials| specials.get_mut(special as usize));
        let Some(Some(seen)) = seen else { return };
        let local = SpecialNode { permissions, generation };
        let before = seen.local.as_ref().map_or(0, entries_bytes);
        self.bytes = self.bytes.saturating_sub(before).saturating_add(entries_bytes(&local));
        seen.local = Some(local);
    }

    /// Returns the seen special nodes that were written since.
    pub fn conflicting_specials(&self, specials: &Specials) -> impl Iterator<Item = Special> {
        self.seen_specials()
            .filter_map(|(special, seen)| (seen.base.generation != specials.get(special).generation).then_some(special))
    }

    /// Writes the changed special nodes, and returns their states before. The new permissions pass through `adjust`,
    /// with the generation at which the transaction wrote them.
    pub fn commit_specials(
        &mut self,
        specials: &mut Specials,
        adjust: impl Fn(&Permissions, u64) -> Permissions,
        mut next_generation: impl FnMut() -> u64,
    ) -> [Option<(Special, Before)>; Special::ALL.len()] {
        let Some(seen) = self.specials.take() else { return Default::default() };
        let mut changed = Special::ALL.into_iter().zip(*seen);
        [(); Special::ALL.len()].map(|()| {
            let (special, seen) = changed.next()?;
            let SeenSpecial { base, local } = seen?;
            let local = local?;
            let permissions = adjust(&local.permissions, local.generation);
            *specials.get_mut(special) = SpecialNode { permissions, generation: next_generation() };
            Some((special, Before { permissions: base.permissions, generation: base.generation }))
        })
    }

    /// Removes a dead domain's rights from the special nodes, as [`Transaction::forget_domain`] does for nodes.
    pub(super) fn forget_domain_in_specials(&mut self, domid: DomId) {
        for seen in self.specials.iter_mut().flat_map(|specials| specials.iter_mut()).flatten() {
            let was_owner = seen.base.permissions.owner() == domid;
            seen.base.permissions = seen.base.permissions.without(domid);
            if let Some(local) = &mut seen.local {
                self.outdated = self.outdated || local.permissions.owner() == domid && !was_owner;
                local.permissions = local.permissions.without(domid);
            }
        }
    }

    /// Returns the special nodes that the transaction has seen.
    pub(crate) fn seen_specials(&self) -> impl Iterator<Item = (Special, &SeenSpecial)> {
        Special::ALL
            .into_iter()
            .zip(self.specials.iter().flat_map(|specials| specials.iter()))
            .filter_map(|(special, seen)| Some((special, seen.as_ref()?)))
    }

    /// Adds a special node that a restored transaction has seen. Does not count its bytes.
    pub(crate) fn restore_special(&mut self, special: Special, seen: SeenSpecial) {
        if let Some(entry) = self.specials.get_or_insert_default().get_mut(special as usize) {
            *entry = Some(seen);
        }
    }
}

fn entries_bytes(node: &SpecialNode) -> usize {
    node.permissions.entries().len().saturating_mul(Node::ENTRY_BYTES)
}
