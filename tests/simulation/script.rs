//! The steps of a history, which its seed decides. Each step is valid or does nothing, also if steps before it are left
//! out. A history can therefore be shortened.

use std::collections::BTreeSet;
use std::fmt;

use xenstore::engine::hypervisor::DomainState;
use xenstore::wire::header::MessageType as T;

use crate::support::random::Random;
use crate::support::requests::{NAMES, Requests};
use crate::trace::UNKNOWN;

pub const GUESTS: [u16; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const REQUESTS: Requests = Requests {
    guests: GUESTS.len(),
    rare_once_in: 100,
    rare: &[(1, T::ResetWatches), (1, T::Introduce), (1, T::Release), (1, T::SetTarget), (1, T::Resume)],
};

/// The transaction that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    None,
    /// One of the open transactions, counted from the newest; none if there is none.
    Open(usize),
    /// Any number.
    Number(u32),
}

/// An action of the host while the server is replaced, after its state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    Nothing,
    Dies(u16),
    PortCloses(u16),
    GrantEnds(u16),
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A domain begins to send a request: so many of its bytes now, the others before its next one. There is no signal
    /// yet.
    Ask { domid: u16, which: Which, kind: u32, payload: Vec<u8>, now: usize, signals: bool },
    /// A domain sends the rest of its requests.
    SendRest { domid: u16 },
    /// A domain reads so many bytes.
    Take { domid: u16, most: usize },
    /// A domain's port fires.
    Signal { domid: u16 },
    /// A port of no domain fires, and the hypervisor signals the end of a domain though none has ended.
    Spurious,
    /// The server checks all domains.
    WakeAll,
    /// Time passes.
    Pass { ms: u64 },
    /// A domain starts.
    Build { domid: u16 },
    /// A domain is gone, with or without a signal.
    Kill { domid: u16, tells: bool },
    /// A domain's state changes.
    State { domid: u16, state: DomainState, tells: bool },
    /// A domain writes an impossible index.
    Cheat { domid: u16, reply: bool },
    /// A domain fills its ring, and its indices differ at each load from now on.
    Scribble { domid: u16, seed: u64 },
    /// A domain stops changing its indices.
    Rest { domid: u16 },
    /// A domain writes bytes into its ring that are no request.
    Garbage { domid: u16, bytes: Vec<u8> },
    /// A domain requests a reset.
    Reconnect { domid: u16 },
    /// A domain erases its ring while nothing is pending, as firmware does.
    Erase { domid: u16 },
    /// A domain revokes the grant of its ring for later mappings, or gives it again.
    Grant { domid: u16, gives: bool },
    /// So much memory is free, or an unlimited amount.
    Memory { free: Option<usize> },
    /// The server is replaced.
    Update { newest: bool, clock: u64, meanwhile: Meanwhile },
    /// The server crashes in a request of this domain.
    Crash { domid: u16, which: Which, is_repeated: bool },
    /// Dom0 reads everything.
    Walk,
}

impl Step {
    /// Returns whether the step is a request of this type.
    pub fn asks(&self, asked: T) -> bool {
        matches!(self, Self::Ask { kind, .. } if *kind == asked.to_wire())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ask { domid, which, kind, payload, now, signals } = self else { return write!(f, "{self:?}") };
        let kind = T::from_wire(*kind).map_or("?".to_owned(), |kind| format!("{kind:?}"));
        write!(f, "Ask {{ domid: {domid}, {kind} \"{}\"", spell(payload))?;
        if *which != Which::None {
            write!(f, ", in {which:?}")?;
        }
        if *now != usize::MAX {
            write!(f, ", first {now} bytes")?;
        }
        f.write_str(if *signals { " }" } else { ", without a signal }" })
    }
}

/// Returns a readable payload. Long repetitions are only counted.
pub fn spell(payload: &[u8]) -> String {
    let runs = payload.chunk_by(|one, other| one == other);
    let spelled = runs.map(|run| match run.len() {
        0..8 => run.escape_ascii().to_string(),
        count => format!("{}*{count}", run[..1].escape_ascii()),
    });
    spelled.collect()
}

struct Writer {
    random: Random,
    steps: Vec<Step>,
    alive: BTreeSet<u16>,
    /// How seldom domains read.
    laziness: usize,
    /// Whether memory is short at times.
    is_poor: bool,
}

