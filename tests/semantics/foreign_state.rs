//! State that another server saved, or a server without this one's extensions. The restore follows the records.

use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, GlobalQuotas, Item, NodeAccess, NodeItem, RestoreError, SaveOptions,
    StreamPeer, TransactionItem, WatchItem,
};
use xenstore::server::Server;
use xenstore::server::reattach::{Reattached, Reattachment};
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::store::path::{Path, PathScratch};
use xenstore::store::permission::{Access, Entry, Permissions};
use xenstore::stream::reader::Reader;
use xenstore::stream::record::Version;
use xenstore::stream::writer::Writer;
use xenstore::wire::header::{Header, MessageType};

use crate::support::items::{owned, restore, save};
use crate::support::testbed::{DOM0, Testbed, error, event, ok, string};

const OF_C: &[u8] = include_bytes!("../streams/c-xenstored-4.17.xs");
const OF_OXENSTORED: &[u8] = include_bytes!("../streams/oxenstored-4.17.dump");
const FIRST: ConnectionNumber = ConnectionNumber(1);

fn connection(number: u32, domid: u16) -> ConnectionItem<'static> {
    ConnectionItem {
        number: ConnectionNumber(number),
        peer: StreamPeer::Ring { domid: DomId(domid), target: None, port: 0 },
        input: b""[..].into(),
        output: b""[..].into(),
        partial_bytes: 0,
        unique_id: None,
    }
}

fn entry(domid: u16, access: Access) -> Entry {
    Entry { domid: DomId(domid), access, stale: false }
}

fn owner(domid: u16) -> Vec<Entry> {
    vec![entry(domid, Access::empty())]
}

fn node(path: &str, value: &str, permissions: Vec<Entry>) -> Item<'static> {
    let (path, value) = (path.to_owned().into(), value.as_bytes().to_vec().into());
    Item::Node(NodeItem { pending: None, path, value, permissions: Permissions::from_entries(&permissions) })
}

fn watch(number: u32, path: &str, token: &str) -> Item<'static> {
    Item::Watch(WatchItem {
        connection: ConnectionNumber(number),
        path: path.to_owned().into(),
        token: token.as_bytes().to_vec().into(),
        depth: None,
        has_lost_depth: false,
    })
}

fn message(kind: MessageType, request_id: u32, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = payload.len() as u32;
    let header = Header { kind: kind.to_wire(), request_id, transaction_id: 0, payload_bytes };
    [&header.emit()[..], payload].concat()
}

/// Returns a testbed with dom0 and guests whose server continues from these items, with rings and ports of their own.
fn testbed(items: &[Item<'_>], guests: &[u16]) -> Testbed {
    let mut testbed = Testbed::unconnected(Config::default());
    for domid in [0].iter().chain(guests) {
        testbed.build(DomId(*domid));
        testbed.set_word(*domid, xenstore::wire::ring::Field::EventPort, 3);
    }
    let engine = restore(items, &Config::default(), testbed.now_ms).unwrap();
    testbed.server = Server::restored(engine);
    let taken =
        testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Cold { control_port: None });
    let connections = guests.len() + 1;
    assert_eq!(taken, Reattached { connections, lost: 0, has_control: true });
    testbed.run();
    testbed.check();
    testbed
}

fn read_all(bytes: &[u8]) -> Vec<Item<'static>> {
    let mut reader = Reader::new(bytes).unwrap();
    let mut items = Vec::new();
    while let Some(item) = reader.next_item().unwrap() {
        items.push(owned(&item));
    }
    items
}

/// Checks that the engine's tree has exactly the nodes of the items.
fn compare_nodes(items: &[Item<'_>], engine: &xenstore::engine::Engine) -> usize {
    let mut nodes = 0;
    for item in items {
        let Item::Node(node) = item else { continue };
        if node.path.starts_with('@') {
            continue;
        }
        let mut scratch = PathScratch::new();
        let path = Path::parse(node.path.as_bytes(), DOM0, 2048, &mut scratch).unwrap();
        let have = engine.state().tree.get(path).unwrap_or_else(|| panic!("{path} is there"));
        assert_eq!((have.value(), have.permissions().entries()), (&*node.value, node.entries()), "{path}");
        nodes += 1;
    }
    let mut walk = engine.state().tree.walk();
    let mut found = 0;
    while walk.next().is_some() {
        found += 1;
    }
    assert_eq!(found, nodes);
    nodes
}

#[test]
fn a_stream_of_the_c_server_is_restored_without_its_sockets() {
    let items = read_all(OF_C);
    let engine = load(OF_C, &Config::default(), 0).unwrap();
    let nodes = compare_nodes(&items, &engine);
    let rings: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::Connection(connection @ ConnectionItem { peer: StreamPeer::Ring { domid, .. }, .. }) => {
                Some((connection.number, *domid))
            }
            _ => None,
        })
        .collect();
    assert_eq!(engine.restored_connections().len(), rings.len());
    let mut watches = 0;
    for (number, domid) in rings {
        let of = |item: &&Item<'_>| matches!(item, Item::Watch(watch) if watch.connection == number);
        let count = items.iter().filter(of).count();
        assert_eq!(engine.state().domains.get(domid).unwrap().watches, count, "{domid}");
        watches += count;
    }
    assert_eq!(engine.state().watches.len(), watches, "watches of sockets are left out");
    println!("{nodes} nodes, {watches} watches");
    assert!(nodes > 80 && watches > 5);
}

