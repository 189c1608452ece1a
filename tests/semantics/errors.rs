//! One reply to every request, with the correct error: each request with each kind of malformed payload, and the order
//! of the checks.

use xenstore::wire::header::MessageType as T;

use crate::support::testbed::{Testbed, error, ok};

/// The names that an ERROR reply may carry (`xs_wire.h`).
const NAMES: [&str; 16] = [
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
];

/// Returns invalid paths.
fn bad_paths() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "",
        "//",
        "/a/",
        "/a//b",
        "//a",
        "a/",
        "a//b",
        "/local/domain/",
        "/local/domain/1/",
        "/local/domain/x/",
        "/local/domain/99999/x/",
        "/a b",
        "/a.b",
        "/a:b",
        "/a\u{1}b",
        "/a\u{7f}",
        "/a\n",
        " ",
        ".",
        "/a*",
        "/a\\b",
        "~",
    ]
    .iter()
    .map(|path| path.as_bytes().to_vec())
    .collect();
    for byte in [0x80, 0xc3, 0xff] {
        all.push(vec![b'/', byte]);
        all.push(vec![byte]);
    }
    all.push([b"/".to_vec(), vec![b'x'; 3072]].concat());
    all.push(vec![b'x'; 3073]);
    all.push([b"/local/domain/1/".to_vec(), vec![b'x'; 3073]].concat());
    all
}

/// The requests whose first string is a path, with the rest of their payload.
const WITH_PATH: [(T, &[u8]); 10] = [
    (T::Read, b""),
    (T::Directory, b""),
    (T::DirectoryPart, b"0\0"),
    (T::GetPerms, b""),
    (T::Write, b"value"),
    (T::Mkdir, b""),
    (T::Rm, b""),
    (T::SetPerms, b"n1\0"),
    (T::Watch, b"token\0"),
    (T::Unwatch, b"token\0"),
];

/// Checks that exactly one reply came, and that the connection still works.
fn one_reply(
    testbed: &mut Testbed,
    domid: u16,
    transaction: u32,
    kind: u32,
    payload: &[u8],
) -> Result<Vec<u8>, String> {
    let answer = testbed.request_in(domid, transaction, kind, payload);
    if let Err(name) = &answer {
        assert!(NAMES.contains(&name.as_str()), "{name}");
    }
    // Nothing but events may be pending.
    testbed.events(domid);
    answer
}

#[test]
fn every_malformed_path_is_refused_once_and_the_next_request_works() {
    let mut testbed = Testbed::with_homes([1]);
    let mut count = 0;
    for (kind, rest) in WITH_PATH {
        for path in bad_paths() {
            for domid in [0, 1] {
                let payload = [&path[..], b"\0", rest].concat();
                let answer = one_reply(&mut testbed, domid, 0, kind.to_wire(), &payload);
                assert_eq!(answer, error("EINVAL"), "{kind:?} {:?}", String::from_utf8_lossy(&path));
                count += 1;
            }
        }
        assert_eq!(testbed.read(1, "/local/domain/1"), Ok(vec![]));
    }
    println!("{count} malformed paths");
    testbed.check();
}

#[test]
fn a_path_that_looks_like_a_domains_is_an_ordinary_path() {
    let mut testbed = Testbed::with_homes([1]);
    for path in
        ["/local/domain/99999/x", "/local/domain/x", "/local/domain/1x/y", "/local/domain/-1/x", "/local/domain"]
    {
        let expected = if path == "/local/domain" { Ok(vec![]) } else { error("ENOENT") };
        assert_eq!(testbed.read(0, path), expected, "{path}");
        assert_eq!(testbed.read(1, path), error("EACCES"), "{path}");
    }
}

#[test]
fn one_string_means_one_nul_at_the_end() {
    let mut testbed = Testbed::with_homes([1]);
    for kind in [T::Read, T::Directory, T::GetPerms, T::Mkdir, T::Rm] {
        for payload in [&b""[..], b"/", b"/a", b"/a\0\0", b"/a\0b", b"/a\0b\0", b"\0/a\0"] {
            for domid in [0, 1] {
                let answer = one_reply(&mut testbed, domid, 0, kind.to_wire(), payload);
                assert_eq!(answer, error("EINVAL"), "{kind:?} {payload:?}");
            }
        }
    }
}

