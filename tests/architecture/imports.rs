//! Which module names which other one: the graph of imports.
//!
//! An import is any path that begins with `crate`, `super`, `self` or `xenstore`, in a `use` or elsewhere, and a `use` of a
//! child. It counts for the file that defines the name: a `pub use` of a parent is followed.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::source::Module;

/// The words that define a name in a module.
const DEFINITIONS: &[&str] = &["struct", "enum", "fn", "trait", "const", "type", "static"];

/// Returns the graph of all imports between these modules.
pub(crate) fn graph(modules: &[Module]) -> Graph {
    let names: BTreeSet<_> = modules.iter().map(|module| module.name.as_str()).collect();
    let tokens: BTreeMap<_, _> =
        modules.iter().map(|module| (module.name.as_str(), tokens(&module.code.join("\n")))).collect();
    let paths: BTreeMap<_, _> = modules
        .iter()
        .map(|module| (module.name.as_str(), paths(module, &tokens[module.name.as_str()], &names)))
        .collect();
    let resolver = Resolver { names, tokens, paths };
    let mut graph = Graph::default();
    for module in modules {
        graph.add(&module.name);
        for path in &resolver.paths[module.name.as_str()] {
            if let Some(used) = resolver.defining_module(path, &module.name)
                && used != module.name
            {
                graph.connect(&module.name, used);
            }
        }
    }
    graph
}

/// The identifiers and signs of a text; `::` is one sign.
fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut last = ' ';
    for sign in text.chars() {
        match found.last_mut() {
            Some(word) if is_word(Some(sign)) && is_word(Some(last)) => word.push(sign),
            Some(colon) if sign == ':' && last == ':' && colon == ":" => colon.push(sign),
            _ if sign.is_whitespace() => {}
            _ => found.push(sign.to_string()),
        }
        last = sign;
    }
    found
}

fn is_word(sign: Option<char>) -> bool {
    sign.is_some_and(|sign| sign.is_alphanumeric() || sign == '_')
}

/// The full paths that a module names, from the roots of the crates on.
fn paths(module: &Module, tokens: &[String], names: &BTreeSet<&str>) -> Vec<Vec<String>> {
    let segments = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let own = segments(&module.name);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let before = |count: usize| at.checked_sub(count).map_or("", |at| tokens[at].as_str());
        let child = format!("{}::{}", module.name, tokens[at]);
        let start = match tokens[at].as_str() {
            // `pub(in crate::engine)` is no import.
            _ if before(1) == "::" || (before(1) == "in" && before(2) == "(") => continue,
            "crate" => segments(&module.root),
            "xenstore" => Vec::new(),
            "self" => own.clone(),
            "super" => own[..own.len() - 1].to_vec(),
            name if before(1) == "use" && names.contains(child.as_str()) => [&own[..], &[name.to_owned()]].concat(),
            _ => continue,
        };
        if tokens.get(at + 1).is_some_and(|next| next == "::") {
            expand(tokens, at + 2, start, &mut found);
        }
    }
    found
}

/// Adds the paths of the tree of names that begins at a token, and returns where the tree ends.
fn expand(tokens: &[String], mut at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    loop {
        match tokens[at].as_str() {
            "{" => {
                while tokens[at] != "}" {
                    at = expand(tokens, at + 1, path.clone(), found);
                    while ![",", "}"].contains(&tokens[at].as_str()) {
                        at += 1; // `as` and another name.
                    }
                }
                return at + 1;
            }
            "super" => {
                path.pop();
            }
            "self" => {}
            name if name == "*" || is_word(name.chars().next()) => path.push(name.to_owned()),
            _ => {
                // The end of a list, or what follows the path, such as the `<` of its arguments.
                found.push(path);
                return at;
            }
        }
        at += 1;
        if tokens.get(at).is_none_or(|next| next != "::") {
            found.push(path);
            return at;
        }
        at += 1;
    }
}

struct Resolver<'a> {
    names: BTreeSet<&'a str>,
    tokens: BTreeMap<&'a str, Vec<String>>,
    paths: BTreeMap<&'a str, Vec<Vec<String>>>,
}

impl Resolver<'_> {
    /// The module that defines what a path names, seen from a module. None for a name that is in no file.
    fn defining_module(&self, path: &[String], from: &str) -> Option<&str> {
        let count = (1..=path.len()).rev().find(|count| self.names.contains(path[..*count].join("::").as_str()))?;
        let module = *self.names.get(path[..count].join("::").as_str())?;
        let Some(name) = path.get(count) else { return Some(module) };
        if module == from || self.defines(module, name) {
            return Some(module);
        }
        // An import that the module passes on: by its name, or with all names of a child.
        let passed_on = self.paths[module].iter().find_map(|import| match import.split_last()? {
            (last, _) if last == name => self.defining_module(import, module),
            (last, child) if last == "*" => {
                self.defining_module(child, module).filter(|child| self.defines(child, name))
            }
            _ => None,
        });
        passed_on.or(Some(module))
    }

    fn defines(&self, module: &str, name: &str) -> bool {
        let tokens = &self.tokens[module];
        tokens.windows(2).any(|pair| DEFINITIONS.contains(&pair[0].as_str()) && pair[1] == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_an_import_are_found() {
        let text =
            "use crate::a::{self, b::{C, d as e}, f::*}; pub(in crate::x) fn g() { super::h::i::<u8>() } use child::j;";
        let module =
            Module { name: "m::n".into(), root: String::new(), file: "n.rs".into(), code: Vec::new(), lines: 1 };
        let found = paths(&module, &tokens(text), &["m::n::child"].into());
        let joined: Vec<_> = found.iter().map(|path| path.join("::")).collect();
        assert_eq!(joined, ["a", "a::b::C", "a::b::d", "a::f::*", "m::h::i", "m::n::child::j"]);
    }
}
