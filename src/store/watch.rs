//! Watches, indexed by path and by connection.
//!
//! A change costs one look-up for each level of its path, however many watches exist on other paths.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::limits;
pub use crate::store::connection_id::ConnectionId;
use crate::store::path::Path;

/// One watch.
#[derive(Debug)]
pub struct Watch {
    /// The watcher's connection, which receives the events.
    pub connection: ConnectionId,
    /// The watched path or special name.
    pub path: Rc<str>,
    /// The client's identifier of the watch; any bytes without NUL.
    pub token: Box<[u8]>,
    /// Bytes at the beginning of a path that this watch's events omit, with the slash. The watch was set on a relative
    /// path, and reports relative paths. 0 for none.
    pub relative_bytes: usize,
    /// Number of levels below the path that the watch covers; `None` for all. On a special name, any depth except 0
    /// requests events that name the domain.
    pub depth: Option<u32>,
    /// Grows with every watch; a connection's events of the same change are in this order.
    sequence: u64,
}

impl Watch {
    /// Returns the path as this watch reports it.
    #[must_use]
    pub fn reported<'a>(&self, path: &'a str) -> &'a str {
        path.get(self.relative_bytes..).unwrap_or("")
    }

    /// Returns the sort key for the events of one change: watches are sorted by connection, then in the order of
    /// setting.
    const fn rank(&self) -> (ConnectionId, u64) {
        (self.connection, self.sequence)
    }

    /// Returns whether the watch receives an event for this.
    fn is_told(&self, news: News<'_>) -> bool {
        match news {
            News::Change(path, scope) => {
                let Some(below) = path.as_str().strip_prefix(&*self.path) else { return false };
                // The root's path ends with the slash before the next name; another node's path does not.
                let is_root = &*self.path == "/";
                match below.as_bytes().first() {
                    None => true,
                    Some(first) => {
                        let levels = below.bytes().filter(|byte| *byte == b'/').count().saturating_add(is_root.into());
                        scope == Scope::Subtree
                            && (is_root || *first == b'/')
                            && self.depth.is_none_or(|depth| levels as u64 <= u64::from(depth))
                    }
                }
            }
            News::SpecialChange(name) => *self.path == *name,
            News::Special(name) => self.depth.is_none() && *self.path == *name,
            News::SpecialDomain { name, of_domain } => {
                *self.path == *of_domain || *self.path == *name && self.depth.is_some_and(|depth| depth > 0)
            }
        }
    }
}

/// The watches that a change of a path concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The watches on exactly this path.
    Exact,
    /// The watches on this path or on a path above it.
    Subtree,
}

/// A change that watches report.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A change of a node.
    Change(Path<'a>, Scope),
    /// A special node has new permissions: for all watches on it.
    SpecialChange(&'a str),
    /// The event of a special name, without its domain: for the watches on it without a depth.
    Special(&'a str),
    /// The event of a special name with its domain. It is for the watches on the special name with a depth, and for
    /// those on the name with the domain.
    SpecialDomain {
        /// The special name.
        name: &'a str,
        /// The name with the domain.
        of_domain: &'a str,
    },
}

impl<'a> News<'a> {
    /// Returns the paths and names whose watches may report the change.
    fn watched(self) -> impl Iterator<Item = &'a str> {
        let (path, levels, names) = match self {
            Self::Change(path, Scope::Exact) => (Some(path), 1, [None, None]),
            Self::Change(path, Scope::Subtree) => (Some(path), usize::MAX, [None, None]),
            Self::SpecialChange(name) | Self::Special(name) => (None, 0, [Some(name), None]),
            Self::SpecialDomain { name, of_domain } => (None, 0, [Some(name), Some(of_domain)]),
        };
        let above = path.into_iter().flat_map(Path::and_ancestors).take(levels).map(Path::as_str);
        above.chain(names.into_iter().flatten())
    }
}

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    /// Watches by path. Each list is sorted by connection, then in the order of setting.
    by_path: BTreeMap<Rc<str>, Vec<Rc<Watch>>>,
    /// Watches by connection. Each list is in the order of setting.
    by_connection: BTreeMap<ConnectionId, Vec<Rc<Watch>>>,
    next_sequence: u64,
}

