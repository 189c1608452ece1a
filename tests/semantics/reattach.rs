//! A successor gets the rings and ports of its predecessor, or continues without a missing one.

use xenstore::engine::config::Config;
use xenstore::engine::hypervisor::DomainState;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::reattach::{Reattached, Reattachment};
use xenstore::server::stream::load;
use xenstore::server::{Action, Server};
use xenstore::store::domain::DomId;
use xenstore::wire::header::MessageType;
use xenstore::wire::ring::Field;

use crate::live_update::{action, answer, kernel, own_text, start, upload};
use crate::support::items::{restore, save};
use crate::support::testbed::{BAD_PORT, DOM0, Testbed, error, event, ok};

/// Replaces the server by one with its saved state. `between` acts between the save and the restore.
pub fn replace(testbed: &mut Testbed, mode: Reattachment, between: impl FnOnce(&mut Testbed)) -> Reattached {
    let items = save(testbed.server.engine(), &SaveOptions { now_ms: testbed.now_ms, reply: None });
    between(testbed);
    testbed.machine.mapped.clear();
    if mode != Reattachment::Live {
        testbed.machine.bound.clear();
        testbed.machine.remote.clear();
    }
    testbed.server = Server::restored(restore(&items, &Config::default(), testbed.now_ms).unwrap());
    let taken = testbed.server.reattach(&mut testbed.machine, testbed.now_ms, mode);
    testbed.run();
    testbed.check();
    taken
}

const COLD: Reattachment = Reattachment::Cold { control_port: Some(1) };

#[test]
fn a_domain_that_died_during_the_update_is_released() {
    for mode in [Reattachment::Live, COLD] {
        let mut testbed = Testbed::with_homes([3, 4]);
        testbed.set_word(4, Field::EventPort, 5);
        testbed.watch(4, "@releaseDomain", "gone").unwrap();
        testbed.events(4);
        let taken = replace(&mut testbed, mode, |testbed| {
            testbed.machine.domains.remove(&DomId(3));
        });
        assert_eq!(taken, Reattached { connections: 2, lost: 1, has_control: true });
        assert_eq!(testbed.events(4), [event("@releaseDomain", "gone")], "{mode:?}");
        assert_eq!(testbed.read(0, "/local/domain/3"), error("ENOENT"));
        assert!(!testbed.machine.bound.values().any(|domid| *domid == DomId(3)), "the port is closed");
    }
}

#[test]
fn another_domain_with_the_number_of_a_dead_one_is_not_taken_for_it() {
    let mut testbed = Testbed::new();
    testbed.machine.unique_ids.insert(DomId(3), 33);
    testbed.start(3);
    testbed.make_home(3);
    let taken = replace(&mut testbed, Reattachment::Live, |testbed| {
        testbed.machine.unique_ids.insert(DomId(3), 34);
    });
    assert_eq!(taken.lost, 1);
    assert!(!testbed.machine.mapped.contains_key(&DomId(3)), "the new domain's ring was not touched");
    assert_eq!(testbed.read(0, "/local/domain/3"), error("ENOENT"));
    assert!(!testbed.is_introduced(3));
}

#[test]
fn a_ring_that_cannot_be_mapped_or_a_port_that_cannot_be_bound_costs_only_its_connection() {
    for without_port in [true, false] {
        let mut testbed = Testbed::with_homes([3, 4]);
        let page = testbed.machine.pages[&DomId(3)].clone();
        let taken = replace(&mut testbed, Reattachment::Live, |testbed| {
            if without_port {
                let port = testbed.port(3);
                testbed.machine.bound.remove(&port);
                testbed.machine.remote.remove(&port);
            } else {
                testbed.machine.pages.remove(&DomId(3));
            }
        });
        assert_eq!(taken, Reattached { connections: 2, lost: 1, has_control: true });
        assert!(testbed.is_introduced(3) && testbed.read(0, "/local/domain/3").is_ok());
        assert_eq!(testbed.write(4, "x", "on"), ok(), "others are served");
        testbed.machine.pages.insert(DomId(3), page);
        assert_eq!(testbed.introduce(0, 3, 2), ok(), "dom0 can connect the domain again");
        testbed.forget_incoming(3);
        assert_eq!(testbed.write(3, "x", "too"), ok());
        assert_eq!(testbed.release(0, 3), ok());
        assert!(!testbed.machine.mapped.contains_key(&DomId(3)));
    }
}

