//! Every bound, with its reason. Nothing that a guest can drive grows past a number on this page or a quota.

/// Bytes of payload in one message (`XENSTORE_PAYLOAD_MAX`, `xen/include/public/io/xs_wire.h`).
pub const PAYLOAD_BYTES: usize = 4096;

/// Most bytes of a guest's path as the guest writes it, and the upper bound of the quota `path-max`
/// (`XENSTORE_REL_PATH_MAX`, `xs_wire.h`). The prefix `/local/domain/<domid>/` does not count.
pub const PATH_BYTES: usize = 2048;

/// Bytes of the longest prefix that does not count towards [`PATH_BYTES`]: `/local/domain/65535/`.
const PATH_PREFIX_BYTES: usize = 20;

/// Bytes of the longest path that the tree can hold, prefix included (`XENSTORE_ABS_PATH_MAX`, `xs_wire.h`). The control
/// domain may use such a path for any `path-max`. An event with such a path and a long token does not fit a message. The
/// server drops the event, as the C server does.
pub const ABSOLUTE_PATH_BYTES: usize = 3072;

/// Levels of the deepest path: each level takes a slash and at least one more character.
pub const PATH_DEPTH: usize = ABSOLUTE_PATH_BYTES / 2;

/// Bytes that a path counts for in a transaction that has seen it, beside path and node.
pub const TRANSACTION_ENTRY_BYTES: usize = 64;

/// Bytes of a reply's payload that are accepted whatever the quota of memory says, so that an error can always be told
/// (as the C server does).
pub const SMALL_REPLY_BYTES: usize = 16;

/// Bytes of a message that count beside its payload: the header.
pub const MESSAGE_OVERHEAD_BYTES: usize = 16;

/// Milliseconds between two lines about one domain's memory (the C server's, 10 seconds).
pub const MEMORY_LOG_INTERVAL_MS: u64 = 10_000;

/// Domains that the server lists one by one after a request that made their counts grow: the client, the owners of its nodes,
/// and the receivers of its events. Most requests concern fewer. If a request concerns more, the server checks all domains.
pub const GROWN_DOMAINS: usize = 8;

/// Milliseconds between two lines about rules of the ring that one domain breaks: it can break them, and ask for a new
/// connection, as fast as it is served.
pub const FAULT_LOG_INTERVAL_MS: u64 = 10_000;

/// Bytes of free memory that no guest's request may use up: room for the work of a few hundred domains that goes on.
pub const GUEST_RESERVE_BYTES: usize = 768 * 1024;

/// Bytes of free memory that not even the control domain's requests may use up for something new: with them it can list,
/// remove and destroy. One request and its events take a small part of it.
pub const PRIVILEGED_RESERVE_BYTES: usize = 256 * 1024;

/// Bytes of free memory that events for guests may not use up. They may use a part of what guests' requests leave, so that
/// they still come when those are refused; then they are dropped.
pub const GUEST_EVENT_RESERVE_BYTES: usize = 512 * 1024;

/// Bytes of free memory below which no long payload of a guest is kept any more: each guest may have one under way.
pub const GUEST_INPUT_RESERVE_BYTES: usize = 384 * 1024;

/// Bytes of free memory that nothing but the work on one request, short replies and what shrinks may use: replies to the
/// control domain and its events leave them. No work lists what guests have, be it nodes that go or watches that are told, so
/// that a part of it is enough for any number of them; the exception, the changes of one transaction that is committed, is what
/// the heap's spare part is for.
pub const PRIVILEGED_WORK_BYTES: usize = 128 * 1024;

/// Bytes of the heap that a byte that is counted takes at most, beside [`HEAP_BYTES_PER_OBJECT`].
/// `tests/memory_factor.rs` measures both.
pub const HEAP_BYTES_PER_COUNTED_BYTE: usize = 3;

/// Bytes of the heap that one node, watch or path in a transaction takes at most beside that. Short watches are the
/// worst: path and token are all that counts, and each stands in two lists.
pub const HEAP_BYTES_PER_OBJECT: usize = 256;

/// Pending bytes at which the server stops reading from a client of the control domain. Its replies and the events that it
/// caused itself count. The server resumes as soon as the client reads.
pub const PRIVILEGED_QUEUE_BYTES: usize = 256 * 1024;

