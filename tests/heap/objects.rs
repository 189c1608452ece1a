//! The heap that each kind of object takes, everything included: `docs/memory.md` has the table.

use xenstore::wire::header::MessageType as T;

use crate::Host;
use crate::heap::{set_size, usage};

/// Bytes of the heap that a typical node may take.
const NODE_BYTES: usize = 160;
/// Leaves of a directory: guests have a few directories of devices with some nodes each.
const LEAVES: usize = 9;
const DIRECTORIES: usize = 100;

/// Returns the bytes of the heap that `act` leaves for each of `count` objects.
fn each(host: &mut Host, what: &str, count: usize, act: impl FnOnce(&mut Host)) -> usize {
    let before = usage().used;
    act(host);
    host.take(0);
    let bytes = usage().used - before;
    println!("{what:60} {:7.1}", bytes as f64 / count as f64);
    bytes.div_ceil(count)
}

/// Makes directories of leaves with names of 8 bytes, a value, and permissions of their own.
fn bushes(host: &mut Host, top: &str, value: usize, permissions: &str) {
    for directory in 0..DIRECTORIES {
        for leaf in 0..LEAVES {
            let path = format!("{top}/{directory:08}/{leaf:08}");
            host.ask(0, T::Write, format!("{path}\0{}", "v".repeat(value))).unwrap();
            host.ask(0, T::SetPerms, format!("{path}\0{}\0", permissions.replace(' ', "\0"))).unwrap();
        }
    }
}

#[test]
fn a_typical_node_takes_160_bytes_at_most() {
    set_size(16 * 1024 * 1024);
    let mut host = Host::new();
    let nodes = DIRECTORIES * (LEAVES + 1);
    for (at, permissions) in ["n0", "n0 r1", "n0 r1 b2 r3 r4"].iter().enumerate() {
        let count = permissions.split(' ').count();
        let what = format!("node, value of 16, permissions {count}");
        let bytes = each(&mut host, &what, nodes, |host| bushes(host, &format!("/p{at}"), 16, permissions));
        assert!(count > 2 || bytes <= NODE_BYTES, "{what}: {bytes}");
    }
    for value in [0, 16, 38, 39, 100, 2000] {
        let what = format!("node, value of {value}, permissions 2");
        let bytes = each(&mut host, &what, nodes, |host| bushes(host, &format!("/v{value}"), value, "n0 r1"));
        assert!(value > 38 || bytes <= NODE_BYTES, "{what}: {bytes}");
    }
    for (what, count) in [("in a directory of 24", 24), ("in one of 1,000", 1000), ("in one of 10,000", 10_000)] {
        let bytes = each(&mut host, &format!("node, value of 16, {what}"), count, |host| {
            for at in 0..count {
                // Not in the order of their names.
                let name = at * 7919 % 1_000_003;
                host.ask(0, T::Write, format!("/wide{count}/{name:08}\x000123456789abcdef")).unwrap();
            }
        });
        assert!(bytes <= NODE_BYTES + 20, "{what}: {bytes}");
    }
    each(&mut host, "node, empty, with one child", 1000, |host| {
        for at in 0..500 {
            host.ask(0, T::Write, format!("/{at:08}/child\0")).unwrap();
        }
    });
}

#[test]
fn a_directory_that_was_large_takes_no_more_than_a_small_one() {
    set_size(16 * 1024 * 1024);
    let mut host = Host::new();
    for (count, step) in [(8, 4), (24, 8), (960, 8), (960, 64)] {
        let top = format!("/was{count}by{step}");
        host.ask(0, T::Mkdir, format!("{top}\0")).unwrap();
        let bytes =
            each(&mut host, &format!("node, empty, one in {step} of {count} being left"), count / step, |host| {
                for at in 0..count {
                    host.ask(0, T::Mkdir, format!("{top}/{at:08}\0")).unwrap();
                }
                for at in (0..count).filter(|at| at % step > 0) {
                    host.ask(0, T::Rm, format!("{top}/{at:08}\0")).unwrap();
                }
            });
        assert!(bytes <= 2 * NODE_BYTES, "{count} {step}: {bytes}");
    }
}

#[test]
fn objects_other_than_nodes_take_what_the_table_says() {
    set_size(16 * 1024 * 1024);
    let mut host = Host::new();
    let known = each(&mut host, "domain that is known, not connected", 200, |host| {
        for domid in 1001..=1200 {
            host.build(domid);
            host.ask(0, T::SetFeature, format!("{domid}\x001\0")).unwrap();
        }
    });
    let connected = each(&mut host, "connected domain, with its connection", 200, |host| {
        for domid in 1..=200 {
            host.build(domid);
            host.ask(0, T::Introduce, format!("{domid}\x001\0{domid}\0")).unwrap();
        }
    });
    host.start(300);
    let watch = each(&mut host, "watch of a path of its own of 17, token of 8", 100, |host| {
        for at in 0..100 {
            host.ask(300, T::Watch, format!("/device/{at:09}\x00token{at:03}\0")).unwrap();
        }
    });
    host.start(301);
    each(&mut host, "watch of a path that others watch, token of 8", 100, |host| {
        for at in 0..100 {
            host.ask(301, T::Watch, format!("/device/{at:09}\x00token{at:03}\0")).unwrap();
        }
    });
    let mut transactions = Vec::new();
    let opened = each(&mut host, "transaction, just opened", 100, |host| {
        for _ in 0..100 {
            transactions.push(host.begin(0));
        }
    });
    host.ask(0, T::Write, "/looked-at\0value").unwrap();
    each(&mut host, "the first READ in a transaction", 100, |host| {
        for transaction in &transactions {
            host.ask_in(0, *transaction, T::Read, "/looked-at\0").unwrap();
        }
    });
    each(&mut host, "the first WRITE of that node in a transaction", 100, |host| {
        for transaction in &transactions {
            host.ask_in(0, *transaction, T::Write, "/looked-at\0other").unwrap();
        }
    });
    host.ask(0, T::Watch, "/looked-at\0token\0").unwrap();
    host.ask(0, T::Read, "/looked-at\0").unwrap();
    host.stall(0);
    let queued = each_unread(&mut host, "queued reply of 5 bytes", |host| host.send(0, 0, T::Read, b"/looked-at\0"));
    let event = each_unread(&mut host, "queued event of 17 bytes, and the reply to its cause", |host| {
        host.send(0, 0, T::Write, b"/looked-at\0value");
    });
    for (what, bytes, most) in [
        ("domain", known, 500),
        ("connection", connected, 2048),
        ("watch", watch, 400),
        ("transaction", opened, 600),
        ("reply", queued, 200),
        ("event", event, 400),
    ] {
        assert!(bytes <= most, "{what}: {bytes}");
    }
}

/// As [`each`], for a hundred messages to dom0, which does not read.
fn each_unread(host: &mut Host, what: &str, send: impl Fn(&mut Host)) -> usize {
    let before = usage().used;
    (0..100).for_each(|_| send(host));
    let bytes = usage().used - before;
    println!("{what:60} {:7.1}", bytes as f64 / 100.0);
    bytes.div_ceil(100)
}
