//! Every place in the kernel's image that can panic, against a list of those that were looked at.
//!
//! What is inspected is `target/xenstore-stubdom-syms`, which `make kernel` builds: not the sources, but what was left of
//! their checks after optimization. Each panic of Rust needs a `core::panic::Location` to say where it happened, also those
//! in the library's own code, and a check that cannot fail loses it with its branch. So all of them are looked up in the
//! image's constants, and each has to be in `allowed.txt` with the reason why no guest makes it happen.
//!
//! What this can see:
//! - Each line of `src/` (outside `src/kernel`, `src/xen`, which no guest's bytes reach but through the rest) that can panic
//!   itself: an index, arithmetic, `unwrap`, or a call that panics in its caller's name (`Vec::insert`, `String::truncate`).
//!   Inlining hides none of it: the location names the source, wherever the code went. A line is known by its text.
//! - Each file of `core`, `alloc` and the other crates with code that can panic in its own name, whoever calls it: by file,
//!   since what stands there is not ours to change. For each, the functions that refer to it are told by their symbols.
//!
//! What it can't see: whether a place is reachable (the reason in the list says why not); what a new caller does to a
//! library's place that is in the list already; a stack that overflows; a loop without end; an exception of the processor.
//! Memory that is exhausted is here as the library's way to say so; `tests/failing_allocations/` is about that.
#![allow(missing_docs, reason = "a test")]

mod image;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use image::{Image, Site};

/// Sources that are not driven by what guests send.
const OUT_OF_SCOPE: [&str; 3] = ["src/kernel/", "src/xen/", "src/main.rs"];

/// A place as the list has it, and who refers to it.
type Places = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_image() -> Image {
    let path = root().join("target/xenstore-stubdom-syms");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make kernel` first", path.display()));
    Image::new(bytes)
}

/// A file's name without what differs from machine to machine: `library/…`, `<crate>/src/…` or `src/…`.
fn short_name(file: &str) -> String {
    if let Some((_, library)) = file.split_once("/library/") {
        return format!("library/{library}");
    }
    let Some((_, registry)) = file.split_once("/registry/src/") else { return file.to_owned() };
    let (krate, rest) = registry.split_once('/').and_then(|(_, path)| path.split_once('/')).unwrap_or((registry, ""));
    let name = krate.rsplit_once('-').map_or(krate, |(name, _version)| name);
    format!("{name}/{rest}")
}

/// The place of a site; `None` for one out of scope, or one that only says where a line of the log comes from.
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

/// The list: places, those with a `*` at the end standing for all that begin so, and the reason of each.
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
        "{} new places can panic. Write them so that they can't, or say in tests/panics/allowed.txt why nothing makes \
         them:\n{}",
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
            "allowed.txt: {entry} can't panic any more: remove it"
        );
        assert!(reason.len() > 10, "allowed.txt: {entry} has no reason");
    }
}

/// The functions of guest-driven modules that refer to a place, by module: a figure to follow, not a limit.
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
