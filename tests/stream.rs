//! Migration streams: those of real servers, every record written and read, and damaged streams.
#![allow(missing_docs, reason = "a test")]

use std::borrow::Cow;

use xenstore::engine::snapshot::{
    ConnectionItem, ConnectionNumber, DomainItem, EXTENSION_FIRST, Extension, Global, GlobalQuotas, Item, NodeAccess,
    NodeItem, StreamPeer, TransactionItem, WatchItem,
};
use xenstore::store::domain::DomId;
use xenstore::store::permission::{Access, Entry, Permissions};
use xenstore::stream::check::check;
use xenstore::stream::oxenstored::{DumpError, LeftOut, import};
use xenstore::stream::reader::Reader;
use xenstore::stream::record::{Reason, StreamError, Version};
use xenstore::stream::writer::{Counter, Writer};

/// Written by Debian's C xenstored 4.17.
const OF_C: &[u8] = include_bytes!("streams/c-xenstored-4.17.xs");

fn read(bytes: &[u8]) -> Result<Vec<Item<'_>>, StreamError> {
    let mut reader = Reader::new(bytes)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok(items)
}

fn write(items: &[Item<'_>], version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, version).unwrap();
    for item in items {
        writer.item(item).unwrap();
    }
    writer.end().unwrap();
    bytes
}

fn entry(domid: u16, access: Access, stale: bool) -> Entry {
    Entry { domid: DomId(domid), access, stale }
}

fn node(path: &'static str, value: &'static [u8], permissions: Vec<Entry>) -> Item<'static> {
    Item::Node(NodeItem {
        pending: None,
        path: path.into(),
        value: value.into(),
        permissions: Permissions::from_entries(&permissions),
    })
}

/// Returns each kind of item, with lengths that need all kinds of padding.
fn all_kinds() -> Vec<Item<'static>> {
    let transaction = TransactionItem { connection: ConnectionNumber(2), id: 7 };
    let own = vec![entry(3, Access::empty(), false)];
    let mut items = vec![
        Item::Global(Global::NONE),
        Item::GlobalQuotas(GlobalQuotas {
            defaults: vec![("nodes".into(), 1000), ("colours".into(), 0)],
            global: vec![("all-nodes".into(), u32::MAX)],
        }),
        Item::Transaction(transaction),
    ];
    let pending = |path: &'static str, access, permissions: Vec<Entry>| {
        let pending = Some((transaction, access));
        Item::Node(NodeItem {
            pending,
            path: path.into(),
            value: b"new"[..].into(),
            permissions: Permissions::from_entries(&permissions),
        })
    };
    for extra in 0..9_usize {
        let number = ConnectionNumber(extra as u32 + 1);
        let bytes: Vec<u8> = (0..extra as u8 * 3).collect();
        items.push(Item::Connection(ConnectionItem {
            number,
            peer: if extra == 4 {
                StreamPeer::Socket { descriptor: 17 }
            } else {
                let target = (extra % 2 == 1).then_some(DomId(9));
                StreamPeer::Ring { domid: DomId(extra as u16), target, port: 40 + extra as u32 }
            },
            input: bytes[..extra].to_vec().into(),
            output: bytes.clone().into(),
            partial_bytes: extra,
            unique_id: (extra % 3 == 1).then_some(u64::MAX - 5),
        }));
        let quotas = vec![(Cow::from("x".repeat(extra)), extra as u32); extra];
        items.push(Item::Domain(DomainItem { domid: DomId(extra as u16), features: Some(15 - extra as u32), quotas }));
        for depth in [None, Some(0), Some(3)] {
            let (path, token) = ("@releaseDomain"[..14 - extra].into(), vec![0xff; extra].into());
            items.push(Item::Watch(WatchItem { connection: number, path, token, depth, has_lost_depth: false }));
        }
        items.push(Item::Extension(Extension { kind: EXTENSION_FIRST + 1, body: vec![1; extra * 8].into() }));
    }
    items.rotate_left(3);
    items.rotate_right(2);
    items.extend([
        node("/", b"", vec![entry(0, Access::empty(), false)]),
        node("/a", b"\0\xff\0", vec![entry(3, Access::READ, false), entry(4, Access::WRITE, true)]),
        node("/a/b", b"1234567", vec![entry(3, Access::READ.union(Access::WRITE), false); 5]),
        pending("/a/new", NodeAccess::WRITTEN, own.clone()),
        pending("/a", NodeAccess::READ.union(NodeAccess::WRITTEN), own),
        pending("/a/b", NodeAccess::empty(), vec![]),
    ]);
    items
}

