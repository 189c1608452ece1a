//! Any bytes as messages and arguments. Every parser of the wire and of names agrees with a simple one in this file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenstore::engine::connection::input::Input;
use xenstore::limits;
use xenstore::store::domain::DomId;
use xenstore::store::path::{AnyPath, Path, PathScratch};
use xenstore::store::permission::Permissions;
use xenstore::wire::errno::Errno;
use xenstore::wire::header::{HEADER_BYTES, Header, MessageType};
use xenstore::wire::payload;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    messages(bytes, usize::from(*first).max(1));
    strings(bytes);
    path(bytes, DomId(u16::from(*first)));
    permissions(bytes);
    if let Ok(name) = core::str::from_utf8(bytes) {
        let found = Errno::from_name(name);
        assert_eq!(found.map(Errno::name), Errno::ALL.iter().map(|errno| errno.name()).find(|known| *known == name));
    }
});

/// Checks that the bytes give the same messages in pieces of any length as in one piece.
fn messages(bytes: &[u8], step: usize) {
    let mut input = Input::default();
    // Without memory, long payloads are skipped.
    let has_room = step.is_multiple_of(2);
    let mut expected = bytes;
    for mut piece in bytes.chunks(step) {
        while !piece.is_empty() {
            let space = input.space();
            let count = space.len().min(piece.len());
            assert!(count > 0, "a request that is not complete has room");
            space[..count].copy_from_slice(&piece[..count]);
            piece = &piece[count..];
            if input.advance(count, has_room).is_err() {
                let header = Header::parse(expected.first_chunk().expect("a whole header"));
                assert!(header.payload_bytes > 4096, "only a message that is too long is refused");
                return;
            }
            if input.is_complete() {
                let (header, payload) = input.take();
                assert!(payload.is_some() || !has_room && header.payload_bytes > 256);
                expected = check_message(expected, header, payload.as_deref());
                payload.into_iter().for_each(|payload| input.recycle(payload));
            }
        }
    }
    let rest = input.received();
    assert_eq!(rest.len(), expected.len());
    assert!(!has_room || rest == expected, "the rest is kept");
}

/// Checks that `expected` begins with the message. Returns the bytes after it.
fn check_message<'a>(expected: &'a [u8], header: Header, payload: Option<&[u8]>) -> &'a [u8] {
    let (head, behind) = expected.split_at(HEADER_BYTES);
    assert_eq!(header.emit(), head);
    let words: Vec<u32> = head.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("four"))).collect();
    assert_eq!(words, [header.kind, header.request_id, header.transaction_id, header.payload_bytes]);
    assert_eq!(MessageType::from_wire(words[0]).is_some(), words[0] <= 26 && words[0] != 20);
    assert!(words[3] <= 4096, "no longer one is taken");
    let (body, behind) = behind.split_at(words[3] as usize);
    assert_eq!(body, payload.unwrap_or(body));
    behind
}

/// Checks the parsers of NUL-terminated strings.
fn strings(bytes: &[u8]) {
    let pieces: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    let (_tail, whole) = pieces.split_last().expect("split gives one at least");
    assert_eq!(payload::count_strings(bytes), whole.len());
    assert_eq!(payload::split_string(bytes).map(|(string, _)| string), whole.first().copied());
    let is_only = whole.len() == 1 && bytes.last() == Some(&0);
    assert_eq!(payload::only_string(bytes), whole.first().copied().filter(|_| is_only));
    assert_eq!(payload::first_strings::<3>(bytes).map(Vec::from), whole.get(..3).map(<[_]>::to_vec));
    assert_eq!(payload::exact_strings::<2>(bytes).map(Vec::from), (whole.len() == 2).then(|| whole.to_vec()));
    for string in whole {
        let text = core::str::from_utf8(string).ok().filter(|text| !text.starts_with('+'));
        assert_eq!(payload::decimal(string), text.and_then(|text| text.parse::<u64>().ok()));
    }
}

/// Checks the parsers of absolute paths, relative paths and special names.
fn path(bytes: &[u8], domid: DomId) {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    let text = core::str::from_utf8(bytes).unwrap_or("\u{e4}");
    let is_text = !text.is_empty() && text.bytes().all(|byte| allowed(&byte));
    let limit = limits::PATH_BYTES;
    let (mut scratch, mut scratch_any) = (PathScratch::new(), PathScratch::new());
    let found = Path::parse(bytes, domid, limit, &mut scratch);
    let any = AnyPath::parse(bytes, domid, limit, &mut scratch_any);
    let Ok(path) = found else {
        assert!(!matches!(any, Ok(AnyPath::Node(_))));
        assert!(any.is_err() || is_text && text.starts_with('@') && text.len() <= limit);
        let short = text.len() < limit - 20;
        let well_formed = !text.contains("//") && !text.ends_with('/') && !text.starts_with('@');
        assert!(!(is_text && short && (well_formed || text == "/")), "{text:?} is a path");
        return;
    };
    assert_eq!(any, Ok(AnyPath::Node(path)));
    assert!(is_text && path.counted_bytes() <= limit);
    let full = if text.starts_with('/') { text.to_owned() } else { format!("/local/domain/{}/{text}", domid.0) };
    assert_eq!(path.as_str(), full);
    let names: Vec<&str> = full.split('/').filter(|name| !name.is_empty()).collect();
    assert_eq!(path.names().collect::<Vec<_>>(), names);
    assert_eq!(path.and_ancestors().count(), names.len() + 1);
    assert_eq!(path.name(), names.last().copied().unwrap_or(""));
    assert!(path.and_ancestors().last().is_some_and(Path::is_root));
    assert!(names.iter().all(|name| Path::is_name(name)));
}

/// Checks that parsed permissions give the same text again.
fn permissions(bytes: &[u8]) {
    let count = payload::count_strings(bytes);
    let Ok(permissions) = Permissions::parse(bytes, count) else { return };
    assert_eq!(permissions.entries().len(), count);
    let strings = bytes.split(|byte| *byte == 0);
    for (entry, string) in permissions.entries().iter().zip(strings) {
        let number: u16 = core::str::from_utf8(&string[1..]).expect("digits").parse().expect("a number");
        assert_eq!(entry.to_string(), format!("{}{number}", char::from(string[0])));
    }
}