#[test]
fn a_domain_whose_port_is_gone_reads_the_error_in_its_ring() {
    let mut testbed = Testbed::with_homes([3, 4]);
    replace(&mut testbed, Reattachment::Live, |testbed| {
        let port = testbed.port(3);
        testbed.machine.bound.remove(&port);
        testbed.machine.remote.remove(&port);
    });
    assert_eq!(testbed.word(3, Field::Error), 1, "the communication failed");
    assert_eq!(testbed.word(4, Field::Error), 0);
}

#[test]
fn a_ring_without_a_port_reports_no_connection_until_its_domain_is_introduced_again() {
    let mut testbed = Testbed::with_homes([3]);
    assert_eq!(testbed.introduce(0, 3, BAD_PORT), ok());
    testbed.set_word(3, Field::Connection, 1);
    replace(&mut testbed, Reattachment::Live, |_| ());
    assert_eq!((testbed.word(3, Field::Connection), testbed.word(3, Field::Error)), (1, 1));
    assert_eq!(testbed.introduce(0, 3, 2), ok());
    assert_eq!((testbed.word(3, Field::Connection), testbed.word(3, Field::Error)), (0, 0));
    testbed.forget_incoming(3);
    assert_eq!(testbed.write(3, "x", "on"), ok());
}

#[test]
fn after_a_cold_start_ports_are_bound_again_and_a_domain_without_one_waits_to_be_introduced() {
    let mut testbed = Testbed::with_homes([3, 4]);
    testbed.set_word(3, Field::EventPort, 7);
    for domid in [3, 4] {
        testbed.watch(domid, "/tool", "t").unwrap();
        testbed.events(domid);
        testbed.begin(domid);
        testbed.request(0, MessageType::SetQuota, format!("{domid}\0watches\0{domid}\0")).unwrap();
    }
    testbed.set_perms(0, "/tool", "n0 r3 r4").unwrap();
    testbed.events(3);
    testbed.events(4);
    let taken = replace(&mut testbed, COLD, |_| ());
    assert_eq!(taken, Reattached { connections: 2, lost: 1, has_control: true });
    assert_eq!(testbed.machine.remote.values().copied().collect::<Vec<_>>(), [(DomId(0), 1), (DomId(3), 7)]);
    testbed.write(0, "/tool", "v").unwrap();
    assert_eq!(testbed.events(3), [event("/tool", "t")]);
    assert_eq!(testbed.end(3, 1, true), ok(), "the transaction is still open");
    assert!(!testbed.is_introduced(4));
    let quota =
        |testbed: &mut Testbed, domid: u16| testbed.request(0, MessageType::GetQuota, format!("{domid}\0watches\0"));
    assert_eq!((quota(&mut testbed, 3), quota(&mut testbed, 4)), (Ok(b"3\0".to_vec()), Ok(b"4\0".to_vec())));
    assert_eq!(testbed.introduce(0, 4, 1), ok());
    testbed.forget_incoming(4);
    assert_eq!(testbed.read(4, "/tool"), Ok(b"v".to_vec()), "the domain keeps its rights");
    assert_eq!(testbed.write(4, "x", ""), ok(), "the domain keeps its home");
    assert_eq!(testbed.events(4), [], "its watch is gone");
}

#[test]
fn a_shut_down_domain_is_not_reported_again() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.watch(0, "@releaseDomain", "t").unwrap();
    testbed.events(0);
    testbed.set_state(3, DomainState::Shutdown);
    assert_eq!(testbed.events(0), [event("@releaseDomain", "t")]);
    replace(&mut testbed, Reattachment::Live, |_| ());
    assert_eq!(testbed.events(0), []);
}