#[test]
fn a_stream_of_the_c_server_is_read_whole_and_written_again_to_the_byte() {
    let items = read(OF_C).unwrap();
    let count = |is: fn(&Item<'_>) -> bool| items.iter().filter(|item| is(item)).count();
    let nodes = count(|item| matches!(item, Item::Node(_)));
    let watches = count(|item| matches!(item, Item::Watch(_)));
    let connections = count(|item| matches!(item, Item::Connection(_)));
    println!("{} items: {connections} connections, {watches} watches, {nodes} nodes", items.len());
    assert!(connections >= 3 && watches >= 9 && nodes >= 80, "the stream has more items");
    assert_eq!(check(OF_C), Ok(()));
    assert!(write(&items, Version::One) == OF_C, "the same bytes");
}

#[test]
fn every_kind_of_item_survives_writing_and_reading_with_every_padding() {
    let items = all_kinds();
    let bytes = write(&items, Version::Two);
    assert_eq!(read(&bytes).unwrap(), items);
    let mut counter = Counter::default();
    let mut writer = Writer::new(&mut counter, Version::Two).unwrap();
    items.iter().for_each(|item| writer.item(item).unwrap());
    writer.end().unwrap();
    assert_eq!(counter.0, bytes.len());
    println!("{} items, {} bytes", items.len(), bytes.len());
}

#[test]
fn version_1_has_neither_features_nor_depths_nor_transactions_and_everything_else() {
    let items = all_kinds();
    let bytes = write(&items, Version::One);
    let expected: Vec<Item<'_>> = items
        .into_iter()
        .filter_map(|item| match item {
            Item::Transaction(_) | Item::Node(NodeItem { pending: Some(_), .. }) => None,
            Item::Watch(watch) => Some(Item::Watch(WatchItem { depth: None, ..watch })),
            Item::Domain(domain) => Some(Item::Domain(DomainItem { features: None, ..domain })),
            other => Some(other),
        })
        .collect();
    assert_eq!(read(&bytes).unwrap(), expected);
}

/// Reverses the bytes of every field, as on a big-endian host.
fn big_endian(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[15] = 1;
    let mut at = 16;
    while at < bytes.len() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let short = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
        let (kind, length, body) = (word(at), word(at + 4) as usize, at + 8);
        // Sizes of the fields, in order; negative for bytes that keep their order.
        let mut fields: Vec<isize> = vec![4, 4];
        match kind {
            1 => fields.extend([4, 4]),
            2 => {
                fields.extend([4, 2, 2]);
                fields.extend(if short(body + 4) == 0 { &[2_isize, 2, 4][..] } else { &[4, -4] });
                fields.extend([2, 2, 4]);
                let data = short(body + 16) + word(body + 20) as usize;
                if short(body + 6) != 0 {
                    fields.extend([-((data + 24).next_multiple_of(8) as isize - 24), 8]);
                }
            }
            3 => fields.extend([4, 2, 2]),
            8 => fields.extend([4, 2, 2, 2, 2]),
            4 => fields.extend([4, 4]),
            5 => {
                fields.extend([4, 4, 2, 2, 2, 2]);
                (0..short(body + 14)).for_each(|_| fields.extend([-2, 2]));
            }
            6 => {
                fields.extend([2, 2]);
                fields.extend(vec![4; short(body) + short(body + 2)]);
            }
            7 => {
                fields.extend([2, 2, 4]);
                fields.extend(vec![4; short(body + 2)]);
            }
            _ => {}
        }
        let mut field_at = at;
        for field in fields {
            let end = field_at + field.unsigned_abs();
            if field > 0 {
                out[field_at..end].reverse();
            }
            field_at = end;
        }
        at = body + length;
    }
    out
}

