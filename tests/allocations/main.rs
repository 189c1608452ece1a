//! Requests that only read allocate nothing: they cannot fail for lack of memory, and do not fragment the heap. A
//! request that changes one node allocates as much in a wide directory as in a small one.
#![allow(missing_docs, reason = "a test")]

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared with the benchmarks")]
use support::allocator::{Accounting, on_heap};
use support::driver::{Driver, Message, Who};
use xenstore::wire::header::MessageType;

#[global_allocator]
static ALLOCATOR: Accounting = Accounting::exact();

/// Requests before the counted ones: they allocate memory that is kept.
const WARM_UP: usize = 20;
const COUNTED: usize = 1000;

fn count(who: Who, kind: MessageType, payload: &[u8]) -> usize {
    let mut driver = Driver::new();
    let mut message = Message::new(who, kind, payload);
    for _ in 0..WARM_UP {
        driver.succeed(&mut message);
    }
    let ((), taken) = on_heap(|| {
        for _ in 0..COUNTED {
            driver.ask(&message);
        }
    });
    taken.allocations
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
fn reading_permissions_or_children_allocates_nothing() {
    for who in [Who::Dom0, Who::Guest] {
        assert_eq!(count(who, MessageType::GetPerms, b"/local/domain/7/data\0"), 0, "{who:?}");
        assert_eq!(count(who, MessageType::Directory, b"/local/domain/7/directory\0"), 0, "{who:?}");
        assert_eq!(count(who, MessageType::DirectoryPart, b"/local/domain/7/directory\x000\0"), 0, "{who:?}");
    }
}

type Request = (MessageType, &'static [u8]);

/// Returns the bytes that dom0 allocates in rounds of these requests, in a directory `/dir` with so many children.
fn bytes_beside(children: usize, requests: &[Request]) -> usize {
    let mut driver = Driver::new();
    for child in 0..children {
        let path = format!("/dir/child{child}\0");
        driver.succeed(&mut Message::new(Who::Dom0, MessageType::Mkdir, path.as_bytes()));
    }
    let mut messages: Vec<_> = requests.iter().map(|(kind, payload)| Message::new(Who::Dom0, *kind, payload)).collect();
    let mut round = || messages.iter_mut().for_each(|message| driver.succeed(message));
    (0..WARM_UP).for_each(|_| round());
    on_heap(|| (0..COUNTED).for_each(|_| round())).1.allocated
}

#[test]
fn a_change_in_a_wide_directory_allocates_as_little_as_in_a_small_one() {
    const SMALL: usize = 10;
    const WIDE: usize = 3000;
    let kinds: [(&str, &[Request]); 4] = [
        ("MKDIR, RM", &[(MessageType::Mkdir, b"/dir/new\0"), (MessageType::Rm, b"/dir/new\0")]),
        ("WRITE of the directory", &[(MessageType::Write, b"/dir\0value")]),
        ("WRITE of a child", &[(MessageType::Write, b"/dir/child5\0value")]),
        ("SET_PERMS of the directory", &[(MessageType::SetPerms, b"/dir\0n0\0r7\0")]),
    ];
    for (name, requests) in kinds {
        let [small, wide] = [SMALL, WIDE].map(|children| bytes_beside(children, requests));
        println!("{name}: {small} bytes next to {SMALL} children, {wide} next to {WIDE}");
        assert!(small > 0 && wide <= 2 * small, "{name}: {wide} bytes, {small} in a small directory");
    }
}
