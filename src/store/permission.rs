//! The rights of domains on a node (`docs/misc/xenstore.txt`, "Permissions").
//!
//! The first entry names the owner. Its letter gives the rights of all domains that no later entry names. A right that
//! was given to a domain dies with that domain: see [`Requester`] and [`Permissions::without`].

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

use crate::limits::ENTRIES_IN_PLACE;
use crate::store::domain::DomId;
use crate::wire::payload;

bitflags! {
    /// Rights on a node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Allows to read value, children and permissions, and to receive events.
        const READ = 1;
        /// Allows to write the value, and to make and remove nodes.
        const WRITE = 2;
        /// Allows to change permissions.
        const OWNER = 4;
    }
}

/// One entry of a node's permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The domain that the entry names.
    pub domid: DomId,
    /// The domain's rights; never [`Access::OWNER`].
    pub access: Access,
    /// Whether the named domain did not exist. Such an entry names no domain, even if the number is used later.
    pub stale: bool,
}

/// A node's permissions: the owner's entry, then the others. Never empty. A list that is too long to be kept in place
/// is shared between the nodes that inherit it.
#[derive(Clone)]
pub struct Permissions(Entries);

/// Few entries are the usual case, and are read without another memory access.
#[derive(Clone)]
enum Entries {
    Few(heapless::Vec<Entry, ENTRIES_IN_PLACE, u8>),
    Many(Rc<Vec<Entry>>),
}

const _: () = assert!(size_of::<Permissions>() == 16, "as many in place as two words hold");

/// The text is not a valid list of permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPermissions;

impl Permissions {
    /// Creates permissions of these entries, of which there is at least one.
    fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut all = Entries::NONE;
        entries.into_iter().for_each(|entry| all.push(entry));
        Self(all)
    }

    /// Returns permissions that give rights to no domain except `owner` (and privileged clients).
    #[must_use]
    pub fn private(owner: DomId) -> Self {
        Self::of([Entry { domid: owner, access: Access::empty(), stale: false }])
    }

    /// Returns permissions that give all rights to `owner`, and let all others read.
    #[must_use]
    pub fn readable_by_all(owner: DomId) -> Self {
        let entry = |domid, access| Entry { domid, access, stale: false };
        Self::of([entry(owner, Access::empty()), entry(DomId::ANY, Access::READ)])
    }

    /// Reads `count` entries: a letter, a decimal domid and a NUL each. Does not check that the domains exist.
    ///
    /// # Errors
    /// Fails with [`InvalidPermissions`] if there is no entry, for an unknown letter, or for a number that no domain
    /// can have.
    pub fn parse(mut strings: &[u8], count: usize) -> Result<Self, InvalidPermissions> {
        let mut entries = Entries::NONE;
        for _ in 0..count {
            let (string, rest) = payload::split_string(strings).ok_or(InvalidPermissions)?;
            let (letter, number) = string.split_first().ok_or(InvalidPermissions)?;
            let access = access_of_letter(*letter).ok_or(InvalidPermissions)?;
            let number = payload::decimal(number).and_then(|number| u16::try_from(number).ok());
            let domid = DomId(number.ok_or(InvalidPermissions)?);
            entries.push(Entry { domid, access, stale: false });
            strings = rest;
        }
        if count == 0 { Err(InvalidPermissions) } else { Ok(Self(entries)) }
    }

    /// Creates permissions of restored entries; `None` if there is no entry.
    #[must_use]
    pub fn from_entries(entries: &[Entry]) -> Option<Self> {
        (!entries.is_empty()).then(|| Self::of(entries.iter().copied()))
    }

    /// Creates permissions of entries that may be invalid; `None` if there is no entry.
    ///
    /// # Errors
    /// Fails with the error of the first invalid entry.
    pub fn try_from_entries<E>(entries: impl IntoIterator<Item = Result<Entry, E>>) -> Result<Option<Self>, E> {
        let mut all = Entries::NONE;
        let mut is_empty = true;
        for entry in entries {
            all.push(entry?);
            is_empty = false;
        }
        Ok((!is_empty).then_some(Self(all)))
    }

    /// Returns the entries, the owner's first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match &self.0 {
            Entries::Few(entries) => entries,
            Entries::Many(entries) => entries,
        }
    }

    /// Returns the node's owner.
    #[must_use]
    pub fn owner(&self) -> DomId {
        self.entries().first().map_or(DomId::DOM0, |entry| entry.domid)
    }

    /// Returns whether a valid entry names `domid`.
    #[must_use]
    pub fn names(&self, domid: DomId) -> bool {
        self.entries().iter().any(|entry| entry.domid == domid && !entry.stale)
    }

    /// Returns the permissions with another owner. The first entry keeps its letter.
    #[must_use]
    pub fn owned_by(&self, owner: DomId) -> Self {
        if self.owner() == owner {
            return self.clone();
        }
        let (first, others) = (self.entries().iter().take(1), self.entries().iter().skip(1));
        Self::of(first.map(|first| Entry { domid: owner, ..*first }).chain(others.copied()))
    }

    /// Returns the permissions without entries for `domid`, the owner's excepted.
    #[must_use]
    pub fn without(&self, domid: DomId) -> Self {
        let kept = self.entries().iter().enumerate().filter(|(at, entry)| *at == 0 || entry.domid != domid);
        Self::of(kept.map(|(_, entry)| *entry))
    }

    /// Returns the permissions with a mark on each entry for which `is_stale` returns true, the owner's excepted.
    /// Existing marks stay.
    #[must_use]
    pub fn marked(&self, mut is_stale: impl FnMut(DomId) -> bool) -> Self {
        let entries = self.entries().iter().enumerate();
        Self::of(entries.map(|(at, entry)| Entry { stale: entry.stale || at > 0 && is_stale(entry.domid), ..*entry }))
    }
}