#[test]
fn a_dump_of_oxenstored_is_restored() {
    let engine = load(OF_OXENSTORED, &Config::default(), 0).unwrap();
    let mut items = Vec::new();
    let take = &mut |item: &Item<'_>| {
        items.push(owned(item));
        Ok(())
    };
    xenstore::stream::oxenstored::import(OF_OXENSTORED, take, &mut |line| panic!("{line}")).unwrap();
    assert!(compare_nodes(&items, &engine) > 80);
    assert_eq!(engine.restored_connections().len(), 2);
    assert_eq!(engine.state().domains.get(DomId(1)).unwrap().watches, 7);
}

#[test]
fn a_wrong_stream_is_refused_with_the_place_and_the_reason() {
    let mut server_items = vec![node("/", "", owner(0)), node("/a/b", "", owner(0))];
    server_items.insert(0, Item::Connection(connection(1, 0)));
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Version::Two).unwrap();
    server_items.iter().for_each(|item| writer.item(item).unwrap());
    writer.end().unwrap();
    let refusal = load(&bytes, &Config::default(), 0).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refusal, "record 3 at offset 80: node /a/b has no parent");
}

#[test]
fn a_dump_with_broken_lines_is_restored_without_them_and_the_log_names_them() {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let store = |path: &str, permissions: &str| format!("store,{},{},{}\n", hex(path), hex(permissions), hex("v"));
    let broken = [
        "dom,x,1,1,1\n".into(),
        // Two connections with one port, and a number that no domain has.
        "dom,4,1,1,7\n".into(),
        "dom,32752,1,1,8\n".into(),
        format!("watch,3,{},61\n", hex("/a//b")),
        format!("watch,3,{},61\n", hex("/a")),
        store("/a", "x0"),
        // This node is skipped because its parent is skipped.
        store("/a/b", "n0"),
        store("/kept", "n0"),
        store("/with space", "n0"),
    ];
    let good = format!("$xenstored-dump-format\ndom,3,1,1,7\nwatch,3,{},61\n{}", hex("/a"), store("/kept", "n3"));
    let load = |dump: &str| load(dump.as_bytes(), &Config::default(), 0);
    let mut engine = None;
    let lines = crate::log_lines::of(|| engine = load(&format!("{good}{}", broken.concat())).ok());
    // A refused node uses up a generation. Only an extension has that number.
    let records = |engine: &xenstore::engine::Engine| {
        let mut items = save(engine, &SaveOptions::default());
        items.retain(|item| !matches!(item, Item::Extension(_)));
        items
    };
    assert_eq!(records(&engine.unwrap()), records(&load(&good).unwrap()));
    for (at, line) in broken.iter().enumerate() {
        let (named, text) = (format!("restore: line {} is skipped: ", at + 5), line.trim_end());
        assert!(lines.iter().any(|line| line.starts_with(&named) && line.ends_with(text)), "{named} {text} {lines:?}");
    }

    let lines = crate::log_lines::of(|| drop(load(&format!("{good}{}", "dom,x,1,1,1\n".repeat(1000)))));
    assert_eq!(lines.len(), 21, "the log has few of the lines, as a console is slow");
    assert_eq!(lines[20], "restore: 1000 lines are skipped in all");
    let refusal = load("$xenstored-dump-format\ndom,x,1,1,1\n").map(|_| ()).unwrap_err().to_string();
    assert_eq!(refusal, "no line of this dump can be read");
}

