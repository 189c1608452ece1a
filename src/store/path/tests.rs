//! Spellings of paths, one wrong at a time, and walks over levels.

use super::*;
use alloc::format;
use alloc::vec::Vec;

#[test]
fn the_lowest_levels_come_from_there_down() {
    let path = |text| Path::parse_absolute(text, 100).unwrap();
    let lowest = |text, levels| path(text).lowest(levels).map(Path::as_str).collect::<Vec<_>>();
    assert_eq!(lowest(b"/a/bc/d", 1), ["/a/bc/d"]);
    assert_eq!(lowest(b"/a/bc/d", 2), ["/a/bc", "/a/bc/d"]);
    assert_eq!(lowest(b"/a/bc/d", 3), ["/a", "/a/bc", "/a/bc/d"]);
    assert_eq!(lowest(b"/a/bc/d", 0), [""; 0]);
    assert_eq!(lowest(b"/", 1), [""; 0]);
}

#[test]
fn the_common_part_of_two_paths_ends_with_a_name_of_both() {
    let deep = "/abc".repeat(40);
    let (left, right) = (deep.clone() + "/x-1/y", deep.clone() + "/x/y");
    let cases = [
        ("/", "/a", 0),
        ("/a", "/b", 0),
        ("/a", "/a", 2),
        ("/a", "/a/b", 2),
        ("/a", "/a-b", 0),
        ("/a/b", "/a/bc", 2),
        ("/a/b/c", "/a/b-/c", 2),
        (&left, &right, deep.len()),
        (&left, &left, left.len()),
        (&deep, &right, deep.len()),
    ];
    for (left, right, common) in cases {
        let path = |text: &str| Path::parse_absolute(text.as_bytes(), 1000).unwrap().to_owned();
        let (left, right) = (path(left), path(right));
        assert_eq!(left.as_path().common_bytes(right.as_path()), common, "{left:?} {right:?}");
        assert_eq!(right.as_path().common_bytes(left.as_path()), common, "{right:?} {left:?}");
    }
}

fn parse(spelling: &str) -> Result<PathBuf, InvalidPath> {
    Path::parse(spelling.as_bytes(), DomId(7), limits::PATH_BYTES, &mut PathScratch::new()).map(Path::to_owned)
}

#[test]
fn relative_paths_belong_to_the_domain() {
    assert_eq!(parse("a/b").unwrap().as_path().as_str(), "/local/domain/7/a/b");
    assert_eq!(parse("/a").unwrap().as_path().as_str(), "/a");
}

#[test]
fn what_is_no_path_is_refused() {
    for wrong in ["", "/a/", "//", "/a//b", "a/", "/a b", "/a.b", "/a:b", "/a\u{7f}", "/\u{e9}", "@x", "/local/domain/"]
    {
        assert_eq!(parse(wrong), Err(InvalidPath), "{wrong:?}");
    }
    assert!(parse("/").is_ok());
    assert!(parse("/a@b_c-D9").is_ok());
}

#[test]
fn a_child_is_what_is_one_level_below_its_parent() {
    let parent = parse("/a/b").unwrap();
    let child = |spelling| Path::child_of(parent.as_path(), spelling).map(Path::as_str);
    assert_eq!(child("/a/b/c"), Some("/a/b/c"));
    for other in ["/a/b", "/a/b/", "/a/bc", "/a/b/c/d", "/a/b//c", "/a/b/c.d", "/x/b/c", "a/b/c", "/a/b/\u{e9}", ""] {
        assert_eq!(child(other), None, "{other:?}");
    }
    assert_eq!(Path::child_of(Path::ROOT, "/c").map(Path::as_str), Some("/c"));
    for other in ["/", "//", "/c/d", "c", "/c/"] {
        assert_eq!(Path::child_of(Path::ROOT, other), None, "{other:?}");
    }
    let longest = format!("/a/b/{}", "x".repeat(limits::ABSOLUTE_PATH_BYTES - 5));
    assert!(child(&longest).is_some() && child(&format!("{longest}x")).is_none());
}

#[test]
fn no_path_is_longer_than_the_tree_can_hold() {
    let longest = format!("/{}", "x".repeat(limits::ABSOLUTE_PATH_BYTES - 1));
    for (spelling, is_path) in [(longest.clone(), true), (format!("{longest}x"), false)] {
        assert_eq!(Path::parse_absolute(spelling.as_bytes(), usize::MAX).is_ok(), is_path);
    }
    let relative = "x".repeat(limits::ABSOLUTE_PATH_BYTES - "/local/domain/7/".len());
    for (spelling, is_path) in [(relative.clone(), true), (format!("{relative}x"), false)] {
        let mut scratch = PathScratch::new();
        assert_eq!(Path::parse(spelling.as_bytes(), DomId(7), usize::MAX, &mut scratch).is_ok(), is_path);
    }
}

#[test]
fn the_limit_does_not_count_the_domain_prefix() {
    let name = "x".repeat(limits::PATH_BYTES);
    assert!(parse(&name).is_ok());
    assert!(parse(&format!("{name}x")).is_err());
    assert!(parse(&format!("/local/domain/65535/{name}")).is_ok());
    assert!(parse(&format!("/local/domain/65535/{name}x")).is_err());
    assert!(parse(&format!("/local/domain/655356/{name}")).is_err());
    assert!(parse(&format!("/{}", &name[1..])).is_ok());
    assert!(parse(&format!("/{name}")).is_err());
}

#[test]
fn parents_and_names_follow_the_slashes() {
    let path = parse("/a/b").unwrap();
    let up: Vec<_> = path.as_path().and_ancestors().map(Path::as_str).collect();
    assert_eq!(up, ["/a/b", "/a", "/"]);
    assert_eq!(path.as_path().name(), "b");
    assert_eq!(Path::ROOT.parent(), None);
    assert_eq!(Path::ROOT.names().count(), 0);
}

#[test]
fn a_cursor_returns_where_it_was() {
    let mut cursor = PathCursor::at(Path::ROOT);
    cursor.push("a");
    cursor.push("b");
    assert_eq!(cursor.as_path().as_str(), "/a/b");
    cursor.pop();
    cursor.pop();
    cursor.pop();
    assert!(cursor.as_path().is_root());
}
