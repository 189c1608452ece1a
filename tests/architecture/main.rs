//! The arrows of `docs/architecture.md`, and where `unsafe` may stand.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each part of the library, with those that it may use. `limits` is for all.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits.rs", &[]),
    ("wire", &[]),
    ("store", &["wire"]),
    ("engine", &["store", "wire"]),
    ("stream", &["engine", "store", "wire"]),
    ("options.rs", &["engine", "store"]),
    ("update", &["store"]),
    ("server", &["engine", "store", "stream", "update", "wire"]),
];

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut found: Vec<_> = fs::read_dir(path).unwrap().flat_map(|entry| sources(&entry.unwrap().path())).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found.sort();
    found
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The lines of a file without comments, up to its tests.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
    code.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}

#[test]
fn no_part_of_the_library_uses_one_above_it() {
    let mut checked = 0;
    for (layer, below) in LAYERS {
        for file in sources(&source_folder().join(layer)) {
            for line in code(&file) {
                for path in line.split("crate::").skip(1) {
                    let used = path.split([':', ';', ',', ' ', ')', '>']).next().unwrap();
                    let own = layer.trim_end_matches(".rs");
                    let allowed = used == own || used == "limits" || below.contains(&used);
                    assert!(allowed, "{}: {own} may not use {used}: {line}", file.display());
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} uses checked");
    assert!(checked > 100, "the uses were not found");
}

#[test]
fn the_hypervisors_interfaces_know_nothing_of_the_kernel_and_of_requests() {
    let mut checked = 0;
    for file in sources(&source_folder().join("xen")) {
        for line in code(&file) {
            assert!(!line.contains("crate::kernel"), "{}: {line}", file.display());
            assert!(!line.contains("xenstore::engine::requests"), "{}: {line}", file.display());
            checked += 1;
        }
    }
    println!("{checked} lines checked");
    assert!(checked > 1000, "the lines were not found");
}

/// The most lines of a function: a screen.
const FUNCTION_LINES_MOST: usize = 80;

/// The lines of the function that begins at the first of these lines, by the brace that closes it at the same indentation.
fn function_lines(lines: &[String]) -> Option<usize> {
    let first = lines.first()?;
    let text = first.trim_start();
    // A declaration without a body ends with its line.
    let is_function = text.split(' ').take(5).any(|word| word == "fn") && !first.ends_with(';');
    let close = format!("{}}}", &first[..first.len() - text.len()]);
    is_function.then(|| lines.iter().position(|line| line.trim_end() == close)).flatten().map(|last| last + 1)
}

#[test]
fn functions_fit_a_screen() {
    let mut longest = (0, String::new());
    let mut checked = 0;
    for file in sources(&source_folder()) {
        let lines = code(&file);
        for at in 0..lines.len() {
            let Some(count) = function_lines(&lines[at..]) else { continue };
            checked += 1;
            assert!(count <= FUNCTION_LINES_MOST, "{}: {count} lines: {}", file.display(), lines[at]);
            if count > longest.0 {
                longest = (count, format!("{}: {}", file.display(), lines[at].trim()));
            }
        }
    }
    println!("{checked} functions checked; the longest has {} lines: {}", longest.0, longest.1);
    assert!(checked > 1000, "the functions were not found");
}

#[test]
fn every_part_of_the_library_has_its_place_in_the_layers() {
    for entry in fs::read_dir(source_folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_other_crate = ["lib.rs", "main.rs", "bin", "kernel", "xen"].contains(&name.as_str());
        assert!(is_other_crate || LAYERS.iter().any(|(layer, _)| *layer == name), "{name} is in no layer");
    }
}

#[test]
fn unsafe_stands_only_where_hardware_or_a_mapping_forces_it() {
    let allowed = ["xen", "kernel", "bin", "main.rs"].map(|part| source_folder().join(part));
    let mut found = 0;
    for file in sources(&source_folder()) {
        let is_allowed = allowed.iter().any(|part| file.starts_with(part));
        for line in code(&file) {
            let is_unsafe = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
            assert!(is_allowed || !is_unsafe, "{}: {line}", file.display());
            found += usize::from(is_unsafe);
        }
    }
    println!("{found} lines with unsafe");
    assert!(found > 0, "the lines were not found");
}

/// Checks that each test that a document names as `file::test` is there, and returns how many that are.
fn check_named_tests(document: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).unwrap();
    let mut checked = 0;
    for (file, test) in text.split('`').filter_map(|name| name.split_once("::")) {
        let path = match file {
            "write_credit" => "src/engine/fairness/write_credit.rs".into(),
            "stream" => "tests/stream.rs".into(),
            _ if file.contains('/') => format!("tests/{file}.rs"),
            _ => format!("tests/semantics/{file}.rs"),
        };
        let source = fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(source.contains(&format!("fn {test}()")), "{path} has no {test}");
        checked += 1;
    }
    checked
}

#[test]
fn every_test_that_the_table_of_rules_names_is_there() {
    assert!(check_named_tests("docs/conformance.md") > 100);
}

#[test]
fn every_test_that_the_table_of_advisories_names_is_there() {
    assert!(check_named_tests("docs/security.md") > 100);
}
