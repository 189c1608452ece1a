//! CONTROL: commands for the server itself (`docs/misc/xenstore.txt`, "Debugging").

use alloc::string::String;

use crate::engine::change_set::Effect;
use crate::engine::requests::Call;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// Does what a command says with the strings that follow its name.
type Command = fn(&mut Call<'_>, parameters: &[u8]) -> Result<(), Errno>;

/// The commands, with their parameters as `help` shows them.
const COMMANDS: &[(&str, &str, Command)] = &[("check", "", check), ("print", "<string>", print), ("help", "", help)];

/// CONTROL `<command>|[<parameter>|…]`.
pub(super) fn control(call: &mut Call<'_>) -> Result<(), Errno> {
    let (name, parameters) = payload::split_string(call.payload).ok_or(Errno::Inval)?;
    let known = COMMANDS.iter().find(|(known, ..)| known.as_bytes() == name);
    let (_, _, command) = known.ok_or(Errno::Inval)?;
    command(call, parameters)
}

/// `check`: counts everything again. What is wrong is logged and refused, and repaired by nobody.
fn check(call: &mut Call<'_>, parameters: &[u8]) -> Result<(), Errno> {
    if payload::count_strings(parameters) != 0 {
        return Err(Errno::Inval);
    }
    if let Err(inconsistency) = call.view.state.check() {
        log::error!("check: {inconsistency:?}");
        return Err(Errno::Io);
    }
    call.changes.effect = Some(Effect::Checked);
    call.ok()
}

/// `print <string>`: a line in the log.
fn print(call: &mut Call<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let [text] = payload::exact_strings(parameters).ok_or(Errno::Inval)?;
    call.changes.effect = Some(Effect::Print(String::from_utf8_lossy(text).into_owned()));
    call.ok()
}

/// `help`: the commands.
fn help(call: &mut Call<'_>, parameters: &[u8]) -> Result<(), Errno> {
    if payload::count_strings(parameters) != 0 {
        return Err(Errno::Inval);
    }
    for (name, parameters, _) in COMMANDS {
        call.answer_text(format_args!("{name}\t{parameters}\n"))?;
    }
    call.answer(b"\0")
}
