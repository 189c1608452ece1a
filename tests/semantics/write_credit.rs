//! Write credits: a guest that writes while transactions are open is not read when it has written too much (the C server's
//! write rate limit; XSA-206).

use xenstore::store::domain::DomId;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::ring::Field;

use crate::world::{World, error, event, ok};

/// A world with guests that have a node "data" each, at their burst, with a reserve that is empty.
fn with_writers(guests: std::ops::Range<u16>) -> World {
    let mut world = World::with_homes(guests.clone());
    for domid in guests {
        assert_eq!(world.write(domid, "data", "old"), ok());
    }
    world
}

/// What a guest has, in credits.
fn credit(world: &World, domid: u16) -> i64 {
    let thousandths = world.server.engine().write_credits().credit(DomId(domid)).unwrap();
    assert_eq!(thousandths % 1000, 0, "no time has passed");
    thousandths / 1000
}

/// Lets a guest send writes of its own node, without waiting for replies; returns how many were handled.
fn send_writes(world: &mut World, domid: u16, count: usize) -> usize {
    for _ in 0..count {
        world.send(domid, 0, MessageType::Write.to_wire(), b"data\0x");
    }
    count - waiting(world, domid)
}

/// How many such writes wait in a guest's ring.
fn waiting(world: &World, domid: u16) -> usize {
    let bytes = world.word(domid, Field::RequestProducer).wrapping_sub(world.word(domid, Field::RequestConsumer));
    bytes as usize / (HEADER_BYTES + 6)
}

fn take_replies(world: &mut World, domid: u16) -> usize {
    std::iter::from_fn(|| world.reply(domid)).count()
}

#[test]
fn ten_quick_writes_pass_and_the_one_after_next_waits() {
    let mut world = with_writers(1..3);
    world.begin(2);
    assert_eq!(send_writes(&mut world, 1, 10), 10);
    assert_eq!(credit(&world, 1), 0);
    assert!(!world.is_held_back(1));
    assert_eq!(send_writes(&mut world, 1, 15), 1, "the eleventh makes the debt");
    assert_eq!(credit(&world, 1), -1);
    assert!(world.is_held_back(1) && !world.is_held_back(2));
}

#[test]
fn nobody_pays_while_no_transaction_is_open() {
    let mut world = with_writers(1..3);
    for (domid, commit) in [(0, true), (1, false), (2, true)] {
        let transaction = world.begin(domid);
        world.end(domid, transaction, commit).unwrap();
    }
    for (domid, kind) in [(1, MessageType::ResetWatches), (2, MessageType::ResetWatches)] {
        world.begin(domid);
        world.request(domid, kind, "\0").unwrap();
    }
    for _ in 0..1000 {
        assert_eq!(world.write(1, "data", "x"), ok());
    }
    assert_eq!((credit(&world, 1), world.now_ms), (10, 1000));
}

#[test]
fn a_guests_own_transaction_counts_for_its_writes_outside() {
    let mut world = with_writers(1..2);
    world.begin(1);
    world.write(1, "data", "x").unwrap();
    assert_eq!(credit(&world, 1), 9);
}

