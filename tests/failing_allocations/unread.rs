//! The memory that a request needs while it is executed is freed at once, also if its reply is unread (XSA-416).

use xenstore::limits;
use xenstore::wire::header::MessageType as T;

use crate::Host;

/// Requests whose replies are not read: one less than may be outstanding, so that all are executed.
const REQUESTS: usize = 19;

/// Returns requests that need much memory and have short replies, each with its name.
fn requests() -> Vec<(&'static str, T, Vec<u8>)> {
    let deep = |end: &str| [vec!["d"; 400].join("/").as_bytes(), end.as_bytes()].concat();
    let permissions = [&b"a\0"[..], &b"b1\0".repeat(5)].concat();
    vec![
        ("a deep node again", T::Write, deep("\0value")),
        ("permissions", T::SetPerms, permissions),
        ("a part of a list", T::DirectoryPart, b"many\x001\0".to_vec()),
        ("a deep read", T::Read, deep("\0")),
        ("an invalid path", T::Write, [&[b'/'; 3000][..], b"\0"].concat()),
    ]
}

#[test]
fn xsa_416_a_requests_memory_is_freed_before_its_reply_is_read() {
    for (name, kind, payload) in requests() {
        let mut host = Host::new();
        host.start(1);
        host.ask(1, T::Write, "a\0value").unwrap();
        host.ask(1, T::Write, [vec!["d"; 400].join("/").as_bytes(), b"\0value"].concat()).unwrap();
        for at in 0..40 {
            host.ask(1, T::Write, format!("many/{at}\0")).unwrap();
        }
        let answer = host.ask(1, kind, &payload);
        host.stall(1);
        host.taken();
        for _ in 0..REQUESTS {
            host.send(1, 0, kind, &payload);
        }
        let taken = host.taken();
        let reply_bytes = answer.map_or(16, |bytes| bytes.len()) + limits::MESSAGE_OVERHEAD_BYTES;
        let bound = REQUESTS * (reply_bytes + 192);
        println!("{name}: {} bytes held by {} replies, at most {} at once", taken.held, REQUESTS, taken.peak);
        assert!(taken.held > 0, "{name}: replies are pending");
        assert!(taken.held as usize <= bound, "{name}: {} of at most {bound} bytes", taken.held);
        host.go_on(1);
        host.check();
    }
}
