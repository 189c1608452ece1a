//! The position of domains in a stream. They come last, as the C server's restore requires. In older releases they came first.

use xenstore::engine::Engine;
use xenstore::engine::config::Config;
use xenstore::engine::snapshot::{EXTENSION_FIRST, Item, SaveOptions};
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::store::quota::Quota;
use xenstore::stream::check::References;
use xenstore::stream::reader::Reader;
use xenstore::stream::record::Version;
use xenstore::wire::feature::Features;
use xenstore::wire::header::MessageType;

use crate::storm::Storm;
use crate::support::items::{owned, restore, save};
use crate::support::random::Seed;
use crate::support::testbed::Testbed;

/// The stream of [`history`] by the last release with domains first, in version 2.
const DOMAINS_FIRST: &[u8] = include_bytes!("../streams/ours-domains-first.xs");

/// Makes two guests with homes, domain 5 with settings and a permission that names it, and domain 6 that owns a node.
fn history() -> Testbed {
    let mut testbed = Testbed::with_homes([3, 4]);
    for domid in [5, 6] {
        testbed.build(DomId(domid));
    }
    testbed.request(0, MessageType::SetFeature, "5\x002\0").unwrap();
    testbed.request(0, MessageType::SetQuota, "5\0watches\x0017\0").unwrap();
    testbed.request(0, MessageType::SetQuota, "4\0nodes\x0044\0").unwrap();
    testbed.request(3, MessageType::Watch, "data\0token\x002\0").unwrap();
    testbed.write(0, "/shared", "value").unwrap();
    testbed.set_perms(0, "/shared", "n0 r3 r5 b6").unwrap();
    testbed.write(0, "/given", "value").unwrap();
    testbed.set_perms(0, "/given", "n6").unwrap();
    let transaction = testbed.begin(4);
    testbed.write_in(4, transaction, "data", "new").unwrap();
    testbed.request(0, MessageType::Watch, "@releaseDomain\0gone\0").unwrap();
    testbed
}

fn options(testbed: &Testbed) -> SaveOptions<'static> {
    SaveOptions { now_ms: testbed.now_ms, reply: None }
}

fn stream(testbed: &Testbed, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    testbed.server.save_to(&mut bytes, version, &options(testbed)).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Vec<Item<'static>> {
    let mut reader = Reader::new(bytes).unwrap();
    core::iter::from_fn(|| reader.next_item().unwrap().map(|item| owned(&item))).collect()
}

