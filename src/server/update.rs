//! CONTROL `live-update`: prepares an update, waits for transactions if it must, and notifies the host when the update
//! starts.
//!
//! Each command is answered once. This server answers a start that it refuses or that fails. The successor answers a
//! start that succeeds: it receives the answer together with all other pending output.

use alloc::borrow::Cow;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{self, Write as _};

use crate::engine::requests::change_set::UpdateCommand;
use crate::engine::{Deferred, Engine};
use crate::limits;
use crate::server::{Action, Platform, Server};
use crate::stream::record::Version;
use crate::update::image::Image;
use crate::update::session::{Session, SessionError};
use crate::update::upload::Upload;

/// The newest stream version that this server knows.
pub const NEWEST_VERSION: u32 = Version::NEWEST;
/// The answer to a command that succeeded.
pub(super) const DONE: &[u8] = b"OK\0";

/// The state of an update.
#[derive(Debug, Default)]
pub(super) struct Updates {
    session: Option<Session>,
    start: Option<Start>,
    /// The saved state that a client reads in parts, and the time of the client's last read in milliseconds.
    pub(super) kept_stream: Option<(Vec<u8>, u64)>,
}

/// A start that is not answered yet.
#[derive(Debug)]
struct Start {
    asked: Deferred,
    image: Image,
    force: bool,
    limit: u32,
    /// Time after which the start no longer waits for transactions, in milliseconds.
    deadline_ms: u64,
    /// The chosen stream, once the host is notified.
    decided: Option<Decided>,
}

/// The stream for a successor.
#[derive(Debug)]
struct Decided {
    version: Version,
    /// State that is in use and not in the stream, one line each.
    lost: Cow<'static, str>,
}

/// The parts that the host needs to start a successor. The server keeps none of them.
#[derive(Debug)]
pub struct Successor {
    /// The kernel.
    pub image: Image,
    /// The kernel's file.
    pub file: Upload,
    /// The kernel's command line; `None` for the present one.
    pub command_line: Option<String>,
    /// The version of the successor's stream.
    pub version: Version,
    /// Whether the update starts even without memory to keep this server's state until the successor has restored it.
    pub force: bool,
    /// The request to answer; the successor answers it if there is one.
    pub asked: Deferred,
    /// State that is in use and not in the stream, one line each.
    pub lost: Cow<'static, str>,
}

impl Successor {
    /// Returns the successor's answer to the requester: "OK", which is all that tools check. If state was lost, the
    /// list of it follows after the NUL.
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

/// The reason why a command is refused. `xenstore-control` shows its text unchanged.
#[derive(Debug)]
enum Refusal {
    /// The preparation does not allow the command.
    Session(SessionError),
    /// No update exists that could be cancelled.
    NothingToCancel,
    /// Another client prepares an update.
    OtherClient,
    /// The client prepares no update.
    NoSession,
    /// An update is starting. `xenstore-control` tries again.
    Starting,
    /// The stream's version does not exist.
    NoVersion,
    /// The allowed version cannot express the state in use. The text lists its users, one a line.
    Inexpressible(String),
}

impl From<SessionError> for Refusal {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(error) => error.fmt(f),
            Self::NothingToCancel => f.write_str("There is no update to call off."),
            Self::OtherClient => f.write_str("Another update is being prepared."),
            Self::NoSession => f.write_str("There is no update that this client prepares."),
            Self::Starting => f.write_str("BUSY"),
            Self::NoVersion => write!(f, "The stream's version is 1 to {NEWEST_VERSION}."),
            Self::Inexpressible(users) => write!(f, "A version 1 stream can't hold what is in use:\n{users}"),
        }
    }
}

/// The next step for a pending start.
enum Decision {
    Wait,
    Go(Decided),
    Refuse(Refusal),
}

impl Updates {
    /// Returns the next time at which this state has to be checked: a pending start times out, or an idle session or
    /// stream is dropped.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        let start_ms = self.start.as_ref().filter(|start| start.decided.is_none()).map(|start| start.deadline_ms);
        let session = self.session.as_ref().filter(|_| self.start.is_none());
        let kept_ms = self.kept_stream.as_ref().map(|(_, asked_ms)| asked_ms.saturating_add(limits::STREAM_KEPT_MS));
        [start_ms, session.map(Session::abandoned_ms), kept_ms].into_iter().flatten().min()
    }

    /// Drops the session and the kept stream if their client has been idle for too long. They take memory that guests
    /// could use.
    pub(super) fn drop_abandoned(&mut self, now_ms: u64) {
        if self.start.is_none() {
            self.session.take_if(|session| session.abandoned_ms() <= now_ms);
        }
        self.kept_stream.take_if(|(_, asked_ms)| asked_ms.saturating_add(limits::STREAM_KEPT_MS) <= now_ms);
    }

    /// Returns the request of the start that is not answered yet.
    pub(super) fn waiting(&self) -> Option<&Deferred> {
        self.start.as_ref().map(|start| &start.asked)
    }
}

