//! The project's English: documents and comments avoid words that a native reader reads twice, and long sentences.
//!
//! The documents are the Markdown files of the root and of `docs/`. The comments are those of sources, scripts and
//! build files. Code blocks, code spans and URLs are not checked.
#![allow(missing_docs, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Words and phrases to avoid, as whole words. Each has a plainer replacement, such as "again", "checks whether" or
/// "requested".
const AVOIDED: &[&str] = &[
    "anew",
    "anybody",
    "are told",
    "as ever",
    "ask for",
    "asked for",
    "asks for",
    "beside",
    "can't be had",
    "cannot be had",
    "come away from",
    "comes away from",
    "everybody",
    "far end",
    "go on",
    "goes on",
    "going on",
    "has to be had",
    "have to be had",
    "he",
    "himself",
    "his",
    "it is looked",
    "look whether",
    "looked whether",
    "looks whether",
    "made true",
    "make true",
    "makes true",
    "news",
    "nobody",
    "put up with",
    "say so",
    "says so",
    "somebody",
    "stands in",
    "tell of",
    "tells",
    "those who",
    "till",
    "told",
    "whichever",
    "who asked",
    "whoever",
    "whose it is",
];

/// Words that begin a sentence whose subject is not a noun. Questions may begin with them.
const HEADLESS: &[&str] = &["What", "Whatever", "Who", "Whoever", "Whose"];

/// The most words of a sentence. Writers aim at [`SENTENCE_WORDS`]; a list after a colon may take a few more.
const SENTENCE_WORDS_MOST: usize = 30;

/// The words of a sentence that writers aim at. Longer sentences are counted.
const SENTENCE_WORDS: usize = 25;

/// The files and folders whose comments are checked.
const COMMENTED: &[&str] = &[
    "src",
    "tests",
    "benches",
    "examples",
    "boot",
    "fuzz/src",
    "fuzz/run.sh",
    "build.rs",
    "Makefile",
    "Cargo.toml",
    ".cargo",
];

/// A paragraph, a list item, or a cell of a table.
struct Paragraph {
    path: PathBuf,
    /// The line on which it begins, from 1.
    line: usize,
    is_cell: bool,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files in a folder and below it, or the file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut found: Vec<_> = fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect();
    found.sort();
    found
}

/// Returns a text without code spans, targets of links, and URLs.
fn plain(text: &str) -> String {
    let prose: Vec<&str> = text.split('`').step_by(2).collect();
    let mut found = String::new();
    for (at, part) in prose.join("Code").split("](").enumerate() {
        let part = if at == 0 { part } else { part.split_once(')').map_or("", |(_, after)| after) };
        found.push_str(part);
    }
    let without_url = |word: &'_ str| match word {
        url if !url.contains("://") => url.to_owned(),
        url if url.ends_with('.') => "URL.".to_owned(),
        _ => "URL".to_owned(),
    };
    found.split(' ').map(without_url).collect::<Vec<_>>().join(" ")
}

fn is_list_item(line: &str) -> bool {
    line.starts_with("- ")
        || line.split_once(". ").is_some_and(|(number, _)| {
            !number.is_empty() && number.len() < 3 && number.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// Returns the paragraphs of numbered lines, without code blocks and headings.
fn paragraphs<'a>(path: &Path, lines: impl Iterator<Item = (usize, &'a str)>) -> Vec<Paragraph> {
    let mut found: Vec<Paragraph> = Vec::new();
    let mut is_code = false;
    let mut is_open = false;
    let paragraph =
        |line, text: &str, is_cell| Paragraph { path: path.to_owned(), line, is_cell, text: text.to_owned() };
    for (number, line) in lines {
        let line = line.trim();
        is_code ^= line.starts_with("```");
        if line.starts_with('|') && !is_code {
            found.extend(plain(line).split('|').map(|cell| paragraph(number, cell.trim(), true)));
        }
        let is_text = !is_code && !line.starts_with(['|', '#', '=', '!']) && !line.starts_with("```");
        let is_row = line.contains("  ");
        let is_break = !is_text || is_row || is_list_item(line) || !line.contains(char::is_alphanumeric);
        if is_break {
            is_open = false;
        }
        if is_text {
            match found.last_mut().filter(|_| is_open) {
                Some(last) => last.text = format!("{} {line}", last.text),
                None => found.push(paragraph(number, line, false)),
            }
            is_open = !line.is_empty() && !is_row;
        }
    }
    for paragraph in &mut found {
        paragraph.text = plain(&paragraph.text);
    }
    found.retain(|paragraph| paragraph.text.contains(char::is_alphabetic));
    found
}

/// Returns a line's comment with its mark; `None` for a line without a comment.
fn comment<'a>(line: &'a str, marks: &[&'a str], trailing: Option<&'a str>) -> Option<(&'a str, &'a str)> {
    let line = line.trim();
    for mark in marks {
        if let Some(text) = line.strip_prefix(mark) {
            return Some((mark, text.strip_prefix(' ').unwrap_or(text)));
        }
    }
    let trailing = trailing?;
    let (code, text) = line.split_once(trailing)?;
    code.matches('"').count().is_multiple_of(2).then_some((trailing, text))
}

/// Returns the paragraphs of a file's comments. Adjacent lines with the same mark belong together.
fn comments(path: &Path, text: &str) -> Vec<Paragraph> {
    let name = path.file_name().unwrap().to_string_lossy();
    let (marks, trailing): (&[&str], Option<&str>) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => (&["//!", "///", "//"], Some(" // ")),
        Some("s") => (&["#"], Some(" # ")),
        Some("sh" | "toml" | "cfg") => (&["#"], None),
        None if name == "Makefile" => (&["#"], Some(" ## ")),
        None if name == "xencommons" => (&["#"], None),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    let mut block: Vec<(usize, &str)> = Vec::new();
    let mut last_mark = "";
    for (at, line) in text.lines().enumerate() {
        let comment = comment(line, marks, trailing);
        let mark = comment.map_or("", |(mark, _)| mark);
        if mark != last_mark || Some(mark) == trailing {
            found.extend(paragraphs(path, block.drain(..)));
        }
        last_mark = mark;
        block.extend(comment.map(|(_, text)| (at + 1, text)));
    }
    found.extend(paragraphs(path, block.drain(..)));
    found
}

fn documents() -> Vec<Paragraph> {
    let entries = fs::read_dir(root()).unwrap().chain(fs::read_dir(root().join("docs")).unwrap());
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        paragraphs(path, text.lines().enumerate().map(|(at, line)| (at + 1, line)))
    };
    paths.iter().flat_map(read).collect()
}

