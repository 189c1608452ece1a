//! The tests that documents name.

use std::fs;
use std::path::Path;

/// Checks that each test that a document names as `file::test` is there, and returns how many that are.
fn check_named_tests(document: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).unwrap();
    let mut checked = 0;
    for (file, test) in text.split('`').filter_map(|name| name.split_once("::")) {
        let mut paths = match file {
            "stream" => vec!["tests/stream.rs".into()],
            _ if file.contains('/') => vec![format!("tests/{file}.rs")],
            _ => vec![format!("tests/semantics/{file}.rs")],
        };
        if file == "write_credit" {
            paths.push("src/engine/fairness/write_credit.rs".into());
        }
        let is_there = paths.iter().any(|path| {
            let source = fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            source.contains(&format!("fn {test}()"))
        });
        assert!(is_there, "{document} names {file}::{test}, which is not in {paths:?}");
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