/// Returns the history of a seed.
pub fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let laziness = *random.one_of(&[1, 1, 2, 8]);
    let is_poor = random.once_in(4);
    let mut writer = Writer { random, steps: Vec::new(), alive: BTreeSet::new(), laziness, is_poor };
    writer.ask(0, T::Write, "/shared\0");
    writer.ask(0, T::SetPerms, "/shared\0b0\0");
    writer.ask(0, T::Write, format!("/shared/long\0{}", "v".repeat(700)));
    for domid in [1, 2, 3] {
        writer.bear(domid);
    }
    while writer.steps.len() < steps {
        writer.next();
    }
    writer.steps.truncate(steps);
    writer.steps
}

/// Returns whether a seed's hypervisor reports unique ids.
pub const fn has_unique_ids(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

impl Writer {
    /// Returns a request that is sent whole, and whose reply is read at once.
    fn ask(&mut self, domid: u16, kind: T, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref().to_vec();
        let kind = kind.to_wire();
        self.steps.push(Step::Ask { domid, which: Which::None, kind, payload, now: usize::MAX, signals: true });
        self.steps.push(Step::Take { domid, most: usize::MAX });
    }

    /// Starts a domain, perhaps with less than all features, and introduces it. It gets a home.
    fn bear(&mut self, domid: u16) {
        if self.alive.insert(domid) {
            self.steps.push(Step::Build { domid });
            if self.random.once_in(3) {
                let features = self.random.below(17);
                self.ask(0, T::SetFeature, format!("{domid}\0{features}\0"));
            }
        }
        let port = if self.random.once_in(20) { 666 } else { 1 + self.random.below(3) };
        self.ask(0, T::Introduce, format!("{domid}\x001\0{port}\0"));
        self.ask(0, T::Mkdir, format!("/local/domain/{domid}\0"));
        self.ask(0, T::SetPerms, format!("/local/domain/{domid}\0n{domid}\0"));
    }

    /// Gives the number of a dead domain to another one, before any signal.
    fn bear_again(&mut self, domid: u16) {
        self.steps.push(Step::Kill { domid, tells: false });
        self.steps.push(Step::Build { domid });
        match self.random.below(4) {
            0 => self.bear(domid),
            1 => self.ask(0, T::SetPerms, format!("/shared\0b0\0r{domid}\0")),
            2 => self.ask(0, T::SetFeature, format!("{domid}\x003\0")),
            _ => {}
        }
    }

    fn next(&mut self) {
        match self.random.below(100) {
            0..=59 => self.request(),
            60..=63 => self.contest(),
            64..=65 => {
                let domid = self.random_anybody();
                self.steps.push(Step::SendRest { domid });
            }
            66..=73 => {
                let domid = self.random_anybody();
                let all = if self.laziness > 1 { 900 } else { usize::MAX };
                let most = *self.random.one_of(&[1, 5, 16, 17, 40, 200, all, all]);
                self.steps.push(Step::Take { domid, most });
            }
            74..=75 => {
                let domid = self.random_anybody();
                self.steps.push(Step::Signal { domid });
            }
            76 => {
                let step = if self.random.once_in(2) { Step::Spurious } else { Step::WakeAll };
                self.steps.push(step);
            }
            77..=79 => {
                let ms = *self.random.one_of(&[1, 5, 20, 50, 300, 1000, 9_000, 20_000]);
                self.steps.push(Step::Pass { ms });
            }
            80..=89 => self.upheaval(),
            90..=93 => self.cheat(),
            94 => self.burst(),
            95..=96 => self.update(),
            97 => {
                let domid = *self.random.one_of(&[0, 1, 2, 3, 4]);
                let which = if self.random.once_in(2) { Which::None } else { Which::Open(0) };
                let is_repeated = self.random.once_in(3);
                self.steps.push(Step::Crash { domid, which, is_repeated });
            }
            98 if self.is_poor => {
                let free = *self.random.one_of(&[None, Some(700_000), Some(300_000), Some(800_000), Some(100_000)]);
                self.steps.push(Step::Memory { free });
            }
            98 => self.quota(),
            _ => self.steps.push(Step::Walk),
        }
    }

    fn random_anybody(&mut self) -> u16 {
        *self.random.one_of(&[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7, 8])
    }

    fn random_guest(&mut self) -> u16 {
        *self.random.one_of(&[1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8])
    }

    /// Returns a step of domains, dom0 or the hypervisor that is no request.
    fn upheaval(&mut self) {
        let domid = self.random_guest();
        let tells = !self.random.once_in(3);
        let step = match self.random.below(17) {
            15 if self.alive.contains(&domid) => return self.bear_again(domid),
            16 => {
                let special = *self.random.one_of(&["@introduceDomain", "@releaseDomain"]);
                let entries = REQUESTS.permissions(&mut self.random);
                let payload = format!("{special}\0{entries}").into_bytes();
                let which = if self.random.once_in(2) { Which::None } else { Which::Open(0) };
                for (kind, payload) in [(T::SetPerms, payload), (T::GetPerms, format!("{special}\0").into_bytes())] {
                    let kind = kind.to_wire();
                    self.steps.push(Step::Ask { domid: 0, which, kind, payload, now: usize::MAX, signals: true });
                    self.steps.push(Step::Take { domid: 0, most: usize::MAX });
                }
                return self.ask(domid, T::Watch, format!("{special}\0t\0"));
            }
            0 | 1 if self.alive.remove(&domid) => Step::Kill { domid, tells },
            2 => return self.ask(0, T::Release, format!("{domid}\0")),
            3 => Step::State { domid, state: DomainState::Shutdown, tells },
            4 => Step::State { domid, state: DomainState::Running, tells },
            5 if self.random.once_in(2) => Step::State { domid, state: DomainState::Dying, tells },
            6 => Step::Reconnect { domid },
            7 => Step::Grant { domid, gives: self.random.once_in(2) },
            10 if self.alive.insert(domid) => Step::Build { domid },
            8 => return self.ask(0, T::Resume, format!("{domid}\0")),
            9 => {
                let target = self.random_guest();
                return self.ask(0, T::SetTarget, format!("{domid}\0{target}\0"));
            }
            _ => return self.bear(domid),
        };
        self.steps.push(step);
    }

    fn cheat(&mut self) {
        let domid = self.random_guest();
        let step = match self.random.below(8) {
            6 | 7 => Step::Erase { domid },
            0 | 1 => Step::Cheat { domid, reply: self.random.once_in(2) },
            2 => Step::Scribble { domid, seed: self.random.next() },
            3 => Step::Rest { domid },
            4 => {
                let count = 1 + self.random.below(60);
                let sparse = self.random.once_in(2);
                let byte = |random: &mut Random| if sparse && !random.once_in(6) { 0 } else { random.next() as u8 };
                let bytes = (0..count).map(|_| byte(&mut self.random)).collect();
                Step::Garbage { domid, bytes }
            }
            _ => Step::Reconnect { domid },
        };
        self.steps.push(step);
    }

    fn update(&mut self) {
        let domid = self.random_guest();
        let meanwhile = match self.random.below(12) {
            0 if self.alive.remove(&domid) => Meanwhile::Dies(domid),
            1 => Meanwhile::PortCloses(domid),
            2 => Meanwhile::GrantEnds(domid),
            _ => Meanwhile::Nothing,
        };
        let clock = self.random.below(100_000) as u64;
        let newest = self.random.once_in(2);
        self.steps.push(Step::Update { newest, clock, meanwhile });
    }

    /// Changes nodes in a transaction of a domain while others change them too.
    fn contest(&mut self) {
        let domid = *self.random.one_of(&[0, 0, 1, 2, 3]);
        self.ask(domid, T::TransactionStart, "\0");
        for _ in 0..1 + self.random.below(4) {
            self.request_by(domid, Which::Open(0));
            if self.random.once_in(3) {
                let other = self.random_anybody();
                self.request_by(other, Which::None);
            }
        }
        let end = if self.random.once_in(8) { "F\0" } else { "T\0" };
        let kind = T::TransactionEnd.to_wire();
        let payload = end.as_bytes().to_vec();
        self.steps.push(Step::Ask { domid, which: Which::Open(0), kind, payload, now: usize::MAX, signals: true });
        self.steps.push(Step::Take { domid, most: usize::MAX });
    }

    /// Returns a request for a node that all domains know, in a transaction or outside.
    fn request_by(&mut self, domid: u16, which: Which) {
        let path = match self.random.below(4) {
            0 => format!("/local/domain/{}/{}", 1 + self.random.below(3), self.random.one_of(&NAMES)),
            1 => format!("/shared/{}/{}", self.random.one_of(&["a", "b"]), self.random.one_of(&["a", "b"])),
            _ => format!("/shared/{}", self.random.one_of(&["a", "b"])),
        };
        let kind = *self.random.one_of(&[
            T::Write,
            T::Write,
            T::Write,
            T::Read,
            T::Read,
            T::Rm,
            T::Mkdir,
            T::Directory,
            T::DirectoryPart,
            T::SetPerms,
            T::GetPerms,
        ]);
        let payload = match kind {
            T::Write => format!("{path}\0{}", self.random.below(3)),
            T::SetPerms => format!("{path}\0{}", REQUESTS.permissions(&mut self.random)),
            T::DirectoryPart => format!("{path}\x000\0"),
            _ => format!("{path}\0"),
        };
        let (kind, payload) = (kind.to_wire(), payload.into_bytes());
        self.steps.push(Step::Ask { domid, which, kind, payload, now: usize::MAX, signals: true });
        if self.random.once_in(self.laziness) {
            self.steps.push(Step::Take { domid, most: usize::MAX });
        }
    }

    /// Sends many requests of a domain at once, perhaps more than fit into its ring.
    fn burst(&mut self) {
        let domid = self.random_anybody();
        let path = Requests::path(&mut self.random);
        let is_long = self.random.once_in(2);
        for at in 0..4 + self.random.below(26) {
            let (kind, payload) = match self.random.below(4) {
                _ if is_long => (T::Read, "/shared/long\0".to_owned()),
                0 => (T::Read, format!("{path}\0")),
                1 => (T::Watch, format!("/shared\0burst{at}\0")),
                _ => (T::Write, format!("/shared/a\0{at}")),
            };
            let (kind, payload) = (kind.to_wire(), payload.into_bytes());
            self.steps.push(Step::Ask { domid, which: Which::None, kind, payload, now: usize::MAX, signals: true });
        }
    }

    fn quota(&mut self) {
        let quotas = [
            "nodes",
            "watches",
            "transactions",
            "outstanding",
            "memory",
            "node-size",
            "transaction-nodes",
            "node-permissions",
            "path-max",
        ];
        let quota = *self.random.one_of(&quotas);
        let value =
            *self.random.one_of(if quota == "memory" { &[600, 2000, 2_621_440] } else { &[3, 5, 20, 128, 1000] });
        let domid = self.random_guest();
        match self.random.below(8) {
            0 => self.ask(0, T::SetQuota, format!("{quota}\0{value}\0")),
            1 => self.ask(0, T::Control, format!("quota\0set\0{quota}\0{value}\0")),
            _ => self.ask(0, T::SetQuota, format!("{domid}\0{quota}\0{value}\0")),
        }
    }

    fn request(&mut self) {
        let domid = self.random_anybody();
        let Some((kind, payload)) = REQUESTS.request(&mut self.random, domid) else { return };
        let which = match self.random.below(4) {
            _ if kind == T::TransactionStart && !self.random.once_in(20) => Which::None,
            0 if kind != T::TransactionEnd => Which::None,
            1 if self.random.once_in(10) => Which::Number(self.random.below(5) as u32),
            at => Which::Open(at / 2),
        };
        let now = if self.random.once_in(8) { self.random.below(16 + payload.len()) } else { usize::MAX };
        let signals = !self.random.once_in(25);
        self.steps.push(Step::Ask { domid, which, kind: kind.to_wire(), payload, now, signals });
        if !self.random.once_in(3) && self.random.once_in(self.laziness) {
            self.steps.push(Step::Take { domid, most: usize::MAX });
        }
    }
}

/// Returns a request that makes the server ask about [`UNKNOWN`] before any access to a node.
pub fn trapped_request(domid: u16) -> (T, Vec<u8>) {
    (T::SetPerms, format!("/local/domain/{domid}\0n{domid}\0r{UNKNOWN}\0").into_bytes())
}
