//! The steps of a history, decided beforehand: two runs of it are the same.

use std::collections::{BTreeMap, BTreeSet};

use xenstore::wire::header::MessageType as T;

use crate::support::random::Random;
use crate::support::requests::Requests;

pub const GUESTS: [u16; 4] = [1, 2, 3, 4];
const REQUESTS: Requests = Requests {
    guests: GUESTS.len(),
    rare_once_in: 10,
    rare: &[(5, T::Resume), (5, T::SetTarget), (5, T::SetQuota), (1, T::ResetWatches)],
};

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A domain begins to send a request: so many of its bytes now, the others before its next one.
    Send { domid: u16, transaction: u32, kind: u32, payload: Vec<u8>, now: usize },
    /// A domain sends the rest of its request.
    SendRest { domid: u16 },
    /// A domain reads so many bytes.
    Take { domid: u16, most: usize },
    /// Time passes.
    Pass { ms: u64 },
    /// A domain starts, with a unique id if the hypervisor reports such.
    Build { domid: u16, unique_id: Option<u64> },
    /// A domain is gone.
    Kill { domid: u16 },
    /// A domain has shut down; the server may learn of it later.
    Shutdown { domid: u16, tells: bool },
    /// A domain writes an impossible index.
    Cheat { domid: u16 },
    /// A domain requests a reset.
    Reconnect { domid: u16 },
    /// A live update, which no domain may notice.
    Update,
    /// A live update by version 1, with its losses: no domain may notice more than the list says.
    ForcedUpdate,
}

struct Writer {
    random: Random,
    steps: Vec<Step>,
    alive: BTreeSet<u16>,
    /// Roughly how many transactions each domain has begun.
    transactions: BTreeMap<u16, u32>,
    next_unique_id: u64,
    has_unique_ids: bool,
    /// How seldom domains read.
    laziness: usize,
}

/// Returns the history of a seed.
pub fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let has_unique_ids = random.once_in(2);
    let laziness = *random.one_of(&[1, 1, 4, 30]);
    let mut writer = Writer {
        random,
        steps: Vec::new(),
        alive: BTreeSet::new(),
        transactions: BTreeMap::new(),
        next_unique_id: 100,
        has_unique_ids,
        laziness,
    };
    writer.begin();
    for _ in 0..steps {
        writer.next();
    }
    writer.steps
}

impl Writer {
    fn begin(&mut self) {
        self.whole(0, T::Write, "/shared\0");
        self.whole(0, T::SetPerms, "/shared\0b0\0");
        for domid in GUESTS {
            self.bear(domid);
        }
    }

    /// Returns a request of dom0 whose reply is read at once.
    fn whole(&mut self, domid: u16, kind: T, payload: impl AsRef<[u8]>) {
        self.send(domid, 0, kind, payload.as_ref().to_vec(), usize::MAX);
        self.steps.push(Step::Take { domid, most: usize::MAX });
    }

    fn send(&mut self, domid: u16, transaction: u32, kind: T, payload: Vec<u8>, now: usize) {
        self.steps.push(Step::Send { domid, transaction, kind: kind.to_wire(), payload, now });
    }

    /// Starts a domain, perhaps with less than all features, and introduces it.
    fn bear(&mut self, domid: u16) {
        if self.alive.insert(domid) {
            self.next_unique_id += 1;
            let unique_id = self.has_unique_ids.then_some(self.next_unique_id);
            self.steps.push(Step::Build { domid, unique_id });
            if self.random.once_in(3) {
                let features = self.random.below(16);
                self.whole(0, T::SetFeature, format!("{domid}\0{features}\0"));
            }
        }
        let port = if self.random.once_in(40) { 666 } else { 1 + self.random.below(3) };
        self.whole(0, T::Introduce, format!("{domid}\x001\0{port}\0"));
        self.whole(0, T::Mkdir, format!("/local/domain/{domid}\0"));
        self.whole(0, T::SetPerms, format!("/local/domain/{domid}\0n{domid}\0"));
        self.transactions.remove(&domid);
    }

    fn next(&mut self) {
        match self.random.below(100) {
            0..=54 => self.request(),
            55..=59 => {
                let domid = self.anybody();
                self.steps.push(Step::SendRest { domid });
            }
            60..=73 if self.laziness > 1 && !self.random.once_in(self.laziness) => self.burst(),
            60..=77 => {
                let domid = self.anybody();
                let all = if self.laziness > 1 { 900 } else { usize::MAX };
                let most = *self.random.one_of(&[1, 5, 16, 17, 40, 200, all, all]);
                self.steps.push(Step::Take { domid, most });
            }
            78..=82 => {
                let ms = *self.random.one_of(&[1, 5, 20, 49, 50, 300, 1000, 9_000, 20_000]);
                self.steps.push(Step::Pass { ms });
            }
            83..=85 => self.upheaval(),
            _ if self.random.once_in(10) => self.steps.push(Step::ForcedUpdate),
            _ => self.steps.push(Step::Update),
        }
    }

    /// Sends many requests of a domain at once, or writes many nodes that others have accessed or watch.
    fn burst(&mut self) {
        let domid = self.anybody();
        let path = Requests::path(&mut self.random);
        for at in 0..self.random.below(25) {
            match self.random.below(4) {
                0 => self.send(domid, 0, T::Read, format!("{path}\0").into_bytes(), usize::MAX),
                1 => self.send(domid, 0, T::Watch, format!("/shared\0burst{at}\0").into_bytes(), usize::MAX),
                _ => self.send(domid, 0, T::Write, format!("/shared/a\0{at}").into_bytes(), usize::MAX),
            }
        }
    }

    fn anybody(&mut self) -> u16 {
        *self.random.one_of(&[0, 0, 1, 1, 2, 2, 3, 4])
    }

    fn upheaval(&mut self) {
        let domid = *self.random.one_of(&GUESTS);
        match self.random.below(8) {
            0 | 1 if self.alive.remove(&domid) => self.steps.push(Step::Kill { domid }),
            2 => self.whole(0, T::Release, format!("{domid}\0")),
            3 => self.steps.push(Step::Cheat { domid }),
            4 => {
                let tells = self.random.once_in(2);
                self.steps.push(Step::Shutdown { domid, tells });
            }
            5 => self.steps.push(Step::Reconnect { domid }),
            _ => self.bear(domid),
        }
    }

    fn request(&mut self) {
        let domid = self.anybody();
        let Some((kind, payload)) = REQUESTS.request(&mut self.random, domid) else { return };
        let begun = self.transactions.entry(domid).or_default();
        let newest = *begun;
        if kind == T::TransactionStart {
            *begun += 1;
        }
        let transaction = match self.random.below(3) {
            _ if kind == T::TransactionStart => 0,
            0 => 0,
            _ => newest.saturating_sub(self.random.below(3) as u32),
        };
        let now = if self.random.once_in(5) { self.random.below(16 + payload.len()) } else { usize::MAX };
        self.send(domid, transaction, kind, payload, now);
        if !self.random.once_in(3) && self.random.once_in(self.laziness) {
            self.steps.push(Step::Take { domid, most: usize::MAX });
        }
    }
}