/// Bytes of events caused by guests that may be pending for a client of the control domain. One guest may take at most as
/// much of this room as is left. So half of it stays free next to one greedy guest, and a guest that takes little always
/// finds some. The server drops no event that does not fit: it holds back the guest that caused it until the event fits. A
/// reply to the control domain comes after at most this and [`PRIVILEGED_QUEUE_BYTES`]. Its tools read that much in
/// milliseconds.
pub const GUESTS_EVENTS_BYTES: usize = 256 * 1024;

/// Bytes that a client of the control domain has to read before the server tries again to queue the events that wait for
/// room. Each try costs a look at all announcements that wait for this client.
pub const ROOM_STEP_BYTES: usize = 16 * 1024;

/// Milliseconds without reading after which a client of the control domain no longer holds back guests, and loses events
/// instead. A guest's unread events are kept for as long ([`EVENT_TIMEOUT_MS`]).
pub const PRIVILEGED_UNREAD_MS: u64 = 20_000;

/// Milliseconds between two log lines about the dropped events that one domain caused.
pub const DROP_LOG_INTERVAL_MS: u64 = 60_000;

/// Pairs of originator and receiver for which dropped events are counted: 64 KiB. The dropped events of further pairs are
/// counted by originator alone.
pub const DROP_PAIRS: usize = 1024;

/// Messages of the longest queue that is searched one by one for an identical event. A longer queue gets an index, which
/// costs memory and a hash for each event.
pub const SCANNED_MESSAGES: usize = 16;

/// Events that one call drops because they were not read in time. The rest follows in the next turn.
pub const EXPIRED_AT_ONCE: usize = 256;

/// Steps after which a connection's turn ends: about 40 microseconds of work (see [`crate::engine::work`]). Eight ordinary
/// requests take a quarter of it. Only a single costly request takes more, and others get their turn after it.
pub const TURN_STEPS: u64 = 2 * 1024;

/// Steps that the events of one request may take at once, even at the end of a turn. The rest is left for later turns. The
/// events of an ordinary request need fewer steps, and are all queued at once.
pub const REQUEST_EVENT_STEPS: u64 = 1024;

/// Steps of each kind of postponed work in one turn of the main loop. The kinds are the events of requests that concern many
/// watches, the nodes of dead domains, and the queues of connections that were reset.
pub const POSTPONED_STEPS: u64 = 2 * 1024;

/// Most steps of one request of a guest outside of transactions, with the default quotas. Its events may use up the turn and
/// end with the events for one client, a list of [`LIST_BYTES`] is read and kept, or a reset ends a transaction.
/// `src/engine/work.rs` adds up the parts, and `tests/cost/` searches for dearer requests.
///
/// Two requests may exceed this bound: RM of nodes that many guests have made or watch, and the read of a longer list, which
/// only the control domain can make.
pub const PLAIN_REQUEST_STEPS_MOST: u64 = 52_000;

/// Most steps of one request of a guest in a transaction, its end included. The dearest request is a commit by a replay:
/// several passes over a transaction of 1,024 nodes and 2.5 MiB, and the replay itself. Such a commit is not split over
/// turns; only its events beyond those for one client are postponed ([`REQUEST_EVENT_STEPS`]).
pub const REQUEST_STEPS_MOST: u64 = 210_000;

/// Bytes that a new connection counts for before it is used.
pub const CONNECTION_BYTES: usize = 1024;

/// Bytes of a name that are kept in place; a longer one is a block of the heap. They fill what pointer and length of a block
/// would take, with one byte for the length and one that tells which it is.
pub const SHORT_NAME_BYTES: usize = 22;

/// Bytes of a value that are kept in place: numbers, states, MAC addresses, and paths of a backend. A node with them fills its
/// block, which is a multiple of 32 bytes.
pub const SHORT_VALUE_BYTES: usize = 38;

/// Entries of permissions that a node keeps in place, in two words: owner, a peer, and one more. Longer lists are rare.
pub const ENTRIES_IN_PLACE: usize = 3;

/// Most paths of a transaction for which each look-up starts at the root. For more paths, the way down to the last path is
/// kept. To keep it costs about as much as this many short descents save.
pub const FEW_PATHS: usize = 8;

/// Children that a directory keeps in one list, searched from end to end. Above it, names are found by binary search;
/// below it the list is smaller and no slower.
pub const SMALL_DIRECTORY: usize = 24;

