//! Readable names of message types.

/// Message types of Xen 4.17, by number (`xen/include/public/io/xs_wire.h`).
pub const KINDS: [&str; 23] = [
    "CONTROL",
    "DIRECTORY",
    "READ",
    "GET_PERMS",
    "WATCH",
    "UNWATCH",
    "TRANSACTION_START",
    "TRANSACTION_END",
    "INTRODUCE",
    "RELEASE",
    "GET_DOMAIN_PATH",
    "WRITE",
    "MKDIR",
    "RM",
    "SET_PERMS",
    "WATCH_EVENT",
    "ERROR",
    "IS_DOMAIN_INTRODUCED",
    "RESUME",
    "SET_TARGET",
    "type 20",
    "RESET_WATCHES",
    "DIRECTORY_PART",
];

pub const CONTROL: u32 = 0;
pub const DIRECTORY: u32 = 1;
pub const READ: u32 = 2;
pub const GET_PERMS: u32 = 3;
pub const WATCH: u32 = 4;
pub const UNWATCH: u32 = 5;
pub const TRANSACTION_START: u32 = 6;
pub const TRANSACTION_END: u32 = 7;
pub const INTRODUCE: u32 = 8;
pub const RELEASE: u32 = 9;
pub const GET_DOMAIN_PATH: u32 = 10;
pub const WRITE: u32 = 11;
pub const MKDIR: u32 = 12;
pub const RM: u32 = 13;
pub const SET_PERMS: u32 = 14;
pub const ERROR: u32 = 16;
pub const IS_DOMAIN_INTRODUCED: u32 = 17;
pub const RESUME: u32 = 18;
pub const SET_TARGET: u32 = 19;
pub const RESET_WATCHES: u32 = 21;
pub const DIRECTORY_PART: u32 = 22;

/// Returns the name of a message type.
pub fn kind(kind: u32) -> &'static str {
    KINDS.get(kind as usize).copied().unwrap_or("unknown type")
}