/// Returns the number of items at which the C server would end its restore.
fn refused_by_c(items: &[Item<'_>]) -> usize {
    let mut references = References::default();
    let warned = items.iter().filter(|item| {
        let warning = references.warning(item);
        references.take(item).unwrap();
        warning.is_some()
    });
    warned.count()
}

fn domids(items: &[Item<'_>]) -> Vec<u16> {
    let of = |item: &Item<'_>| if let Item::Domain(domain) = item { Some(domain.domid.0) } else { None };
    items.iter().filter_map(of).collect()
}

fn assert_domain_5_is_as_it_was(engine: &Engine) {
    let domains = &engine.state().domains;
    assert_eq!(domains.features(DomId(5)), Features::from_bits_truncate(2));
    assert_eq!(domains.quotas(DomId(5)).get(Quota::Watches), 17);
    assert_eq!(domains.own_quotas(DomId(5)), 1 << Quota::Watches as u16);
}

#[test]
fn a_domains_record_comes_last_and_only_of_a_domain_with_a_connection_or_a_node() {
    let testbed = history();
    for version in [Version::One, Version::Two] {
        let items = read(&stream(&testbed, version));
        assert_eq!(domids(&items), [0, 3, 4, 6], "domain 5 has neither a connection nor a node");
        assert_eq!(refused_by_c(&items), 0);
        let first = items.iter().position(|item| matches!(item, Item::Domain(_))).unwrap();
        assert!(items[first..].iter().all(|item| matches!(item, Item::Domain(_) | Item::Extension(_))));
    }
}

#[test]
fn after_any_requests_the_c_server_knows_each_domain_before_its_record() {
    let (mut records, mut named) = (0, 0);
    for seed in 1..=300 {
        let _seed = Seed(seed);
        let mut storm = Storm::new(seed);
        for step in 1..=400 {
            storm.request();
            if storm.random.once_in(60) {
                storm.upheaval();
            }
            if step % 50 == 0 {
                let items = save(storm.testbed.server.engine(), &options(&storm.testbed));
                assert_eq!(refused_by_c(&items), 0);
                records += domids(&items).len();
                named += items.iter().filter(|item| is_named_domain(item)).count();
            }
        }
    }
    println!("{records} records, {named} domains without one");
    assert!(records > 1000 && named > 20, "{records} {named}");
}

/// Returns whether the item is the extension for a domain without a record.
fn is_named_domain(item: &Item<'_>) -> bool {
    matches!(item, Item::Extension(extension) if extension.kind == EXTENSION_FIRST + 7)
}

#[test]
fn features_and_quotas_of_a_domain_that_is_only_named_are_kept_in_either_version() {
    let testbed = history();
    for version in [Version::One, Version::Two] {
        let engine = load(&stream(&testbed, version), &Config::default(), testbed.now_ms).unwrap();
        assert_domain_5_is_as_it_was(&engine);
        assert_eq!(engine.state().check(), Ok(()));
    }
}

#[test]
fn features_of_a_domain_that_is_only_named_need_no_version_2() {
    let mut testbed = Testbed::new();
    testbed.build(DomId(5));
    testbed.request(0, MessageType::SetFeature, "5\x002\0").unwrap();
    assert!(!testbed.server.engine().requires_version_2());
    testbed.start_built(5);
    assert!(testbed.server.engine().requires_version_2(), "a record has features in version 2 only");
}

#[test]
fn a_broken_extension_about_a_domain_that_is_only_named_is_skipped() {
    let testbed = history();
    let items = save(testbed.server.engine(), &options(&testbed));
    let at = items.iter().position(is_named_domain).unwrap();
    let Item::Extension(extension) = &items[at] else { unreachable!("it was found as one") };
    let body = extension.body.to_block().into_owned();
    for length in 0..body.len() {
        let mut shorter = items.clone();
        let Item::Extension(extension) = &mut shorter[at] else { unreachable!("it was found as one") };
        extension.body = body[..length].to_vec().into();
        let engine = restore(&shorter, &Config::default(), testbed.now_ms).unwrap();
        assert_eq!(engine.state().domains.features(DomId(5)), Features::all());
        assert_eq!(engine.state().check(), Ok(()));
    }
    let mut twice = items.clone();
    twice.insert(at, items[at].clone());
    assert_domain_5_is_as_it_was(&restore(&twice, &Config::default(), testbed.now_ms).unwrap());
}

#[test]
fn a_stream_of_an_older_release_with_domains_first_is_restored_whole() {
    let items = read(DOMAINS_FIRST);
    assert_eq!(domids(&items), [0, 3, 4, 5, 6], "domain 5 too, which the C server refuses");
    assert_eq!(refused_by_c(&items), 2);
    let testbed = history();
    let engine = load(DOMAINS_FIRST, &Config::default(), testbed.now_ms).unwrap();
    assert_domain_5_is_as_it_was(&engine);
    // These extensions have peaks, generations and accesses of transactions. The older release counted them
    // differently.
    let counted = [1, 3, 4, 5].map(|kind| EXTENSION_FIRST + kind);
    let is_compared =
        |item: &Item<'_>| !matches!(item, Item::Extension(extension) if counted.contains(&extension.kind));
    let [restored, expected] = [&engine, testbed.server.engine()]
        .map(|engine| save(engine, &options(&testbed)).into_iter().filter(is_compared).collect::<Vec<_>>());
    assert!(expected.len() > 20, "{}", expected.len());
    assert_eq!(restored, expected);
}
