//! A successor gets the rings and ports of its predecessor, or does without.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::stream::load;
use xenstore::server::take_over::{TakeOver, TakenOver};
use xenstore::server::{Action, Server};
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::items::{restore, save};
use crate::live_update::{action, answer, kernel, own_text, start, upload};
use crate::world::{BAD_PORT, DOM0, World, error, event, ok};

/// The server is replaced by one that was saved before; `between` is what happens meanwhile.
pub fn replace(world: &mut World, mode: TakeOver, between: impl FnOnce(&mut World)) -> TakenOver {
    let items = save(world.server.engine(), &SaveOptions { now_ms: world.now_ms, reply: None });
    between(world);
    world.machine.mapped.clear();
    if mode != TakeOver::Live {
        world.machine.bound.clear();
        world.machine.remote.clear();
    }
    world.server = Server::restored(restore(&items, &Config::default(), world.now_ms).unwrap());
    let taken = world.server.take_over(&mut world.machine, world.now_ms, mode);
    world.run();
    world.check();
    taken
}

const COLD: TakeOver = TakeOver::Cold { control_port: Some(1) };

#[test]
fn a_domain_that_died_during_the_update_is_released() {
    for mode in [TakeOver::Live, COLD] {
        let mut world = World::with_homes([3, 4]);
        world.set_word(4, Field::EventPort, 5);
        world.watch(4, "@releaseDomain", "gone").unwrap();
        world.events(4);
        let taken = replace(&mut world, mode, |world| {
            world.machine.domains.remove(&DomId(3));
        });
        assert_eq!(taken, TakenOver { connections: 2, lost: 1, has_control: true });
        assert_eq!(world.events(4), [event("@releaseDomain", "gone")], "{mode:?}");
        assert_eq!(world.read(0, "/local/domain/3"), error("ENOENT"));
        assert!(!world.machine.bound.values().any(|domid| *domid == DomId(3)), "its port is closed");
    }
}

#[test]
fn another_domain_with_the_number_of_a_dead_one_is_not_taken_for_it() {
    let mut world = World::new();
    world.machine.unique_ids.insert(DomId(3), 33);
    world.start(3);
    world.make_home(3);
    let taken = replace(&mut world, TakeOver::Live, |world| {
        world.machine.unique_ids.insert(DomId(3), 34);
    });
    assert_eq!(taken.lost, 1);
    assert!(!world.machine.mapped.contains_key(&DomId(3)), "the other one's ring was not touched");
    assert_eq!(world.read(0, "/local/domain/3"), error("ENOENT"));
    assert!(!world.is_introduced(3));
}

#[test]
fn a_ring_or_a_port_that_cannot_be_had_costs_that_connection_alone() {
    for without_port in [true, false] {
        let mut world = World::with_homes([3, 4]);
        let page = world.machine.pages[&DomId(3)].clone();
        let taken = replace(&mut world, TakeOver::Live, |world| {
            if without_port {
                let port = world.port(3);
                world.machine.bound.remove(&port);
                world.machine.remote.remove(&port);
            } else {
                world.machine.pages.remove(&DomId(3));
            }
        });
        assert_eq!(taken, TakenOver { connections: 2, lost: 1, has_control: true });
        assert!(world.is_introduced(3) && world.read(0, "/local/domain/3").is_ok());
        assert_eq!(world.write(4, "x", "on"), ok(), "others go on");
        world.machine.pages.insert(DomId(3), page);
        assert_eq!(world.introduce(0, 3, 2), ok(), "dom0 can connect it again");
        world.forget_incoming(3);
        assert_eq!(world.write(3, "x", "too"), ok());
        assert_eq!(world.release(0, 3), ok());
        assert!(!world.machine.mapped.contains_key(&DomId(3)));
    }
}

