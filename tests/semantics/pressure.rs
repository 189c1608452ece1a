//! The server without memory: it refuses growth to guests before the control domain. Existing nodes can always be
//! listed and removed, and domains destroyed.

use xenstore::limits;
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Testbed, error, event, ok};

const SCARCE: usize = limits::GUEST_RESERVE_BYTES - 1;
const SPENT: usize = limits::PRIVILEGED_RESERVE_BYTES - 1;

#[test]
fn guests_are_refused_growth_before_the_control_domain_is() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(1, "there", "value").unwrap();
    testbed.machine.free_memory = Some(SCARCE);
    assert_eq!(testbed.write(1, "new", ""), error("ENOSPC"));
    assert_eq!(testbed.write(1, "there", "a longer value"), error("ENOSPC"));
    assert_eq!(testbed.mkdir(1, "new"), error("ENOSPC"));
    assert_eq!(testbed.set_perms(1, "there", "n1 r1"), error("ENOSPC"));
    assert_eq!(testbed.watch(1, "there", "t"), error("ENOSPC"));
    assert_eq!(testbed.request(1, MessageType::TransactionStart, "\0"), error("ENOSPC"));
    assert_eq!(testbed.read(1, "there"), Ok(b"value".to_vec()), "a short reply");
    assert_eq!(testbed.write(1, "there", "short"), ok(), "no longer than before");
    assert_eq!(testbed.rm(1, "there"), ok());
    assert_eq!(testbed.write(0, "/new", "value"), ok());
    assert_eq!(testbed.watch(0, "/new", "t"), ok());
    testbed.machine.free_memory = None;
    assert_eq!(testbed.write(1, "new", ""), ok());
    testbed.check();
}

#[test]
fn without_any_memory_the_control_domain_lists_removes_and_destroys() {
    let mut testbed = Testbed::with_homes([1, 2, 3]);
    testbed.write(1, "a/b/c", "value").unwrap();
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    let transaction = testbed.begin(0);
    testbed.machine.free_memory = Some(SPENT);
    assert_eq!(testbed.write(0, "/new", "value"), error("ENOSPC"));
    assert_eq!(testbed.watch(0, "/new", "t"), error("ENOSPC"));
    testbed.build(DomId(4));
    assert_eq!(testbed.introduce(0, 4, 1), error("ENOSPC"));
    assert!(!testbed.is_introduced(4));
    assert_eq!(testbed.end(0, transaction, false), ok());

    assert_eq!(testbed.directory(0, "/"), Ok(vec!["tool".into(), "local".into()]));
    assert_eq!(testbed.read(0, "/local/domain/1/a/b/c"), Ok(b"value".to_vec()));
    assert_eq!(testbed.get_perms(0, "/local/domain/1/a"), Ok("n1".into()));
    assert_eq!(testbed.rm(0, "/local/domain/1/a"), ok());
    assert_eq!(testbed.release(0, 1), ok());
    testbed.kill(2);
    assert_eq!(testbed.events(0), [event("@releaseDomain", "gone"), event("@releaseDomain", "gone")]);
    assert!(testbed.request(0, MessageType::Control, "check\0").is_ok());
    testbed.machine.free_memory = None;
    assert_eq!(testbed.introduce(0, 4, 1), ok());
    testbed.check();
}

#[test]
fn a_request_is_refused_before_it_has_made_anything() {
    let mut testbed = Testbed::with_homes([1]);
    let before = testbed.nodes(1);
    // Enough for one of these nodes in addition to the memory that the domain holds then, but not for three.
    let room = limits::HEAP_BYTES_PER_OBJECT + 300 * limits::HEAP_BYTES_PER_COUNTED_BYTE;
    testbed.machine.free_memory = Some(limits::GUEST_RESERVE_BYTES + room);
    let name = "n".repeat(60);
    assert_eq!(testbed.write(1, &format!("{name}/{name}/{name}"), ""), error("ENOSPC"));
    assert_eq!(testbed.nodes(1), before);
    assert_eq!(testbed.write(1, &name, ""), ok());
    testbed.check();
}

#[test]
fn a_control_domain_that_does_not_read_is_held_back_and_loses_no_reply() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(0, "/large", &"v".repeat(3000)).unwrap();
    for _ in 0..120 {
        testbed.send(0, 0, MessageType::Read.to_wire(), b"/large\0");
    }
    let connection = testbed.connection(0).unwrap();
    let queued = |testbed: &Testbed| {
        testbed.server.engine().connection(connection).unwrap().session().unwrap().output.queued_bytes()
    };
    assert!(queued(&testbed) < limits::PRIVILEGED_QUEUE_BYTES + 4112, "{}", queued(&testbed));
    assert_eq!(testbed.write(1, "data", "x"), ok(), "others are served");
    for count in 0..120 {
        assert_eq!(testbed.reply(0).unwrap_or_else(|| panic!("reply {count}")).payload.len(), 3000);
    }
    testbed.check();
}