impl Watches {
    /// Adds a watch on a valid path or special name. The watch must not exist yet. `relative_bytes` and `depth` as in
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
        let list = self.by_path.entry(path).or_default();
        let at = list.partition_point(|other| other.rank() < watch.rank());
        list.insert(at, watch.clone());
        self.by_connection.entry(connection).or_default().push(watch);
    }

    /// Returns the watch of `connection` on `path` with `token`. Costs a look at each of the connection's watches on
    /// that path; other watches cost nothing.
    #[must_use]
    pub fn find(&self, connection: ConnectionId, path: &str, token: &[u8]) -> Option<&Rc<Watch>> {
        let list = self.by_path.get(path)?;
        let begin = list.partition_point(|watch| watch.connection < connection);
        let own = list.iter().skip(begin).take_while(|watch| watch.connection == connection);
        own.into_iter().find(|watch| *watch.token == *token)
    }

    /// Removes one watch.
    pub fn remove(&mut self, connection: ConnectionId, path: &str, token: &[u8]) {
        let Some(watch) = self.find(connection, path, token).cloned() else { return };
        if let Some(list) = self.by_connection.get_mut(&connection) {
            take_out(list, &watch);
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

    /// Returns the watches of a connection, in the order of setting.
    #[must_use]
    pub fn of_connection(&self, connection: ConnectionId) -> &[Rc<Watch>] {
        self.by_connection.get(&connection).map_or(&[], Vec::as_slice)
    }

    /// Appends the watches that a change concerns, by connection and then in the order of setting. Starts at the first
    /// connection after `after`, and ends after the connection with which there are [`limits::WATCHES_AT_ONCE`]
    /// watches. Returns the connection after which to continue; `None` if there are no more. Costs a look-up for each
    /// level of the path, and a look at each watch that is considered.
    pub fn told(
        &self,
        news: News<'_>,
        after: Option<ConnectionId>,
        found: &mut Vec<Rc<Watch>>,
    ) -> Option<ConnectionId> {
        if self.by_path.is_empty() {
            return None;
        }
        let later = |list: &Vec<Rc<Watch>>| list.partition_point(|watch| Some(watch.connection) <= after);
        let watched = news.watched().filter_map(|place| self.by_path.get(place));
        let mut lists = watched.filter_map(|list| list.get(later(list)..).filter(|list| !list.is_empty()));
        let first = lists.next()?;
        let Some(second) = lists.next() else { return told_of_one(news, first, found) };
        let mut all = alloc::vec![first, second];
        all.extend(lists);
        told_of_many(news, &mut all, found)
    }

    /// Returns whether there is a watch on exactly `path`.
    #[must_use]
    pub fn any_at(&self, path: Path<'_>) -> bool {
        self.by_path.contains_key(path.as_str())
    }

    /// Returns whether there is a watch on a path below `top`.
    #[must_use]
    pub fn any_below(&self, top: Path<'_>) -> bool {
        let above = if top.is_root() { "/".into() } else { alloc::format!("{}/", top.as_str()) };
        let mut paths = self.by_path.range::<str, _>((Bound::Excluded(above.as_str()), Bound::Unbounded));
        paths.next().is_some_and(|(path, _)| path.starts_with(&above))
    }

    /// Returns the number of watches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_connection.values().map(Vec::len).sum()
    }

    /// Returns whether there are no watches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_connection.is_empty()
    }

    /// Returns whether the two indexes hold the same watches.
    #[must_use]
    pub fn agree(&self) -> bool {
        let indexed = |watch: &Rc<Watch>| {
            self.find(watch.connection, &watch.path, &watch.token).is_some_and(|other| Rc::ptr_eq(other, watch))
        };
        let by_path: usize = self.by_path.values().map(Vec::len).sum();
        by_path == self.len() && self.by_connection.values().flatten().all(indexed)
    }

    /// Removes a watch from the index by path.
    fn forget_path(&mut self, watch: &Rc<Watch>) {
        if let Some(list) = self.by_path.get_mut(&watch.path) {
            take_out(list, watch);
            if list.is_empty() {
                self.by_path.remove(&watch.path);
            }
        }
    }
}

/// Does the work of [`Watches::told`] if only one path has watches.
fn told_of_one(news: News<'_>, list: &[Rc<Watch>], found: &mut Vec<Rc<Watch>>) -> Option<ConnectionId> {
    let mut rest = list;
    while let Some((run, behind)) = split_run(rest) {
        found.extend(run.iter().filter(|watch| watch.is_told(news)).cloned());
        rest = behind;
        if found.len() >= limits::WATCHES_AT_ONCE && !rest.is_empty() {
            return run.first().map(|watch| watch.connection);
        }
    }
    None
}

/// Does the work of [`Watches::told`] if several paths have watches: merges their lists.
fn told_of_many(news: News<'_>, lists: &mut [&[Rc<Watch>]], found: &mut Vec<Rc<Watch>>) -> Option<ConnectionId> {
    let firsts = lists.iter().enumerate().filter_map(|(at, list)| Some((list.first()?.connection, at)));
    let mut next: BTreeSet<(ConnectionId, usize)> = firsts.collect();
    while let Some((connection, _)) = next.first().copied() {
        let begin = found.len();
        while let Some((_, at)) = next.first().copied().filter(|(first, _)| *first == connection) {
            next.pop_first();
            let Some((run, behind)) = lists.get(at).and_then(|list| split_run(list)) else { continue };
            found.extend(run.iter().filter(|watch| watch.is_told(news)).cloned());
            next.extend(behind.first().map(|watch| (watch.connection, at)));
            if let Some(list) = lists.get_mut(at) {
                *list = behind;
            }
        }
        if let Some(new) = found.get_mut(begin..) {
            new.sort_unstable_by_key(|watch| watch.rank());
        }
        if found.len() >= limits::WATCHES_AT_ONCE && !next.is_empty() {
            return Some(connection);
        }
    }
    None
}

