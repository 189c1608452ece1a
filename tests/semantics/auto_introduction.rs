//! Auto-introduction: domains that exist before the server are connected without INTRODUCE if their ring page names a
//! port.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::support::testbed::{BAD_PORT, Testbed, event, ok};

/// Returns a testbed before auto-introduction, with domains whose ring pages name these ports.
fn with_ports(config: Config, ports: &[(u16, u32)]) -> Testbed {
    let mut testbed = Testbed::unconnected(config);
    for (domid, port) in ports {
        testbed.build(DomId(*domid));
        testbed.set_word(*domid, Field::EventPort, *port);
    }
    testbed
}

/// Starts the server and its auto-introduction.
fn connect(testbed: &mut Testbed) -> usize {
    let count = testbed.server.auto_introduce_domains(&mut testbed.machine);
    testbed.run();
    count
}

#[test]
fn domains_whose_ring_names_a_port_are_connected_to_it_without_a_request() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    assert_eq!(connect(&mut testbed), 3);
    for (domid, port) in [(0, 3), (1, 5), (6, 7)] {
        assert!(testbed.is_introduced(domid));
        assert!(testbed.machine.remote.values().any(|remote| *remote == (DomId(domid), port)));
    }
    testbed.make_home(6);
    assert_eq!(testbed.write(6, "data", "x"), ok());
    testbed.check();
}

#[test]
fn the_control_domain_comes_first_whatever_its_number() {
    let config = Config { privileged: DomId(4), ..Config::default() };
    let mut testbed = with_ports(config, &[(0, 3), (4, 5), (6, 7)]);
    assert_eq!(connect(&mut testbed), 3);
    let first = testbed.machine.remote.values().next();
    assert_eq!(first, Some(&(DomId(4), 5)));
    assert_eq!(testbed.write(4, "/a", "x"), ok());
}

#[test]
fn a_domain_without_a_port_is_left_to_be_introduced_by_request() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 0)]);
    assert_eq!(connect(&mut testbed), 1);
    assert!(!testbed.is_introduced(1));
    assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (1, 1));
    testbed.watch(0, "@introduceDomain", "new").unwrap();
    testbed.events(0);
    assert_eq!(testbed.introduce(0, 1, 9), ok());
    assert_eq!(testbed.events(0), [event("@introduceDomain", "new")]);
}

#[test]
fn a_port_that_cannot_be_bound_stops_no_other_domain() {
    for wrong in [BAD_PORT, 1 << 17, u32::MAX] {
        let mut testbed = with_ports(Config::default(), &[(0, 3), (1, wrong), (6, 7)]);
        assert_eq!(connect(&mut testbed), 2);
        assert!(testbed.is_introduced(6) && !testbed.is_introduced(1));
        assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (2, 2));
        testbed.check();
    }
}

#[test]
fn a_domain_whose_ring_cannot_be_mapped_stops_no_other() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    testbed.machine.pages.remove(&DomId(1));
    assert_eq!(connect(&mut testbed), 2);
    assert!(testbed.is_introduced(6) && !testbed.is_introduced(1));
}

#[test]
fn a_domain_that_dies_is_not_connected_and_one_that_has_shut_down_is() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    testbed.machine.domains.insert(DomId(1), DomainState::Dying);
    testbed.machine.domains.insert(DomId(6), DomainState::Shutdown);
    assert_eq!(connect(&mut testbed), 2);
    assert!(testbed.is_introduced(6) && !testbed.is_introduced(1));
}

#[test]
fn no_domain_is_connected_where_no_ring_names_a_port() {
    let mut testbed = with_ports(Config::default(), &[(0, 0), (1, 0)]);
    assert_eq!(connect(&mut testbed), 0);
    assert_eq!((testbed.machine.mapped.len(), testbed.machine.bound.len()), (0, 0));
}

#[test]
fn a_second_auto_introduction_connects_only_new_domains() {
    let mut testbed = with_ports(Config::default(), &[(0, 3)]);
    assert_eq!((connect(&mut testbed), connect(&mut testbed)), (1, 0));
    testbed.build(DomId(1));
    testbed.set_word(1, Field::EventPort, 5);
    assert_eq!(connect(&mut testbed), 1);
}

#[test]
fn a_domain_that_waits_for_its_connection_is_notified_of_it() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 5)]);
    testbed.set_word(1, Field::Connection, 1);
    for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
        testbed.set_word(1, field, 77);
    }
    connect(&mut testbed);
    assert_eq!(testbed.word(1, Field::Connection), 0);
    assert!(testbed.machine.notified.contains(&DomId(1)));
    assert_eq!(testbed.word(1, Field::RequestProducer), 0);
    testbed.make_home(1);
    assert_eq!(testbed.write(1, "data", "x"), ok());
}

#[test]
fn requests_that_waited_for_the_server_are_answered() {
    let mut testbed = with_ports(Config::default(), &[(0, 3)]);
    let header =
        Header { kind: MessageType::GetDomainPath.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 2 };
    testbed.put_bytes(0, &[&header.emit()[..], b"5\0"].concat());
    connect(&mut testbed);
    let reply = testbed.reply(0).unwrap();
    assert_eq!((reply.request_id, reply.payload), (9, b"/local/domain/5\0".to_vec()));
}

#[test]
fn an_auto_introduced_domain_dies_like_any_other() {
    let mut testbed = with_ports(Config::default(), &[(0, 3), (1, 5)]);
    testbed.machine.unique_ids.insert(DomId(1), 100);
    connect(&mut testbed);
    testbed.watch(0, "@releaseDomain", "gone").unwrap();
    testbed.events(0);
    testbed.machine.unique_ids.insert(DomId(1), 101);
    testbed.server.handle_domain_exception();
    testbed.run();
    assert_eq!(testbed.events(0), [event("@releaseDomain", "gone")]);
    assert!(!testbed.is_introduced(1));
    testbed.check();
}
