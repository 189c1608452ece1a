//! Any text as the boot command line. Parsing never fails, warns of invalid words only, and gives values in range.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenstore::engine::Engine;
use xenstore::options::Options;
use xenstore::store::domain::DomId;

fuzz_target!(|bytes: &[u8]| {
    // As in the kernel: up to the first NUL, with invalid UTF-8 replaced.
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (options, warnings) = Options::parse(words.iter().copied());
    assert!(warnings.len() <= words.len(), "one warning for each word at most");
    assert!(options.privileged() < DomId::FIRST_RESERVED && options.boot_domain() < DomId::FIRST_RESERVED);
    assert!(options.stream_version.is_none_or(|version| [1, 2].contains(&version)));
    assert!(options.event_timeout_ms <= u64::from(u32::MAX) * 1000);
    let engine = Engine::new(options.config(xenstore::engine::connection::output::HashKey::default()));
    assert_eq!(engine.state().check(), Ok(()));
    assert_eq!(engine.privileged(), options.privileged());
    // The same words a second time only add warnings.
    let (again, twice) = Options::parse(words.iter().chain(&words).copied());
    if warnings.is_empty() {
        assert!(twice.is_empty());
        assert_eq!(format!("{:?}", again.quotas), format!("{:?}", options.quotas));
    }
});
