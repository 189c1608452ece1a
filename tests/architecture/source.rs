//! The modules of `src/` with their code.

use std::fs;
use std::path::{Path, PathBuf};

/// One file: a module of one of the four crates in `src/`.
pub(crate) struct Module {
    /// The path in its crate, such as `engine::requests`. Modules of the programs begin with `bin::`.
    pub(crate) name: String,
    /// The crate's root in such names: empty for the library and the kernel, whose top-level modules differ.
    pub(crate) root: String,
    pub(crate) file: PathBuf,
    /// The lines without comments, up to the tests.
    pub(crate) code: Vec<String>,
    /// The number of lines, comments and tests included.
    pub(crate) lines: usize,
}

/// All modules but the two crate roots, which only name modules.
pub(crate) fn modules() -> Vec<Module> {
    let folder = source_folder();
    let is_code = |file: &PathBuf| {
        let is_root = file.parent() == Some(&folder) && (file.ends_with("lib.rs") || file.ends_with("main.rs"));
        !is_root && !file.ends_with("tests.rs")
    };
    files(&folder).into_iter().filter(is_code).map(module).collect()
}

pub(crate) fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut found: Vec<_> = fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    found.sort();
    found
}

fn module(file: PathBuf) -> Module {
    let text = fs::read_to_string(&file).unwrap();
    let relative = file.strip_prefix(source_folder()).unwrap().with_extension("");
    let mut parts: Vec<_> = relative.iter().map(|part| part.to_str().unwrap()).collect();
    if ["mod", "main"].contains(parts.last().unwrap()) {
        parts.pop();
    }
    let root = if parts[0] == "bin" { parts[..2].join("::") } else { String::new() };
    Module { name: parts.join("::"), root, code: code(&text), lines: text.lines().count(), file }
}

fn code(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}
