//! The sizes of functions and files.

use crate::source::modules;

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
    let modules = modules();
    let mut longest = (0, String::new());
    let mut checked = 0;
    for module in &modules {
        for (at, first) in module.code.iter().enumerate() {
            let Some(count) = function_lines(&module.code[at..]) else { continue };
            checked += 1;
            assert!(count <= FUNCTION_LINES_MOST, "{}: {count} lines: {first}", module.file.display());
            if count > longest.0 {
                longest = (count, format!("{}: {}", module.name, first.trim()));
            }
        }
    }
    println!("{checked} functions checked; the longest has {} lines: {}", longest.0, longest.1);
    let largest = modules.iter().max_by_key(|module| module.lines).unwrap();
    println!("{} files; the largest has {} lines: {}", modules.len(), largest.lines, largest.name);
    assert!(checked > 1000, "the functions were not found");
}
