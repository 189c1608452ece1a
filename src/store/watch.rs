//! Watches, found by the path that changed and by the connection that they belong to.
//!
//! A change costs as many look-ups as its path has levels, however many watches there are elsewhere.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::store::path::Path;

/// A connection: a domain's, or a client's of the hosted server. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One watch.
#[derive(Debug)]
pub struct Watch {
    /// Who gets the events.
    pub connection: ConnectionId,
    /// What is watched: a path, or a special name.
    pub path: Rc<str>,
    /// The client's own word for the watch; any bytes without NUL.
    pub token: Box<[u8]>,
    /// Bytes at the beginning of a path that this watch's events leave out, with the slash: the watch was set on a
    /// relative path, and reports relative paths. 0 for none.
    pub relative_bytes: usize,
    /// How many levels below its path it sees; `None` for all. On a special name: anything but 0 and `None` asks to be
    /// told of which domain.
    pub depth: Option<u32>,
    /// Grows with every watch; one connection's events of the same change come in this order.
    sequence: u64,
}

impl Watch {
    /// The path as this watch reports it.
    #[must_use]
    pub fn reported<'a>(&self, path: &'a str) -> &'a str {
        path.get(self.relative_bytes..).unwrap_or("")
    }
}

/// Which watches a change of a path concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those on exactly this path.
    Exact,
    /// Those on this path or on one above.
    Subtree,
}

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<Rc<str>, Vec<Rc<Watch>>>,
    by_connection: BTreeMap<ConnectionId, Vec<Rc<Watch>>>,
    next_sequence: u64,
}

impl Watches {
    /// Adds a watch on a valid path or special name, which is not there yet. `relative_bytes` and `depth` as in
    /// [`Watch`].
    pub fn add(
        &mut self,
        connection: ConnectionId,
        path: &str,
        token: &[u8],
        relative_bytes: usize,
        depth: Option<u32>,
    ) {
        let path: Rc<str> = match self.by_path.get_key_value(path) {
            Some((known, _)) => known.clone(),
            None => path.into(),
        };
        let sequence = self.next_sequence;
        self.next_sequence = sequence.saturating_add(1);
        let watch =
            Rc::new(Watch { connection, path: path.clone(), token: token.into(), relative_bytes, depth, sequence });
        self.by_path.entry(path).or_default().push(watch.clone());
        self.by_connection.entry(connection).or_default().push(watch);
    }

    /// The watch of `connection` on `path` with `token`.
    #[must_use]
    pub fn find(&self, connection: ConnectionId, path: &str, token: &[u8]) -> Option<&Rc<Watch>> {
        self.of_connection(connection).iter().find(|watch| *watch.path == *path && *watch.token == *token)
    }

    /// Removes one watch.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, token: &[u8]) {
        let Some(watch) = self.find(connection, path, token).cloned() else { return };
        if let Some(list) = self.by_connection.get_mut(&connection) {
            list.retain(|other| !Rc::ptr_eq(other, &watch));
            if list.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
        self.forget_path(&watch);
    }

    /// Removes all watches of a connection and returns how many there were.
    pub fn remove_connection(&mut self, connection: ConnectionId) -> usize {
        let watches = self.by_connection.remove(&connection).unwrap_or_default();
        for watch in &watches {
            self.forget_path(watch);
        }
        watches.len()
    }

    /// The watches of a connection, in the order of setting.
    #[must_use]
    pub fn of_connection(&self, connection: ConnectionId) -> &[Rc<Watch>] {
        self.by_connection.get(&connection).map_or(&[], Vec::as_slice)
    }

    /// Appends the watches that a change of `path` concerns, by connection and then in the order of setting.
    pub fn concerned(&self, path: Path<'_>, scope: Scope, found: &mut Vec<Rc<Watch>>) {
        if self.by_path.is_empty() {
            return;
        }
        let levels = match scope {
            Scope::Exact => 1,
            Scope::Subtree => usize::MAX,
        };
        let begin = found.len();
        for (distance, level) in (0_u32..).zip(path.and_ancestors().take(levels)) {
            let here = self.by_path.get(level.as_str()).into_iter().flatten();
            found.extend(here.filter(|watch| watch.depth.is_none_or(|depth| distance <= depth)).cloned());
        }
        if let Some(new) = found.get_mut(begin..) {
            new.sort_unstable_by_key(|watch| (watch.connection, watch.sequence));
        }
    }

    /// The watches on the special name `name` that are not told of which domain; by connection and then in the order of
    /// setting.
    pub fn concerned_special(&self, name: &str) -> Vec<Rc<Watch>> {
        let all = self.by_path.get(name).into_iter().flatten();
        let mut found: Vec<_> = all.filter(|watch| watch.depth.is_none()).cloned().collect();
        found.sort_unstable_by_key(|watch| (watch.connection, watch.sequence));
        found
    }

