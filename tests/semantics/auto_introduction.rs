//! Domains that were there before the server: connected without INTRODUCE if their ring page names a port.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType};
use xenstore::wire::ring::Field;

use crate::world::{BAD_PORT, World, event, ok};

/// A world before the server has connected anybody, with domains whose ring pages name these ports.
fn with_ports(config: Config, ports: &[(u16, u32)]) -> World {
    let mut world = World::unconnected(config);
    for (domid, port) in ports {
        world.build(DomId(*domid));
        world.set_word(*domid, Field::EventPort, *port);
    }
    world
}

/// The server comes up and looks around.
fn connect(world: &mut World) -> usize {
    let count = world.server.handle_existing_domains(&mut world.machine);
    world.run();
    count
}

#[test]
fn domains_whose_ring_names_a_port_are_connected_to_it_without_a_request() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    assert_eq!(connect(&mut world), 3);
    for (domid, port) in [(0, 3), (1, 5), (6, 7)] {
        assert!(world.is_introduced(domid));
        assert!(world.machine.remote.values().any(|remote| *remote == (DomId(domid), port)));
    }
    world.make_home(6);
    assert_eq!(world.write(6, "data", "x"), ok());
    world.check();
}

#[test]
fn the_control_domain_comes_first_whatever_its_number() {
    let config = Config { privileged: DomId(4), ..Config::default() };
    let mut world = with_ports(config, &[(0, 3), (4, 5), (6, 7)]);
    assert_eq!(connect(&mut world), 3);
    let first = world.machine.remote.values().next();
    assert_eq!(first, Some(&(DomId(4), 5)));
    assert_eq!(world.write(4, "/a", "x"), ok());
}

#[test]
fn a_domain_without_a_port_is_left_to_be_introduced_by_request() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 0)]);
    assert_eq!(connect(&mut world), 1);
    assert!(!world.is_introduced(1));
    assert_eq!((world.machine.mapped.len(), world.machine.bound.len()), (1, 1));
    world.watch(0, "@introduceDomain", "new").unwrap();
    world.events(0);
    assert_eq!(world.introduce(0, 1, 9), ok());
    assert_eq!(world.events(0), [event("@introduceDomain", "new")]);
}

#[test]
fn a_port_that_can_not_be_stops_nobody_else() {
    for wrong in [BAD_PORT, 1 << 17, u32::MAX] {
        let mut world = with_ports(Config::default(), &[(0, 3), (1, wrong), (6, 7)]);
        assert_eq!(connect(&mut world), 2);
        assert!(world.is_introduced(6) && !world.is_introduced(1));
        assert_eq!((world.machine.mapped.len(), world.machine.bound.len()), (2, 2));
        world.check();
    }
}

#[test]
fn a_domain_whose_ring_can_not_be_mapped_stops_nobody_else() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    world.machine.pages.remove(&DomId(1));
    assert_eq!(connect(&mut world), 2);
    assert!(world.is_introduced(6) && !world.is_introduced(1));
}

#[test]
fn a_domain_that_dies_is_not_connected_and_one_that_has_shut_down_is() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 5), (6, 7)]);
    world.machine.domains.insert(DomId(1), DomainState::Dying);
    world.machine.domains.insert(DomId(6), DomainState::Shutdown);
    assert_eq!(connect(&mut world), 2);
    assert!(world.is_introduced(6) && !world.is_introduced(1));
}

#[test]
fn nobody_is_connected_where_no_ring_names_a_port() {
    let mut world = with_ports(Config::default(), &[(0, 0), (1, 0)]);
    assert_eq!(connect(&mut world), 0);
    assert_eq!((world.machine.mapped.len(), world.machine.bound.len()), (0, 0));
}

#[test]
fn a_second_look_connects_only_who_is_new() {
    let mut world = with_ports(Config::default(), &[(0, 3)]);
    assert_eq!((connect(&mut world), connect(&mut world)), (1, 0));
    world.build(DomId(1));
    world.set_word(1, Field::EventPort, 5);
    assert_eq!(connect(&mut world), 1);
}

#[test]
fn a_domain_that_waits_for_its_connection_is_told_that_it_stands() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 5)]);
    world.set_word(1, Field::Connection, 1);
    for field in [Field::RequestConsumer, Field::RequestProducer, Field::ReplyConsumer, Field::ReplyProducer] {
        world.set_word(1, field, 77);
    }
    connect(&mut world);
    assert_eq!(world.word(1, Field::Connection), 0);
    assert!(world.machine.notified.contains(&DomId(1)));
    assert_eq!(world.word(1, Field::RequestProducer), 0);
    world.make_home(1);
    assert_eq!(world.write(1, "data", "x"), ok());
}

#[test]
fn requests_that_waited_for_the_server_are_answered() {
    let mut world = with_ports(Config::default(), &[(0, 3)]);
    let header =
        Header { kind: MessageType::GetDomainPath.to_wire(), request_id: 9, transaction_id: 0, payload_bytes: 2 };
    world.put_bytes(0, &[&header.emit()[..], b"5\0"].concat());
    connect(&mut world);
    let reply = world.reply(0).unwrap();
    assert_eq!((reply.request_id, reply.payload), (9, b"/local/domain/5\0".to_vec()));
}

#[test]
fn one_that_was_connected_by_itself_dies_as_any_other() {
    let mut world = with_ports(Config::default(), &[(0, 3), (1, 5)]);
    world.machine.unique_ids.insert(DomId(1), 100);
    connect(&mut world);
    world.watch(0, "@releaseDomain", "gone").unwrap();
    world.events(0);
    world.machine.unique_ids.insert(DomId(1), 101);
    world.server.handle_domain_exception();
    world.run();
    assert_eq!(world.events(0), [event("@releaseDomain", "gone")]);
    assert!(!world.is_introduced(1));
    world.check();
}
