//! The steps of a history, of eight bytes each. The search changes single bytes, and libFuzzer makes any bytes. Every step is
//! valid or has no effect, after any other steps.

use std::fmt;

use xenstore::wire::header::MessageType as T;

use crate::support::random::Random;

/// Guests of a history, besides dom0.
pub const GUESTS: u16 = 10;

/// Bytes of a step.
pub const STEP_BYTES: usize = 8;

/// Places that a step's root chooses from.
const ROOTS: u8 = 8;

/// Bytes that a guest's path may have without the prefix of its home.
const PATH_BYTES: usize = 2048;

/// Bytes of names that a guest makes in a directory: less than the quota `node-size`.
const DIRECTORY_BYTES: usize = 1800;

/// The action of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Read,
    Write,
    Mkdir,
    Rm,
    Directory,
    DirectoryPart,
    GetPerms,
    SetPerms,
    Watch,
    Unwatch,
    /// Opens transactions, one more than the count.
    Begin,
    Commit,
    Abort,
    /// The domain becomes idle: it reads nothing.
    StopReading,
    /// The domain reads everything, now and after each request.
    ReadAgain,
    /// Time passes.
    Pass,
    /// The domain ends; another one with its number starts.
    Die,
    /// The domain requests a fresh connection.
    Reconnect,
    ResetWatches,
    /// A request of another type.
    Other,
}

impl Op {
    pub const ALL: [Self; 20] = [
        Self::Read,
        Self::Write,
        Self::Mkdir,
        Self::Rm,
        Self::Directory,
        Self::DirectoryPart,
        Self::GetPerms,
        Self::SetPerms,
        Self::Watch,
        Self::Unwatch,
        Self::Begin,
        Self::Commit,
        Self::Abort,
        Self::StopReading,
        Self::ReadAgain,
        Self::Pass,
        Self::Die,
        Self::Reconnect,
        Self::ResetWatches,
        Self::Other,
    ];

    /// Returns the type of the requests that name a path.
    pub const fn with_path(self) -> Option<T> {
        Some(match self {
            Self::Read => T::Read,
            Self::Write => T::Write,
            Self::Mkdir => T::Mkdir,
            Self::Rm => T::Rm,
            Self::Directory => T::Directory,
            Self::DirectoryPart => T::DirectoryPart,
            Self::GetPerms => T::GetPerms,
            Self::SetPerms => T::SetPerms,
            Self::Watch => T::Watch,
            Self::Unwatch => T::Unwatch,
            _ => return None,
        })
    }
}

/// How the requests of a step reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One request in each turn: the cost of the turn is that of the request.
    Single,
    /// In each turn as many requests as the turn takes.
    Turns,
    /// Through the rings of all guests of the step. The rings are full when the server reads them.
    Rings,
}

/// The paths that the requests of a step name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The spot, once.
    Once,
    /// Nodes below the spot, in as few directories as the quotas allow.
    Children,
    /// The levels above the spot.
    Levels,
    /// The spot, again and again.
    Again,
}

/// The transaction that the requests of a step name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    Nothing,
    Newest,
    Oldest,
    /// Each open transaction.
    Each,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub op: Op,
    pub mode: Mode,
    /// The domains of the step: 0 for dom0, a guest, or above [`GUESTS`] for all guests.
    pub who: u8,
    /// Where the spot is: see [`Step::spot`].
    pub root: u8,
    /// Levels between the root and the spot, in fours.
    pub depth: u8,
    /// Requests, in fours beyond the first.
    pub count: u8,
    /// Letter and width of names, spread, and transaction.
    pub flavour: u8,
    /// Bytes of a value or a token, in sixteens; entries of permissions; the offset of a part.
    pub size: u8,
}

impl Step {
    /// Returns a step of one domain at the top of `/shared`.
    pub const fn new(op: Op, who: u8) -> Self {
        Self { op, mode: Mode::Single, who, root: 0, depth: 0, count: 0, flavour: 0, size: 0 }
    }

    /// Moves the spot to another root, `depth` times four levels below it.
    pub const fn at(mut self, root: u8, depth: u8) -> Self {
        (self.root, self.depth) = (root, depth);
        self
    }

    pub const fn spread(mut self, spread: Spread, count: u8) -> Self {
        self.flavour = self.flavour & 0xcf | (spread as u8) << 4;
        self.count = count;
        self
    }

    pub const fn within(mut self, within: Within) -> Self {
        self.flavour = self.flavour & 0x3f | (within as u8) << 6;
        self
    }

    /// Sets the length of names: one of four.
    pub const fn width(mut self, width: u8) -> Self {
        self.flavour = self.flavour & 0xf3 | (width & 3) << 2;
        self
    }

    /// Sets the chain: one of four.
    pub const fn letter(mut self, letter: u8) -> Self {
        self.flavour = self.flavour & 0xfc | letter & 3;
        self
    }

