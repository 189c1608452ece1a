//! More domains than the two-level event channel interface has ports, through ports beyond all of its: the engine and the
//! server have no such limit, so that another interface needs a change of `src/xen/event_channel` alone.
#![allow(missing_docs, reason = "a test")]

#[path = "semantics/machine.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod machine;
#[path = "semantics/random.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod random;
#[path = "semantics/world.rs"]
#[allow(dead_code, reason = "shared with the tests of behaviour")]
mod world;

use world::{World, event, ok};
use xenstore::store::domain::DomId;

/// Ports of the two-level interface (`EVTCHN_2L_NR_CHANNELS`).
const TWO_LEVEL_PORTS: u32 = 4096;
const DOMAINS: u16 = 4200;

fn home(domid: u16) -> String {
    format!("/local/domain/{domid}/data")
}

#[test]
fn more_than_4096_domains_are_served_at_once_through_ports_beyond_4096() {
    let mut world = World::new();
    world.machine.leave_out_ports(TWO_LEVEL_PORTS);
    for domid in 1..=DOMAINS {
        world.start(domid);
        world.make_home(domid);
        assert!(world.port(domid).0 > TWO_LEVEL_PORTS, "domain {domid}");
        assert_eq!(world.watch(domid, "data", "token"), ok());
        world.events(domid);
    }
    assert_eq!(world.server.engine().rings_and_ports(), (usize::from(DOMAINS) + 1, usize::from(DOMAINS) + 1));

    // dom0 asks each by a node, and each answers.
    for domid in 1..=DOMAINS {
        assert_eq!(world.write(0, &home(domid), "asked"), ok());
    }
    for domid in 1..=DOMAINS {
        assert_eq!(world.events(domid), [event("data", "token")], "domain {domid}");
        assert_eq!(world.read(domid, "data"), Ok(b"asked".to_vec()), "domain {domid}");
        assert_eq!(world.write(domid, "data", &format!("answered by {domid}")), ok());
    }
    for domid in 1..=DOMAINS {
        assert_eq!(world.read(0, &home(domid)), Ok(format!("answered by {domid}").into_bytes()));
    }
    world.check();

    for domid in 1..=DOMAINS {
        world.machine.domains.remove(&DomId(domid));
    }
    world.server.handle_domain_exception();
    world.run();
    assert_eq!(world.server.engine().rings_and_ports(), (1, 1));
    assert_eq!(world.machine.bound.len(), 1);
    world.check();
}
