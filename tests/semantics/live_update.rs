//! CONTROL `live-update` as Debian's `xenstore-control` of 4.14 to 4.20 sends it, and with the version limit of 4.22.

use xenstore::server::Action;
use xenstore::server::update::Successor;
use xenstore::stream::record::Version;
use xenstore::wire::header::MessageType;

use crate::support::testbed::{Answer, Testbed, error, ok, string};

/// Bytes of one of the tool's chunks.
const CHUNK_BYTES: usize = 2048;

/// Returns a kernel's file: a header, one segment, and notes.
pub fn kernel() -> Vec<u8> {
    const BASE: u64 = 0x4000_0000;
    let mut file = vec![0_u8; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(32, &64_u64.to_le_bytes());
    put(54, &[56, 0, 2, 0]);
    let words = |kind: u32, at: u64, address: u64, bytes: u64| {
        let start = [kind.to_le_bytes(), 5_u32.to_le_bytes()].concat();
        let rest = [at, address, address, bytes, bytes, 0x1000].map(u64::to_le_bytes).concat();
        [start, rest].concat()
    };
    put(64, &words(1, 0, BASE, 0x2000));
    put(120, &words(4, 0x100, 0, 96));
    for (number, (kind, value)) in [(1_u32, BASE + 0x1800), (2, BASE + 0x1000), (3, BASE), (4, BASE)].iter().enumerate()
    {
        put(0x100 + number * 24, &[4, 0, 0, 0, 8, 0, 0, 0]);
        put(0x108 + number * 24, &kind.to_le_bytes());
        put(0x10c + number * 24, b"Xen\0");
        put(0x110 + number * 24, &value.to_le_bytes());
    }
    file
}

fn payload(words: &[&str]) -> Vec<u8> {
    let strings = ["live-update"].iter().chain(words).map(|word| format!("{word}\0"));
    strings.collect::<String>().into_bytes()
}

fn control(testbed: &mut Testbed, words: &[&str]) -> Answer {
    testbed.request(0, MessageType::Control, payload(words))
}

/// Returns the answer as text.
fn text(testbed: &mut Testbed, words: &[&str]) -> String {
    string(&control(testbed, words).unwrap_or_else(|error| panic!("{words:?}: {error}")))
}

fn send_part(testbed: &mut Testbed, part: &[u8]) -> String {
    let mut bytes = payload(&["-d", &part.len().to_string()]);
    bytes.extend_from_slice(part);
    bytes.push(0);
    string(&testbed.request(0, MessageType::Control, bytes).unwrap())
}

/// Uploads a kernel as the tool does.
pub fn upload(testbed: &mut Testbed, file: &[u8]) {
    assert_eq!(text(testbed, &["-b", &file.len().to_string()]), "OK");
    for part in file.chunks(CHUNK_BYTES) {
        assert_eq!(send_part(testbed, part), "OK");
    }
}

/// Requests the start. The answer comes later.
pub fn start(testbed: &mut Testbed, words: &[&str]) {
    let words: Vec<&str> = ["-s"].iter().chain(words).copied().collect();
    testbed.send(0, 0, MessageType::Control.to_wire(), &payload(&words));
    testbed.run();
}

pub fn answer(testbed: &mut Testbed) -> Option<String> {
    let reply = testbed.reply(0)?;
    assert_eq!(reply.kind, MessageType::Control.to_wire());
    Some(string(&reply.payload))
}

/// Returns the action that the server requests of the host.
pub fn action(testbed: &mut Testbed) -> Option<Action> {
    testbed.server.poll_action()
}

/// Reports a failure of the start to the server.
fn fail(testbed: &mut Testbed, why: &str) -> Option<String> {
    let successor = testbed.server.take_successor().expect("a start that the host has begun");
    fail_with(testbed, &successor, why)
}

/// Reports a failure after the host has taken the successor.
fn fail_with(testbed: &mut Testbed, successor: &Successor, why: &str) -> Option<String> {
    testbed.server.successor_failed(successor.asked, &why);
    testbed.run();
    answer(testbed)
}

#[test]
fn the_tools_commands_lead_to_a_start_and_a_failure_is_answered_with_its_reason() {
    let mut testbed = Testbed::new();
    let file = kernel();
    upload(&mut testbed, &file);
    assert_eq!(text(&mut testbed, &["-c", "--quota nodes=5"]), "OK");
    start(&mut testbed, &["-t", "60"]);
    assert_eq!(answer(&mut testbed), None, "the answer comes with the outcome");
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    let successor = testbed.server.take_successor().unwrap();
    assert_eq!((successor.command_line.as_deref(), successor.version), (Some("--quota nodes=5"), Version::One));
    assert_eq!(successor.file.parts(0, usize::MAX).collect::<Vec<_>>().concat(), file);
    assert_eq!(fail_with(&mut testbed, &successor, "it does not boot").as_deref(), Some("it does not boot"));
    assert!(testbed.server.take_successor().is_none());
    upload(&mut testbed, &file);
    assert_eq!(text(&mut testbed, &["-a"]), "OK");
}

#[test]
fn other_requests_of_the_same_client_are_served_while_a_start_is_pending() {
    let mut testbed = Testbed::new();
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60"]);
    assert_eq!(testbed.write(0, "/a", "1"), ok());
    assert_eq!(testbed.read(0, "/a"), Ok(b"1".to_vec()));
    assert_eq!(fail(&mut testbed, "no").as_deref(), Some("no"));
}

#[test]
fn a_second_start_is_busy_and_nothing_else_is_changed_meanwhile() {
    let mut testbed = Testbed::new();
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60"]);
    assert_eq!(text(&mut testbed, &["-s", "-t", "60"]), "BUSY");
    for words in [&["-b", "10"][..], &["-c", "x"]] {
        assert_ne!(text(&mut testbed, words), "OK", "{words:?}");
    }
    assert_ne!(send_part(&mut testbed, b"x"), "OK");
    assert_eq!(fail(&mut testbed, "no").as_deref(), Some("no"));
    assert_eq!(answer(&mut testbed), None, "only one answer");
}

#[test]
fn a_kernel_that_cannot_be_started_is_refused_with_the_reason() {
    let mut testbed = Testbed::new();
    let refused = |testbed: &mut Testbed, words: &[&str], part: &str| {
        let answer = text(testbed, words);
        assert!(answer.contains(part), "{words:?}: {answer}");
    };
    for words in [&["-s"][..], &["-c", "x"], &["-a"]] {
        refused(&mut testbed, words, "There is no update");
    }
    assert!(send_part(&mut testbed, b"x").contains("There is no update"));
    refused(&mut testbed, &["-b", "0"], "not 0 bytes");
    refused(&mut testbed, &["-b", "9999999999999"], "A kernel has 1 byte");
    assert_eq!(text(&mut testbed, &["-b", "5000"]), "OK");
    assert_eq!(send_part(&mut testbed, &[7; 2048]), "OK");
    refused(&mut testbed, &["-s", "-t", "60"], "2048 of 5000 bytes");
    assert_eq!(send_part(&mut testbed, &[7; 2048]), "OK");
    assert!(send_part(&mut testbed, &[7; 905]).contains("More of the kernel"));
    assert_eq!(send_part(&mut testbed, &[7; 904]), "OK");
    refused(&mut testbed, &["-s", "-t", "60"], "it is not an ELF file");
    refused(&mut testbed, &["-c", &"x".repeat(1001)], "1000 bytes at most");
    refused(&mut testbed, &["-b", "10"], "Another update");
    for words in [&["-x"][..], &["-s", "-z"], &["-b"], &[]] {
        assert_eq!(control(&mut testbed, words), error("EINVAL"), "{words:?}");
    }
    assert_eq!(action(&mut testbed), None);
}

#[test]
fn only_the_control_domain_may_update() {
    let mut testbed = Testbed::with_guests([3]);
    assert_eq!(testbed.request(3, MessageType::Control, payload(&["-b", "10"])), error("EACCES"));
    upload(&mut testbed, &kernel());
}

#[test]
fn a_session_that_is_left_alone_gives_way_after_a_minute() {
    let mut testbed = Testbed::new();
    assert_eq!(text(&mut testbed, &["-b", "5000"]), "OK");
    testbed.pass(59_999);
    assert!(text(&mut testbed, &["-b", "5000"]).contains("Another update"));
    testbed.pass(1);
    assert_eq!(text(&mut testbed, &["-b", "5000"]), "OK");
}

#[test]
fn open_transactions_need_version_2_and_are_carried_at_once() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60"]);
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    assert_eq!(testbed.server.take_successor().unwrap().version, Version::Two);
}

