//! The paths that open transactions have accessed. A write to any other path cannot make a transaction fail.
//!
//! An entry shares its path with the transaction that noted it first. The memory of an entry is included in the charge
//! for each path of a transaction ([`crate::limits::TRANSACTION_ENTRY_BYTES`]).

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use core::ops::Bound;

use crate::store::path::{Path, PathBuf, PathScratch};
use crate::store::transaction::{NodeChange, Transaction};

/// The accessed paths.
#[derive(Debug, Default)]
pub struct Accesses(BTreeMap<PathBuf, Access>);

/// A path that open transactions have accessed.
#[derive(Debug, Default)]
struct Access {
    /// The number of open transactions that have accessed the path.
    transactions: usize,
    /// The generation of the node's newest removal since the first access; 0 for none.
    removed_at: u64,
}

/// Entries of the index for each path to find, up to which a pass over all entries compares fewer paths than as many
/// look-ups. A look-up among 1,000 entries compares some ten, and long paths may differ only at their ends.
const ENTRIES_PER_PATH: usize = 4;

/// Returns whether `paths` sorted paths are found faster in a pass over the index than by look-ups.
const fn is_pass_cheaper(entries: usize, paths: usize) -> bool {
    entries <= paths.saturating_mul(ENTRIES_PER_PATH)
}

impl Accesses {
    /// Notes that an open transaction has accessed a path for the first time.
    pub fn note(&mut self, path: PathBuf) {
        let access = self.0.entry(path).or_default();
        access.transactions = access.transactions.saturating_add(1);
    }

    /// Notes all paths that a restored transaction has accessed.
    pub(in crate::engine) fn note_all(&mut self, transaction: &Transaction) {
        transaction.paths().for_each(|path| self.note(path.clone()));
    }

    /// Forgets the paths of a transaction that is no longer open.
    pub(in crate::engine) fn forget(&mut self, transaction: &Transaction) {
        let mut paths = transaction.paths().peekable();
        if is_pass_cheaper(self.0.len(), transaction.len()) {
            self.0.retain(|path, access| {
                if paths.next_if(|next| *next == path).is_some() {
                    access.transactions = access.transactions.saturating_sub(1);
                }
                access.transactions > 0
            });
        }
        for path in paths {
            let Entry::Occupied(mut entry) = self.0.entry(path.clone()) else { continue };
            let access = entry.get_mut();
            access.transactions = access.transactions.saturating_sub(1);
            if access.transactions == 0 {
                entry.remove();
            }
        }
    }

    /// Counts again after an open transaction was lost. `transactions_with` returns how many have accessed a path.
    pub(in crate::engine) fn recount(&mut self, transactions_with: impl Fn(&PathBuf) -> usize) {
        self.0.retain(|path, access| {
            access.transactions = transactions_with(path);
            access.transactions > 0
        });
    }