/// Returns the sentences of a paragraph. A sentence ends with its mark and a space, and the next begins with a capital
/// letter.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut begin = 0;
    for (at, _) in paragraph.match_indices([' ']) {
        let before = paragraph[..at].trim_end_matches(['*', '"', ')']).chars().next_back();
        let after = paragraph[at..].trim_start().trim_start_matches(['*', '"', '(']);
        let is_start = after.starts_with("dom0") || !after.starts_with(char::is_lowercase);
        if is_start && before.is_some_and(|mark| ".:?!".contains(mark)) {
            found.push(paragraph[begin..at].trim());
            begin = at;
        }
    }
    found.push(paragraph[begin..].trim());
    found.retain(|sentence| !sentence.is_empty());
    found
}

fn words(sentence: &str) -> usize {
    sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count()
}

/// Returns the faults of a sentence.
fn faults(sentence: &str, is_cell: bool) -> Vec<String> {
    let all: Vec<_> = sentence.split(|c: char| !c.is_alphanumeric() && c != '\'').collect();
    let spaced = format!(" {} ", all.join(" ").to_lowercase());
    let avoided = AVOIDED.iter().filter(|avoided| spaced.contains(&format!(" {avoided} ")));
    let mut found: Vec<_> = avoided.map(|avoided| format!("{avoided:?}")).collect();
    let count = words(sentence);
    if count > SENTENCE_WORDS_MOST && !is_cell {
        found.push(format!("{count} words"));
    }
    let first = sentence.split(' ').next().unwrap_or_default();
    if HEADLESS.contains(&first) && !is_cell && !sentence.ends_with('?') {
        found.push(format!("begins with {first}"));
    }
    found
}

/// Returns the folder of a file, at most two levels below the root.
fn folder(path: &Path) -> String {
    let parts: Vec<_> =
        path.parent().unwrap_or(path).components().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// Checks all sentences, and prints the counts. Returns the findings by folder.
fn check(kind: &str, all: &[Paragraph]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut sum, mut count, mut long, mut longest) = (0, 0, 0, (0, String::new()));
    for paragraph in all {
        let path = paragraph.path.strip_prefix(root()).unwrap();
        for sentence in sentences(&paragraph.text) {
            let place = format!("{}:{}: {sentence}", path.display(), paragraph.line);
            let length = words(sentence);
            let faults = faults(sentence, paragraph.is_cell);
            if !paragraph.is_cell {
                (sum, count, long) = (sum + length, count + 1, long + usize::from(length > SENTENCE_WORDS));
                longest = longest.max((length, place.clone()));
            }
            if !faults.is_empty() {
                found.entry(folder(path)).or_default().push(format!("{} in {place}", faults.join(", ")));
            }
        }
    }
    let mut paths: Vec<_> = all.iter().map(|paragraph| &paragraph.path).collect();
    paths.dedup();
    println!(
        "{kind}: {} files, {count} sentences, {sum} words, {:.1} a sentence",
        paths.len(),
        sum as f64 / count as f64
    );
    println!(
        "{kind}: {long} sentences have more than {SENTENCE_WORDS} words; the longest has {}: {}",
        longest.0, longest.1
    );
    found
}

#[test]
fn documents_are_plain() {
    let all = documents();
    assert!(all.len() > 500, "the paragraphs were not found");
    let findings = check("documents", &all);
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn comments_are_plain() {
    let read = |path: PathBuf| fs::read_to_string(&path).map_or_else(|_| Vec::new(), |text| comments(&path, &text));
    let all: Vec<_> = COMMENTED.iter().flat_map(|path| files(&root().join(path))).flat_map(read).collect();
    assert!(all.len() > 5000, "the comments were not found");
    let findings = check("comments", &all);
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn faults_are_found_and_code_is_not_checked() {
    let source = [
        "//! Nobody is told of `anew`",
        "//! at <https://anew.example>. It is anew.",
        "fn f() {} // Whose it is.",
        "/// ```",
        "/// anew",
        "/// ```",
        "/// | Name | goes on |",
    ];
    let path = Path::new("f.rs");
    let faults = |paragraph: &Paragraph| {
        sentences(&paragraph.text).into_iter().flat_map(|s| faults(s, paragraph.is_cell)).collect::<Vec<_>>()
    };
    let found: Vec<_> = comments(path, &source.join("\n")).iter().flat_map(faults).collect();
    assert_eq!(found, ["\"nobody\"", "\"told\"", "\"anew\"", "\"whose it is\"", "begins with Whose", "\"goes on\""]);
}