#[test]
fn a_start_with_a_limit_of_version_1_waits_until_transactions_end() {
    let mut testbed = Testbed::with_homes([3]);
    let transaction = testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1"]);
    testbed.pass(59_000);
    assert_eq!((action(&mut testbed), answer(&mut testbed)), (None, None));
    assert_eq!(testbed.end(3, transaction, true), ok());
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    assert_eq!(testbed.server.take_successor().unwrap().version, Version::One);
}

#[test]
fn transactions_that_last_too_long_are_named_with_their_age_or_dropped_by_force() {
    for force in [false, true] {
        let mut testbed = Testbed::with_homes([3]);
        testbed.begin(3);
        testbed.pass(5000);
        upload(&mut testbed, &kernel());
        let words: &[&str] = if force { &["-t", "60", "-v", "1", "-F"] } else { &["-t", "60", "-v", "1"] };
        start(&mut testbed, words);
        testbed.pass(59_999);
        assert_eq!((action(&mut testbed), answer(&mut testbed)), (None, None));
        testbed.pass(1);
        if force {
            assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
        } else {
            let why = answer(&mut testbed).expect("an answer at the end of the requested time");
            assert!(why.contains("domain 3: 1 open transactions, the oldest for 65 s"), "{why}");
            assert_eq!(action(&mut testbed), None);
        }
    }
}