/// Entries in a chunk of a large directory's maps. A change copies at most one chunk when an older version is held;
/// a larger chunk makes that dearer, a smaller one the list of chunks longer.
pub const CHUNK_ENTRIES: usize = 64;

/// Lists of children that are kept for one connection, which reads them in parts. Dom0's kernel sends the requests of all its
/// programs over one connection, and a few of them list at once. A further list replaces the oldest one.
pub const LISTS_KEPT: usize = 4;

/// Bytes of the names in the longest kept list: 10,000 names of 25 bytes. Each part of a longer list is read from the
/// present directory.
pub const LIST_BYTES: usize = 256 * 1024;

/// Milliseconds after its first part at which an unfinished list is dropped. A client reads the longest list in about 64
/// parts, each in a few milliseconds, also from a slow guest.
pub const LIST_KEPT_MS: u64 = 10_000;

/// Requests of one connection that are handled before others get their turn.
pub const REQUESTS_PER_TURN: usize = 8;

/// Bytes of a payload that fit into the buffer that a connection keeps between requests; a larger one is given back.
pub const KEPT_INPUT_BYTES: usize = 256;

/// Watches at which one list of the watches that a change concerns ends, before the next connection: 2 KiB of them. All
/// guests together can set so many watches on one node that a list of all would take megabytes.
pub const WATCHES_AT_ONCE: usize = 256;

/// Changes of nodes for which room is kept between requests. A request makes at most one, for any number of missing levels.
pub const KEPT_CHANGES: usize = 16;

/// Milliseconds until an event that an unprivileged domain does not read is dropped, unless `--timeout` says otherwise.
pub const EVENT_TIMEOUT_MS: u64 = 20_000;

/// Write credits that all domains together gain in a second (the C server's `WRL_RATE`). With it a transaction of a few
/// milliseconds meets few writes.
pub const WRITE_RATE_PER_SECOND: u32 = 200;

/// Write credits that a domain may save up: a device's set-up passes without delay (`WRL_DBURST`).
pub const WRITE_BURST: u32 = 10;

/// Write credits that nobody needed and that those in debt get first (`WRL_GBURST`).
pub const WRITE_RESERVE: u32 = 1000;

/// Write credits that the reserve may be short of, so that many new domains get their first ones: five bursts
/// (`WRL_NEWDOMS`).
pub const WRITE_RESERVE_SHORTAGE: u32 = 50;

/// Milliseconds after which write credits are shared out although nobody waits for them: the gain of a tenth of a second at most
/// is late, and with thousands of domains that are not at their burst the work is not done each millisecond.
pub const WRITE_SHARE_MS: u64 = 100;

/// Milliseconds after which it is logged that nobody was held back for writing any more (`WRL_LOGEVERY`).
pub const WRITE_LOG_QUIET_MS: u64 = 120_000;

/// Points that a domain has to lose by making others' transactions fail (oxenstored's `conflict-burst-limit`).
pub const CONFLICT_POINTS: i8 = 5;

/// The fewest points that a domain can have; it is not read at 0 or below (oxenstored).
pub const CONFLICT_POINTS_LEAST: i8 = -1;

/// Milliseconds after which one domain gets one point back (oxenstored's `conflict-max-history-seconds`).
pub const CONFLICT_INTERVAL_MS: u64 = 50;

/// Milliseconds for which a transaction of the control domain may keep lost points from being given back. While it
/// lasts, a domain without points cannot make it fail; longer would leave the domain to the mercy of a tool that hangs.
pub const CONFLICT_PATIENCE_MS: u64 = 1000;

/// Requests that are remembered to tell whose write made a commit fail: 32 KiB. All domains together can't afford many
/// more while a transaction of usual length is open (see [`WRITE_RATE_PER_SECOND`]).
pub const CONFLICT_HISTORY: usize = 1024;

/// Requests for which such a history keeps room while no transaction is open: 2 KiB.
pub const KEPT_CONFLICT_HISTORY: usize = 64;

/// Requests of one transaction of a guest that are kept to replay it. Drivers' transactions have a few dozen.
pub const REPLAY_REQUESTS: usize = 128;

/// Bytes that these requests and their replies may take: ten transactions of a guest stay below 160 KiB.
pub const REPLAY_BYTES: usize = 16 * 1024;

