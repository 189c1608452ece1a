//! Error names, as an ERROR reply carries them (`xen/include/public/io/xs_wire.h`, `xsd_errors`).

/// An error that a reply can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// An argument is invalid.
    Inval,
    /// The requester lacks the permission.
    Acces,
    /// The object exists already.
    Exist,
    /// Not used by this server; part of the table.
    IsDir,
    /// The object does not exist.
    NoEnt,
    /// Memory is exhausted.
    NoMem,
    /// A quota is exhausted.
    NoSpc,
    /// An internal error.
    Io,
    /// Not used by this server; part of the table.
    NotEmpty,
    /// The request type is unknown.
    NoSys,
    /// Not used by this server; part of the table.
    RoFs,
    /// Another operation excludes this one for now.
    Busy,
    /// A transaction conflicted; try again.
    Again,
    /// Not used by this server; part of the table.
    IsConn,
    /// The reply or the argument is too long.
    TooBig,
    /// The operation is not permitted, regardless of the node's permissions.
    Perm,
}

impl Errno {
    /// Every error.
    pub const ALL: [Self; 16] = [
        Self::Inval,
        Self::Acces,
        Self::Exist,
        Self::IsDir,
        Self::NoEnt,
        Self::NoMem,
        Self::NoSpc,
        Self::Io,
        Self::NotEmpty,
        Self::NoSys,
        Self::RoFs,
        Self::Busy,
        Self::Again,
        Self::IsConn,
        Self::TooBig,
        Self::Perm,
    ];

    /// Returns the error with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|errno| errno.name() == name)
    }

    /// Returns the name on the wire, without the terminating NUL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inval => "EINVAL",
            Self::Acces => "EACCES",
            Self::Exist => "EEXIST",
            Self::IsDir => "EISDIR",
            Self::NoEnt => "ENOENT",
            Self::NoMem => "ENOMEM",
            Self::NoSpc => "ENOSPC",
            Self::Io => "EIO",
            Self::NotEmpty => "ENOTEMPTY",
            Self::NoSys => "ENOSYS",
            Self::RoFs => "EROFS",
            Self::Busy => "EBUSY",
            Self::Again => "EAGAIN",
            Self::IsConn => "EISCONN",
            Self::TooBig => "E2BIG",
            Self::Perm => "EPERM",
        }
    }
}
