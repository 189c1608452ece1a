//! Every bound, with its reason. Nothing that a guest can drive grows past a number on this page or a quota.

/// Bytes of payload in one message (`XENSTORE_PAYLOAD_MAX`, `xen/include/public/io/xs_wire.h`).
pub const PAYLOAD_BYTES: usize = 4096;

/// Bytes of a path that a client may spell, and the upper bound of the quota `path-max`
/// (`XENSTORE_REL_PATH_MAX`, `xs_wire.h`). The prefix `/local/domain/<domid>/` does not count.
pub const PATH_BYTES: usize = 2048;

/// Bytes of the longest prefix that does not count towards [`PATH_BYTES`]: `/local/domain/65535/`.
pub const PATH_PREFIX_BYTES: usize = 20;

/// Bytes of the longest path that the tree can hold.
pub const ABSOLUTE_PATH_BYTES: usize = PATH_BYTES + PATH_PREFIX_BYTES;

/// Levels of the deepest path: each level takes a slash and at least one more character.
pub const PATH_DEPTH: usize = ABSOLUTE_PATH_BYTES / 2;

/// Children that a directory keeps in one list, searched from end to end. Above it, names are found by binary search;
/// below it the list is smaller and no slower.
pub const SMALL_DIRECTORY: usize = 24;

/// Entries in a chunk of a large directory's maps. A change copies at most one chunk when an older version is held;
/// a larger chunk makes that dearer, a smaller one the list of chunks longer.
pub const CHUNK_ENTRIES: usize = 64;

/// Requests of one connection that are handled before others get their turn.
pub const REQUESTS_PER_TURN: usize = 8;

/// Bytes of a payload that fit into the buffer that a connection keeps between requests; a larger one is given back.
pub const KEPT_INPUT_BYTES: usize = 256;

/// Milliseconds until an event that an unprivileged domain does not read is dropped, unless `--timeout` says otherwise.
pub const EVENT_TIMEOUT_MS: u64 = 20_000;

const _: () = assert!(ABSOLUTE_PATH_BYTES < PAYLOAD_BYTES, "a path and its NUL fit into a payload");
const _: () = assert!(PATH_DEPTH <= u16::MAX as usize);
