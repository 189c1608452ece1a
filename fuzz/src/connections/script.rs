//! Bytes as steps of a history. Every byte sequence is a history, and a change of one byte changes few steps.

use xenstore::limits;
use xenstore::wire::header::MessageType as T;

/// Number of guests.
pub const GUESTS: [u16; 3] = [1, 2, 3];

/// Most steps of one history, for speed.
const STEPS: usize = 400;

/// A step of a history.
#[derive(Debug)]
pub enum Step {
    /// A domain begins to send a request, of which `now` bytes go immediately.
    Send { domid: u16, transaction: u8, kind: u32, payload: Vec<u8>, now: usize },
    /// A domain sends the rest of its requests.
    SendRest { domid: u16 },
    /// A domain reads up to a number of bytes.
    Take { domid: u16, most: usize },
    /// Time passes.
    Pass { ms: u64 },
    /// A domain is created and introduced.
    Begin { domid: u16, port: u32 },
    /// A domain is released, and still exists.
    Release { domid: u16 },
    /// A domain ends; the hypervisor signals this, or does not signal it yet.
    Kill { domid: u16, tells: bool },
    /// A domain has shut down, or dies.
    State { domid: u16, dying: bool },
    /// A guest puts a word into its ring page.
    Scribble { domid: u16, word: usize, value: u32 },
    /// From now on, a guest's indices differ at each read.
    Storm { domid: u16, seed: u64 },
    /// A guest puts any bytes into its ring.
    Garbage { domid: u16, bytes: Vec<u8> },
    /// A guest requests a reset.
    Reconnect { domid: u16 },
    /// A restored server replaces the server.
    Update,
    /// An amount of memory is free, or the amount is unlimited.
    Memory { free: Option<usize> },
    /// The server checks all domains.
    WakeAll,
}

/// Reads steps out of bytes.
pub struct Script<'a> {
    bytes: &'a [u8],
    steps: usize,
}

