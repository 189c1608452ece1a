//! Requests that only look allocate nothing: neither can they fail for want of memory, nor do they tear the heap.
#![allow(missing_docs, reason = "a test")]

mod counting;
#[allow(dead_code, reason = "shared with the benchmarks")]
mod driver;

use counting::{Counting, allocations};
use driver::{Driver, Message, Who};
use xenstore::wire::header::MessageType;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests of which the later ones are counted: the first ones make room that is kept.
const WARM_UP: usize = 20;
const COUNTED: usize = 1000;

fn count(who: Who, kind: MessageType, payload: &[u8]) -> usize {
    let mut driver = Driver::new();
    let mut message = Message::new(who, kind, payload);
    for _ in 0..WARM_UP {
        driver.succeed(&mut message);
    }
    allocations(|| {
        for _ in 0..COUNTED {
            driver.ask(&message);
        }
    })
}

#[test]
fn allocations_are_counted() {
    assert!(count(Who::Guest, MessageType::Write, b"data/value\0y") >= COUNTED);
}

#[test]
fn a_read_allocates_nothing() {
    for who in [Who::Dom0, Who::Guest] {
        assert_eq!(count(who, MessageType::Read, b"/local/domain/7/data/value\0"), 0, "{who:?}");
        assert_eq!(count(who, MessageType::Read, b"/local/domain/7/data/large\0"), 0, "{who:?}");
    }
}

#[test]
fn a_look_at_permissions_or_children_allocates_nothing() {
    for who in [Who::Dom0, Who::Guest] {
        assert_eq!(count(who, MessageType::GetPerms, b"/local/domain/7/data\0"), 0, "{who:?}");
        assert_eq!(count(who, MessageType::Directory, b"/local/domain/7/directory\0"), 0, "{who:?}");
        assert_eq!(count(who, MessageType::DirectoryPart, b"/local/domain/7/directory\x000\0"), 0, "{who:?}");
    }
}