#[test]
fn depth_watches_and_reduced_features_are_refused_at_once_with_a_limit_of_version_1() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.build(xenstore::store::domain::DomId(4));
    assert_eq!(testbed.request(0, MessageType::SetFeature, "4\x002\0"), ok());
    testbed.start_built(4);
    assert_eq!(testbed.request(3, MessageType::Watch, "a\0t\x001\0"), ok());
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1"]);
    let why = answer(&mut testbed).expect("an answer at once");
    assert!(why.contains("domain 3: 1 watches with a depth\ndomain 4: features 0x2"), "{why}");
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1", "-F"]);
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    assert_eq!(testbed.server.take_successor().unwrap().version, Version::One);
}

#[test]
fn versions_that_do_not_exist_are_refused() {
    let mut testbed = Testbed::new();
    upload(&mut testbed, &kernel());
    for version in ["0", "3", "99999999999"] {
        let answer = text(&mut testbed, &["-s", "-v", version]);
        assert!(answer.contains("version is 1 to 2"), "{answer}");
    }
    start(&mut testbed, &["-v", "2"]);
    assert_eq!(testbed.server.take_successor().unwrap().version, Version::One, "nothing needs version 2");
}

#[test]
fn an_abort_answers_the_start_and_drops_the_kernel() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1"]);
    testbed.send(0, 0, MessageType::Control.to_wire(), &payload(&["-a"]));
    testbed.run();
    assert_eq!(answer(&mut testbed).as_deref(), Some("The update was called off."));
    assert_eq!(answer(&mut testbed).as_deref(), Some("OK"));
    assert_eq!(action(&mut testbed), None);
    assert!(text(&mut testbed, &["-s"]).contains("There is no update"));
}