/// Steps that the looks of these requests at nodes may take, each missing level included. A replay takes as many again, and
/// is not split over turns: a tenth of a millisecond.
pub const REPLAY_LOOK_STEPS: usize = 16 * 1024;

/// As [`REPLAY_REQUESTS`], for the control domain: its tools build a whole guest in one transaction.
pub const REPLAY_REQUESTS_PRIVILEGED: usize = 1024;

/// As [`REPLAY_BYTES`], for the control domain.
pub const REPLAY_BYTES_PRIVILEGED: usize = 128 * 1024;

/// The highest port that a domain can have: with the larger of Xen's two interfaces there are this many and port 0
/// (`xen/include/public/event_channel.h`, `EVTCHN_FIFO_NR_CHANNELS`).
pub const REMOTE_PORT_MAX: u32 = (1 << 17) - 1;

/// Entries of one SET_PERMS of which it is made sure that the known domain is still the one that has the number. Each
/// takes a question to the hypervisor, so that a long list, which is refused, must not take a thousand; tools set a few.
pub const PERMISSIONS_LOOKED_AT: usize = 16;

/// Segments of an uploaded kernel: this one has four.
pub const IMAGE_SEGMENTS: usize = 16;

/// Notes of an uploaded kernel that are looked at: this one has eight.
pub const IMAGE_NOTES: usize = 64;

/// Memory that an uploaded kernel may take, without its heap: this one takes less than 1 MiB, and a domain is small.
pub const IMAGE_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of an uploaded kernel's file: this one's has half a MiB.
pub const IMAGE_FILE_BYTES: usize = 16 * 1024 * 1024;

/// What stays free beside an uploaded kernel: whoever uploads it must not take what serving needs.
pub const UPDATE_RESERVE_BYTES: usize = 1024 * 1024;

/// How long an update that is prepared may rest before it is dropped: its client has gone without a word, and the kernel that
/// it sent takes memory.
pub const UPDATE_IDLE_MS: u64 = 60_000;

/// Bytes of a new kernel's command line: `start_info` has room for 1024 with a NUL, and the kernel adds its mark.
pub const COMMAND_LINE_BYTES: usize = 1000;

/// Quotas with names that this server does not know, kept for all domains together and for each one: more than three times
/// as many as it knows.
pub const UNKNOWN_QUOTAS: usize = 32;

/// Bytes of such a name; the longest known one has 17.
pub const QUOTA_NAME_BYTES: usize = 64;

/// Bytes of requests that a connection may bring along from another server: some of the longest messages. This server
/// itself leaves one at most; one that delays requests leaves a few.
pub const BACKLOG_BYTES: usize = 64 * 1024;

/// Generations above this are not taken from a stream: numbers that grow from here last for ever all the same.
pub const RESTORED_GENERATION: u64 = 1 << 62;

/// Skipped lines of oxenstored's dump that the log names. A console is slow, and the first few lines show the error.
/// `xs-stream import` prints all of them.
pub const SKIPPED_LINES_LOGGED: usize = 20;

/// Bytes of the state that one answer to `stream` has: as Base64, with a line in front, they fit a message.
pub const STREAM_PART_BYTES: usize = 3000;

/// How long the state that is read in parts is kept for whoever reads it.
pub const STREAM_KEPT_MS: u64 = 60_000;

const _: () = assert!(ABSOLUTE_PATH_BYTES < PAYLOAD_BYTES, "a path and its NUL fit into a payload");
const _: () =
    assert!(PATH_BYTES + PATH_PREFIX_BYTES <= ABSOLUTE_PATH_BYTES, "the tree holds each path that guests may use");
const _: () = assert!(PATH_DEPTH <= u16::MAX as usize);
const _: () = assert!(PRIVILEGED_WORK_BYTES < PRIVILEGED_RESERVE_BYTES, "each reserve leaves the next");
const _: () = assert!(PRIVILEGED_RESERVE_BYTES < GUEST_INPUT_RESERVE_BYTES);
const _: () = assert!(GUEST_INPUT_RESERVE_BYTES < GUEST_EVENT_RESERVE_BYTES);
const _: () = assert!(GUEST_EVENT_RESERVE_BYTES < GUEST_RESERVE_BYTES);
const _: () = assert!(CONFLICT_POINTS_LEAST < 0 && CONFLICT_POINTS > 0, "points are lost and given back");