impl Entries {
    const NONE: Self = Self::Few(heapless::Vec::new());

    fn push(&mut self, entry: Entry) {
        match self {
            Self::Few(entries) => {
                if entries.push(entry).is_err() {
                    *self = Self::Many(Rc::new(entries.iter().copied().chain([entry]).collect()));
                }
            }
            Self::Many(entries) => Rc::make_mut(entries).push(entry),
        }
    }
}

impl PartialEq for Permissions {
    fn eq(&self, other: &Self) -> bool {
        self.entries() == other.entries()
    }
}

impl Eq for Permissions {}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in self.entries() {
            write!(f, "{entry}{} ", if entry.stale { "!" } else { "" })?;
        }
        Ok(())
    }
}

impl Entry {
    /// Returns the letter of the entry's rights, as in GET_PERMS.
    #[must_use]
    pub const fn letter(&self) -> u8 {
        match (self.access.contains(Access::READ), self.access.contains(Access::WRITE)) {
            (false, false) => b'n',
            (true, false) => b'r',
            (false, true) => b'w',
            (true, true) => b'b',
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.letter()), self.domid)
    }
}

/// Returns the rights of a letter.
const fn access_of_letter(letter: u8) -> Option<Access> {
    match letter {
        b'n' => Some(Access::empty()),
        b'r' => Some(Access::READ),
        b'w' => Some(Access::WRITE),
        b'b' => Some(Access::READ.union(Access::WRITE)),
        _ => None,
    }
}

/// A domain together with the generation of its birth: a later domain with the same number is a different one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The domain's number.
    pub domid: DomId,
    /// The generation at which the domain became known. Rights in a node whose last write was earlier do not apply to
    /// it.
    pub born: u64,
}

/// The requester, as permissions see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// The control domain, which has all rights.
    Privileged,
    /// Any other domain, and its target.
    Domain {
        /// The domain itself.
        own: Identity,
        /// The domain whose rights it has too (SET_TARGET).
        target: Option<Identity>,
    },
}

impl Requester {
    /// Returns the requester for an unknown domain, which no entry names.
    #[must_use]
    pub const fn nobody(domid: DomId) -> Self {
        Self::Domain { own: Identity { domid, born: u64::MAX }, target: None }
    }