#[test]
fn requests_that_another_server_had_read_are_executed_first_and_in_order() {
    let mut guest = connection(2, 3);
    let requests = [
        message(MessageType::Write, 7, b"a\0first"),
        message(MessageType::Read, 8, b"a\0"),
        message(MessageType::Write, 9, b"a\0second")[..20].to_vec(),
    ];
    guest.input = requests.concat().into();
    let items = [
        Item::Connection(connection(1, 0)),
        Item::Connection(guest),
        node("/", "", owner(0)),
        node("/local", "", owner(0)),
        node("/local/domain", "", owner(0)),
        node("/local/domain/3", "", owner(3)),
    ];
    let mut testbed = testbed(&items, &[3]);
    assert_eq!(testbed.message(3).unwrap().request_id, 7);
    let reply = testbed.message(3).unwrap();
    assert_eq!((reply.request_id, string(&reply.payload).as_str()), (8, "first"));
    assert_eq!(testbed.message(3), None);
    testbed.send_bytes(3, &message(MessageType::Write, 9, b"a\0second")[20..]);
    assert_eq!(testbed.message(3).unwrap().request_id, 9);
    assert_eq!(testbed.read(3, "a"), Ok(b"second".to_vec()));
}

#[test]
fn pending_output_of_another_server_is_sent_and_its_events_wait_for_twenty_seconds() {
    let first = message(MessageType::Read, 1, b"partly sent");
    let event = message(MessageType::WatchEvent, 0, b"a\0token\0");
    let last = message(MessageType::Read, 2, b"whole");
    for waits_ms in [19_999, 20_000] {
        let mut guest = connection(2, 3);
        guest.output = [&first[20..], &event, &last].concat().into();
        guest.partial_bytes = first.len() - 20;
        let items = [Item::Connection(connection(1, 0)), Item::Connection(guest), node("/", "", owner(0))];
        let mut testbed = Testbed::with_guests([]);
        testbed.build(DomId(3));
        testbed.machine.mapped.clear();
        testbed.machine.bound.clear();
        testbed.machine.remote.clear();
        // The ring is full, so that the server sends nothing at once.
        testbed.set_word(3, xenstore::wire::ring::Field::ReplyProducer, 1024);
        testbed.set_word(3, xenstore::wire::ring::Field::EventPort, 3);
        let engine = restore(&items, &Config::default(), testbed.now_ms).unwrap();
        testbed.server = Server::restored(engine);
        testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Cold { control_port: Some(1) });
        testbed.pass(waits_ms);
        let received: Vec<u8> = std::iter::repeat_with(|| testbed.take_bytes(3, 1024)).take(3).flatten().collect();
        let rest =
            if waits_ms < 20_000 { [&first[20..], &event, &last].concat() } else { [&first[20..], &last].concat() };
        assert!(received[1024..] == rest[..], "{}", received[1024..].escape_ascii());
        testbed.check();
    }
}

#[test]
fn domains_that_are_named_become_known_and_stale_entries_count_for_nothing() {
    let stale = Entry { stale: true, ..entry(4, Access::READ) };
    let items = [
        Item::Connection(connection(1, 0)),
        Item::Connection(connection(2, 3)),
        node("/", "", owner(0)),
        node("/orphan", "", vec![Entry { stale: true, ..entry(7, Access::READ) }]),
        node("/mine", "v", owner(3)),
        node("/others", "v", owner(5)),
        node("/given", "v", vec![entry(0, Access::empty()), entry(3, Access::READ), stale]),
        watch(2, "/given", "absolute"),
        watch(2, "here", "relative"),
    ];
    let mut testbed = testbed(&items, &[3]);
    let domains = [3, 4, 5, 7].map(DomId);
    let known = domains.map(|domid| testbed.server.engine().state().domains.get(domid).is_some());
    assert_eq!(known, [true, false, false, false], "the missing owner of a node is released");
    assert_eq!(testbed.get_perms(0, "/orphan").unwrap(), "r0");
    assert_eq!(testbed.read(0, "/others"), error("ENOENT"), "its nodes are removed with it");
    assert_eq!(testbed.get_perms(0, "/given").unwrap(), "n0 r3 r4");
    assert_eq!((testbed.read(3, "/given"), testbed.read(3, "/mine")), (Ok(b"v".to_vec()), Ok(b"v".to_vec())));
    assert_eq!(testbed.write(3, "/given", ""), error("EACCES"));
    testbed.write(0, "/given", "w").unwrap();
    testbed.mkdir(0, "/local/domain/3/here").unwrap();
    testbed.set_perms(0, "/local/domain/3/here", "n3").unwrap();
    assert_eq!(testbed.events(3), [event("/given", "absolute"), event("here", "relative")]);
}