#[test]
fn a_unique_id_of_0_means_none_in_reading_and_in_writing() {
    let item = |unique_id| {
        Item::Connection(ConnectionItem {
            number: ConnectionNumber(1),
            peer: StreamPeer::Ring { domid: DomId(7), target: None, port: 4 },
            input: b"in"[..].into(),
            output: b"out"[..].into(),
            partial_bytes: 0,
            unique_id,
        })
    };
    assert!(write(&[item(Some(0))], Version::Two) == write(&[item(None)], Version::Two), "0 is not written");
    // The C server has the field in each ring's record, with 0 for an unknown id.
    let mut of_c = write(&[item(Some(u64::MAX))], Version::Two);
    let at = of_c.windows(8).position(|bytes| bytes == [0xff; 8]).unwrap();
    of_c[at..at + 8].fill(0);
    assert_eq!(read(&of_c).unwrap(), [item(None)]);
}

/// Returns WATCH_DATA_EXTENDED as the C server writes it: only the record's length includes the depth, which the body
/// lacks.
fn watch_of_c(number: u32, path: &str, token: &str) -> Vec<u8> {
    let (path, token) = (format!("{path}\0"), format!("{token}\0"));
    let length = (12 + path.len() + token.len()).next_multiple_of(8);
    let mut bytes = [8, length as u32, number].map(u32::to_le_bytes).concat();
    bytes.extend([path.len() as u16, token.len() as u16].map(u16::to_le_bytes).concat());
    bytes.extend([path.as_bytes(), token.as_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn a_watch_whose_depth_the_c_server_left_out_is_read_with_every_padding_and_nothing_else_is_lost() {
    let watch = |path: &str, token: &str, depth, has_lost_depth| {
        let (path, token) = (path.to_owned().into(), token.as_bytes().to_vec().into());
        Item::Watch(WatchItem { connection: ConnectionNumber(1), path, token, depth, has_lost_depth })
    };
    let record = |item: Item<'_>, version| write(&[item], version)[16..].split_last_chunk::<8>().unwrap().0.to_vec();
    let owner = vec![entry(3, Access::empty(), false)];
    for (path_bytes, token_bytes) in (1..20).flat_map(|path| (0..20).map(move |token| (path, token))) {
        for version in [Version::One, Version::Two] {
            let (path, token) = (format!("{:a<path_bytes$}", "/"), "t".repeat(token_bytes));
            let mut bytes = write(&[], version);
            let end = bytes.split_off(16);
            // The length in the record's header may reach into each kind of record that may come next.
            bytes.extend(watch_of_c(1, &path, &token));
            bytes.extend(watch_of_c(1, "@releaseDomain", &token));
            bytes.extend(record(watch("/a", &token, None, false), version));
            bytes.extend(watch_of_c(1, &path, "other"));
            bytes.extend(record(node("/", b"", owner.clone()), version));
            bytes.extend(watch_of_c(1, &path, "last"));
            bytes.extend(end);
            let expected = [
                watch(&path, &token, None, true),
                watch("@releaseDomain", &token, None, true),
                watch("/a", &token, None, false),
                watch(&path, "other", None, true),
                node("/", b"", owner.clone()),
                watch(&path, "last", None, true),
            ];
            assert_eq!(read(&bytes).unwrap(), expected, "{path:?} {token:?}");
        }
    }
}

#[test]
fn a_watch_with_its_depth_is_not_mistaken_for_one_that_lacks_it() {
    for (path_bytes, token_bytes) in (1..12).flat_map(|path| (0..12).map(move |token| (path, token))) {
        for depth in [0, 1, 0x2f, 0x612f, 0x6100, 0xfffe] {
            let (path, token) = ("a".repeat(path_bytes).into(), vec![b't'; token_bytes].into());
            let (connection, depth) = (ConnectionNumber(1), Some(depth));
            let item = Item::Watch(WatchItem { connection, path, token, depth, has_lost_depth: false });
            let items = [item.clone(), item];
            assert_eq!(read(&write(&items, Version::Two)).unwrap(), items);
        }
    }
}

#[test]
fn an_extended_watch_of_neither_shape_is_refused() {
    let mut bytes = write(&[], Version::Two);
    let end = bytes.split_off(16);
    for (at, byte, expected) in [
        (8, 0, Reason::Zero("connection")),
        (12, 200, Reason::TooShort),
        (12, 3, Reason::Text("path")),
        (31, 7, Reason::Text("path")),
    ] {
        let mut record = watch_of_c(1, "/abcd", "token");
        assert_eq!(record.len(), 32, "one byte of padding");
        record[at] = byte;
        let bytes = [&bytes[..], &record, &end].concat();
        assert_eq!(read(&bytes).map_err(|error| error.reason), Err(expected), "byte {at}");
    }
}

#[test]
fn either_byte_order_is_read() {
    let items = all_kinds();
    let bytes = big_endian(&write(&items, Version::Two));
    assert_eq!(read(&bytes).unwrap(), items);
    assert_eq!(read(&big_endian(OF_C)).unwrap(), read(OF_C).unwrap());
}

#[test]
fn a_stream_that_was_cut_anywhere_is_refused_and_what_follows_the_end_is_ignored() {
    for bytes in [OF_C.to_vec(), write(&all_kinds(), Version::Two)] {
        for cut in 0..bytes.len() {
            let error = read(&bytes[..cut]).expect_err("cut");
            assert!(matches!(error.reason, Reason::Ends | Reason::NoStream), "cut at {cut}: {error}");
        }
        let longer = [&bytes[..], &[0; 4096]].concat();
        assert_eq!(read(&longer).unwrap(), read(&bytes).unwrap());
    }
}

#[test]
fn an_error_names_the_record_its_place_and_the_reason() {
    let with = |at: usize, byte: u8| {
        let mut bytes = OF_C.to_vec();
        bytes[at] = byte;
        read(&bytes).expect_err("wrong").to_string()
    };
    assert_eq!(with(0, b'X'), "header: not a migration stream of a Xenstore");
    assert_eq!(with(11, 3), "header: stream version 3 is not supported");
    assert_eq!(with(15, 2), "header: flags 0x2 are not supported");
    assert_eq!(with(0x20 + 12, 2), "record 2 at offset 32: connection type 0x2 is unknown");
    assert_eq!(with(0x20 + 8, 0), "record 2 at offset 32: the connection is 0");
    assert_eq!(with(0x20 + 26, 1), "record 2 at offset 32: the partial message is longer than the output");
    assert_eq!(with(0x20 + 28, 1), "record 2 at offset 32: a length or a count exceeds the record");
    assert_eq!(with(0x40 + 12, 2), "record 3 at offset 64: the path is not a text with one NUL, at its end");
    assert_eq!(with(0x40 + 20, 0xff), "record 3 at offset 64: the path is not a text with one NUL, at its end");
    assert_eq!(with(0x40, 8), "record 3 at offset 64: this version has no such record");
}

#[test]
fn unknown_records_are_skipped_and_counted() {
    let mut bytes = write(&[], Version::Two);
    let end = bytes.split_off(16);
    for kind in [9_u32, 0x5852_ffff, 0x5854_0000, u32::MAX] {
        bytes.extend([kind.to_le_bytes(), 12_u32.to_le_bytes()].concat());
        bytes.extend([7; 16]);
    }
    bytes.extend(end);
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.next_item(), Ok(None));
    assert_eq!(reader.skipped(), 4);
}

#[test]
fn a_stream_with_changed_bytes_is_accepted_or_refused() {
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let streams = [OF_C.to_vec(), write(&all_kinds(), Version::Two), big_endian(&write(&all_kinds(), Version::Two))];
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..60_000 {
        let mut bytes = streams[round % streams.len()].clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % bytes.len();
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random() as u8][random() % 6];
        }
        match read(&bytes) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
        let _ = check(&bytes);
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 1000 && refused > 1000);
}