#[test]
fn requests_of_several_strings_need_their_number() {
    let mut testbed = Testbed::with_homes([1]);
    let cases: [(T, &[&[u8]]); 5] = [
        (T::Write, &[b"", b"/a"]),
        (T::DirectoryPart, &[b"", b"/", b"/\0", b"/\x000", b"/\x000\x000\0"]),
        (T::Watch, &[b"", b"/a", b"/a\0", b"/a\0t", b"/a\0t\0u\0", b"/a\0t\x001\0v\0"]),
        (T::Unwatch, &[b"", b"/a", b"/a\0", b"/a\0t", b"/a\0t\0u\0"]),
        (T::SetPerms, &[b"", b"/a", b"/a\0", b"/a\0n1"]),
    ];
    for (kind, payloads) in cases {
        for payload in payloads {
            assert_eq!(one_reply(&mut testbed, 0, 0, kind.to_wire(), payload), error("EINVAL"), "{kind:?} {payload:?}");
        }
    }
    assert_eq!(testbed.request(0, T::Write, "/a\0"), ok(), "an empty value is a value");
    assert_eq!(testbed.request(0, T::Write, "/a\0with\0nul\0"), ok());
    assert_eq!(testbed.read(0, "/a"), Ok(b"with\0nul\0".to_vec()), "a value may be any bytes");
    assert_eq!(testbed.request(0, T::Watch, "/a\0\0"), ok(), "an empty token is a token");
    assert_eq!(testbed.request(0, T::Unwatch, "/a\0\0rest"), ok());
}

#[test]
fn an_unknown_request_is_enosys_for_every_client() {
    let mut testbed = Testbed::with_homes([1]);
    for kind in [15, 16, 20, 27, 28, 100, 0xffff, 0x1_0000, 0x8000_0002, u32::MAX] {
        for domid in [0, 1] {
            for transaction in [0, 999] {
                for payload in [&b""[..], b"\0", b"1\0", b"/a\0", &[b'x'; 4096]] {
                    assert_eq!(one_reply(&mut testbed, domid, transaction, kind, payload), error("ENOSYS"), "{kind}");
                }
            }
        }
    }
}

#[test]
fn privileged_requests_are_refused_to_guests_before_anything_else_is_checked() {
    let mut testbed = Testbed::with_homes([1, 2]);
    let privileged =
        [T::Control, T::Introduce, T::Release, T::Resume, T::IsDomainIntroduced, T::SetTarget, T::SetFeature]
            .map(T::to_wire);
    for kind in privileged {
        for transaction in [0, 999] {
            for payload in
                [&b""[..], b"\0", b"2\0", b"1\x002\0", b"2\x001\x001\0", b"print\0x\0", b"help\0", &[0xff; 4096]]
            {
                assert_eq!(
                    one_reply(&mut testbed, 1, transaction, kind, payload),
                    error("EACCES"),
                    "{kind} {payload:?}"
                );
            }
        }
    }
    assert!(testbed.is_introduced(2));
    testbed.check();
}

#[test]
fn the_transaction_is_checked_before_the_payload() {
    let mut testbed = Testbed::with_homes([1]);
    for kind in [T::Read, T::Write, T::Mkdir, T::Rm, T::Directory, T::GetPerms, T::SetPerms, T::TransactionEnd] {
        assert_eq!(one_reply(&mut testbed, 1, 999, kind.to_wire(), b""), error("ENOENT"), "{kind:?}");
    }
    assert_eq!(one_reply(&mut testbed, 0, 999, T::Introduce.to_wire(), b""), error("ENOENT"));
    assert_eq!(one_reply(&mut testbed, 1, 999, T::Watch.to_wire(), b"/a\0t\0"), ok());
    assert_eq!(one_reply(&mut testbed, 1, 999, T::Unwatch.to_wire(), b"/a\0t\0"), ok());
}

#[test]
fn read_write_mkdir_directory_and_rm_give_the_codes_of_the_table() {
    let mut testbed = Testbed::with_homes([1]);
    testbed.write(0, "/private/child", "x").unwrap();
    let home = "/local/domain/1";
    for (kind, payload, expected) in [
        (T::Read, format!("{home}\0"), Ok(vec![])),
        (T::Read, "missing\0".into(), error("ENOENT")),
        (T::Read, "/private\0".into(), error("EACCES")),
        (T::Read, "/private/missing\0".into(), error("EACCES")),
        (T::Directory, "missing\0".into(), error("ENOENT")),
        (T::Directory, "/private\0".into(), error("EACCES")),
        (T::GetPerms, "missing\0".into(), error("ENOENT")),
        (T::GetPerms, "/private\0".into(), error("EACCES")),
        (T::DirectoryPart, "missing\x000\0".into(), error("ENOENT")),
        (T::DirectoryPart, "/private\x000\0".into(), error("EACCES")),
        (T::Write, "made\0x".into(), ok()),
        (T::Write, "/private\0x".into(), error("EACCES")),
        (T::Write, "/private/missing\0x".into(), error("EACCES")),
        (T::Mkdir, "made\0".into(), ok()),
        (T::Mkdir, "/private/child\0".into(), error("EACCES")),
        (T::Rm, "missing\0".into(), ok()),
        (T::Rm, "missing/below\0".into(), error("ENOENT")),
        (T::Rm, "/private\0".into(), error("EACCES")),
        (T::Rm, "/\0".into(), error("EACCES")),
        (T::SetPerms, "made\0r1\0".into(), ok()),
        (T::SetPerms, "missing\0n1\0".into(), error("ENOENT")),
        (T::SetPerms, "/private\0n1\0".into(), error("EACCES")),
        (T::Watch, "missing\0t\0".into(), ok()),
        (T::Watch, "missing\0t\0".into(), error("EEXIST")),
        (T::Unwatch, "missing\0t\0".into(), ok()),
        (T::Unwatch, "missing\0t\0".into(), error("ENOENT")),
    ] {
        assert_eq!(one_reply(&mut testbed, 1, 0, kind.to_wire(), payload.as_bytes()), expected, "{kind:?} {payload:?}");
    }
    testbed.check();
}