#[test]
fn a_domain_whose_port_is_gone_reads_in_its_ring_that_it_is_not_served_any_more() {
    let mut world = World::with_homes([3, 4]);
    replace(&mut world, TakeOver::Live, |world| {
        let port = world.port(3);
        world.machine.bound.remove(&port);
        world.machine.remote.remove(&port);
    });
    assert_eq!(world.word(3, Field::Error), 1, "the communication failed");
    assert_eq!(world.word(4, Field::Error), 0);
}

#[test]
fn a_domain_without_a_port_is_not_told_that_it_is_connected_until_it_is_introduced_again() {
    let mut world = World::with_homes([3]);
    assert_eq!(world.introduce(0, 3, BAD_PORT), ok());
    world.set_word(3, Field::Connection, 1);
    replace(&mut world, TakeOver::Live, |_| ());
    assert_eq!((world.word(3, Field::Connection), world.word(3, Field::Error)), (1, 1));
    assert_eq!(world.introduce(0, 3, 2), ok());
    assert_eq!((world.word(3, Field::Connection), world.word(3, Field::Error)), (0, 0));
    world.forget_incoming(3);
    assert_eq!(world.write(3, "x", "on"), ok());
}

#[test]
fn after_a_cold_start_ports_are_bound_anew_and_who_has_none_waits_to_be_introduced() {
    let mut world = World::with_homes([3, 4]);
    world.set_word(3, Field::EventPort, 7);
    for domid in [3, 4] {
        world.watch(domid, "/tool", "t").unwrap();
        world.events(domid);
        world.begin(domid);
        world.request(0, MessageType::SetQuota, format!("{domid}\0watches\0{domid}\0")).unwrap();
    }
    world.set_perms(0, "/tool", "n0 r3 r4").unwrap();
    world.events(3);
    world.events(4);
    let taken = replace(&mut world, COLD, |_| ());
    assert_eq!(taken, TakenOver { connections: 2, lost: 1, has_control: true });
    assert_eq!(world.machine.remote.values().copied().collect::<Vec<_>>(), [(DomId(0), 1), (DomId(3), 7)]);
    world.write(0, "/tool", "v").unwrap();
    assert_eq!(world.events(3), [event("/tool", "t")]);
    assert_eq!(world.end(3, 1, true), ok(), "its transaction is still open");
    assert!(!world.is_introduced(4));
    let quota = |world: &mut World, domid: u16| world.request(0, MessageType::GetQuota, format!("{domid}\0watches\0"));
    assert_eq!((quota(&mut world, 3), quota(&mut world, 4)), (Ok(b"3\0".to_vec()), Ok(b"4\0".to_vec())));
    assert_eq!(world.introduce(0, 4, 1), ok());
    world.forget_incoming(4);
    assert_eq!(world.read(4, "/tool"), Ok(b"v".to_vec()), "it kept its rights");
    assert_eq!(world.write(4, "x", ""), ok(), "and its home");
    assert_eq!(world.events(4), [], "but its watch is gone");
}

#[test]
fn a_shut_down_domain_is_not_reported_again() {
    let mut world = World::with_homes([3]);
    world.watch(0, "@releaseDomain", "t").unwrap();
    world.events(0);
    world.set_state(3, DomainState::Shutdown);
    assert_eq!(world.events(0), [event("@releaseDomain", "t")]);
    replace(&mut world, TakeOver::Live, |_| ());
    assert_eq!(world.events(0), []);
}

#[test]
fn the_reply_to_who_asked_for_the_successor_is_sent_by_the_successor_behind_what_waited() {
    let mut world = World::new();
    world.watch(0, "/tool", "t").unwrap();
    world.events(0);
    world.send(0, 0, MessageType::Write.to_wire(), b"/tool\0v");
    let id = world.connection(0).unwrap();
    let reply = [&[0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], b"OK\0"].concat();
    let options = SaveOptions { now_ms: world.now_ms, reply: Some((id, &reply)) };
    let items = save(world.server.engine(), &options);
    assert!(!world.server.has_to_transmit(id), "it is not sent by the predecessor");
    world.machine.mapped.clear();
    world.server = Server::restored(restore(&items, &Config::default(), world.now_ms).unwrap());
    world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
    world.run();
    assert_eq!(world.message(0).unwrap().kind, MessageType::WatchEvent.to_wire());
    assert_eq!(world.message(0).unwrap().kind, MessageType::Write.to_wire());
    let last = world.message(0).unwrap();
    assert_eq!((last.kind, last.request_id, last.payload), (0, 77, b"OK\0".to_vec()));
    assert_eq!(world.message(0), None);
    world.check();
}

