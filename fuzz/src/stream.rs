//! Any bytes as a migration stream. Reading fails with an error or gives items. A server restored from them is
//! consistent, and its own stream restores the same state.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenstore::engine::config::Config;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::Server;
use xenstore::server::stream::load;
use xenstore::stream::check::check;
use xenstore::stream::reader::Reader;
use xenstore::stream::record::Version;
use xenstore::stream::writer::Writer;

fuzz_target!(|bytes: &[u8]| {
    let _ = check(bytes);
    copy(bytes);
    let Ok(engine) = load(bytes, &Config::default(), 1_000_000) else { return };
    assert_eq!(engine.state().check(), Ok(()), "what is restored is consistent");
    let saved = save(engine);
    let again = load(&saved, &Config::default(), 1_000_000).expect("what was saved is restored");
    assert!(save(again) == saved, "the same state gives the same stream");
});

/// Writes the read items again, in both versions.
fn copy(bytes: &[u8]) {
    for version in [Version::One, Version::Two] {
        let Ok(mut reader) = Reader::new(bytes) else { return };
        let mut written = Vec::new();
        let mut writer = Writer::new(&mut written, version).expect("there is room");
        while let Ok(Some(item)) = reader.next_item() {
            // Names and tokens from a record fit into a record.
            writer.item(&item).expect("what was read can be written");
        }
        writer.end().expect("there is room");
        Reader::new(&written).expect("what was written is a stream");
    }
}

fn save(engine: xenstore::engine::Engine) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = SaveOptions { now_ms: 1_000_000, reply: None };
    Server::restored(engine).save_to(&mut bytes, Version::Two, &options).expect("there is room");
    bytes
}
