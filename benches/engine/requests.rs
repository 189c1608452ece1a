//! The measured requests. If a request changes the state for the next round, a second one restores it.

use xenstore::wire::header::MessageType as Type;

use crate::support::driver::Who;

/// Requests that are measured together.
pub struct Case {
    /// The case's name, in tables and in Criterion's folders.
    pub name: &'static str,
    /// The requester.
    pub who: Who,
    /// Requests that are executed once before the measurement.
    pub before: &'static [(Who, Type, &'static [u8])],
    /// The measured requests.
    pub requests: &'static [(Type, &'static [u8])],
    /// Whether the first request opens a transaction for the others.
    pub in_transaction: bool,
}

const fn of(who: Who, name: &'static str, requests: &'static [(Type, &'static [u8])]) -> Case {
    Case { name, who, before: &[], requests, in_transaction: false }
}

/// All cases, in the order of the table.
pub const CASES: &[Case] = &[
    of(Who::Guest, "READ", &[(Type::Read, b"data/value\0")]),
    of(Who::Guest, "READ of 1900 bytes", &[(Type::Read, b"data/large\0")]),
    of(Who::Guest, "WRITE", &[(Type::Write, b"data/value\0y")]),
    Case {
        before: &[(Who::Guest, Type::Watch, b"data\0token\0")],
        ..of(Who::Guest, "WRITE with an event", &[(Type::Write, b"data/value\0y")])
    },
    of(Who::Guest, "MKDIR of an existing node", &[(Type::Mkdir, b"data\0")]),
    of(Who::Guest, "MKDIR, RM", &[(Type::Mkdir, b"new\0"), (Type::Rm, b"new\0")]),
    of(Who::Guest, "DIRECTORY of 100", &[(Type::Directory, b"directory\0")]),
    of(Who::Guest, "DIRECTORY_PART of 100", &[(Type::DirectoryPart, b"directory\x000\0")]),
    of(Who::Guest, "GET_PERMS", &[(Type::GetPerms, b"data\0")]),
    of(Who::Guest, "SET_PERMS", &[(Type::SetPerms, b"data\0n7\0r0\0")]),
    of(Who::Guest, "WATCH, UNWATCH", &[(Type::Watch, b"data\0token\0"), (Type::Unwatch, b"data\0token\0")]),
    of(Who::Guest, "RESET_WATCHES", &[(Type::ResetWatches, b"\0")]),
    of(Who::Guest, "GET_DOMAIN_PATH", &[(Type::GetDomainPath, b"7\0")]),
    of(Who::Dom0, "GET_FEATURE", &[(Type::GetFeature, b"7\0")]),
    Case {
        in_transaction: true,
        ..of(Who::Guest, "TRANSACTION_START, END", &[(Type::TransactionStart, b"\0"), (Type::TransactionEnd, b"T\0")])
    },
    Case {
        in_transaction: true,
        ..of(
            Who::Guest,
            "TRANSACTION_START, READ, WRITE, END",
            &[
                (Type::TransactionStart, b"\0"),
                (Type::Read, b"data/value\0"),
                (Type::Write, b"data/value\0z"),
                (Type::TransactionEnd, b"T\0"),
            ],
        )
    },
    of(Who::Dom0, "CONTROL help", &[(Type::Control, b"help\0")]),
    of(Who::Dom0, "INTRODUCE, RELEASE", &[(Type::Introduce, b"8\x008\x001\0"), (Type::Release, b"8\0")]),
    of(Who::Dom0, "IS_DOMAIN_INTRODUCED", &[(Type::IsDomainIntroduced, b"7\0")]),
    of(Who::Dom0, "RESUME", &[(Type::Resume, b"7\0")]),
    Case {
        before: &[(Who::Dom0, Type::Introduce, b"8\x008\x001\0")],
        ..of(Who::Dom0, "SET_TARGET", &[(Type::SetTarget, b"7\x008\0")])
    },
    of(Who::Dom0, "GET_QUOTA", &[(Type::GetQuota, b"nodes\0")]),
    of(Who::Dom0, "SET_QUOTA", &[(Type::SetQuota, b"nodes\x001000\0")]),
    of(Who::Dom0, "SET_FEATURE", &[(Type::SetFeature, b"8\x000\0")]),
];
