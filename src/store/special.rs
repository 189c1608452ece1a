//! The special nodes `@introduceDomain` and `@releaseDomain`: no value, no children, only permissions, which say who gets
//! the events (`docs/misc/xenstore.txt`, "Watches").

use crate::store::domain::DomId;
use crate::store::permission::Permissions;

/// Which special node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A domain has been introduced.
    IntroduceDomain,
    /// A domain has shut down, has been released or is gone.
    ReleaseDomain,
}

impl Special {
    /// Both.
    pub const ALL: [Self; 2] = [Self::IntroduceDomain, Self::ReleaseDomain];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IntroduceDomain => "@introduceDomain",
            Self::ReleaseDomain => "@releaseDomain",
        }
    }

    /// The special node of a name that begins with `@`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|special| special.name() == name)
    }
}

/// A special node's permissions and when they were last written.
#[derive(Clone, Debug)]
pub struct SpecialNode {
    /// Who gets the events, and who may change that.
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
    /// As in a new store (4.22): both belong to the privileged domain, and every domain may know of releases.
    #[must_use]
    pub fn new(owner: DomId, generation: u64) -> Self {
        Self {
            introduce: SpecialNode { permissions: Permissions::private(owner), generation },
            release: SpecialNode { permissions: Permissions::readable_by_all(owner), generation },
        }
    }

    /// One of them.
    #[must_use]
    pub const fn get(&self, special: Special) -> &SpecialNode {
        match special {
            Special::IntroduceDomain => &self.introduce,
            Special::ReleaseDomain => &self.release,
        }
    }

    /// One of them, to be changed.
    pub const fn get_mut(&mut self, special: Special) -> &mut SpecialNode {
        match special {
            Special::IntroduceDomain => &mut self.introduce,
            Special::ReleaseDomain => &mut self.release,
        }
    }
}
