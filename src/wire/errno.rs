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