/// What, what it costs, and how it is done.
type Cost = (&'static str, i64, fn(&mut World));

#[test]
fn each_node_that_is_written_or_removed_costs_one_its_parent_included() {
    let costs: [Cost; 12] = [
        ("write", 1, |world| drop(world.write(1, "data", "x").unwrap())),
        ("make", 2, |world| drop(world.mkdir(1, "new").unwrap())),
        ("make three levels", 4, |world| drop(world.write(1, "a/b/c", "x").unwrap())),
        ("make what is there", 0, |world| drop(world.mkdir(1, "data").unwrap())),
        ("remove", 2, |world| drop(world.rm(1, "data").unwrap())),
        ("remove what is not there", 0, |world| drop(world.rm(1, "none").unwrap())),
        ("permissions", 1, |world| drop(world.set_perms(1, "data", "n1 r2").unwrap())),
        ("read", 0, |world| drop(world.read(1, "data").unwrap())),
        ("list", 0, |world| drop(world.directory(1, "data").unwrap())),
        ("watch", 0, |world| drop(world.watch(1, "data", "t").unwrap())),
        ("refused", 0, |world| assert_eq!(world.write(1, "/tool/x", ""), error("EACCES"))),
        ("wrong", 0, |world| assert_eq!(world.write(1, "//", ""), error("EINVAL"))),
    ];
    for (what, cost, make) in costs {
        let mut world = with_writers(1..3);
        world.begin(2);
        make(&mut world);
        assert_eq!(credit(&world, 1), 10 - cost, "{what}");
    }
    let mut world = with_writers(1..3);
    world.write(1, "data/a/b", "").unwrap();
    world.begin(2);
    world.rm(1, "data").unwrap();
    assert_eq!(credit(&world, 1), 6, "three nodes and a parent");
}

#[test]
fn a_commit_costs_one_whatever_it_changes_if_another_transaction_is_open() {
    for (others, commit, cost) in [(true, true, 1), (false, true, 0), (true, false, 0)] {
        let mut world = with_writers(1..3);
        if others {
            world.begin(2);
        }
        let transaction = world.begin(1);
        for name in ["a", "b", "c/d"] {
            world.write_in(1, transaction, name, "x").unwrap();
        }
        assert_eq!(credit(&world, 1), 10, "until the end it is in nobody's way");
        assert_eq!(world.end(1, transaction, commit), ok());
        assert_eq!(credit(&world, 1), 10 - cost, "{others} {commit}");
    }
}

#[test]
fn a_commit_that_fails_costs_nothing() {
    let mut world = with_writers(1..3);
    world.begin(2);
    let transaction = world.begin(1);
    world.read_in(1, transaction, "data").unwrap();
    world.write_in(1, transaction, "data", "x").unwrap();
    world.write(0, "/local/domain/1/data", "theirs").unwrap();
    assert_eq!(world.end(1, transaction, true), error("EAGAIN"));
    assert_eq!(credit(&world, 1), 10);
}

#[test]
fn a_guest_in_debt_goes_on_to_the_millisecond_and_costs_nothing_until_then() {
    let mut world = with_writers(1..3);
    world.begin(2);
    assert_eq!(send_writes(&mut world, 1, 13), 11);
    take_replies(&mut world, 1);
    // Three domains share 200 a second. The reserve is short of three bursts, so that nothing comes from there.
    let poll = world.server.poll(&mut world.machine, world.now_ms);
    assert_eq!((poll.busy, poll.deadline_ms), (false, Some(1015)));
    world.pass(14);
    assert_eq!(waiting(&world, 1), 2);
    assert!(!world.server.poll(&mut world.machine, world.now_ms).busy);
    world.pass(1);
    assert_eq!(waiting(&world, 1), 1, "one more, and it is in debt again");
    assert_eq!(take_replies(&mut world, 1), 1);
}

#[test]
fn replies_and_events_reach_a_guest_in_debt() {
    let mut world = with_writers(1..3);
    world.watch(1, "data", "t").unwrap();
    world.events(1);
    world.begin(2);
    assert_eq!(send_writes(&mut world, 1, 12), 11);
    assert_eq!(take_replies(&mut world, 1), 11);
    world.events(1);
    world.write(0, "/local/domain/1/data", "x").unwrap();
    assert_eq!(world.events(1), [event("data", "t")]);
    assert!(world.is_held_back(1));
}

#[test]
fn a_steady_stream_settles_at_the_rate_shared_among_those_who_write() {
    let mut world = with_writers(1..5);
    world.begin(0);
    let mut handled = [0; 4];
    for at_ms in 0..12_000 {
        if at_ms == 2000 {
            handled = [0; 4];
        }
        for domid in 1..5 {
            if waiting(&world, domid) == 0 {
                world.send(domid, 0, MessageType::Write.to_wire(), b"data\0x");
            }
            handled[usize::from(domid) - 1] += take_replies(&mut world, domid);
        }
        world.pass(1);
    }
    println!("in 10 s: {handled:?}");
    assert!((1980..=2020).contains(&handled.iter().sum::<usize>()), "200 a second: {handled:?}");
    assert!(handled.iter().all(|count| (490..=510).contains(count)), "the same for each: {handled:?}");
}

#[test]
fn a_guest_that_rests_has_ten_credits_again() {
    let mut world = with_writers(1..3);
    let open = world.begin(2);
    send_writes(&mut world, 1, 11);
    take_replies(&mut world, 1);
    world.end(2, open, true).unwrap();
    world.pass(10_000);
    world.begin(2);
    assert_eq!(credit(&world, 1), 10);
}

#[test]
fn the_control_domain_never_waits_over_its_ring_nor_over_a_socket() {
    let mut world = with_writers(1..3);
    world.begin(1);
    for at in 0..1000 {
        assert_eq!(world.write(0, "/local/domain/1/data", &at.to_string()), ok());
    }
    assert!(!world.is_held_back(0));
    let socket = world.server.handle_connected();
    let payload = b"/local/domain/1/data\0x";
    let header = Header {
        kind: MessageType::Write.to_wire(),
        request_id: 1,
        transaction_id: 0,
        payload_bytes: payload.len() as u32,
    };
    let request = [&header.emit()[..], payload].concat();
    for _ in 0..1000 {
        assert_eq!(world.server.handle_received(socket, &request, &mut world.machine, 1000), request.len());
        let sent = world.server.poll_transmit(socket).map(<[u8]>::len).sum();
        world.server.handle_transmitted(socket, sent);
    }
    assert!(!world.server.engine().is_held_back(socket));
    assert_eq!((credit(&world, 0), credit(&world, 1), world.now_ms), (10, 10, 1000));
}

#[test]
fn a_debt_dies_with_its_domain_and_not_with_its_connection() {
    let mut world = with_writers(1..3);
    world.begin(2);
    send_writes(&mut world, 1, 11);
    world.introduce(0, 1, 1).unwrap();
    assert!(world.is_held_back(1), "introduced again, it is the same domain");
    world.kill(1);
    world.start(1);
    assert_eq!(credit(&world, 1), 10);
    assert_eq!(world.server.engine().write_credits().next_ms(), None);
}

#[test]
fn a_large_removal_is_paid_off_over_time() {
    let mut world = with_writers(1..2);
    world.fill_nodes(1, 200);
    world.begin(0);
    world.rm(1, "fill0").unwrap();
    let debt = -credit(&world, 1);
    assert_eq!(debt, 92, "101 nodes and a parent, less ten");
    // Of two domains, and the reserve is short of 20: 200 a second for all make 100 a second for each.
    world.pass(560);
    world.pass(1);
    assert!(!world.is_held_back(1), "the other's half helps once the reserve is whole");
}
