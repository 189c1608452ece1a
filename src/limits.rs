//! Every bound, with its reason. No resource that a guest can use grows past a number on this page or a quota.

/// Bytes of payload in one message (`XENSTORE_PAYLOAD_MAX`, `xen/include/public/io/xs_wire.h`).
pub const PAYLOAD_BYTES: usize = 4096;

/// Most bytes of a guest's path as the guest writes it, and the upper bound of the quota `path-max`
/// (`XENSTORE_REL_PATH_MAX`, `xs_wire.h`). The prefix `/local/domain/<domid>/` does not count.
pub const PATH_BYTES: usize = 2048;

/// Bytes of the longest prefix that does not count towards [`PATH_BYTES`]: `/local/domain/65535/`.
const PATH_PREFIX_BYTES: usize = 20;

/// Bytes of the longest path that the tree can hold, prefix included (`XENSTORE_ABS_PATH_MAX`, `xs_wire.h`). The
/// control domain may use such a path for any `path-max`. An event with such a path and a long token does not fit a
/// message. The server drops the event, as the C server does.
pub const ABSOLUTE_PATH_BYTES: usize = 3072;

/// Levels of the deepest path: each level takes a slash and at least one more character.
pub const PATH_DEPTH: usize = ABSOLUTE_PATH_BYTES / 2;

/// Bytes that a path counts for in a transaction that has seen it, in addition to path and node.
pub const TRANSACTION_ENTRY_BYTES: usize = 64;

/// Bytes of a reply's payload that are accepted regardless of the memory quota. An error can thus always be reported,
/// as by the C server.
pub const SMALL_REPLY_BYTES: usize = 16;

/// Bytes of a message that count in addition to its payload: the header.
pub const MESSAGE_OVERHEAD_BYTES: usize = 16;

/// Milliseconds between two log lines about one domain's memory (the C server's interval).
pub const MEMORY_LOG_INTERVAL_MS: u64 = 10_000;

/// Domains that the server lists one by one after a request that made their counts grow. These are the client, the
/// owners of its nodes, and the receivers of its events. Most requests concern fewer. If a request concerns more, the
/// server checks all domains.
pub const GROWN_DOMAINS: usize = 8;

/// Milliseconds between two log lines about one domain's protocol errors. A domain can cause an error and reconnect as
/// fast as it is served.
pub const ERROR_LOG_INTERVAL_MS: u64 = 10_000;

/// Bytes of free memory that no guest's request may use up: room for the current work of a few hundred domains.
pub const GUEST_RESERVE_BYTES: usize = 768 * 1024;

/// Bytes of free memory that not even the control domain's requests may use up for something new. With this reserve the
/// control domain can list, remove and destroy. One request and its events take a small part of it.
pub const PRIVILEGED_RESERVE_BYTES: usize = 256 * 1024;

/// Bytes of free memory that events for guests may not use up. Events may use a part of the reserve that guests'
/// requests leave. They therefore still arrive when requests are refused. Below this reserve they are dropped.
pub const GUEST_EVENT_RESERVE_BYTES: usize = 512 * 1024;

/// Bytes of free memory below which the server no longer keeps long payloads of guests. Each guest may be sending one
/// at a time.
pub const GUEST_INPUT_RESERVE_BYTES: usize = 384 * 1024;

/// Bytes of free memory reserved for the work on one request, short replies, and requests that shrink. Replies and
/// events for the control domain leave this reserve free. The server never builds a list whose length a guest controls,
/// of nodes to remove or watches to notify. A part of the reserve is therefore enough for any number of them. The
/// exception is the change set of one committed transaction, which the heap's spare part covers.
pub const PRIVILEGED_WORK_BYTES: usize = 128 * 1024;

/// Most bytes of the heap per counted byte, in addition to [`HEAP_BYTES_PER_OBJECT`]. `tests/memory_factor.rs` measures
/// both.
pub const HEAP_BYTES_PER_COUNTED_BYTE: usize = 3;

/// Most additional bytes of the heap for one node, watch or path in a transaction. Short watches are the worst case:
/// only path and token count, and each watch is in two lists.
pub const HEAP_BYTES_PER_OBJECT: usize = 256;

/// Pending bytes at which the server stops reading from a client of the control domain. Its replies and the events that
/// it caused itself count. The server resumes as soon as the client reads.
pub const PRIVILEGED_QUEUE_BYTES: usize = 256 * 1024;