/// Watches of one path, sorted by connection.
type Run = [Rc<Watch>];

/// Splits off the first connection's watches. Returns them and the rest; `None` for an empty list.
fn split_run(list: &Run) -> Option<(&Run, &Run)> {
    let first = list.first()?.connection;
    let end = list.iter().position(|watch| watch.connection != first).unwrap_or(list.len());
    list.split_at_checked(end)
}

/// Removes a watch from a list that is sorted by [`Watch::rank`].
fn take_out(list: &mut Vec<Rc<Watch>>, watch: &Watch) {
    if let Ok(at) = list.binary_search_by_key(&watch.rank(), |other| other.rank()) {
        list.remove(at);
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
        let news = News::Change(Path::parse(path.as_bytes(), DomId(0), 100, &mut scratch).unwrap(), scope);
        let mut found = Vec::new();
        assert!(watches.told(news, None, &mut found).is_none());
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
        let mut found = Vec::new();
        assert!(watches.told(News::Special("@releaseDomain"), None, &mut found).is_none());
        assert_eq!(found.len(), 1);
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

    #[test]
    fn a_watch_is_found_among_those_of_all_connections_on_its_path() {
        let mut watches = Watches::default();
        for at in 0..300_u64 {
            let connection = ConnectionId(at * 7 % 10);
            watches.add(
                connection,
                ["/a", "/b", "@releaseDomain"][at as usize / 10 % 3],
                at.to_string().as_bytes(),
                0,
                None,
            );
        }
        for at in (0..300_u64).rev() {
            let connection = ConnectionId(at * 7 % 10);
            let path = ["/a", "/b", "@releaseDomain"][at as usize / 10 % 3];
            let (token, other) = (at.to_string(), (at + 10).to_string());
            assert_eq!(&*watches.find(connection, path, token.as_bytes()).unwrap().token, token.as_bytes());
            assert!(watches.find(connection, path, other.as_bytes()).is_none());
            assert!(watches.find(ConnectionId(connection.0 + 1), path, token.as_bytes()).is_none());
            watches.remove(connection, path, token.as_bytes());
            assert!(watches.agree());
        }
        assert!(watches.is_empty() && watches.by_path.is_empty());
    }

    #[test]
    fn very_many_watches_are_told_in_the_same_order_in_short_lists() {
        const EACH: usize = 150;
        let mut watches = Watches::default();
        let places = [
            "/",
            "/a",
            "/a/b",
            "/ab",
            "/a/b/c",
            "/a/bc",
            "@releaseDomain",
            "@releaseDomain/3",
            "@releaseDomain/4",
            "/a/b/c/d",
        ];
        let depths = [None, Some(0), Some(1), Some(2), None];
        // Connections take turns, so that none has all its watches in a row.
        for at in 0..EACH * 40 {
            let connection = ConnectionId((at * 7 % 40) as u64);
            let (place, depth) = (places[at / 40 % places.len()], depths[at / 40 / places.len() % depths.len()]);
            watches.add(connection, place, std::format!("{at}").as_bytes(), 0, depth);
        }
        let mut scratch = PathScratch::new();
        let path = Path::parse(b"/a/b/c", DomId(0), 100, &mut scratch).unwrap();
        let (name, of_domain) = ("@releaseDomain", "@releaseDomain/3");
        for news in [
            News::Change(path, Scope::Subtree),
            News::Change(path, Scope::Exact),
            News::Change(Path::ROOT, Scope::Subtree),
            News::Special(name),
            News::SpecialDomain { name, of_domain },
        ] {
            let mut expected: Vec<_> =
                news.watched().filter_map(|place| watches.by_path.get(place)).flatten().collect();
            expected.retain(|watch| watch.is_told(news));
            expected.sort_by_key(|watch| (watch.connection, watch.sequence));
            let (mut all, mut found, mut behind) = (Vec::new(), Vec::new(), None);
            loop {
                behind = watches.told(news, behind, &mut found);
                assert!(found.len() < limits::WATCHES_AT_ONCE + EACH);
                all.append(&mut found);
                if behind.is_none() {
                    break;
                }
            }
            assert!(all.iter().map(|watch| watch.sequence).eq(expected.iter().map(|watch| watch.sequence)), "{news:?}");
        }
        let all = News::Change(path, Scope::Subtree);
        assert!(watches.told(all, None, &mut Vec::new()).is_some(), "there are more than a list holds");
    }
}
