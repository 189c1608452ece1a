//! Shows, checks, compares and converts migration streams of Xenstore servers.

mod arguments;
mod commands;
mod describe;
mod file;
mod json;

use std::process::ExitCode;

use arguments::Command;

/// The result of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The command found nothing wrong.
    Fine,
    /// The stream is wrong, two streams differ, or something would be lost: exit status 1.
    Wrong,
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let command = match arguments::parse(&words) {
        Ok(Command::Help(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(command) => command,
        Err(message) => {
            eprintln!("xs-stream: {message}\nTry 'xs-stream --help'.");
            return ExitCode::from(2);
        }
    };
    match commands::run(&command) {
        Ok(Found::Fine) => ExitCode::SUCCESS,
        Ok(Found::Wrong) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("xs-stream: {message}");
            ExitCode::FAILURE
        }
    }
}
