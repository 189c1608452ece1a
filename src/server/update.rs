//! CONTROL `live-update`: prepares an update, waits for transactions if it must, and tells the host when to start it.
//!
//! Each command is answered once. The start is answered when it is refused or has failed; when it succeeds, the
//! successor answers, to whom the answer is handed with everything else that waits to be sent.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::engine::requests::change_set::UpdateCommand;
use crate::engine::{Deferred, Engine};
use crate::limits;
use crate::server::{Action, Platform, Server};
use crate::stream::record::Version;
use crate::update::image::Image;
use crate::update::session::{Refusal, Session};
use crate::update::upload::Upload;

/// The newest version of the stream that is known.
pub const NEWEST_VERSION: u32 = Version::NEWEST;
/// What a command that was done is answered.
pub(super) const DONE: &[u8] = b"OK\0";

/// What is known of an update.
#[derive(Debug, Default)]
pub(super) struct Updates {
    session: Option<Session>,
    start: Option<Start>,
    /// The state that somebody reads in parts, and when he last did.
    pub(super) kept_stream: Option<(Vec<u8>, u64)>,
}

/// A start that is not answered yet.
#[derive(Debug)]
struct Start {
    asked: Deferred,
    image: Image,
    force: bool,
    limit: u32,
    /// When transactions are no longer waited for.
    deadline_ms: u64,
    /// What the stream will be, once the host was told.
    decided: Option<Decided>,
}

/// The stream that a successor gets.
#[derive(Debug)]
struct Decided {
    version: Version,
    /// What is in use and not in the stream, a line each.
    lost: Cow<'static, str>,
}

/// What the host needs to start a successor. The server keeps nothing of it.
#[derive(Debug)]
pub struct Successor {
    /// The kernel.
    pub image: Image,
    /// The file that it is in.
    pub file: Upload,
    /// Its command line; `None` for the present one.
    pub command_line: Option<String>,
    /// The version of the stream that it gets.
    pub version: Version,
    /// Whether it is to be started even if there is no memory to keep this server's state beside it.
    pub force: bool,
    /// Who is to be answered, by the successor if there is one.
    pub asked: Deferred,
    /// What is in use and not in the stream, a line each.
    pub lost: Cow<'static, str>,
}

impl Successor {
    /// What whoever asked is answered by the successor: "OK", which is all that tools look at, and behind its NUL what was
    /// lost, if anything was.
    pub(super) fn done(&self) -> Vec<u8> {
        let mut payload = Vec::from(DONE);
        if !self.lost.is_empty() {
            let room = limits::PAYLOAD_BYTES.saturating_sub(DONE.len()).saturating_sub(1);
            let lost = self.lost.as_bytes();
            payload.extend_from_slice(lost.get(..room).unwrap_or(lost));
            payload.push(0);
        }
        payload
    }
}

/// What is to be done with a start.
enum Decision {
    Wait,
    Go(Decided),
    Refuse(Refusal),
}

impl Updates {
    /// When something is to be looked at again: a start that waits, or what is dropped if nobody asks for more of it.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let start_ms = self.start.as_ref().filter(|start| start.decided.is_none()).map(|start| start.deadline_ms);
        let session = self.session.as_ref().filter(|_| self.start.is_none());
        let kept_ms = self.kept_stream.as_ref().map(|(_, asked_ms)| asked_ms.saturating_add(limits::STREAM_KEPT_MS));
        [start_ms, session.map(Session::abandoned_ms), kept_ms].into_iter().flatten().min()
    }

    /// Drops what was kept for somebody who has not asked for more of it for long: it takes memory that guests could have.
    pub(super) fn drop_abandoned(&mut self, now_ms: u64) {
        if self.start.is_none() {
            self.session.take_if(|session| session.abandoned_ms() <= now_ms);
        }
        self.kept_stream.take_if(|(_, asked_ms)| asked_ms.saturating_add(limits::STREAM_KEPT_MS) <= now_ms);
    }

    /// The start that is not answered yet: who asked for it.
    pub(super) fn waiting(&self) -> Option<&Deferred> {
        self.start.as_ref().map(|start| &start.asked)
    }
}

