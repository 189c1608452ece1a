//! The documents' English: no words that make a native reader look twice, and no sentence that needs a second pass.
#![allow(missing_docs, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Words and phrases to avoid, as whole words. For each there is a plainer one: "again", "checks whether", "requested".
const AVOIDED: &[&str] = &[
    "anew",
    "as ever",
    "whoever",
    "whichever",
    "tell of",
    "tells of",
    "told of",
    "can't be had",
    "cannot be had",
    "asked for",
    "put up with",
    "till",
    "nobody",
    "everybody",
    "he",
    "his",
    "news",
    "look whether",
    "looks whether",
    "goes on",
    "go on",
    "made true",
];

/// The most words of a sentence. Writers aim at 25.
const SENTENCE_WORDS_MOST: usize = 40;

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(root).unwrap().chain(fs::read_dir(root.join("docs")).unwrap());
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    found.sort();
    found
}

/// A line's text without code spans and without the targets of links.
fn plain(line: &str) -> String {
    let prose: Vec<&str> = line.split('`').step_by(2).collect();
    let mut text = String::new();
    for (at, part) in prose.join("code").split("](").enumerate() {
        let part = if at == 0 { part } else { part.split_once(')').map_or("", |(_, behind)| behind) };
        text.push_str(part);
    }
    text
}

/// The paragraphs and list items of a document, without code blocks, tables and headings.
fn paragraphs(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut is_code = false;
    for line in text.lines() {
        let line = line.trim();
        is_code ^= line.starts_with("```");
        let is_item = line.starts_with("- ")
            || line.split_once(". ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        if line.is_empty() || is_item || is_code {
            found.push(String::new());
        }
        if !is_code && !line.starts_with(['|', '#', '`', '=', '!']) {
            let last = found.last_mut().unwrap();
            last.push_str(line);
            last.push(' ');
        }
    }
    found.iter().map(|paragraph| plain(paragraph)).filter(|paragraph| !paragraph.trim().is_empty()).collect()
}

/// The sentences of a paragraph. One ends with its mark and a space, and the next begins with a capital letter.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = 0;
    for (at, _) in paragraph.match_indices([' ']) {
        let (before, after) = (paragraph[..at].chars().next_back(), paragraph[at..].trim_start().chars().next());
        if before.is_some_and(|mark| ".:?!".contains(mark)) && after.is_none_or(|next| !next.is_lowercase()) {
            found.push(paragraph[begin..at].trim());
            begin = at;
        }
    }
    found.push(paragraph[begin..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

#[test]
fn documents_avoid_words_that_are_read_twice() {
    let mut paragraphs_checked = 0;
    let mut findings = Vec::new();
    for path in documents() {
        for paragraph in paragraphs(&fs::read_to_string(&path).unwrap()) {
            let words: Vec<_> = paragraph.split(|c: char| !c.is_alphanumeric() && c != '\'').collect();
            let text = format!(" {} ", words.join(" ").to_lowercase());
            let has = |avoided: &&&str| text.contains(&format!(" {avoided} "));
            let name = path.file_name().unwrap().display();
            findings.extend(AVOIDED.iter().filter(has).map(|avoided| format!("{name}: {avoided:?} in: {paragraph}")));
            paragraphs_checked += 1;
        }
    }
    println!("{paragraphs_checked} paragraphs checked for {} words", AVOIDED.len());
    assert!(paragraphs_checked > 300, "the paragraphs were not found");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn sentences_of_documents_are_short() {
    let (mut count, mut words, mut findings) = (0, 0, Vec::new());
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        let mut longest = 0;
        for paragraph in paragraphs(&text) {
            for sentence in sentences(&paragraph) {
                let length = sentence.split_whitespace().count();
                longest = longest.max(length);
                (count, words) = (count + 1, words + length);
                if length > SENTENCE_WORDS_MOST {
                    findings.push(format!("{}: {length} words: {sentence}", path.display()));
                }
            }
        }
        println!("{}: the longest sentence has {longest} words", path.file_name().unwrap().display());
    }
    println!("{count} sentences of {:.1} words", words as f64 / f64::from(count));
    assert!(count > 500, "the sentences were not found");
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}