impl<'a> Script<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, steps: 0 }
    }

    /// Returns the next byte; 0 at the end.
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first)
    }

    fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.byte() % list.len()]
    }

    fn guest(&mut self) -> u16 {
        self.one_of(&GUESTS)
    }

    fn anybody(&mut self) -> u16 {
        self.one_of(&[0, 1, 2, 3])
    }

    fn raw(&mut self) -> Vec<u8> {
        let count = self.byte().min(self.bytes.len());
        let (raw, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        raw.to_vec()
    }

    fn path(&mut self) -> String {
        const NAMES: [&str; 5] = ["a", "b", "data", "long-name-long-name-long-name-long-name", "x_y"];
        let how = self.byte();
        let top = match how % 16 {
            0..=4 => String::new(),
            5..=8 => "/shared/".to_owned(),
            9..=11 => format!("/local/domain/{}/", how / 16 % 5),
            12 => {
                return self
                    .one_of(&["/", "/local/domain", "/tool", "//", "", "/shared", "/local/domain/1"])
                    .to_owned();
            }
            13 => return self.one_of(&["@releaseDomain", "@introduceDomain", "@releaseDomain/2", "@x"]).to_owned(),
            14 => "/".to_owned(),
            // A deep path.
            _ => return vec!["d"; self.byte() * 4].join("/"),
        };
        let names: Vec<&str> = (0..=how / 64).map(|_| self.one_of(&NAMES)).collect();
        top + &names.join("/")
    }

    fn entries(&mut self) -> String {
        let count = 1 + self.byte() % 6;
        (0..count).map(|_| format!("{}{}\0", self.one_of(&["n", "r", "w", "b"]), self.byte() % 6)).collect()
    }

    fn text(&mut self, kind: T) -> String {
        match kind {
            T::Write => {
                let length = self.byte();
                format!("{}\0{}", self.path(), "v".repeat(if length > 250 { 3000 } else { length }))
            }
            T::SetPerms => format!("{}\0{}", self.path(), self.entries()),
            T::Watch | T::Unwatch => {
                let how = self.byte();
                let depth = if how & 12 == 12 { format!("{}\0", how >> 4) } else { String::new() };
                format!("{}\0t{}\0{depth}", self.path(), how & 3)
            }
            T::GetFeature if self.byte().is_multiple_of(2) => String::new(),
            T::SetFeature => format!("{}\0{}\0", self.byte() % 6, self.byte() % 17),
            T::DirectoryPart => format!("{}\0{}\0", self.path(), self.byte()),
            T::TransactionStart | T::ResetWatches => "\0".to_owned(),
            T::TransactionEnd => self.one_of(&["T\0", "T\0", "F\0", "T"]).to_owned(),
            T::GetDomainPath | T::IsDomainIntroduced | T::Resume | T::GetFeature => format!("{}\0", self.byte() % 6),
            T::SetTarget => format!("{}\0{}\0", self.byte() % 6, self.byte() % 6),
            T::GetQuota => self.one_of(&["", "nodes\0", "1\0memory\0", "4\0nodes\0"]).to_owned(),
            T::SetQuota => {
                let quotas =
                    ["nodes", "watches", "transactions", "outstanding", "memory", "transaction-nodes", "path-max"];
                format!("{}\0{}\0{}\0", self.byte() % 5, self.one_of(&quotas), self.word())
            }
            T::Control => {
                let commands = [
                    "check\0",
                    "print\0fuzz\0",
                    "help\0",
                    "log\0+io\0",
                    "memreport\0",
                    "quota\0",
                    "quota\x001\0",
                    "quota\0max\0-r\0",
                    "quota\0set\0outstanding\x002\0",
                    "quota\0set\0memory\x002000\0",
                    "live-update\0-b\x00100\0",
                    "live-update\0-a\0",
                    "live-update\0-d\x003\0abc\0",
                    "update-report\0",
                    "stream\0",
                    "stream\x003000\0",
                    "stream-version\x002\0",
                ];
                self.one_of(&commands).to_owned()
            }
            _ => format!("{}\0", self.path()),
        }
    }

    fn request(&mut self, how: usize) -> Step {
        let domid = self.anybody();
        let number = self.byte() % 28;
        let kind = T::from_wire(number as u32).unwrap_or(T::Write);
        // Introductions and releases are steps of their own, because they change the served domains.
        let kind = if matches!(kind, T::Introduce | T::Release) { T::Write } else { kind };
        let transaction = self.byte() as u8;
        let is_raw = how == 0;
        let mut payload = if is_raw { self.raw() } else { self.text(kind).into_bytes() };
        // The host would start a successor.
        if is_raw && kind == T::Control && payload.starts_with(b"live-update") {
            payload = b"check\0".to_vec();
        }
        payload.truncate(limits::PAYLOAD_BYTES);
        let now = if how == 1 { self.byte() } else { usize::MAX };
        let number = if number >= 27 { 20 } else { kind.to_wire() };
        Step::Send { domid, transaction, kind: number, payload, now }
    }
}

impl Iterator for Script<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.steps += 1;
        if self.bytes.is_empty() || self.steps > STEPS {
            return None;
        }
        Some(match self.byte() % 32 {
            how @ 0..=14 => self.request(how),
            15..=18 => Step::Take { domid: self.anybody(), most: self.one_of(&[1, 16, 100, 5000, 5000]) },
            19 => Step::SendRest { domid: self.anybody() },
            20 => Step::Pass { ms: self.one_of(&[1, 50, 1000, 21_000]) },
            21..=22 => Step::Begin { domid: self.guest(), port: self.one_of(&[1, 2, 1, 666]) },
            23 => Step::Release { domid: self.guest() },
            24 => Step::Kill { domid: self.guest(), tells: !self.byte().is_multiple_of(4) },
            25 => Step::State { domid: self.guest(), dying: self.byte().is_multiple_of(2) },
            26 => Step::Scribble {
                domid: self.guest(),
                word: self.byte(),
                value: (self.word() | self.byte() << 24) as u32,
            },
            27 => Step::Storm { domid: self.guest(), seed: self.byte() as u64 },
            28 => Step::Garbage { domid: self.guest(), bytes: self.raw() },
            29 => Step::Reconnect { domid: self.guest() },
            30 => Step::Update,
            _ => match self.byte() {
                0..=63 => Step::Memory { free: None },
                at @ 64..=247 => Step::Memory { free: Some((at - 64) * 8192) },
                _ => Step::WakeAll,
            },
        })
    }
}