#[test]
fn a_list_that_does_not_fit_into_a_message_is_e2big_and_comes_in_parts() {
    let mut testbed = Testbed::new();
    let mut names = Vec::new();
    let mut bytes = 0;
    for at in 0.. {
        let name = format!("child-{at}");
        bytes += name.len() + 1;
        testbed.write(0, &format!("/many/{name}"), "").unwrap();
        names.push(name);
        let listed = testbed.directory(0, "/many");
        assert_eq!(listed, if bytes <= 4096 { Ok(names.clone()) } else { error("E2BIG") });
        if bytes > 9000 {
            break;
        }
    }
    let (mut generation, mut list) = (None, Vec::new());
    loop {
        let part = testbed.request(0, T::DirectoryPart, format!("/many\0{}\0", list.len())).unwrap();
        assert!(part.len() <= 4096);
        let end = part.iter().position(|byte| *byte == 0).unwrap();
        let of_part = part[..end].to_vec();
        assert_eq!(*generation.get_or_insert(of_part.clone()), of_part, "nothing changed meanwhile");
        let part = &part[end + 1..];
        if let Some(last) = part.strip_suffix(b"\0\0").or(if part == b"\0" { Some(&b""[..]) } else { None }) {
            list.extend_from_slice(last);
            list.push(0);
            break;
        }
        assert!(!part.is_empty() && part.ends_with(b"\0"));
        list.extend_from_slice(part);
    }
    assert_eq!(crate::support::testbed::strings(&list), names);
    testbed.write(0, "/many/new", "").unwrap();
    let part = testbed.request(0, T::DirectoryPart, "/many\x000\0").unwrap();
    assert!(!part.starts_with(&generation.unwrap()), "a change changes the generation");
    assert_eq!(testbed.read(0, "/many/child-0"), Ok(vec![]), "the connection is usable");
}

#[test]
fn a_part_after_the_end_or_of_no_children_is_an_empty_string() {
    let mut testbed = Testbed::new();
    testbed.write(0, "/some/a", "").unwrap();
    testbed.write(0, "/none", "").unwrap();
    for (path, offset) in [("/some", 2), ("/some", 3), ("/some", 4_000_000_000_u32), ("/none", 0), ("/none", 1)] {
        let part = testbed.request(0, T::DirectoryPart, format!("{path}\0{offset}\0")).unwrap();
        let end = part.iter().position(|byte| *byte == 0).unwrap();
        assert_eq!(&part[end..], b"\0\0", "{path} {offset}");
    }
    let part = testbed.request(0, T::DirectoryPart, "/some\x000\0").unwrap();
    assert!(part.ends_with(b"\0a\0\0"));
}

#[test]
fn every_type_with_every_odd_payload_gets_exactly_one_reply() {
    let mut payloads: Vec<Vec<u8>> = bad_paths();
    for more in [
        "\0",
        "/\0",
        "/a\0",
        "/a\0b\0",
        "/a\0b\0c\0",
        "1\0",
        "1\x002\0",
        "1\x002\x003\0",
        "T\0",
        "F\0",
        "T",
        "@x\0",
        "@\0t\0",
    ] {
        payloads.push(more.as_bytes().to_vec());
    }
    payloads.push(vec![0; 4096]);
    payloads.push(vec![0xff; 4096]);
    payloads.push(vec![b'/'; 4096]);
    payloads.push([vec![b'a'; 4095], vec![0]].concat());
    let mut count = 0;
    let mut testbed = Testbed::with_homes([1, 2, 5]);
    for kind in (0..32).chain([0x7fff_ffff, u32::MAX]) {
        for payload in &payloads {
            for (domid, in_transaction) in [(0, false), (5, false), (0, true), (5, true)] {
                let transaction = if in_transaction { testbed.begin(domid) } else { 0 };
                let _ = one_reply(&mut testbed, domid, transaction, kind, payload);
                let _ = one_reply(&mut testbed, domid, 0, T::ResetWatches.to_wire(), b"");
                count += 1;
            }
        }
        assert!(testbed.read(0, "/").is_ok());
        testbed.check();
    }
    println!("{count} requests");
}