#[test]
fn a_client_that_was_reset_gets_no_late_answer() {
    let mut testbed = Testbed::with_homes([3]);
    testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "60", "-v", "1"]);
    testbed.set_word(0, xenstore::wire::ring::Field::Connection, 1);
    testbed.signal(0);
    testbed.forget_incoming(0);
    testbed.pass(60_000);
    assert_eq!((action(&mut testbed), answer(&mut testbed)), (None, None));
    assert_eq!(testbed.write(0, "/a", "1"), ok());
}

/// Sends one of this server's own commands.
fn own(testbed: &mut Testbed, words: &[&str]) -> Answer {
    let words: String = words.iter().map(|word| format!("{word}\0")).collect();
    testbed.request(0, MessageType::Control, words)
}

pub fn own_text(testbed: &mut Testbed, words: &[&str]) -> String {
    string(&own(testbed, words).unwrap_or_else(|error| panic!("{words:?}: {error}")))
}

#[test]
fn the_version_limit_is_shown_set_and_used() {
    let mut testbed = Testbed::with_homes([3]);
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "auto");
    for wrong in [&["stream-version", "x"][..], &["stream-version", "1", "2"], &["stream-version", ""]] {
        assert_eq!(own(&mut testbed, wrong), error("EINVAL"), "{wrong:?}");
    }
    assert!(own_text(&mut testbed, &["stream-version", "3"]).contains("1 to 2"));
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "auto");
    assert_eq!(own_text(&mut testbed, &["stream-version", "1"]), "OK");
    assert_eq!(own_text(&mut testbed, &["stream-version"]), "1");
    testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "0"]);
    assert!(answer(&mut testbed).expect("refused at once").contains("domain 3: 1 open transactions"));
    assert_eq!(own_text(&mut testbed, &["stream-version", "auto"]), "OK");
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "0"]);
    assert_eq!(testbed.server.take_successor().unwrap().version, Version::Two);
}

#[test]
fn a_report_lists_what_an_update_would_lose_and_changes_nothing() {
    let mut testbed = Testbed::with_homes([3]);
    let report = own_text(&mut testbed, &["update-report"]);
    assert!(report.contains("a version 1 stream holds everything") && report.contains("stream size: "), "{report}");
    testbed.begin(3);
    assert_eq!(testbed.request(3, MessageType::Watch, "a\0t\x001\0"), ok());
    testbed.pass(7000);
    let report = own_text(&mut testbed, &["update-report"]);
    assert!(report.contains("version 2 is needed, and may be written"), "{report}");
    let need = "domain 3: 1 watches with a depth 1 open transactions, the oldest for 7 s";
    assert!(report.contains(need), "{report}");
    let report = own_text(&mut testbed, &["update-report", "1"]);
    assert!(report.contains("may not be written") && report.contains(need), "{report}");
    assert_eq!(own(&mut testbed, &["update-report", "x"]), error("EINVAL"));
    assert_eq!(action(&mut testbed), None);
}