    /// The watches that are told of a domain: on the special name `name` with a depth, and on `of_domain`, which is the
    /// name with the domain; by connection and then in the order of setting.
    pub fn concerned_special_domain(&self, name: &str, of_domain: &str) -> Vec<Rc<Watch>> {
        let all = self.by_path.get(name).into_iter().flatten();
        let with_depth = all.filter(|watch| watch.depth.is_some_and(|depth| depth > 0));
        let mut found: Vec<_> = with_depth.chain(self.by_path.get(of_domain).into_iter().flatten()).cloned().collect();
        found.sort_unstable_by_key(|watch| (watch.connection, watch.sequence));
        found
    }

    /// How many watches there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_connection.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_connection.is_empty()
    }

    /// Whether the two indexes hold the same watches.
    #[must_use]
    pub fn agree(&self) -> bool {
        let indexed = |watch: &Rc<Watch>| {
            self.by_path.get(&watch.path).is_some_and(|list| list.iter().any(|other| Rc::ptr_eq(other, watch)))
        };
        let by_path: usize = self.by_path.values().map(Vec::len).sum();
        by_path == self.len() && self.by_connection.values().flatten().all(indexed)
    }

    /// Removes a watch from the index by path.
    fn forget_path(&mut self, watch: &Rc<Watch>) {
        if let Some(list) = self.by_path.get_mut(&watch.path) {
            list.retain(|other| !Rc::ptr_eq(other, watch));
            if list.is_empty() {
                self.by_path.remove(&watch.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::domain::DomId;
    use crate::store::path::PathScratch;
    use std::string::{String, ToString};

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn add(watches: &mut Watches, connection: ConnectionId, path: &str, token: &str) {
        watches.add(connection, path, token.as_bytes(), 0, None);
    }

    fn fired(watches: &Watches, path: &str, scope: Scope) -> Vec<String> {
        let mut scratch = PathScratch::new();
        let mut found = Vec::new();
        watches.concerned(Path::parse(path.as_bytes(), DomId(0), 100, &mut scratch).unwrap(), scope, &mut found);
        found.iter().map(|watch| String::from_utf8(watch.token.to_vec()).unwrap().to_string()).collect()
    }

    #[test]
    fn a_change_concerns_watches_above_it_in_the_order_of_setting() {
        let mut watches = Watches::default();
        for (connection, path, token) in
            [(A, "/a/b", "1"), (A, "/", "2"), (A, "/a", "3"), (A, "/a/b/c", "4"), (A, "/ab", "5"), (B, "/a", "6")]
        {
            add(&mut watches, connection, path, token);
        }
        assert_eq!(fired(&watches, "/a/b", Scope::Subtree), ["1", "2", "3", "6"]);
        assert_eq!(fired(&watches, "/a/b", Scope::Exact), ["1"]);
        assert_eq!(fired(&watches, "/", Scope::Subtree), ["2"]);
    }

    #[test]
    fn a_depth_is_the_number_of_levels_below_the_path() {
        let mut watches = Watches::default();
        for (path, depth) in [("/", 0), ("/", 1), ("/", 2), ("/a", 0), ("/a", 1), ("/a/b", 0)] {
            watches.add(A, path, std::format!("{path} {depth}").as_bytes(), 0, Some(depth));
        }
        assert_eq!(fired(&watches, "/", Scope::Subtree), ["/ 0", "/ 1", "/ 2"]);
        assert_eq!(fired(&watches, "/a", Scope::Subtree), ["/ 1", "/ 2", "/a 0", "/a 1"]);
        assert_eq!(fired(&watches, "/a/b", Scope::Subtree), ["/ 2", "/a 1", "/a/b 0"]);
        assert_eq!(fired(&watches, "/a/b/c", Scope::Subtree), [""; 0]);
    }

    #[test]
    fn a_watch_on_the_root_does_not_see_special_names() {
        let mut watches = Watches::default();
        add(&mut watches, A, "/", "root");
        add(&mut watches, A, "@releaseDomain", "special");
        assert_eq!(watches.concerned_special("@releaseDomain").len(), 1);
        assert_eq!(fired(&watches, "/x", Scope::Subtree), ["root"]);
    }

    #[test]
    fn removing_leaves_no_trace_in_either_index() {
        let mut watches = Watches::default();
        for at in 0..20 {
            add(&mut watches, A, "/a", &at.to_string());
            add(&mut watches, B, &std::format!("/b/{at}"), "t");
        }
        watches.remove(A, "/a", b"7");
        assert!(watches.find(A, "/a", b"7").is_none());
        assert!(watches.agree());
        assert_eq!(watches.remove_connection(A), 19);
        assert_eq!(watches.remove_connection(B), 20);
        assert!(watches.by_path.is_empty() && watches.is_empty() && watches.agree());
    }
}