#[test]
fn the_successor_answers_the_start_after_the_pending_output() {
    let mut testbed = Testbed::new();
    testbed.watch(0, "/tool", "t").unwrap();
    testbed.events(0);
    testbed.send(0, 0, MessageType::Write.to_wire(), b"/tool\0v");
    let id = testbed.connection(0).unwrap();
    let reply = [&[0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], b"OK\0"].concat();
    let options = SaveOptions { now_ms: testbed.now_ms, reply: Some((id, &reply)) };
    let items = save(testbed.server.engine(), &options);
    assert!(!testbed.server.has_to_transmit(id), "the predecessor does not send it");
    testbed.machine.mapped.clear();
    testbed.server = Server::restored(restore(&items, &Config::default(), testbed.now_ms).unwrap());
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    testbed.run();
    assert_eq!(testbed.message(0).unwrap().kind, MessageType::WatchEvent.to_wire());
    assert_eq!(testbed.message(0).unwrap().kind, MessageType::Write.to_wire());
    let last = testbed.message(0).unwrap();
    assert_eq!((last.kind, last.request_id, last.payload), (0, 77, b"OK\0".to_vec()));
    assert_eq!(testbed.message(0), None);
    testbed.check();
}

#[test]
fn the_tools_commands_lead_to_a_successor_that_answers_and_no_other_client_notices() {
    for options in [&["-t", "5"][..], &["-v", "2"], &["-F"]] {
        let mut testbed = Testbed::with_homes([3]);
        testbed.watch(3, "@releaseDomain", "t").unwrap();
        testbed.events(3);
        let transaction = testbed.begin(3);
        testbed.write_in(3, transaction, "a", "1").unwrap();
        let half = [&[11, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], b"b\0v"].concat();
        testbed.send_bytes(3, &half[..17]);
        upload(&mut testbed, &kernel());
        start(&mut testbed, options);
        assert_eq!((action(&mut testbed), answer(&mut testbed)), (Some(Action::StartUpdate), None), "{options:?}");
        let mut stream = Vec::new();
        let successor = testbed.server.take_successor().unwrap();
        testbed.server.save_for(&successor, &mut stream, testbed.now_ms).unwrap();
        // The predecessor is unchanged, in case the successor fails.
        testbed.check();

        testbed.machine.mapped.clear();
        testbed.server = Server::restored(load(&stream, &Config::default(), 5).unwrap());
        testbed.now_ms = 5;
        let taken = testbed.server.reattach(&mut testbed.machine, 5, Reattachment::Live);
        assert_eq!(taken, Reattached { connections: 2, lost: 0, has_control: true });
        testbed.run();
        assert_eq!(answer(&mut testbed).as_deref(), Some("OK"));
        assert_eq!(answer(&mut testbed), None, "once");
        testbed.send_bytes(3, &half[17..]);
        assert_eq!(testbed.message(3).unwrap().request_id, 5);
        assert_eq!(testbed.end(3, transaction, true), ok());
        assert_eq!(testbed.directory(3, "/local/domain/3").unwrap(), ["b", "a"]);
        assert_eq!(testbed.events(3), []);
        testbed.check();
    }
}

#[test]
fn the_losses_of_a_forced_update_follow_its_ok() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "0", "-v", "1", "-F"]);
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    let successor = testbed.server.take_successor().unwrap();
    let mut stream = Vec::new();
    testbed.server.save_for(&successor, &mut stream, testbed.now_ms).unwrap();
    testbed.machine.mapped.clear();
    testbed.server = Server::restored(load(&stream, &Config::default(), 5).unwrap());
    testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Live);
    testbed.run();
    let reply = testbed.reply(0).unwrap();
    assert_eq!(reply.payload, b"OK\0domain 3: 1 open transactions, the oldest for 0 s\0");
    assert_eq!(testbed.end(3, 1, true), error("ENOENT"), "the transaction is lost as listed");
}