    pub const fn size(mut self, size: u8) -> Self {
        self.size = size;
        self
    }

    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Decodes any bytes as a step.
    pub fn decode(bytes: [u8; STEP_BYTES]) -> Self {
        let [op, mode, who, root, depth, count, flavour, size] = bytes;
        let op = Op::ALL[usize::from(op) % Op::ALL.len()];
        // Mostly single requests: only these measure the cost of each type.
        let mode = match mode % 8 {
            0 => Mode::Turns,
            1 => Mode::Rings,
            _ => Mode::Single,
        };
        Self { op, mode, who: who % (GUESTS as u8 + 2), root: root % ROOTS, depth, count, flavour, size }
    }

    /// Encodes a step.
    pub fn encode(self) -> [u8; STEP_BYTES] {
        let op = Op::ALL.iter().position(|op| *op == self.op).unwrap_or(0) as u8;
        let mode = match self.mode {
            Mode::Turns => 0,
            Mode::Rings => 1,
            Mode::Single => 2,
        };
        [op, mode, self.who, self.root, self.depth, self.count, self.flavour, self.size]
    }

    /// Returns a random step.
    pub fn random(random: &mut Random) -> Self {
        Self::decode([(); STEP_BYTES].map(|()| random.next() as u8))
    }

    /// Returns the domains of the step.
    pub fn domains(&self) -> Vec<u16> {
        match u16::from(self.who) {
            who if who > GUESTS => (1..=GUESTS).collect(),
            who => vec![who],
        }
    }

    pub fn spread_of(&self) -> Spread {
        [Spread::Once, Spread::Children, Spread::Levels, Spread::Again][usize::from(self.flavour >> 4 & 3)]
    }

    pub fn transaction(&self) -> Within {
        [Within::Nothing, Within::Newest, Within::Oldest, Within::Each][usize::from(self.flavour >> 6)]
    }

    /// Returns the number of requests of each domain.
    pub fn requests(&self) -> usize {
        if self.spread_of() == Spread::Once { 1 } else { 1 + usize::from(self.count) * 4 }
    }

    /// Returns the levels between root and spot.
    fn levels(&self, root: &str) -> usize {
        (usize::from(self.depth) * 4).min((PATH_BYTES - root.len()) / 2)
    }

    /// Returns the path of a domain's request number `at`.
    pub fn path(&self, domid: u16, at: usize) -> String {
        let root = match self.root {
            0 => "/shared".to_owned(),
            1 => format!("/local/domain/{domid}"),
            2 => "/local/domain/1".to_owned(),
            3 => String::new(),
            // More chains, which different guests may own.
            more => format!("/shared/{more}"),
        };
        let (letter, all) = (["/x", "/y", "/z", "/w"][usize::from(self.flavour & 3)], self.levels(&root));
        let levels = match self.spread_of() {
            Spread::Levels => all * (at + 1) / self.requests(),
            _ => all,
        };
        let spot = root + &letter.repeat(levels);
        match self.spread_of() {
            Spread::Children => {
                // Names of one length differ only at their end.
                let width = [4, 20, 100, 250][usize::from(self.flavour >> 2 & 3)];
                let name = format!("{:0>width$}", format!("{at:x}"));
                match domid {
                    // Quotas do not limit dom0's directories.
                    0 => format!("{spot}/{name}"),
                    _ => format!("{spot}/{domid:x}/{:x}/{name}", at / (DIRECTORY_BYTES / (width + 1))),
                }
            }
            _ if spot.is_empty() => "/".to_owned(),
            _ => spot,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u16::from(self.who) {
            0 => write!(f, "dom0 {:?}", self.op)?,
            who if who > GUESTS => write!(f, "all {:?}", self.op)?,
            who => write!(f, "{who} {:?}", self.op)?,
        }
        if self.op.with_path().is_some() {
            let letter = ['x', 'y', 'z', 'w'][usize::from(self.flavour & 3)];
            match self.root {
                0 => f.write_str(" /shared")?,
                1 => f.write_str(" home")?,
                2 => f.write_str(" home of 1")?,
                3 => f.write_str(" /")?,
                more => write!(f, " /shared/{more}")?,
            }
            if self.depth > 0 {
                write!(f, "/{letter}*{}", u16::from(self.depth) * 4)?;
            }
            match self.spread_of() {
                Spread::Once => {}
                spread => write!(f, " {spread:?} {}", self.requests())?,
            }
            write!(f, " size {}", self.size)?;
        }
        if self.transaction() != Within::Nothing {
            write!(f, " in {:?}", self.transaction())?;
        }
        if self.mode != Mode::Single {
            write!(f, " by {:?}", self.mode)?;
        }
        Ok(())
    }
}