#[test]
fn references_to_missing_items_are_found() {
    let connection = |number| {
        let peer = StreamPeer::Ring { domid: DomId(1), target: None, port: 3 };
        let number = ConnectionNumber(number);
        Item::Connection(ConnectionItem {
            number,
            peer,
            input: b""[..].into(),
            output: b""[..].into(),
            partial_bytes: 0,
            unique_id: None,
        })
    };
    let watch = Item::Watch(WatchItem {
        connection: ConnectionNumber(1),
        path: "/a".into(),
        token: b"t"[..].into(),
        depth: None,
        has_lost_depth: false,
    });
    let transaction = Item::Transaction(TransactionItem { connection: ConnectionNumber(1), id: 1 });
    let pending = Item::Node(NodeItem {
        pending: Some((TransactionItem { connection: ConnectionNumber(1), id: 1 }, NodeAccess::READ)),
        path: "/a".into(),
        value: b""[..].into(),
        permissions: None,
    });
    let plain = |path| node(path, b"", vec![entry(0, Access::empty(), false)]);
    let domain = Item::Domain(DomainItem { domid: DomId(1), features: Some(0), quotas: vec![] });
    let cases = [
        (vec![watch.clone()], Err(Reason::Missing("connection"))),
        (vec![transaction.clone()], Err(Reason::Missing("connection"))),
        (vec![connection(1), pending.clone()], Err(Reason::Missing("transaction"))),
        (vec![connection(1), connection(1)], Err(Reason::Twice("connection"))),
        (vec![domain.clone(), domain], Err(Reason::Twice("domain"))),
        (vec![connection(1), transaction.clone(), transaction.clone()], Err(Reason::Twice("transaction"))),
        (vec![plain("/a")], Ok(())),
        (vec![plain("/a/b")], Err(Reason::Missing("parent"))),
        (vec![plain("/"), plain("/a/b")], Err(Reason::Missing("parent"))),
        (vec![plain("/"), plain("/a"), plain("/a")], Err(Reason::Twice("path"))),
        (vec![connection(1), watch, transaction, pending, plain("/"), plain("/a"), plain("@releaseDomain")], Ok(())),
    ];
    for (items, expected) in cases {
        assert_eq!(check(&write(&items, Version::Two)).map_err(|error| error.reason), expected);
    }
}