impl Server {
    /// Does what a command says, as far as it is done at once, and answers it.
    pub(super) fn handle_update<P: Platform>(
        &mut self,
        asked: Deferred,
        command: UpdateCommand,
        platform: &P,
        now_ms: u64,
    ) {
        let outcome = match command {
            UpdateCommand::Abort => self.abort_update(),
            UpdateCommand::Begin { bytes } => self.begin_update(asked, bytes, platform, now_ms),
            UpdateCommand::Data(part) => self.session_of(asked).and_then(|session| session.add(&part, now_ms)),
            UpdateCommand::CommandLine(text) => {
                self.session_of(asked).and_then(|session| session.set_command_line(text, now_ms))
            }
            UpdateCommand::ShowVersion => {
                let limit = self.engine.stream_limit().map_or_else(|| "auto".into(), |limit| limit.to_string());
                return answer(&mut self.engine, asked, &limit);
            }
            UpdateCommand::LimitVersion(limit) => self.set_version_limit(limit),
            UpdateCommand::Report { version } => {
                let text = self.update_report(version, platform, now_ms);
                return answer(&mut self.engine, asked, &text);
            }
            UpdateCommand::Stream { offset } => {
                let text = self.stream_part(offset, platform, now_ms);
                return answer(&mut self.engine, asked, &text);
            }
            UpdateCommand::Start { force, timeout_s, version } => {
                match self.start_update(asked, force, timeout_s, version, now_ms) {
                    Ok(()) => return self.go_on_with_update(now_ms),
                    Err(refusal) => Err(refusal),
                }
            }
        };
        match outcome {
            Ok(()) => self.engine.answer(asked, Ok(DONE)),
            Err(refusal) => answer(&mut self.engine, asked, &refusal),
        }
    }

    fn set_version_limit(&mut self, limit: Option<u32>) -> Result<(), Refusal> {
        if limit.is_some_and(|limit| limit == 0 || limit > NEWEST_VERSION) {
            return Err(format!("The stream's version is 1 to {NEWEST_VERSION}.").into());
        }
        self.engine.limit_stream(limit);
        Ok(())
    }

    /// The newest version that may be written, if whoever asks says `version`.
    pub(super) fn version_limit(&self, version: Option<u32>) -> u32 {
        let limits = [version, self.engine.stream_limit(), Some(NEWEST_VERSION)];
        limits.into_iter().flatten().min().unwrap_or(NEWEST_VERSION)
    }

    fn abort_update(&mut self) -> Result<(), Refusal> {
        if let Some(start) = self.updates.start.take() {
            answer(&mut self.engine, start.asked, "The update was called off.");
        }
        match self.updates.session.take() {
            Some(_) => Ok(()),
            None => Err("There is no update to call off.".into()),
        }
    }

    fn begin_update<P: Platform>(
        &mut self,
        asked: Deferred,
        bytes: usize,
        platform: &P,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let is_free =
            |session: &Session| self.updates.start.is_none() && self.engine.connection(session.owner()).is_none();
        if self.updates.session.as_ref().is_some_and(|session| !is_free(session)) {
            return Err("Another update is being prepared.".into());
        }
        self.updates.session = None;
        let free = platform.free_memory().saturating_sub(limits::UPDATE_RESERVE_BYTES);
        self.updates.session = Some(Session::begin(asked.connection, bytes, free, now_ms)?);
        Ok(())
    }

    fn session_of(&mut self, asked: Deferred) -> Result<&mut Session, Refusal> {
        let is_starting = self.updates.start.is_some();
        let session = self.updates.session.as_mut().filter(|session| session.owner() == asked.connection);
        session.filter(|_| !is_starting).ok_or("There is no update that this client prepares.".into())
    }

    fn start_update(
        &mut self,
        asked: Deferred,
        force: bool,
        timeout_s: u32,
        version: Option<u32>,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        if self.updates.start.is_some() {
            return Err("BUSY".into());
        }
        let image = self.session_of(asked)?.check(now_ms)?;
        if version.is_some_and(|version| version == 0 || version > NEWEST_VERSION) {
            return Err(format!("The stream's version is 1 to {NEWEST_VERSION}.").into());
        }
        let limit = self.version_limit(version);
        let deadline_ms = now_ms.saturating_add(u64::from(timeout_s).saturating_mul(1000));
        self.updates.start = Some(Start { asked, image, force, limit, deadline_ms, decided: None });
        Ok(())
    }

