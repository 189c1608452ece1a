//! CONTROL `live-update`, with the syntax of the C server's 4.17 to 4.22, as `xenstore-control` sends it. Also this
//! server's own commands about the state that an update hands over.
//!
//! This module only parses the commands. The host executes them, and answers in text: "OK", "BUSY" or an error.

use alloc::string::String;
use alloc::vec::Vec;

use crate::engine::requests::RequestContext;
use crate::engine::requests::change_set::{Answer, UpdateCommand};
use crate::wire::errno::Errno;
use crate::wire::payload;

/// `live-update <word>|…`.
pub(super) fn live_update(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let command = parse(parameters).ok_or(Errno::Inval)?;
    context.changes.answer = Answer::Deferred(command);
    Ok(())
}

/// `stream-version [<version>|auto]`: shows or sets the newest version of the stream that an update may write.
pub(super) fn stream_version(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let command = match optional(parameters)? {
        None => UpdateCommand::ShowVersion,
        Some(b"auto") => UpdateCommand::LimitVersion(None),
        Some(number) => UpdateCommand::LimitVersion(Some(small(number)?)),
    };
    context.changes.answer = Answer::Deferred(command);
    Ok(())
}

/// `update-report [<version>]`: reports the effects of an update now.
pub(super) fn update_report(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let version = optional(parameters)?.map(small).transpose()?;
    context.changes.answer = Answer::Deferred(UpdateCommand::Report { version });
    Ok(())
}

/// `stream [<offset>]`: answers with a part of the state as a stream.
pub(super) fn stream(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let offset = optional(parameters)?.map(|offset| payload::decimal(offset).ok_or(Errno::Inval)).transpose()?;
    let offset = usize::try_from(offset.unwrap_or(0)).map_err(|_| Errno::Inval)?;
    context.changes.answer = Answer::Deferred(UpdateCommand::Stream { offset });
    Ok(())
}

/// Returns the only parameter; `None` without one. Refuses more than one.
fn optional(parameters: &[u8]) -> Result<Option<&[u8]>, Errno> {
    if payload::count_strings(parameters) == 0 {
        return Ok(None);
    }
    let [parameter] = payload::exact_strings(parameters).ok_or(Errno::Inval)?;
    Ok(Some(parameter))
}

fn small(number: &[u8]) -> Result<u32, Errno> {
    payload::decimal(number).and_then(|number| u32::try_from(number).ok()).ok_or(Errno::Inval)
}

/// Parses a command; `None` if it is not one.
fn parse(parameters: &[u8]) -> Option<UpdateCommand> {
    let (word, rest) = payload::split_string(parameters)?;
    Some(match word {
        b"-a" if rest.is_empty() => UpdateCommand::Abort,
        b"-b" => {
            let bytes = payload::decimal(payload::only_string(rest)?)?;
            UpdateCommand::Begin { bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
        }
        b"-d" => {
            // The data may contain any bytes. A NUL may follow them.
            let (count, data) = payload::split_string(rest)?;
            let count = usize::try_from(payload::decimal(count)?).ok()?;
            UpdateCommand::Data(Vec::from(data.get(..count)?))
        }
        b"-c" => UpdateCommand::CommandLine(String::from_utf8(payload::only_string(rest)?.into()).ok()?),
        b"-s" => parse_start(rest)?,
        _ => return None,
    })
}

/// Parses `-s [-t <seconds>] [-F] [-v <version>]`, with the options in any order.
fn parse_start(mut rest: &[u8]) -> Option<UpdateCommand> {
    let (mut force, mut timeout_s, mut version) = (false, 0, None);
    while !rest.is_empty() {
        let (word, behind) = payload::split_string(rest)?;
        rest = behind;
        match word {
            b"-F" => force = true,
            b"-t" | b"-v" => {
                let (value, behind) = payload::split_string(rest)?;
                rest = behind;
                let value = u32::try_from(payload::decimal(value)?).unwrap_or(u32::MAX);
                if word == b"-t" {
                    timeout_s = value;
                } else {
                    version = Some(value);
                }
            }
            _ => return None,
        }
    }
    Some(UpdateCommand::Start { force, timeout_s, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_each_release_are_read() {
        let start = |force, timeout_s, version| Some(UpdateCommand::Start { force, timeout_s, version });
        let data = |bytes: &[u8]| Some(UpdateCommand::Data(bytes.to_vec()));
        for (parameters, expected) in [
            (&b"-a\0"[..], Some(UpdateCommand::Abort)),
            (b"-b\x00486272\0", Some(UpdateCommand::Begin { bytes: 486_272 })),
            (b"-d\x003\0\0\x01\0\0", data(b"\0\x01\0")),
            (b"-d\x003\0\0\x01\0", data(b"\0\x01\0")),
            (b"-d\x000\0", data(b"")),
            (b"-c\0--event 3 -U\0", Some(UpdateCommand::CommandLine("--event 3 -U".into()))),
            (b"-s\0-t\x0060\0", start(false, 60, None)),
            (b"-s\0-t\x0060\0-F\0", start(true, 60, None)),
            (b"-s\0-v\x001\0-F\0-t\x005\0", start(true, 5, Some(1))),
            (b"-s\0", start(false, 0, None)),
        ] {
            assert_eq!(parse(parameters), expected, "{parameters:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in [
            &b""[..],
            b"-a",
            b"-a\0x\0",
            b"-b\0",
            b"-b\0x\0",
            b"-b\x001\x002\0",
            b"-d\0",
            b"-d\x004\0abc",
            b"-d\0-1\0abc\0",
            b"-c\0",
            b"-c\0\xff\0",
            b"-s\0-t\0",
            b"-s\0-t\0x\0",
            b"-s\0-x\0",
            b"-s\0-F",
            b"-f\0file\0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