impl Server {
    /// Executes a command, and answers it unless its answer comes later.
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
            UpdateCommand::Data(part) => self.session_of(asked).and_then(|session| Ok(session.add(&part, now_ms)?)),
            UpdateCommand::CommandLine(text) => {
                self.session_of(asked).and_then(|session| Ok(session.set_command_line(text, now_ms)?))
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
                    Ok(()) => return self.continue_update(now_ms),
                    Err(refusal) => Err(refusal),
                }
            }
        };
        match outcome {
            Ok(()) => self.engine.answer(asked, Ok(DONE)),
            Err(refusal) => answer(&mut self.engine, asked, &refusal.to_string()),
        }
    }

    fn set_version_limit(&mut self, limit: Option<u32>) -> Result<(), Refusal> {
        if limit.is_some_and(|limit| limit == 0 || limit > NEWEST_VERSION) {
            return Err(Refusal::NoVersion);
        }
        self.engine.limit_stream(limit);
        Ok(())
    }

    /// Returns the newest version that may be written if the requester allows `version`.
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
            None => Err(Refusal::NothingToCancel),
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
            return Err(Refusal::OtherClient);
        }
        self.updates.session = None;
        let free = platform.free_memory().saturating_sub(limits::UPDATE_RESERVE_BYTES);
        self.updates.session = Some(Session::begin(asked.connection, bytes, free, now_ms)?);
        Ok(())
    }

    fn session_of(&mut self, asked: Deferred) -> Result<&mut Session, Refusal> {
        let is_starting = self.updates.start.is_some();
        let session = self.updates.session.as_mut().filter(|session| session.owner() == asked.connection);
        session.filter(|_| !is_starting).ok_or(Refusal::NoSession)
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
            return Err(Refusal::Starting);
        }
        let image = self.session_of(asked)?.check(now_ms)?;
        if version.is_some_and(|version| version == 0 || version > NEWEST_VERSION) {
            return Err(Refusal::NoVersion);
        }
        let limit = self.version_limit(version);
        let deadline_ms = now_ms.saturating_add(u64::from(timeout_s).saturating_mul(1000));
        self.updates.start = Some(Start { asked, image, force, limit, deadline_ms, decided: None });
        Ok(())
    }

    /// Starts the pending update if nothing blocks it, and refuses it if it can never start.
    pub(super) fn continue_update(&mut self, now_ms: u64) {
        let Some(start) = self.updates.start.as_ref().filter(|start| start.decided.is_none()) else { return };
        if !self.engine.waits_for_answer(&start.asked) {
            // The requester has disconnected.
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

    /// Returns once what the host needs to start a successor, after [`Action::StartUpdate`]. If the start fails, the
    /// host calls [`Server::successor_failed`]. If the host had the server drop its state, it calls
    /// [`Server::take_state_back`] instead.
    pub fn take_successor(&mut self) -> Option<Successor> {
        let Start { asked, image, force, decided, .. } = self.updates.start.take_if(|start| start.decided.is_some())?;
        let (Decided { version, lost }, session) = (decided?, self.updates.session.take()?);
        let (file, command_line) = session.into_parts();
        Some(Successor { image, file, command_line, version, force, asked, lost })
    }

    /// Answers the requester with the reason why there is no successor.
    pub fn successor_failed(&mut self, asked: Deferred, why: &dyn fmt::Display) {
        log::warn!("live update: {why}");
        answer(&mut self.engine, asked, &why.to_string());
    }

    /// Refuses the pending update: answers the requester with the reason, and drops the session.
    fn refuse_update(&mut self, why: &Refusal) {
        self.updates.session = None;
        if let Some(start) = self.updates.start.take() {
            self.successor_failed(start.asked, why);
        }
    }
}

/// Answers a request with a text.
fn answer(engine: &mut Engine, asked: Deferred, text: &str) {
    engine.answer(asked, Ok(&payload(text)));
}

/// Returns a text as a payload with NUL, cut to the length of a message.
pub(super) fn payload(text: &str) -> Vec<u8> {
    let room = limits::PAYLOAD_BYTES.saturating_sub(1);
    let bytes = text.as_bytes();
    let mut payload: Vec<u8> = Vec::from(bytes.get(..room).unwrap_or(bytes));
    payload.push(0);
    payload
}

/// Decides whether an update can start. It starts at once if the allowed version can express the whole state. Otherwise
/// it waits for the transactions that this version cannot express. If state would still be lost then, a forced update
/// starts anyway, and any other update is refused.
fn decide(start: &Start, engine: &Engine, now_ms: u64) -> Decision {
    let lossless = |version| Decision::Go(Decided { version, lost: Cow::Borrowed("") });
    if !engine.requires_version_2() {
        return lossless(Version::One);
    }
    if start.limit >= Version::Two as u32 {
        return lossless(Version::Two);
    }
    let mut requirements = engine.version_2_requirements(now_ms);
    let only_transactions =
        requirements.all(|requirement| requirement.features.is_none() && requirement.depth_watches == 0);
    let has_transactions = engine.version_2_requirements(now_ms).any(|requirement| requirement.transactions > 0);
    let is_over = now_ms >= start.deadline_ms;
    if start.force {
        // Other losses are certain, but transactions may still end by themselves.
        if has_transactions && !is_over {
            return Decision::Wait;
        }
        log::warn!("live update with a version 1 stream, which loses:");
        engine.version_2_requirements(now_ms).for_each(|requirement| log::warn!("{requirement}"));
        return Decision::Go(Decided { version: Version::One, lost: list(engine, now_ms).into() });
    }
    if only_transactions && !is_over {
        return Decision::Wait;
    }
    Decision::Refuse(Refusal::Inexpressible(list(engine, now_ms)))
}

/// Returns one line for each requirement of version 2, up to the length of a message: there may be thousands.
pub(super) fn list(engine: &Engine, now_ms: u64) -> String {
    let mut text = String::new();
    for requirement in engine.version_2_requirements(now_ms) {
        if text.len() >= limits::PAYLOAD_BYTES {
            break;
        }
        let line_end = if text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{line_end}{requirement}");
    }
    text
}
