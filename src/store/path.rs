//! Paths of nodes. A [`Path`] is always absolute and valid.
//!
//! Source of the rules: `docs/misc/xenstore.txt`, "Communication with xenstore". A relative path belongs below
//! `/local/domain/<domid>/` of the connection that sends it.

use alloc::collections::TryReserveError;
use alloc::rc::Rc;
use alloc::string::String;
use core::borrow::Borrow;
use core::cmp::Ordering;
use core::fmt;

use crate::limits;
use crate::store::domain::DomId;

/// The parent of the domains' nodes.
const DOMAINS: &str = "/local/domain/";

/// A valid absolute path of a node, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path<'a>(&'a str);

/// The path argument of a request that also takes special nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyPath<'a> {
    /// A node of the tree.
    Node(Path<'a>),
    /// A name that begins with `@`, of valid characters and length; such a node need not exist.
    Special(&'a str),
}

/// Room for a relative path in its absolute form.
pub type PathScratch = heapless::String<{ limits::ABSOLUTE_PATH_BYTES }>;

/// The text is not a valid path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPath;

impl<'a> Path<'a> {
    /// The root.
    pub const ROOT: Path<'static> = Path("/");
    /// The parent of the nodes of dom0's tools.
    pub const TOOL: Path<'static> = Path("/tool");
    /// The parent of the nodes about the server.
    pub const TOOL_XENSTORED: Path<'static> = Path("/tool/xenstored");

    /// Reads a path as the client `domid` sends it, of at most `limit_bytes` without the prefix
    /// `/local/domain/<number>/`. Writes the absolute form of a relative path to `scratch`.
    ///
    /// # Errors
    /// Fails with [`InvalidPath`] if the text is not a valid path.
    pub fn parse(
        spelling: &'a [u8],
        domid: DomId,
        limit_bytes: usize,
        scratch: &'a mut PathScratch,
    ) -> Result<Self, InvalidPath> {
        match spelling.first() {
            None | Some(b'@') => Err(InvalidPath),
            Some(b'/') => Self::parse_absolute(spelling, limit_bytes),
            Some(_) => {
                let spelling = valid_characters(spelling)?;
                scratch.clear();
                let mut number = itoa::Buffer::new();
                let parts = [DOMAINS, number.format(domid.0), "/", spelling];
                parts.into_iter().try_for_each(|part| scratch.push_str(part)).map_err(|_| InvalidPath)?;
                Self::of_valid_characters(scratch.as_str(), limit_bytes)
            }
        }
    }

    /// Reads an absolute path; the limit is that of [`Path::parse`].
    ///
    /// # Errors
    /// Fails with [`InvalidPath`] if the text is not a valid path.
    pub fn parse_absolute(spelling: &'a [u8], limit_bytes: usize) -> Result<Self, InvalidPath> {
        if spelling.first() != Some(&b'/') {
            return Err(InvalidPath);
        }
        Self::of_valid_characters(valid_characters(spelling)?, limit_bytes)
    }

    fn of_valid_characters(full: &'a str, limit_bytes: usize) -> Result<Self, InvalidPath> {
        let well_formed = full == "/" || !(full.ends_with('/') || full.contains("//"));
        let path = Self(full);
        let is_short = full.len() <= limit_bytes || path.counted_bytes() <= limit_bytes;
        let fits = is_short && full.len() <= limits::ABSOLUTE_PATH_BYTES;
        if well_formed && fits { Ok(path) } else { Err(InvalidPath) }
    }

    /// Reads the absolute path of a child of `parent`. Returns `None` if the path is too long or is not that of a
    /// child. Checks only the characters of the name.
    #[must_use]
    pub fn child_of(parent: Path<'_>, spelling: &'a str) -> Option<Self> {
        let above = if parent.is_root() { "" } else { parent.0 };
        let name = spelling.strip_prefix(above)?.strip_prefix('/')?;
        (Self::is_name(name) && spelling.len() <= limits::ABSOLUTE_PATH_BYTES).then_some(Self(spelling))
    }

    /// Returns the bytes that count for the quota: all except the prefix `/local/domain/<number>/`.
    #[must_use]
    pub fn counted_bytes(self) -> usize {
        self.0.len().saturating_sub(uncounted_prefix(self.0))
    }

    /// Returns the path as a string.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Returns whether this is the root.
    #[must_use]
    pub fn is_root(self) -> bool {
        self.0 == "/"
    }

    /// Returns the path one level up; `None` for the root.
    #[must_use]
    pub fn parent(self) -> Option<Self> {
        match last_slash(self.0)? {
            0 if self.0.len() == 1 => None,
            0 => Some(Path::ROOT),
            at => self.0.get(..at).map(Self),
        }
    }

    /// Returns the last name; empty for the root.
    #[must_use]
    pub fn name(self) -> &'a str {
        last_slash(self.0).and_then(|at| self.0.get(at.saturating_add(1)..)).unwrap_or_default()
    }

    /// Returns the names from the root down.
    pub fn names(self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            rest = rest.get(1..)?;
            let end = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end)?;
            rest = behind;
            (!name.is_empty()).then_some(name)
        })
    }

    /// Returns the names below the first `bytes` bytes, from there down. These bytes are an ancestor's path (0 for the
    /// root). With each name comes the length of the path that ends with it.
    pub(super) fn names_below(self, bytes: usize) -> impl Iterator<Item = (usize, &'a str)> {
        let mut end = bytes;
        core::iter::from_fn(move || {
            let rest = self.0.get(end.saturating_add(1)..)?;
            let bytes = rest.bytes().position(|byte| byte == b'/').unwrap_or(rest.len());
            let name = rest.get(..bytes).filter(|name| !name.is_empty())?;
            end = end.saturating_add(bytes).saturating_add(1);
            Some((end, name))
        })
    }

    /// Returns the lowest `levels` paths of this path and its ancestors, from the top down to this path.
    pub fn lowest(self, levels: usize) -> impl Iterator<Item = Self> {
        let above = self.and_ancestors().nth(levels);
        let bytes = above.map(|above| if above.is_root() { 0 } else { above.0.len() });
        bytes.into_iter().flat_map(move |bytes| self.names_below(bytes).map(move |(end, _)| self.first(end)))
    }

    /// Returns the path of the first `bytes` bytes (0 for the root): this path or an ancestor.
    pub(super) fn first(self, bytes: usize) -> Self {
        self.0.get(..bytes).filter(|above| !above.is_empty()).map_or(Path::ROOT, Self)
    }

    /// Returns the bytes of the deepest common path: each of the two paths is this path or below it. 0 for the root.
    pub(super) fn common_bytes(self, other: Path<'_>) -> usize {
        let (ours, theirs) = (self.0.as_bytes(), other.0.as_bytes());
        let same = same_bytes(ours, theirs);
        let ends_name = |path: &[u8]| path.get(same).is_none_or(|byte| *byte == b'/');
        if self.is_root() || other.is_root() {
            0
        } else if ends_name(ours) && ends_name(theirs) {
            same
        } else {
            self.0.get(..same).and_then(last_slash).unwrap_or(0)
        }
    }

    /// Returns this path and all paths above it, the root last.
    pub fn and_ancestors(self) -> impl Iterator<Item = Self> {
        core::iter::successors(Some(self), |path| path.parent())
    }

    /// Returns whether `name` can be the last name of a path.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|byte| byte != b'/' && is_valid(byte))
    }

    /// Returns an owned copy.
    #[must_use]
    pub fn to_owned(self) -> PathBuf {
        PathBuf(self.0.into())
    }
}