#[test]
fn a_server_that_dropped_its_state_for_a_failed_successor_restores_it_and_answers_with_the_reason() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.set_perms(0, "/tool", "n0 r3").unwrap();
    testbed.watch(3, "/tool", "t").unwrap();
    testbed.events(3);
    testbed.write(3, "a", "1").unwrap();
    let transaction = testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-F"]);
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    let successor = testbed.server.take_successor().unwrap();
    assert!(successor.force);
    let mut stream = Vec::new();
    testbed.server.save_for(&successor, &mut stream, testbed.now_ms).unwrap();
    testbed.machine.mapped.clear();
    testbed.server.drop_state();
    let engine = load(&stream, &Config::default(), testbed.now_ms).unwrap();
    let now_ms = testbed.now_ms;
    let taken =
        testbed.server.take_state_back(engine, &successor.asked, &"it did not serve", &mut testbed.machine, now_ms);
    assert_eq!(taken, Reattached { connections: 2, lost: 0, has_control: true });
    testbed.run();
    assert_eq!(answer(&mut testbed).as_deref(), Some("it did not serve"));
    assert_eq!(answer(&mut testbed), None, "once");
    assert_eq!(testbed.read(3, "a"), Ok(b"1".to_vec()));
    assert_eq!(testbed.write_in(3, transaction, "a", "2"), ok());
    assert_eq!(testbed.end(3, transaction, true), ok());
    testbed.write(0, "/tool", "x").unwrap();
    assert_eq!(testbed.events(3), [event("/tool", "t")]);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &[]);
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate), "the next start works like the first");
    testbed.check();
}

#[test]
fn a_transaction_that_conflicts_must_be_retried_after_an_update_too() {
    for updates in [false, true] {
        let mut testbed = Testbed::without_replay([]);
        testbed.write(0, "/a/c", "x").unwrap();
        let transaction = testbed.begin(0);
        testbed.read_in(0, transaction, "/a/c").unwrap();
        testbed.rm(0, "/a/c").unwrap();
        // The access to the parent is newer than the access to the child.
        testbed.rm_in(0, transaction, "/a").unwrap();
        if updates {
            replace(&mut testbed, Reattachment::Live, |_| {});
        }
        assert_eq!(testbed.end(0, transaction, true), error("EAGAIN"), "with an update: {updates}");
        assert!(testbed.read(0, "/a").is_ok());
        testbed.check();
    }
}

#[test]
fn the_requester_gets_the_reason_of_a_failed_update_although_connection_numbers_have_changed() {
    let mut testbed = Testbed::unconnected(Config::default());
    // A client of the hosted server, which is in no stream.
    testbed.server.handle_connected();
    testbed.build(DOM0);
    testbed.server.handle_boot_domain(DOM0, 1, &mut testbed.machine).unwrap();
    testbed.run();
    testbed.start(3);
    testbed.make_home(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-F"]);
    let successor = testbed.server.take_successor().unwrap();
    let mut stream = Vec::new();
    testbed.server.save_for(&successor, &mut stream, testbed.now_ms).unwrap();
    testbed.machine.mapped.clear();
    testbed.server.drop_state();
    let engine = load(&stream, &Config::default(), testbed.now_ms).unwrap();
    assert_ne!(
        engine.state().domains.connection(DOM0),
        Some(successor.asked.connection),
        "the connection has another number"
    );
    let now_ms = testbed.now_ms;
    testbed.server.take_state_back(engine, &successor.asked, &"it did not serve", &mut testbed.machine, now_ms);
    testbed.run();
    assert_eq!(answer(&mut testbed).as_deref(), Some("it did not serve"));
    assert_eq!(answer(&mut testbed), None, "once");
    testbed.check();
}

#[test]
fn the_version_limit_is_carried_and_overrides_the_boot_option() {
    let mut testbed = Testbed::with(Config { stream_version: Some(1), ..Config::default() });
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "1");
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "auto", "the successor has no such option");
    assert_eq!(own_text(&mut testbed, &["stream-version", "1"]), "OK");
    replace(&mut testbed, Reattachment::Live, |_| {});
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "1");

    let mut testbed = Testbed::with(Config { stream_version: Some(1), ..Config::default() });
    assert_eq!(own_text(&mut testbed, &["stream-version", "auto"]), "OK");
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "auto");
}