#[test]
fn a_dump_of_oxenstored_becomes_a_stream() {
    let dump: &[u8] = include_bytes!("streams/oxenstored-4.17.dump");
    let mut stream = Vec::new();
    let mut writer = Writer::new(&mut stream, Version::One).unwrap();
    let take = &mut |item: &Item<'_>| {
        writer.item(item).unwrap();
        Ok(())
    };
    assert_eq!(import(dump, take, &mut |line| panic!("{line}")), Ok(LeftOut::default()));
    writer.end().unwrap();
    assert_eq!(check(&stream), Ok(()));
    let items = read(&stream).unwrap();
    let lines = |word: &str| String::from_utf8_lossy(dump).lines().filter(|line| line.starts_with(word)).count();
    let count = |is: fn(&Item<'_>) -> bool| items.iter().filter(|item| is(item)).count();
    assert_eq!(count(|item| matches!(item, Item::Node(_))), lines("store,"));
    assert_eq!(count(|item| matches!(item, Item::Watch(_))), lines("watch,"));
    assert_eq!(count(|item| matches!(item, Item::Connection(_))), lines("dom,") + lines("socket,"));
    let special = items.iter().any(|item| matches!(item, Item::Node(node) if node.path == "@releaseDomain"));
    assert!(special, "special nodes have their names");
    println!("{} lines, {} items", lines(""), items.len());
}

