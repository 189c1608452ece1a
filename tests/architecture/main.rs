//! The arrows of `docs/architecture.md`, circles of imports, sizes, and where `unsafe` may be.
#![allow(missing_docs, reason = "a test")]

mod circles;
mod documents;
mod graph;
mod imports;
mod layers;
mod sizes;
mod source;

#[test]
fn unsafe_is_only_where_hardware_or_a_mapping_forces_it() {
    let allowed = ["xen", "kernel", "bin"].map(|part| source::source_folder().join(part));
    let mut found = 0;
    for module in source::modules() {
        let is_allowed = allowed.iter().any(|part| module.file.starts_with(part));
        for line in module.code {
            let is_unsafe = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
            assert!(is_allowed || !is_unsafe, "{}: {line}", module.file.display());
            found += usize::from(is_unsafe);
        }
    }
    println!("{found} lines with unsafe");
    assert!(found > 0, "the lines were not found");
}
