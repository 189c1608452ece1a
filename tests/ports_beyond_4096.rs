//! More domains than the two-level event channel interface has ports, all on ports beyond its range. The engine and the
//! server have no such limit: another interface needs a change of `src/xen/event_channel` only.
#![allow(missing_docs, reason = "a test")]

mod support;

use support::testbed::{Testbed, event, ok};
use xenstore::store::domain::DomId;

/// Ports of the two-level interface (`EVTCHN_2L_NR_CHANNELS`).
const TWO_LEVEL_PORTS: u32 = 4096;
const DOMAINS: u16 = 4200;

fn home(domid: u16) -> String {
    format!("/local/domain/{domid}/data")
}

#[test]
fn more_than_4096_domains_are_served_at_once_through_ports_beyond_4096() {
    let mut testbed = Testbed::new();
    testbed.machine.leave_out_ports(TWO_LEVEL_PORTS);
    for domid in 1..=DOMAINS {
        testbed.start(domid);
        testbed.make_home(domid);
        assert!(testbed.port(domid).0 > TWO_LEVEL_PORTS, "domain {domid}");
        assert_eq!(testbed.watch(domid, "data", "token"), ok());
        testbed.events(domid);
    }
    assert_eq!(testbed.server.engine().rings_and_ports(), (usize::from(DOMAINS) + 1, usize::from(DOMAINS) + 1));

    // dom0 asks each domain by a node, and each answers.
    for domid in 1..=DOMAINS {
        assert_eq!(testbed.write(0, &home(domid), "asked"), ok());
    }
    for domid in 1..=DOMAINS {
        assert_eq!(testbed.events(domid), [event("data", "token")], "domain {domid}");
        assert_eq!(testbed.read(domid, "data"), Ok(b"asked".to_vec()), "domain {domid}");
        assert_eq!(testbed.write(domid, "data", &format!("answered by {domid}")), ok());
    }
    for domid in 1..=DOMAINS {
        assert_eq!(testbed.read(0, &home(domid)), Ok(format!("answered by {domid}").into_bytes()));
    }
    testbed.check();

    for domid in 1..=DOMAINS {
        testbed.machine.domains.remove(&DomId(domid));
    }
    testbed.server.handle_domain_exception();
    testbed.run();
    assert_eq!(testbed.server.engine().rings_and_ports(), (1, 1));
    assert_eq!(testbed.machine.bound.len(), 1);
    testbed.check();
}