#[test]
fn the_tools_commands_lead_to_a_successor_that_answers_and_nobody_else_notices() {
    for options in [&["-t", "5"][..], &["-v", "2"], &["-F"]] {
        let mut world = World::with_homes([3]);
        world.watch(3, "@releaseDomain", "t").unwrap();
        world.events(3);
        let transaction = world.begin(3);
        world.write_in(3, transaction, "a", "1").unwrap();
        let half = [&[11, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], b"b\0v"].concat();
        world.send_bytes(3, &half[..17]);
        upload(&mut world, &kernel());
        start(&mut world, options);
        assert_eq!((action(&mut world), answer(&mut world)), (Some(Action::StartUpdate), None), "{options:?}");
        let mut stream = Vec::new();
        let successor = world.server.take_successor().unwrap();
        world.server.save_for(&successor, &mut stream, world.now_ms).unwrap();
        // The predecessor is what it was, in case that the successor fails.
        world.check();

        world.machine.mapped.clear();
        world.server = Server::restored(load(&stream, &Config::default(), 5).unwrap());
        world.now_ms = 5;
        let taken = world.server.take_over(&mut world.machine, 5, TakeOver::Live);
        assert_eq!(taken, TakenOver { connections: 2, lost: 0, has_control: true });
        world.run();
        assert_eq!(answer(&mut world).as_deref(), Some("OK"));
        assert_eq!(answer(&mut world), None, "once");
        world.send_bytes(3, &half[17..]);
        assert_eq!(world.message(3).unwrap().request_id, 5);
        assert_eq!(world.end(3, transaction, true), ok());
        assert_eq!(world.directory(3, "/local/domain/3").unwrap(), ["b", "a"]);
        assert_eq!(world.events(3), []);
        world.check();
    }
}

#[test]
fn what_a_forced_update_lost_stands_behind_its_ok() {
    let mut world = World::with_homes([3]);
    world.begin(3);
    upload(&mut world, &kernel());
    start(&mut world, &["-t", "0", "-v", "1", "-F"]);
    assert_eq!(action(&mut world), Some(Action::StartUpdate));
    let successor = world.server.take_successor().unwrap();
    let mut stream = Vec::new();
    world.server.save_for(&successor, &mut stream, world.now_ms).unwrap();
    world.machine.mapped.clear();
    world.server = Server::restored(load(&stream, &Config::default(), 5).unwrap());
    world.server.take_over(&mut world.machine, world.now_ms, TakeOver::Live);
    world.run();
    let reply = world.reply(0).unwrap();
    assert_eq!(reply.payload, b"OK\0domain 3: 1 open transactions, the oldest for 0 s\0");
    assert_eq!(world.end(3, 1, true), error("ENOENT"), "it is as was said");
}