    /// Returns whether the index matches the paths of `transactions`.
    pub(in crate::engine) fn agree<'a>(&self, transactions: impl Iterator<Item = &'a Transaction> + Clone) -> bool {
        let accessed = transactions.clone().map(Transaction::len).fold(0, usize::saturating_add);
        let counted = self.0.values().fold(0_usize, |sum, access| sum.saturating_add(access.transactions));
        let is_right = |(path, access): (&PathBuf, &Access)| {
            let having = transactions.clone().filter(|transaction| transaction.seen(path.as_path()).is_some());
            having.count() == access.transactions
        };
        accessed == counted && self.0.iter().all(is_right)
    }

    /// Returns whether a change writes a node that an open transaction has accessed. Creating or removing a node also
    /// changes the list of its parent.
    ///
    /// The cost is a few look-ups, whatever the size of the change. Of the created levels, the topmost and all below it
    /// count: a transaction that accessed any of these paths saw no node there.
    #[must_use]
    pub fn concern(&self, change: &NodeChange) -> bool {
        if self.0.is_empty() {
            return false;
        }
        match change {
            NodeChange::Write { path, .. } | NodeChange::SetPermissions { path, .. } => self.has(path.as_path()),
            NodeChange::Create { path, levels, .. } => {
                let top = path.as_path().and_ancestors().nth(levels.saturating_sub(1));
                top.is_some_and(|top| self.has_list_of(top) || self.has_within(top))
            }
            // A coarse answer is enough: there are two special nodes, and guests cannot change the control domain's.
            NodeChange::SetSpecial { .. } => true,
            NodeChange::Remove { path } => self.has_list_of(path.as_path()) || self.has_within(path.as_path()),
        }
    }

    /// Notes the nodes that a commit removes at `generation`. Returns whether the commit writes a node that another
    /// open transaction has accessed. The caller has already forgotten the committed transaction.
    pub(in crate::engine) fn note_commit(&mut self, transaction: &Transaction, generation: u64) -> bool {
        let mut is_any = false;
        if self.0.is_empty() {
            return is_any;
        }
        let mut note = |access: &mut Access, is_removed| {
            is_any = true;
            if is_removed {
                access.removed_at = generation;
            }
        };
        if is_pass_cheaper(self.0.len(), transaction.len()) {
            let mut accesses = self.0.iter_mut().peekable();
            for (path, is_removed) in transaction.written() {
                while accesses.next_if(|(accessed, _)| *accessed < path).is_some() {}
                if let Some((_, access)) = accesses.next_if(|(accessed, _)| *accessed == path) {
                    note(access, is_removed);
                }
            }
            return is_any;
        }
        for (path, is_removed) in transaction.written() {
            if let Some(access) = self.0.get_mut(path) {
                note(access, is_removed);
            }
        }
        is_any
    }

    /// Notes that a node was removed.
    pub(in crate::engine) fn note_removal(&mut self, path: Path<'_>, generation: u64) {
        if let Some(access) = self.0.get_mut(path.as_str()) {
            access.removed_at = generation;
        }
    }

    /// Returns the generation of a node's newest removal since an open transaction accessed it.
    ///
    /// The parent's generation is no substitute: later writes change it too. A live update loses this value.
    pub(in crate::engine) fn removed_at(&self, path: Path<'_>) -> Option<u64> {
        self.0.get(path.as_str()).map(|access| access.removed_at).filter(|generation| *generation > 0)
    }

    /// Returns whether a path or one below it was accessed.
    pub(in crate::engine) fn has_within(&self, path: Path<'_>) -> bool {
        self.has(path) || self.has_below(path)
    }

    fn has(&self, path: Path<'_>) -> bool {
        self.0.contains_key(path.as_str())
    }

    /// Returns whether the parent of a path was accessed.
    fn has_list_of(&self, path: Path<'_>) -> bool {
        path.parent().is_some_and(|parent| self.has(parent))
    }

    /// Returns whether a path below this one was accessed. All of them begin with this path and a slash.
    fn has_below(&self, path: Path<'_>) -> bool {
        let mut begin = PathScratch::new();
        let above = if path.is_root() { "" } else { path.as_str() };
        if begin.push_str(above).and_then(|()| begin.push('/')).is_err() {
            // The path has the maximum length: no path is below it.
            return false;
        }
        let bounds = (Bound::Excluded(begin.as_str()), Bound::Unbounded);
        let next = self.0.range::<str, _>(bounds).next();
        next.is_some_and(|(path, _)| path.as_path().as_str().starts_with(begin.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::store::domain::DomId;
    use crate::store::permission::Permissions;
    use crate::store::value::Value;

    fn at(path: &str) -> PathBuf {
        Path::parse_absolute(path.as_bytes(), 3000).unwrap().to_owned()
    }

    fn with(paths: &[&str]) -> Accesses {
        let mut accesses = Accesses::default();
        paths.iter().for_each(|path| accesses.note(at(path)));
        accesses
    }

    #[test]
    fn a_change_concerns_the_accessed_paths_that_it_writes_and_no_others() {
        let write = |path| NodeChange::Write { path: at(path), value: Value::default() };
        let make = |path, levels| {
            let permissions = Permissions::private(DomId(1));
            NodeChange::Create { path: at(path), levels, value: Value::default(), permissions }
        };
        let remove = |path| NodeChange::Remove { path: at(path) };
        let accesses = with(&["/a", "/a/b/c", "/a/b-", "/d-e", "/f/g"]);
        for (change, concerns) in [
            (write("/a"), true),
            (write("/a/b"), false),
            (write("/a/b/c"), true),
            (write("/"), false),
            (make("/a/new", 1), true),
            (make("/a/b/new", 1), false),
            (make("/a/b", 1), true),
            (make("/d/e", 2), false),
            (make("/f", 1), true),
            (make("/f/h/i", 3), true),
            (make("/f/h/i", 2), false),
            (make("/f/g/i", 2), true),
            (remove("/a/b/c/d"), true),
            (remove("/a/b"), true),
            (remove("/d"), false),
            (remove("/f"), true),
            (remove("/f/h"), false),
            (remove("/"), true),
        ] {
            assert_eq!(accesses.concern(&change), concerns, "{change:?}");
            assert!(!Accesses::default().concern(&change));
        }
        assert!(!with(&["/"]).concern(&remove("/a/b")) && with(&["/"]).concern(&remove("/a")));
    }

    #[test]
    fn a_path_counts_until_the_last_transaction_that_accessed_it_is_over() {
        let mut accesses = Accesses::default();
        let transaction = |paths: &[&str]| {
            let mut transaction = Transaction::default();
            paths.iter().for_each(|path| transaction.note(at(path), None));
            transaction
        };
        let open = [transaction(&["/a", "/b"]), transaction(&["/b", "/c"])];
        open.iter().for_each(|transaction| accesses.note_all(transaction));
        assert!(accesses.agree(open.iter()) && !accesses.agree(open.iter().take(1)));
        accesses.note_removal(at("/b").as_path(), 7);
        accesses.note_removal(at("/x").as_path(), 8);
        let removed = |accesses: &Accesses, path| accesses.removed_at(at(path).as_path());
        assert_eq!(
            (removed(&accesses, "/b"), removed(&accesses, "/a"), removed(&accesses, "/x")),
            (Some(7), None, None)
        );
        accesses.forget(&open[0]);
        assert!(accesses.agree(open.iter().skip(1)));
        // Among many other entries, the paths are looked up.
        let many: Vec<_> = (0..100).map(|at| alloc::format!("/many/{at}")).collect();
        let many = transaction(&many.iter().map(|path| &**path).collect::<Vec<_>>());
        accesses.note_all(&many);
        accesses.note_all(&open[0]);
        assert!(!is_pass_cheaper(accesses.0.len(), open[0].len()));
        accesses.forget(&open[0]);
        assert!(accesses.agree([&open[1], &many].into_iter()));
        accesses.forget(&many);
        assert!(accesses.agree(open.iter().skip(1)));
        assert!(accesses.has(at("/b").as_path()) && !accesses.has(at("/a").as_path()));
        // The second transaction is lost.
        accesses.recount(|_| 0);
        assert!(accesses.agree([].iter()) && accesses.0.is_empty());
    }
}