impl<'a> AnyPath<'a> {
    /// Reads a path or a special name; otherwise as [`Path::parse`].
    ///
    /// # Errors
    /// Fails with [`InvalidPath`] if the text is neither.
    pub fn parse(
        spelling: &'a [u8],
        domid: DomId,
        limit_bytes: usize,
        scratch: &'a mut PathScratch,
    ) -> Result<Self, InvalidPath> {
        if spelling.first() != Some(&b'@') {
            return Path::parse(spelling, domid, limit_bytes, scratch).map(AnyPath::Node);
        }
        let name = valid_characters(spelling)?;
        let well_formed = !(name.ends_with('/') || name.contains("//"));
        if well_formed && name.len() <= limit_bytes.min(limits::ABSOLUTE_PATH_BYTES) {
            Ok(AnyPath::Special(name))
        } else {
            Err(InvalidPath)
        }
    }

    /// Returns the path as a string.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        match self {
            AnyPath::Node(path) => path.as_str(),
            AnyPath::Special(name) => name,
        }
    }
}

/// Returns whether a path may contain this byte.
const fn is_valid(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@')
}

/// Returns the bytes as text, if they have only the characters that the protocol allows in paths.
fn valid_characters(spelling: &[u8]) -> Result<&str, InvalidPath> {
    if spelling.iter().copied().all(is_valid) {
        core::str::from_utf8(spelling).map_err(|_| InvalidPath)
    } else {
        Err(InvalidPath)
    }
}

