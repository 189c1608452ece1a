//! The special nodes `@introduceDomain` and `@releaseDomain`. They have no value and no children. Their permissions
//! decide which clients receive the events (`docs/misc/xenstore.txt`, "Watches").

use crate::store::domain::DomId;
use crate::store::permission::Permissions;

/// The name of a special node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A domain has been introduced.
    IntroduceDomain,
    /// A domain has shut down, has been released or no longer exists.
    ReleaseDomain,
}

impl Special {
    /// Both special nodes.
    pub const ALL: [Self; 2] = [Self::IntroduceDomain, Self::ReleaseDomain];

    /// Returns the name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IntroduceDomain => "@introduceDomain",
            Self::ReleaseDomain => "@releaseDomain",
        }
    }

    /// Returns the special node of a name that begins with `@`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|special| special.name() == name)
    }
}

/// A special node's permissions and the generation of their last write.
#[derive(Clone, Debug)]
pub struct SpecialNode {
    /// The permissions: which clients receive the events, and which clients may change the permissions.
    pub permissions: Permissions,
    /// The generation of the last write.
    pub generation: u64,
}

/// Both special nodes.
#[derive(Clone, Debug)]
pub struct Specials {
    introduce: SpecialNode,
    release: SpecialNode,
}

impl Specials {
    /// Creates the special nodes of a new store (4.22): both belong to the privileged domain, and every domain may
    /// receive release events.
    #[must_use]
    pub fn new(owner: DomId, generation: u64) -> Self {
        Self {
            introduce: SpecialNode { permissions: Permissions::private(owner), generation },
            release: SpecialNode { permissions: Permissions::readable_by_all(owner), generation },
        }
    }

    /// Returns one special node.
    #[must_use]
    pub const fn get(&self, special: Special) -> &SpecialNode {
        match special {
            Special::IntroduceDomain => &self.introduce,
            Special::ReleaseDomain => &self.release,
        }
    }

    /// Returns one special node, to be changed.
    pub const fn get_mut(&mut self, special: Special) -> &mut SpecialNode {
        match special {
            Special::IntroduceDomain => &mut self.introduce,
            Special::ReleaseDomain => &mut self.release,
        }
    }
}