/// Bytes of events caused by guests that may be pending for a client of the control domain. One guest may take at most
/// as much of this room as is left. So half of it stays free next to one greedy guest, and a guest that takes little
/// always finds some. The server drops no event that does not fit: it holds back the guest that caused it until the
/// event fits. A reply to the control domain comes after at most this and [`PRIVILEGED_QUEUE_BYTES`]. Its tools read
/// that much in milliseconds.
pub const GUESTS_EVENTS_BYTES: usize = 256 * 1024;

/// Bytes that a client of the control domain has to read before the server tries again to queue the events that wait
/// for room. Each try visits all announcements that wait for this client.
pub const ROOM_STEP_BYTES: usize = 16 * 1024;

/// Milliseconds without reading after which a client of the control domain no longer holds back guests, and loses
/// events instead. A guest's unread events are kept for as long ([`EVENT_TIMEOUT_MS`]).
pub const PRIVILEGED_UNREAD_MS: u64 = 20_000;

/// Milliseconds between two log lines about the dropped events that one domain caused.
pub const DROP_LOG_INTERVAL_MS: u64 = 60_000;

/// Pairs of originator and receiver for which dropped events are counted: 64 KiB. The dropped events of further pairs
/// are counted by originator alone.
pub const DROP_PAIRS: usize = 1024;

/// Messages of the longest queue that is searched one by one for an identical event. A longer queue gets an index,
/// which costs memory and a hash for each event.
pub const SCANNED_MESSAGES: usize = 16;

/// Events that one call drops because they were not read in time. The rest follows in the next turn.
pub const EXPIRED_AT_ONCE: usize = 256;

/// Steps after which a connection's turn ends: about 40 microseconds of work (see [`crate::engine::work`]). Eight
/// ordinary requests take a quarter of it. Only a single costly request takes more, and others get their turn after it.
pub const TURN_STEPS: u64 = 2 * 1024;

/// Steps that the events of one request may take immediately, even at the end of a turn. The rest is left for later
/// turns. The events of an ordinary request need fewer steps, and are all queued in the same turn.
pub const REQUEST_EVENT_STEPS: u64 = 1024;

/// Steps of each kind of postponed work in one turn of the main loop. The kinds are the events of requests that concern
/// many watches, the nodes of dead domains, and the queues of connections that were reset.
pub const POSTPONED_STEPS: u64 = 2 * 1024;

/// Most steps of one request of a guest outside of transactions, with the default quotas. `src/engine/work.rs` adds up
/// the parts, and `tests/cost/` searches for more expensive requests. The worst cases are:
///
/// - events that use up the turn and end with the events for one client
/// - a list of [`LIST_BYTES`] that is read and kept
/// - a reset that ends a transaction
///
/// Two requests may exceed this bound: RM of nodes that many guests have made, and the read of a longer list, which
/// only the control domain can make. `docs/security.md`, "Work", has the requests that the client's own quotas do not
/// bound.
pub const PLAIN_REQUEST_STEPS_MOST: u64 = 52_000;

/// Most steps of one request of a guest in a transaction, its end included. The most expensive request is a commit by a
/// replay: several passes over a transaction of 1,024 nodes and 2.5 MiB, and the replay itself. Such a commit is not
/// split over turns. Only its events beyond those for one client are postponed ([`REQUEST_EVENT_STEPS`]).
pub const REQUEST_STEPS_MOST: u64 = 210_000;

/// Bytes that an unused new connection counts for.
pub const CONNECTION_BYTES: usize = 1024;

/// Bytes of a name that are kept in place; a longer name is a block of the heap. With one byte for the length and one
/// for the form, a short name is as large as a reference to a long one.
pub const SHORT_NAME_BYTES: usize = 22;

/// Bytes of a value that are kept in place: numbers, states, MAC addresses, and paths of a backend. A node with them
/// fills its block, which is a multiple of 32 bytes.
pub const SHORT_VALUE_BYTES: usize = 38;

/// Permission entries that a node keeps in place, in two words: the owner, a peer, and one more. Longer lists are rare.
pub const ENTRIES_IN_PLACE: usize = 3;

/// Most paths of a transaction for which each look-up starts at the root. For more paths, the way down to the last path
/// is kept. Keeping it costs about as much as this many short descents save.
pub const FEW_PATHS: usize = 8;

/// Most children that a directory keeps in one list, searched from end to end. Larger directories find names by binary
/// search. Up to this size the list is smaller and no slower.
pub const SMALL_DIRECTORY: usize = 24;