    /// Returns whether the requester has all rights.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        matches!(self, Self::Privileged)
    }

    /// Returns the requester's rights on a node with these permissions, whose last write was at `generation`.
    #[must_use]
    pub fn access(&self, permissions: &Permissions, generation: u64) -> Access {
        let Self::Domain { own, target } = self else { return Access::all() };
        let identities = || core::iter::once(own).chain(target.iter());
        let means =
            |entry: &Entry| entry.domid == DomId::ANY || identities().any(|identity| identity.domid == entry.domid);
        let counts = |entry: &Entry| {
            let existed = |identity: &Identity| identity.domid == entry.domid && identity.born < generation;
            !entry.stale && (entry.domid == DomId::ANY || identities().any(existed))
        };
        let Some((owner, others)) = permissions.entries().split_first() else { return Access::empty() };
        if means(owner) {
            return Access::all();
        }
        others.iter().find(|entry| counts(entry)).unwrap_or(owner).access
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    fn permissions(entries: &str) -> Permissions {
        let strings: Vec<u8> = entries.split(' ').flat_map(|entry| [entry.as_bytes(), b"\0"].concat()).collect();
        Permissions::parse(&strings, entries.split(' ').count()).unwrap()
    }

    fn domain(domid: u16) -> Requester {
        Requester::Domain { own: Identity { domid: DomId(domid), born: 5 }, target: None }
    }

    #[test]
    fn the_owner_may_do_everything_whatever_its_letter() {
        assert_eq!(domain(1).access(&permissions("n1"), 10), Access::all());
    }

    #[test]
    fn the_first_entry_that_names_the_domain_decides_alone() {
        let node = permissions("b0 r1 b1");
        assert_eq!(domain(1).access(&node, 10), Access::READ);
        assert_eq!(domain(2).access(&node, 10), Access::READ | Access::WRITE);
    }

    #[test]
    fn an_entry_for_all_domains_decides_for_those_that_are_named_by_none_before() {
        let node = permissions("n0 w1 r32757 b2");
        assert_eq!(domain(1).access(&node, 10), Access::WRITE);
        assert_eq!(domain(2).access(&node, 10), Access::READ);
        assert_eq!(domain(3).access(&node, 4), Access::READ, "born later than the node was written");
        assert_eq!(domain(3).access(&node.marked(|domid| domid == DomId::ANY), 10), Access::empty());
        assert_eq!(domain(3).access(&permissions("n32757"), 10), Access::all(), "everybody is the owner");
    }

    #[test]
    fn write_does_not_imply_read() {
        assert_eq!(domain(1).access(&permissions("n0 w1"), 10), Access::WRITE);
    }

    #[test]
    fn an_entry_older_than_the_domain_does_not_mean_it() {
        let node = permissions("n0 b1");
        assert_eq!(domain(1).access(&node, 4), Access::empty());
        assert_eq!(domain(1).access(&node, 6), Access::READ | Access::WRITE);
    }

    #[test]
    fn a_stale_entry_is_passed_over() {
        let node = permissions("r0 b1").marked(|domid| domid == DomId(1));
        assert_eq!(domain(1).access(&node, 10), Access::READ);
    }

    #[test]
    fn a_target_gives_its_rights_but_no_privilege() {
        let target = Some(Identity { domid: DomId(2), born: 5 });
        let both = Requester::Domain { own: Identity { domid: DomId(1), born: 5 }, target };
        assert_eq!(both.access(&permissions("n2"), 10), Access::all());
        assert_eq!(both.access(&permissions("n0 r2"), 10), Access::READ);
        assert_eq!(both.access(&permissions("n0"), 10), Access::empty());
    }

    #[test]
    fn only_letters_and_decimal_domids_are_permissions() {
        for wrong in ["", "n", "x0", "n-1", "n65536", "n0x1", "n 1", "N1"] {
            let strings = [wrong.as_bytes(), b"\0"].concat();
            assert_eq!(Permissions::parse(&strings, 1), Err(InvalidPermissions), "{wrong:?}");
        }
        assert_eq!(Permissions::parse(b"", 0), Err(InvalidPermissions));
        assert_eq!(permissions("b3 w4 n5 r6").entries()[1].to_string(), "w4");
    }

    #[test]
    fn a_dead_domain_loses_its_entries_but_not_the_others() {
        assert_eq!(permissions("n0 r1 b2 w1").without(DomId(1)), permissions("n0 b2"));
        assert_eq!(permissions("n1 r1").without(DomId(1)), permissions("n1"));
    }
}