#[test]
fn a_watch_whose_depth_is_lost_sees_more_and_never_less_and_the_log_names_it() {
    let Item::Watch(without) = watch(2, "data", "t") else { unreachable!("it is a watch") };
    let items = [
        Item::Connection(connection(1, 0)),
        Item::Connection(connection(2, 3)),
        Item::Watch(WatchItem { has_lost_depth: true, ..without }),
        node("/", "", owner(0)),
        node("/local", "", owner(0)),
        node("/local/domain", "", owner(0)),
        node("/local/domain/3", "", owner(3)),
    ];
    let lines = crate::log_lines::of(|| {
        let mut testbed = testbed(&items, &[3]);
        testbed.write(3, "data/a/b", "x").unwrap();
        let seen = [event("data/a/b", "t")];
        assert_eq!(testbed.events(3), seen);
    });
    let lost = "restore: domain 3: watch of data: the stream lacks its depth; it sees all levels from now on";
    assert_eq!(lines.iter().filter(|line| *line == lost).count(), 1, "{lines:?}");
}

#[test]
fn a_domain_without_an_id_in_the_stream_stays_where_the_hypervisor_gives_ids() {
    let of_c = |number, domid| {
        let record = Item::Connection(ConnectionItem { unique_id: Some(u64::MAX), ..connection(number, domid) });
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, Version::One).unwrap();
        writer.item(&record).unwrap();
        writer.end().unwrap();
        let at = bytes.windows(8).position(|bytes| bytes == [0xff; 8]).unwrap();
        bytes[at..at + 8].fill(0);
        read_all(&bytes).remove(0)
    };
    for guest in [of_c(2, 3), Item::Connection(ConnectionItem { unique_id: Some(0), ..connection(2, 3) })] {
        let mut testbed = Testbed::unconnected(Config::default());
        for domid in [0, 3] {
            testbed.build(DomId(domid));
            testbed.set_word(domid, xenstore::wire::ring::Field::EventPort, 3);
            testbed.machine.unique_ids.insert(DomId(domid), 100 + u64::from(domid));
        }
        let items = [of_c(1, 0), guest, node("/", "", owner(0)), node("/mine", "v", owner(3))];
        testbed.server = Server::restored(restore(&items, &Config::default(), testbed.now_ms).unwrap());
        let taken =
            testbed.server.reattach(&mut testbed.machine, testbed.now_ms, Reattachment::Cold { control_port: None });
        assert_eq!(taken, Reattached { connections: 2, lost: 0, has_control: true });
        testbed.run();
        assert!(testbed.is_introduced(3), "the live domain is not released");
        assert_eq!(testbed.read(3, "/mine"), Ok(b"v".to_vec()));
        // From now on, the server knows the domain's id.
        testbed.machine.unique_ids.insert(DomId(3), 200);
        testbed.server.handle_domain_exception();
        testbed.run();
        assert!(!testbed.is_introduced(3));
        testbed.check();
    }
}

#[test]
fn a_transaction_of_records_alone_does_what_they_say() {
    let transaction = TransactionItem { connection: FIRST, id: 9 };
    let pending = |path: &str, value: &str, access, permissions: Vec<Entry>| {
        let (path, value) = (path.to_owned().into(), value.as_bytes().to_vec().into());
        Item::Node(NodeItem {
            pending: Some((transaction, access)),
            path,
            value,
            permissions: Permissions::from_entries(&permissions),
        })
    };
    let (read, written) = (NodeAccess::READ, NodeAccess::WRITTEN);
    let saved = [
        Item::Connection(connection(1, 0)),
        node("/", "", owner(0)),
        node("/a", "old", owner(0)),
        node("/a/b", "", owner(0)),
        node("/a/b/c", "", owner(0)),
        node("/seen", "same", owner(0)),
        watch(1, "/", "all"),
        Item::Transaction(transaction),
        pending("/a", "new", read | written, owner(0)),
        pending("/a/b", "", NodeAccess::empty(), vec![]),
        pending("/a/made", "made", written, owner(0)),
        pending("/seen", "same", read, owner(0)),
        pending("/missing", "", read, vec![]),
    ];
    let commit = |items: &[Item<'_>]| {
        let mut testbed = testbed(items, &[]);
        let outcome = testbed.end(0, 9, true);
        testbed.check();
        (outcome, testbed.events(0), testbed.directory(0, "/a").unwrap(), testbed.read(0, "/a").unwrap())
    };
    let (outcome, events, names, value) = commit(&saved);
    assert_eq!((outcome, names, value), (ok(), vec!["made".into()], b"new".to_vec()));
    assert_eq!(events, [event("/a", "all"), event("/a/b", "all"), event("/a/made", "all")]);

    let mut seen_otherwise = saved.clone();
    seen_otherwise[11] = pending("/seen", "other", read, owner(0));
    let (outcome, events, names, _) = commit(&seen_otherwise);
    assert_eq!((outcome, events, names), (error("EAGAIN"), vec![], vec!["b".into()]));

    let mut nowhere = saved.to_vec();
    nowhere.push(pending("/nowhere/made", "", written, owner(0)));
    let (outcome, _, names, _) = commit(&nowhere);
    assert_eq!((outcome, names), (error("EAGAIN"), vec!["b".into()]), "inconsistent records are not committed");
}