/// Entries in a chunk of a large directory's maps. A change copies at most one chunk when an older version is held. A
/// larger chunk makes that copy more expensive; a smaller one makes the list of chunks longer.
pub const CHUNK_ENTRIES: usize = 64;

/// Lists of children that the server keeps for one connection, which reads them in parts. Dom0's kernel sends the
/// requests of all its programs over one connection, and a few programs may list at the same time. A further list
/// replaces the oldest one.
pub const LISTS_KEPT: usize = 4;

/// Bytes of the names in the longest kept list: 10,000 names of 25 bytes. Each part of a longer list is read from the
/// present directory.
pub const LIST_BYTES: usize = 256 * 1024;

/// Milliseconds after its first part at which an unfinished list is dropped. Even a slow guest reads the longest list
/// in about 64 parts, each in a few milliseconds.
pub const LIST_KEPT_MS: u64 = 10_000;

/// Requests of one connection that are handled before others get their turn.
pub const REQUESTS_PER_TURN: usize = 8;

/// Bytes of the input buffer that a connection keeps between requests. The buffer of a larger payload is released.
pub const KEPT_INPUT_BYTES: usize = 256;

/// Number of watches at which a list of affected watches ends, before the next connection: 2 KiB. All guests together
/// can set so many watches on one node that a list of all would take megabytes.
pub const WATCHES_AT_ONCE: usize = 256;

/// Changes of nodes for which room is kept between requests. A request makes at most one, for any number of missing
/// levels.
pub const KEPT_CHANGES: usize = 16;

/// Milliseconds until an event that an unprivileged domain does not read is dropped, unless `--timeout` says otherwise.
pub const EVENT_TIMEOUT_MS: u64 = 20_000;

/// Write credits that all domains together gain in a second (the C server's `WRL_RATE`). At this rate a transaction of
/// a few milliseconds meets few writes.
pub const WRITE_RATE_PER_SECOND: u32 = 200;

/// Most write credits that a domain can save: a device's set-up passes without delay (`WRL_DBURST`).
pub const WRITE_BURST: u32 = 10;

/// Most unused write credits in the common reserve, from which domains in debt are served first (`WRL_GBURST`).
pub const WRITE_RESERVE: u32 = 1000;

/// Write credits by which the reserve may be overdrawn, so that many new domains get their first credits: five bursts
/// (`WRL_NEWDOMS`).
pub const WRITE_RESERVE_SHORTAGE: u32 = 50;

/// Milliseconds after which write credits are distributed even if no domain waits for them. At most a tenth of a
/// second's gain is late. Otherwise thousands of domains below their burst would cost this work each millisecond.
pub const WRITE_SHARE_MS: u64 = 100;

/// Milliseconds without a domain held back for writing, after which the server logs the end of that state
/// (`WRL_LOGEVERY`).
pub const WRITE_LOG_QUIET_MS: u64 = 120_000;

/// Conflict credits that a domain can lose by making other domains' transactions fail (oxenstored's
/// `conflict-burst-limit`).
pub const CONFLICT_CREDITS: i8 = 5;

/// The fewest conflict credits that a domain can have. The server does not read from a domain at 0 or below
/// (oxenstored).
pub const CONFLICT_CREDITS_LEAST: i8 = -1;

/// Milliseconds after which one domain regains one conflict credit (oxenstored's `conflict-max-history-seconds`).
pub const CONFLICT_INTERVAL_MS: u64 = 50;

/// Most milliseconds for which a transaction of the control domain delays the return of lost points. Meanwhile a domain
/// without points cannot make that transaction fail. The bound protects the domain from a tool that hangs.
pub const CONFLICT_PATIENCE_MS: u64 = 1000;

/// Write requests that are remembered to find the domain whose write made a commit fail: 32 KiB. All domains together
/// can hardly afford more during a transaction of usual length (see [`WRITE_RATE_PER_SECOND`]).
pub const CONFLICT_HISTORY: usize = 1024;

/// Entries of that history for which room is kept while no transaction is open: 2 KiB.
pub const KEPT_CONFLICT_HISTORY: usize = 64;

/// Requests of one guest transaction that are kept for a replay. Drivers' transactions have a few dozen.
pub const REPLAY_REQUESTS: usize = 128;

/// Bytes that these requests and their replies may take. Ten transactions of a guest stay below 160 KiB.
pub const REPLAY_BYTES: usize = 16 * 1024;