/// Reads Base64.
fn decode(text: &str) -> Vec<u8> {
    let digit = |char: u8| match char {
        b'A'..=b'Z' => char - b'A',
        b'a'..=b'z' => char - b'a' + 26,
        b'0'..=b'9' => char - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for part in text.trim_end_matches('=').as_bytes().chunks(4) {
        let word = part.iter().fold(0_u32, |word, char| word << 6 | u32::from(digit(*char))) << (6 * (4 - part.len()));
        bytes.extend(&word.to_be_bytes()[1..part.len()]);
    }
    bytes
}

#[test]
fn the_state_is_handed_out_in_parts_and_stays_the_same_while_it_is_read() {
    let mut testbed = Testbed::with_homes([3]);
    for at in 0..200 {
        assert_eq!(testbed.write(0, &format!("/a{at}"), "some value"), ok());
    }
    let (mut stream, mut total) = (Vec::new(), usize::MAX);
    while stream.len() < total {
        let offset = stream.len().to_string();
        let part = own_text(&mut testbed, &["stream", &offset]);
        let (line, part) = part.split_once('\n').unwrap();
        let (at, of) = line.split_once(' ').unwrap();
        assert_eq!(at, offset);
        total = of.parse().unwrap();
        stream.extend(decode(part));
        assert_eq!(testbed.write(0, "/b", &offset), ok());
    }
    assert_eq!(stream.len(), total);
    assert_eq!(xenstore::stream::check::check(&stream), Ok(()));
    let config = xenstore::engine::config::Config::default();
    let engine = xenstore::server::stream::load(&stream, &config, 0).unwrap();
    let root = engine.state().tree.get(xenstore::store::path::Path::ROOT).unwrap();
    assert!(root.children().get("a199").is_some() && root.children().get("b").is_none());
    assert!(
        own_text(&mut testbed, &["stream", "3000"]).contains("Begin at offset 0"),
        "the stream was read to its end"
    );
    own_text(&mut testbed, &["stream"]);
    assert!(own_text(&mut testbed, &["stream", "99999999"]).starts_with("The state has "));
    testbed.pass(60_000);
    assert!(own_text(&mut testbed, &["stream", "3000"]).contains("Begin at offset 0"), "the stream expired");
}

/// Lets the server work. Returns when it has to be called again.
fn due_ms(testbed: &mut Testbed) -> Option<u64> {
    testbed.run();
    testbed.server.poll(&mut testbed.machine, testbed.now_ms).deadline_ms
}

#[test]
fn the_servers_timer_frees_a_saved_state_that_is_no_longer_requested() {
    let mut testbed = Testbed::new();
    testbed.pass(10_000);
    assert_eq!(due_ms(&mut testbed), None);
    for (at, length) in ["a", "b", "c"].into_iter().zip([1000, 2000, 1000]) {
        assert_eq!(testbed.write(0, &format!("/{at}"), &"v".repeat(length)), ok());
    }
    own_text(&mut testbed, &["stream"]);
    testbed.pass(20_000);
    assert_eq!(due_ms(&mut testbed), Some(testbed.now_ms + 40_000));
    assert!(own_text(&mut testbed, &["stream", "3000"]).starts_with("3000 "), "the server still has the stream");
    assert_eq!(due_ms(&mut testbed), None, "the stream was read to its end");

    own_text(&mut testbed, &["stream"]);
    testbed.pass(1000);
    assert_eq!(text(&mut testbed, &["-b", "5000"]), "OK");
    testbed.pass(1000);
    assert_eq!(send_part(&mut testbed, &[7; 2048]), "OK");
    assert_eq!(due_ms(&mut testbed), Some(testbed.now_ms + 58_000));
    testbed.pass(58_000);
    assert!(own_text(&mut testbed, &["stream", "3000"]).contains("Begin at offset 0"));
    assert_eq!(due_ms(&mut testbed), Some(testbed.now_ms + 2000));
    testbed.pass(2000);
    assert_eq!(due_ms(&mut testbed), None);
    assert!(send_part(&mut testbed, &[7; 2048]).contains("There is no update"));
}

#[test]
fn a_start_that_waits_for_transactions_keeps_its_kernel_for_as_long_as_it_may_wait() {
    let mut testbed = Testbed::with_homes([3]);
    let transaction = testbed.begin(3);
    upload(&mut testbed, &kernel());
    start(&mut testbed, &["-t", "200", "-v", "1"]);
    testbed.pass(150_000);
    assert_eq!(testbed.end(3, transaction, true), ok());
    assert_eq!(action(&mut testbed), Some(Action::StartUpdate));
    assert!(testbed.server.take_successor().is_some());
}