    /// Looks whether an update that was asked for can start now, and refuses it if it never will.
    pub(super) fn go_on_with_update(&mut self, now_ms: u64) {
        let Some(start) = self.updates.start.as_ref().filter(|start| start.decided.is_none()) else { return };
        if !self.engine.waits_for_answer(&start.asked) {
            // Who asked is gone.
            self.updates.start = None;
            return;
        }
        match decide(start, &self.engine, now_ms) {
            Decision::Wait => {}
            Decision::Go(decided) => {
                if let Some(start) = &mut self.updates.start {
                    start.decided = Some(decided);
                    self.actions.push_back(Action::StartUpdate);
                }
            }
            Decision::Refuse(refusal) => self.refuse_update(&refusal),
        }
    }

    /// Hands out what the host needs to start a successor, once, after [`Action::StartUpdate`]. If it fails, the host says
    /// so by [`Server::successor_failed`], or by [`Server::take_state_back`] if it made the server drop its state.
    pub fn take_successor(&mut self) -> Option<Successor> {
        let Start { asked, image, force, decided, .. } = self.updates.start.take_if(|start| start.decided.is_some())?;
        let (Decided { version, lost }, session) = (decided?, self.updates.session.take()?);
        let (file, command_line) = session.into_parts();
        Some(Successor { image, file, command_line, version, force, asked, lost })
    }

    /// There is no successor: whoever asked is told why.
    pub fn successor_failed(&mut self, asked: Deferred, why: &str) {
        log::warn!("live update: {why}");
        answer(&mut self.engine, asked, why);
    }

    /// The update does not take place: whoever asked is told why, and what was prepared is dropped.
    fn refuse_update(&mut self, why: &str) {
        self.updates.session = None;
        if let Some(start) = self.updates.start.take() {
            self.successor_failed(start.asked, why);
        }
    }
}

/// Answers in text.
fn answer(engine: &mut Engine, asked: Deferred, text: &str) {
    engine.answer(asked, Ok(&payload(text)));
}

/// A text as an answer, cut to what a message holds.
pub(super) fn payload(text: &str) -> Vec<u8> {
    let room = limits::PAYLOAD_BYTES.saturating_sub(1);
    let bytes = text.as_bytes();
    let mut payload: Vec<u8> = Vec::from(bytes.get(..room).unwrap_or(bytes));
    payload.push(0);
    payload
}

/// Whether an update can start: at once if the version that is allowed holds everything, and else when the transactions
/// that it can't hold are over.
fn decide(start: &Start, engine: &Engine, now_ms: u64) -> Decision {
    let lossless = |version| Decision::Go(Decided { version, lost: Cow::Borrowed("") });
    if !engine.needs_version_2() {
        return lossless(Version::One);
    }
    if start.limit >= Version::Two as u32 {
        return lossless(Version::Two);
    }
    let mut needs = engine.version_2_needs(now_ms);
    let only_transactions = needs.all(|need| need.features.is_none() && need.depth_watches == 0);
    let has_transactions = engine.version_2_needs(now_ms).any(|need| need.transactions > 0);
    let is_over = now_ms >= start.deadline_ms;
    if start.force {
        // What else is lost is lost anyway, but transactions may still end by themselves.
        if has_transactions && !is_over {
            return Decision::Wait;
        }
        log::warn!("live update with a version 1 stream, which loses:");
        engine.version_2_needs(now_ms).for_each(|need| log::warn!("{need}"));
        return Decision::Go(Decided { version: Version::One, lost: list(engine, now_ms).into() });
    }
    if only_transactions && !is_over {
        return Decision::Wait;
    }
    Decision::Refuse(format!("A version 1 stream can't hold what is in use:\n{}", list(engine, now_ms)).into())
}

/// One line for each need of version 2, as far as a message can hold them: there may be thousands.
pub(super) fn list(engine: &Engine, now_ms: u64) -> String {
    let mut text = String::new();
    for need in engine.version_2_needs(now_ms) {
        if text.len() >= limits::PAYLOAD_BYTES {
            break;
        }
        let line_end = if text.is_empty() { "" } else { "\n" };
        // Nothing goes wrong with a string.
        let _ = write!(text, "{line_end}{need}");
    }
    text
}
