//! Error names, as an ERROR reply carries them (`xen/include/public/io/xs_wire.h`, `xsd_errors`).

/// An error that a reply can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// An argument is wrong.
    Inval,
    /// The caller may not do that.
    Acces,
    /// It exists already.
    Exist,
    /// Not in use by this server; part of the table.
    IsDir,
    /// There is no such thing.
    NoEnt,
    /// Memory is exhausted.
    NoMem,
    /// A quota is exhausted.
    NoSpc,
    /// An internal error.
    Io,
    /// Not in use by this server; part of the table.
    NotEmpty,
    /// The request is unknown.
    NoSys,
    /// Not in use by this server; part of the table.
    RoFs,
    /// Busy with something that excludes this.
    Busy,
    /// A transaction conflicted; try again.
    Again,
    /// Not in use by this server; part of the table.
    IsConn,
    /// The reply or the argument is too long.
    TooBig,
    /// The operation is not permitted, whatever the node's permissions.
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

    /// The error of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|errno| errno.name() == name)
    }

    /// The name on the wire, without the terminating NUL.
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
