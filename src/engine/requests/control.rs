//! CONTROL: commands for the server itself (`docs/misc/xenstore.txt`, "Debugging"), with the names and texts of the C
//! server 4.22.

use alloc::string::String;

use crate::engine::report::Report;
use crate::engine::report::trace::Trace;
use crate::engine::requests::RequestContext;
use crate::engine::requests::change_set::{Answer, Effect, QuotaScope};
use crate::engine::requests::live_update::{live_update, stream, stream_version, update_report};
use crate::store::domain::DomId;
use crate::store::quota::Quota;
use crate::wire::errno::Errno;
use crate::wire::payload;

/// Executes a command with the strings that follow its name.
type Command = fn(&mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno>;

/// The commands, with their parameters as `help` shows them.
const COMMANDS: &[(&str, &str, Command)] = &[
    ("check", "", check),
    ("log", "[on|off|+<switch>|-<switch>]", log),
    ("logfile", "<file>", logfile),
    ("memreport", "[<file>]", memreport),
    ("print", "<string>", print),
    ("quota", "[set <name> <val>|<domid>|max [-r]]", quota),
    ("quota-soft", "[set <name> <val>]", quota_soft),
    ("live-update", "[-c <cmdline>] [-F] [-t <seconds>] [-v <version>] <file>", live_update),
    ("stream-version", "[1|2|auto]", stream_version),
    ("update-report", "[<version>]", update_report),
    ("stream", "[<offset>]", stream),
    ("help", "", help),
];

/// The answer to `logfile`: a stub domain has no files.
const WHERE_THE_LOG_IS: &str = "The log is on the console of the Xenstore domain: xl console Xenstore\n";

/// CONTROL `<command>|[<parameter>|…]` executes the command.
pub(super) fn control(context: &mut RequestContext<'_>) -> Result<(), Errno> {
    let (name, parameters) = payload::split_string(context.payload).ok_or(Errno::Inval)?;
    let known = COMMANDS.iter().find(|(known, ..)| known.as_bytes() == name);
    let (_, _, command) = known.ok_or(Errno::Inval)?;
    command(context, parameters)
}

/// `check`: counts everything again, and answers with the differences. Repairs nothing.
fn check(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let [] = strings(parameters)?;
    report(context, Report::Check)
}

/// `log`: shows the switches, or sets one.
fn log(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    if payload::count_strings(parameters) == 0 {
        context.answer_text(format_args!("Log switch settings:\n"))?;
        for (name, switch) in Trace::NAMES {
            let state = if context.trace.switches.contains(switch) { "on" } else { "off" };
            context.answer_text(format_args!("{name:8}: {state}\n"))?;
        }
        return context.answer(b"\0");
    }
    let [command] = strings(parameters)?;
    context.changes.effect = Some(Effect::SetTrace(context.trace.after(command).ok_or(Errno::Inval)?));
    context.ok()
}

/// `logfile <file>`: answers where the log is.
fn logfile(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let [_file] = payload::exact_strings(parameters).ok_or(Errno::Inval)?;
    context.answer_text(format_args!("{WHERE_THE_LOG_IS}\0"))
}

/// `memreport [<file>]`: answers with the use of memory. The host's figures go to the log.
fn memreport(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    if payload::count_strings(parameters) > 1 {
        return Err(Errno::Inval);
    }
    report(context, Report::Memory)
}

/// `print <string>`: logs a line.
fn print(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let [text] = payload::exact_strings(parameters).ok_or(Errno::Inval)?;
    context.changes.effect = Some(Effect::Print(String::from_utf8_lossy(text).into_owned()));
    context.ok()
}

/// `quota`: shows or sets quotas, or shows the present and maximum use of a domain or of all guests.
fn quota(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    match first_word(parameters) {
        None => show_quotas(context, false),
        Some((b"set", rest)) => set_quota(context, rest, false),
        Some((b"max", rest)) => show_peaks(context, rest),
        Some(_) => {
            let [domid] = payload::exact_strings(parameters).ok_or(Errno::Inval)?;
            let domid = payload::decimal(domid).ok_or(Errno::Inval)?;
            let domid = u16::try_from(domid).map(DomId).map_err(|_| Errno::NoEnt)?;
            context.view.state.domains.get(domid).ok_or(Errno::NoEnt)?;
            report(context, Report::Usage(domid))
        }
    }
}

/// `quota-soft`: shows or sets the quotas that only cause warnings.
fn quota_soft(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    match first_word(parameters) {
        None => show_quotas(context, true),
        Some((b"set", rest)) => set_quota(context, rest, true),
        Some(_) => Err(Errno::Inval),
    }
}

fn show_quotas(context: &mut RequestContext<'_>, soft: bool) -> Result<(), Errno> {
    context.answer_text(format_args!("Quota settings:\n"))?;
    for quota in Quota::ALL.into_iter().filter(|quota| quota.is_soft() == soft) {
        let value = context.view.state.domains.default_quotas().get(quota);
        context.answer_text(format_args!("{:17}: {value:8} {}\n", quota.name(), quota.description()))?;
    }
    context.answer(b"\0")
}

/// Sets a quota for all domains: `set <name> <val>`. Refuses 0 (no limit), which here would be a slip; SET_QUOTA
/// accepts it.
fn set_quota(context: &mut RequestContext<'_>, parameters: &[u8], soft: bool) -> Result<(), Errno> {
    let [name, value] = strings(parameters)?;
    let quota = Quota::from_name(name, soft).ok_or(Errno::Inval)?;
    let value = payload::decimal(value.as_bytes()).and_then(|value| i32::try_from(value).ok());
    let value = value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).ok_or(Errno::Inval)?;
    context.changes.effect = Some(Effect::SetQuota { scope: QuotaScope::AllDomains, quota, value });
    context.ok()
}

/// Shows the maxima of all guests: `max [-r]`. With `-r`, they start again from the present use.
fn show_peaks(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let clear = match first_word(parameters) {
        None => false,
        Some((b"-r", b"")) => true,
        Some(_) => return Err(Errno::Inval),
    };
    report(context, Report::Peaks { clear })
}

/// `help`: lists the commands.
fn help(context: &mut RequestContext<'_>, parameters: &[u8]) -> Result<(), Errno> {
    let [] = strings(parameters)?;
    for (name, parameters, _) in COMMANDS {
        context.answer_text(format_args!("{name:15} {parameters}\n"))?;
    }
    context.answer(b"\0")
}

fn report(context: &mut RequestContext<'_>, report: Report) -> Result<(), Errno> {
    context.changes.answer = Answer::Report(report);
    Ok(())
}

/// Returns the first parameter and the rest.
fn first_word(parameters: &[u8]) -> Option<(&[u8], &[u8])> {
    payload::split_string(parameters)
}

/// Returns exactly `N` parameters, as text.
fn strings<const N: usize>(parameters: &[u8]) -> Result<[&str; N], Errno> {
    let strings = payload::exact_strings::<N>(parameters).ok_or(Errno::Inval)?;
    let mut texts = [""; N];
    for (text, string) in texts.iter_mut().zip(strings) {
        *text = core::str::from_utf8(string).map_err(|_| Errno::Inval)?;
    }
    Ok(texts)
}
