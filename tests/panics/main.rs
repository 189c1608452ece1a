//! Every place in the kernel's image that can panic, against a list of reviewed places.
//!
//! The test reads `target/xenstore-stubdom-syms`, which `make kernel` builds. It checks the code after optimization,
//! not the sources. Each panic of Rust needs a `core::panic::Location` of its source, also in the library's own code. A
//! check that cannot fail loses its location with its branch. The test finds all locations in the image's constants.
//! Each must be in `allowed.txt`, with the reason why no guest can cause the panic.
//!
//! The test can see:
//! - Each line of `src/` that can panic itself: an index, arithmetic, `unwrap`, or a call that panics in its caller's
//!   name (`Vec::insert`, `String::truncate`). Inlining hides none of these, as the location names the source. The text
//!   of a line identifies it. `src/kernel` and `src/xen` are out of scope: guests' bytes reach them only through the
//!   rest.
//! - Each file of `core`, `alloc` and the other crates with code that can panic in its own name. The file identifies
//!   these places, as this project cannot change them. The symbols show the functions that refer to each.
//!
//! The test cannot see whether a place is reachable (the reason in the list says why not). It cannot see the effect of
//! a new caller on a library's place that is in the list already. It does not find stack overflows, endless loops, or
//! exceptions of the processor. Exhausted memory appears here as the library's panic; `tests/failing_allocations/`
//! tests it.
#![allow(missing_docs, reason = "a test")]

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use image::{Image, Site};

/// Sources whose code does not depend on guests' requests.
const OUT_OF_SCOPE: [&str; 3] = ["src/kernel/", "src/xen/", "src/main.rs"];

/// A place as the list names it, and the functions that refer to it.
type Places = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_image() -> Image {
    let path = root().join("target/xenstore-stubdom-syms");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make kernel` first", path.display()));
    Image::new(bytes)
}

/// Returns a file's name without machine-dependent parts: `library/…`, `<crate>/src/…` or `src/…`.
fn short_name(file: &str) -> String {
    if let Some((_, library)) = file.split_once("/library/") {
        return format!("library/{library}");
    }
    let Some((_, registry)) = file.split_once("/registry/src/") else { return file.to_owned() };
    let (krate, rest) = registry.split_once('/').and_then(|(_, path)| path.split_once('/')).unwrap_or((registry, ""));
    let name = krate.rsplit_once('-').map_or(krate, |(name, _version)| name);
    format!("{name}/{rest}")
}

/// Returns the place of a site; `None` for one out of scope, or one that only names the source of a log line.
fn place(site: &Site) -> Option<String> {
    let file = short_name(&site.file);
    if OUT_OF_SCOPE.iter().any(|part| file.starts_with(part)) {
        return None;
    }
    if !file.starts_with("src/") {
        return Some(file);
    }
    let source = fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let line = source.lines().nth(site.line as usize - 1);
    let line = line.unwrap_or_else(|| panic!("{file} has no line {}: run `make kernel` again", site.line));
    let is_log = line.get(site.column as usize - 1..).is_some_and(|rest| rest.starts_with("log::"));
    (!is_log).then(|| format!("{file}: {}", line.trim()))
}

fn places(image: &Image) -> Places {
    let mut places = Places::new();
    for site in image.sites() {
        if let Some(place) = place(&site) {
            places.entry(place).or_default().extend(image.users(&site));
        }
    }
    places
}

/// Returns the list: places with their reasons. A `*` at the end of a place stands for all places with that beginning.
fn allowed() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("tests/panics/allowed.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line: &str| {
        let (place, reason) = line.split_once(" | ").unwrap_or_else(|| panic!("allowed.txt: no reason: {line}"));
        (place.trim().to_owned(), reason.trim().to_owned())
    };
    lines.map(entry).collect()
}

fn matches(entry: &str, place: &str) -> bool {
    entry.strip_suffix('*').map_or(entry == place, |start| place.starts_with(start))
}

#[test]
fn every_place_that_can_panic_has_a_reason() {
    let image = read_image();
    let places = places(&image);
    let allowed = allowed();
    let ours = places.keys().filter(|place| place.starts_with("src/")).count();
    println!("{} locations, of them in scope {} places, {ours} in our own lines", image.sites().len(), places.len());
    assert!(image.sites().len() > 100, "the locations were not found");
    let is_known = |place: &str| allowed.iter().any(|(entry, _)| matches(entry, place));
    let new: Vec<String> = places
        .iter()
        .filter(|(place, _)| !is_known(place))
        .map(|(place, users)| {
            format!("  {place}\n    in {}", users.iter().cloned().collect::<Vec<_>>().join("\n    in "))
        })
        .collect();
    assert!(
        new.is_empty(),
        "{} new places can panic: avoid the panic, or give the reason why it is impossible in \
         tests/panics/allowed.txt:\n{}",
        new.len(),
        new.join("\n")
    );
}

#[test]
fn every_reason_belongs_to_a_place_in_the_image() {
    let places = places(&read_image());
    for (entry, reason) in allowed() {
        assert!(
            places.keys().any(|place| matches(&entry, place)),
            "allowed.txt: {entry} cannot panic any more: remove the entry"
        );
        assert!(reason.len() > 10, "allowed.txt: {entry} has no reason");
    }
}

/// Prints the functions of guest-driven modules that refer to a place, by module: a figure to follow, not a limit.
#[test]
fn each_place_is_used_by_a_named_function() {
    let places = places(&read_image());
    let mut by_module: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (place, users) in &places {
        assert!(!users.is_empty(), "{place}: no function refers to it");
        for user in users {
            let mut names = user.split("::");
            if names.next() == Some("xenstore") {
                by_module.entry(names.next().unwrap_or("").to_owned()).or_default().insert(user);
            }
        }
    }
    for (module, functions) in &by_module {
        println!("{module}: {} functions with inlined code that can panic: {functions:?}", functions.len());
    }
    assert!(by_module.contains_key("engine") && by_module.contains_key("store"), "the symbols were not found");
}