/// Steps that the node look-ups of these requests may take, each missing level included. A replay takes as many again,
/// and is not split over turns: a tenth of a millisecond.
pub const REPLAY_LOOK_STEPS: usize = 16 * 1024;

/// As [`REPLAY_REQUESTS`], for the control domain: its tools build a whole guest in one transaction.
pub const REPLAY_REQUESTS_PRIVILEGED: usize = 1024;

/// As [`REPLAY_BYTES`], for the control domain.
pub const REPLAY_BYTES_PRIVILEGED: usize = 128 * 1024;

/// The highest port that a domain can have. The larger of Xen's two interfaces has this many ports besides port 0
/// (`xen/include/public/event_channel.h`, `EVTCHN_FIFO_NR_CHANNELS`).
pub const REMOTE_PORT_MAX: u32 = (1 << 17) - 1;

/// Entries of one SET_PERMS for which the server checks that the known domain still has the number. Each check asks the
/// hypervisor. A long list that is refused anyway must not cost a thousand checks. Tools set a few entries.
pub const PERMISSIONS_LOOKED_AT: usize = 16;

/// Most segments of an uploaded kernel. This kernel has four.
pub const IMAGE_SEGMENTS: usize = 16;

/// Most notes of an uploaded kernel that are read. This kernel has eight.
pub const IMAGE_NOTES: usize = 64;

/// Most bytes of memory that an uploaded kernel may take, without its heap. This kernel takes less than 1 MiB, and a
/// domain is small.
pub const IMAGE_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// Most bytes of an uploaded kernel's file. This kernel's file has half a MiB.
pub const IMAGE_FILE_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of memory that stay free next to an uploaded kernel: an upload must not take the memory that serving needs.
pub const UPDATE_RESERVE_BYTES: usize = 1024 * 1024;

/// Milliseconds without a command after which a prepared update is dropped. Its client has gone away, and its uploaded
/// kernel takes memory.
pub const UPDATE_IDLE_MS: u64 = 60_000;

/// Most bytes of a new kernel's command line. `start_info` has room for 1024 with a NUL, and the kernel adds its mark.
pub const COMMAND_LINE_BYTES: usize = 1000;

/// Quotas with unknown names that are kept for each domain, and as many for all domains together. This is more than
/// three times the number of known quotas.
pub const UNKNOWN_QUOTAS: usize = 32;

/// Most bytes of such a name. The longest known name has 17.
pub const QUOTA_NAME_BYTES: usize = 64;

/// Most bytes of requests that a connection may have from another server: a few messages of the greatest length.
/// This server leaves one request at most. A server that delays requests leaves a few.
pub const BACKLOG_BYTES: usize = 64 * 1024;

/// The highest generation that is accepted from a stream. From here on the generations still suffice for ever.
pub const RESTORED_GENERATION: u64 = 1 << 62;

/// Skipped lines of oxenstored's dump that the log names. A console is slow, and the first few lines show the error.
/// `xs-stream import` prints all of them.
pub const SKIPPED_LINES_LOGGED: usize = 20;

/// Bytes of the state in one answer to `stream`. As Base64, with a line before them, they fit into a message.
pub const STREAM_PART_BYTES: usize = 3000;

/// Milliseconds after the last read at which a state that is read in parts is dropped.
pub const STREAM_KEPT_MS: u64 = 60_000;

const _: () = assert!(ABSOLUTE_PATH_BYTES < PAYLOAD_BYTES, "a path and its NUL fit into a payload");
const _: () =
    assert!(PATH_BYTES + PATH_PREFIX_BYTES <= ABSOLUTE_PATH_BYTES, "the tree holds each path that guests may use");
const _: () = assert!(PATH_DEPTH <= u16::MAX as usize);
const _: () = assert!(PRIVILEGED_WORK_BYTES < PRIVILEGED_RESERVE_BYTES, "each reserve leaves the next");
const _: () = assert!(PRIVILEGED_RESERVE_BYTES < GUEST_INPUT_RESERVE_BYTES);
const _: () = assert!(GUEST_INPUT_RESERVE_BYTES < GUEST_EVENT_RESERVE_BYTES);
const _: () = assert!(GUEST_EVENT_RESERVE_BYTES < GUEST_RESERVE_BYTES);
const _: () = assert!(CONFLICT_CREDITS_LEAST < 0 && CONFLICT_CREDITS > 0, "credits are lost and given back");