/// Returns the bytes of `/local/domain/<number of up to five digits>/` at the beginning; 0 for another beginning.
fn uncounted_prefix(path: &str) -> usize {
    let Some((number, _)) = path.strip_prefix(DOMAINS).and_then(|rest| rest.split_once('/')) else { return 0 };
    let digits = number.len();
    if (1..=5).contains(&digits) && number.bytes().all(|byte| byte.is_ascii_digit()) {
        DOMAINS.len().saturating_add(digits).saturating_add(1)
    } else {
        0
    }
}

/// A valid absolute path of a node, owned. Copies share its text.
#[derive(Clone)]
pub struct PathBuf(Rc<str>);

// Compares the text. Copies share it, and are equal without a comparison of bytes.
impl PartialEq for PathBuf {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for PathBuf {}

impl Ord for PathBuf {
    fn cmp(&self, other: &Self) -> Ordering {
        if Rc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for PathBuf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PathBuf {
    /// Returns the path of a domain's own nodes.
    #[must_use]
    pub fn of_domain(domid: DomId) -> Self {
        let mut path = String::from(DOMAINS);
        path.push_str(itoa::Buffer::new().format(domid.0));
        Self(path.into())
    }

    /// Returns the path, borrowed.
    #[must_use]
    pub fn as_path(&self) -> Path<'_> {
        Path(&self.0)
    }
}

impl Borrow<str> for PathBuf {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Returns the position of the last slash. Names are short, so that a loop over the bytes is fastest. The standard
/// library's search, which is made for long texts, takes a third of a node look-up.
fn last_slash(path: &str) -> Option<usize> {
    path.bytes().rposition(|byte| byte == b'/')
}

/// Returns the length of the common beginning. Compares blocks first: neighbours in a sorted list of paths mostly
/// differ near their ends. A block of this size is compared in a register, without a call.
fn same_bytes(ours: &[u8], theirs: &[u8]) -> usize {
    const BLOCK: usize = 16;
    let blocks = ours.as_chunks::<BLOCK>().0.iter().zip(theirs.as_chunks::<BLOCK>().0);
    let begin = blocks.take_while(|(ours, theirs)| ours == theirs).count().saturating_mul(BLOCK);
    let rest = ours.iter().skip(begin).zip(theirs.iter().skip(begin));
    begin.saturating_add(rest.take_while(|(ours, theirs)| ours == theirs).count())
}

/// A path that moves down and up, for a visit of a whole subtree.
#[derive(Clone, Debug)]
pub struct PathCursor(String);

impl PathCursor {
    /// Starts at `path`.
    #[must_use]
    pub fn at(path: Path<'_>) -> Self {
        Self(path.0.into())
    }

    /// Makes room for every path of the tree.
    pub(super) fn try_reserve(&mut self) -> Result<(), TryReserveError> {
        self.0.try_reserve_exact(limits::ABSOLUTE_PATH_BYTES)
    }

    /// Moves down to the child `name`, which is a name of the tree.
    pub fn push(&mut self, name: &str) {
        if self.0 != "/" {
            self.0.push('/');
        }
        self.0.push_str(name);
    }

    /// Moves up one level; does nothing at the root.
    pub fn pop(&mut self) {
        let end = last_slash(&self.0).unwrap_or(0);
        self.0.truncate(end.max(1));
    }

    /// Returns the bytes of the present path.
    pub(super) const fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Moves up to the ancestor whose path has `bytes` bytes.
    pub(super) fn go_up_to(&mut self, bytes: usize) {
        self.0.truncate(bytes);
    }

    /// Returns the present path.
    #[must_use]
    pub fn as_path(&self) -> Path<'_> {
        Path(&self.0)
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for PathBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
#[path = "path/tests.rs"]
mod tests;