#[test]
fn a_line_of_a_dump_that_cannot_be_read_is_skipped_with_its_number_its_text_and_the_reason() {
    let read_all = |lines: &str| {
        let dump = format!("$xenstored-dump-format\n{lines}\n");
        let (mut items, mut warnings) = (0, Vec::new());
        let take = &mut |_: &Item<'_>| {
            items += 1;
            Ok(())
        };
        let left_out = import(dump.as_bytes(), take, &mut |line| warnings.push(line.to_string()));
        (left_out, items, warnings)
    };
    for (line, reason) in [
        ("watch,1,2f61,61", "no earlier line has its connection"),
        ("watch,x,2f61,61", "a number is invalid"),
        ("watch,9,2f61,6100", "the token has a NUL"),
        ("watch,9,ff,61", "the path is not UTF-8"),
        ("store,2f6,6e30,", "a field is not hexadecimal"),
        ("store,2g,6e30,", "a field is not hexadecimal"),
        ("store,2f,6e30,zz", "a field is not hexadecimal"),
        ("store,2f,,", "the permissions are invalid"),
        ("store,ff,6e30,", "the path is not UTF-8"),
        ("store,2f,6e30", "the number of fields is wrong"),
        ("dom,x,1,1,1", "a number is invalid"),
        ("dom,8,1,1,x", "a number is invalid"),
        ("dom,70000,1,1,1", "a number is invalid"),
        ("dom,9,1,1,1", "an earlier line has the same connection"),
        ("dom,8", "the number of fields is wrong"),
        ("socket,-2147483648", "the descriptor is out of range"),
        ("socket,x", "a number is invalid"),
        ("global,x", "a number is invalid"),
        ("evtchn-dev,1", "the number of fields is wrong"),
    ] {
        // The lines before and after it are kept.
        let outcome = read_all(&format!("dom,9,1,1,1\n{line}\nstore,2f,6e30,"));
        let left_out = LeftOut { unknown: 0, skipped: 1 };
        assert_eq!(outcome, (Ok(left_out), 2, vec![format!("line 3 is skipped: {reason}: {line}")]), "{line}");
        let (alone, ..) = read_all(line);
        let is_first_of_two = line == "dom,9,1,1,1";
        assert!(is_first_of_two || alone == Err(DumpError::NoLine), "{line}");
    }
    let long = format!("store,2f{},6e30,", "2g".repeat(50));
    let (_, _, warnings) = read_all(&format!("global,9\n{long}"));
    assert_eq!(warnings, [format!("line 3 is skipped: a field is not hexadecimal: {}...", &long[..80])]);
    assert_eq!(read_all("global,9\nsomething,else"), (Ok(LeftOut { unknown: 1, skipped: 0 }), 1, vec![]));
    assert_eq!(read_all("something,else").0, Err(DumpError::NoLine));
    assert_eq!(read_all("").0, Err(DumpError::NoLine));
    assert_eq!(import(b"xenstore", &mut |_| Ok(()), &mut |_| ()), Err(DumpError::NoDump));
}

#[test]
fn a_connection_that_the_receiver_of_a_dump_refuses_is_skipped_with_its_watches() {
    let dump = b"$xenstored-dump-format\ndom,3,1,1,1\ndom,4,1,1,1\nwatch,3,2f61,61\nwatch,4,2f61,61\n";
    let mut items = Vec::new();
    let mut warnings = Vec::new();
    let refuse = &mut |item: &Item<'_>| match item {
        Item::Connection(connection) if matches!(connection.peer, StreamPeer::Ring { domid: DomId(3), .. }) => {
            Err("not this one".into())
        }
        Item::Connection(connection) => {
            items.push(connection.number);
            Ok(())
        }
        Item::Watch(watch) => {
            items.push(watch.connection);
            Ok(())
        }
        other => panic!("{other:?}"),
    };
    let left_out = import(dump, refuse, &mut |line| warnings.push((line.line, line.reason.clone())));
    assert_eq!(left_out, Ok(LeftOut { unknown: 0, skipped: 2 }));
    assert_eq!(warnings, [(2, "not this one".into()), (4, "no earlier line has its connection".into())]);
    assert_eq!(items, [ConnectionNumber(1), ConnectionNumber(1)]);
}