#[test]
fn quotas_of_other_servers_are_kept_for_their_successors() {
    let quotas = |names: &[(&'static str, u32)]| names.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let items = [
        Item::GlobalQuotas(GlobalQuotas {
            defaults: quotas(&[("nodes", 55), ("colours", 3)]),
            global: quotas(&[("node-size", 99), ("all-colours", 4)]),
        }),
        Item::Domain(DomainItem {
            domid: DomId(3),
            features: Some(3),
            quotas: quotas(&[("nodes", 66), ("shapes", 5)]),
        }),
        node("/", "", owner(0)),
        node("/mine", "", owner(3)),
    ];
    let engine = restore(&items, &Config::default(), 0).unwrap();
    let saved = save(&engine, &SaveOptions::default());
    let Some(Item::GlobalQuotas(global)) = saved.iter().find(|item| matches!(item, Item::GlobalQuotas(_))) else {
        panic!("there are quotas");
    };
    for named in [("nodes", 55), ("node-size", 99), ("colours", 3), ("watches", 128)] {
        assert!(global.defaults.contains(&(named.0.into(), named.1)), "{named:?}: {global:?}");
    }
    assert_eq!(global.global, quotas(&[("all-colours", 4)]));
    assert!(saved.contains(&items[1]));
}

#[test]
fn references_to_missing_items_are_errors() {
    let ring = || Item::Connection(connection(1, 0));
    let transaction = Item::Transaction(TransactionItem { connection: FIRST, id: 1 });
    let socket = ConnectionItem { peer: StreamPeer::Socket { descriptor: 5 }, ..connection(1, 0) };
    let with_output = |output: &[u8]| ConnectionItem { output: output.to_vec().into(), ..connection(1, 0) };
    let long = vec![0; 64 * 1024 + 1];
    let refused = |items: &[Item<'_>]| restore(items, &Config::default(), 0).map(|_| ());
    let root = || node("/", "", owner(0));
    for (items, expected) in [
        (vec![watch(1, "/", "t")], RestoreError::UnknownConnection(FIRST)),
        (vec![ring(), ring()], RestoreError::ConnectionNumber(FIRST)),
        (vec![ring(), Item::Connection(connection(2, 0))], RestoreError::DomainConnection(DOM0)),
        (vec![Item::Connection(connection(0, 0))], RestoreError::ConnectionNumber(ConnectionNumber(0))),
        (vec![ring(), transaction.clone(), transaction], RestoreError::Transaction(1)),
        (vec![ring(), watch(1, "/a", "t"), watch(1, "/a", "t")], RestoreError::Watch),
        (vec![ring(), watch(1, "/a//b", "t")], RestoreError::Path),
        (vec![ring(), watch(1, "/a", "t\0t")], RestoreError::Token),
        (vec![root(), root()], RestoreError::Node("/".into())),
        (vec![node("/a/b", "", owner(0))], RestoreError::NoParent("/a/b".into())),
        (vec![node("/a", "", vec![])], RestoreError::NoPermissions("/a".into())),
        (vec![node("a", "", owner(0))], RestoreError::Path),
        (vec![Item::Connection(with_output(&[0; 15]))], RestoreError::Output(15)),
        (
            vec![Item::Connection(ConnectionItem { input: long.clone().into(), ..connection(1, 0) })],
            RestoreError::Input(long.len()),
        ),
    ] {
        assert_eq!(refused(&items), Err(expected), "{items:?}");
    }
    assert_eq!(
        refused(&[Item::Connection(socket), watch(1, "/", "t")]),
        Ok(()),
        "sockets are left out with everything they have"
    );
    assert_eq!(refused(&[]), Ok(()), "there is always a root");
}