#[test]
fn a_server_that_dropped_its_state_for_a_successor_takes_it_back_and_says_why_there_is_none() {
    let mut world = World::with_homes([3]);
    world.set_perms(0, "/tool", "n0 r3").unwrap();
    world.watch(3, "/tool", "t").unwrap();
    world.events(3);
    world.write(3, "a", "1").unwrap();
    let transaction = world.begin(3);
    upload(&mut world, &kernel());
    start(&mut world, &["-F"]);
    assert_eq!(action(&mut world), Some(Action::StartUpdate));
    let successor = world.server.take_successor().unwrap();
    assert!(successor.force);
    let mut stream = Vec::new();
    world.server.save_for(&successor, &mut stream, world.now_ms).unwrap();
    world.machine.mapped.clear();
    world.server.drop_state();
    let engine = load(&stream, &Config::default(), world.now_ms).unwrap();
    let now_ms = world.now_ms;
    let taken = world.server.take_state_back(engine, &successor.asked, "it did not serve", &mut world.machine, now_ms);
    assert_eq!(taken, TakenOver { connections: 2, lost: 0, has_control: true });
    world.run();
    assert_eq!(answer(&mut world).as_deref(), Some("it did not serve"));
    assert_eq!(answer(&mut world), None, "once");
    assert_eq!(world.read(3, "a"), Ok(b"1".to_vec()));
    assert_eq!(world.write_in(3, transaction, "a", "2"), ok());
    assert_eq!(world.end(3, transaction, true), ok());
    world.write(0, "/tool", "x").unwrap();
    assert_eq!(world.events(3), [event("/tool", "t")]);
    upload(&mut world, &kernel());
    start(&mut world, &[]);
    assert_eq!(action(&mut world), Some(Action::StartUpdate), "the next one is as good as the first");
    world.check();
}

#[test]
fn a_transaction_that_conflicts_is_to_be_tried_again_after_an_update_as_well() {
    for updates in [false, true] {
        let mut world = World::without_replay([]);
        world.write(0, "/a/c", "x").unwrap();
        let transaction = world.begin(0);
        world.read_in(0, transaction, "/a/c").unwrap();
        world.rm(0, "/a/c").unwrap();
        // What it sees of the node above is younger than what it saw of the one below.
        world.rm_in(0, transaction, "/a").unwrap();
        if updates {
            replace(&mut world, TakeOver::Live, |_| {});
        }
        assert_eq!(world.end(0, transaction, true), error("EAGAIN"), "with an update: {updates}");
        assert!(world.read(0, "/a").is_ok());
        world.check();
    }
}

#[test]
fn who_asked_is_told_why_there_is_no_successor_also_when_connections_have_other_numbers_now() {
    let mut world = World::unconnected(Config::default());
    // A client of the hosted server, which is in no stream.
    world.server.handle_connected();
    world.build(DOM0);
    world.server.handle_boot_domain(DOM0, 1, &mut world.machine).unwrap();
    world.run();
    world.start(3);
    world.make_home(3);
    upload(&mut world, &kernel());
    start(&mut world, &["-F"]);
    let successor = world.server.take_successor().unwrap();
    let mut stream = Vec::new();
    world.server.save_for(&successor, &mut stream, world.now_ms).unwrap();
    world.machine.mapped.clear();
    world.server.drop_state();
    let engine = load(&stream, &Config::default(), world.now_ms).unwrap();
    assert_ne!(engine.state().domains.connection(DOM0), Some(successor.asked.connection), "another number");
    let now_ms = world.now_ms;
    world.server.take_state_back(engine, &successor.asked, "it did not serve", &mut world.machine, now_ms);
    world.run();
    assert_eq!(answer(&mut world).as_deref(), Some("it did not serve"));
    assert_eq!(answer(&mut world), None, "once");
    world.check();
}

#[test]
fn what_was_said_of_the_streams_version_is_carried_and_goes_before_the_boot_option() {
    let mut world = World::with(Config { stream_version: Some(1), ..Config::default() });
    assert_eq!(own_text(&mut world, &["stream-version"]), "1");
    replace(&mut world, TakeOver::Live, |_| {});
    assert_eq!(own_text(&mut world, &["stream-version"]), "auto", "the successor has no such option");
    assert_eq!(own_text(&mut world, &["stream-version", "1"]), "OK");
    replace(&mut world, TakeOver::Live, |_| {});
    assert_eq!(own_text(&mut world, &["stream-version"]), "1");

    let mut world = World::with(Config { stream_version: Some(1), ..Config::default() });
    assert_eq!(own_text(&mut world, &["stream-version", "auto"]), "OK");
    assert_eq!(own_text(&mut world, &["stream-version"]), "auto");
}
