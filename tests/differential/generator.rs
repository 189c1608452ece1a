//! Random sequences of requests: valid ones, ones at the edge, and broken ones.
//!
//! There are few names, so that requests of different clients meet on the same nodes.

use std::collections::VecDeque;

use crate::model::{
    BYSTANDER, CONNECTIONS, DOM0_CLIENTS, DOM0_RING, GUESTS, Model, Request, State, Step, Tx, guest_of,
};
use crate::payloads::Payloads;
use crate::peers::names;
use crate::random::Random;

/// Requests for nodes, transactions and watches, with their weights.
const COMMON: &[(usize, u32)] = &[
    (10, names::READ),
    (8, names::DIRECTORY),
    (4, names::DIRECTORY_PART),
    (6, names::GET_PERMS),
    (18, names::WRITE),
    (9, names::MKDIR),
    (9, names::RM),
    (10, names::SET_PERMS),
    (9, names::WATCH),
    (4, names::UNWATCH),
    (1, names::RESET_WATCHES),
    (6, names::TRANSACTION_START),
    (7, names::TRANSACTION_END),
    (1, names::GET_DOMAIN_PATH),
];

/// Requests of dom0.
const PRIVILEGED: &[(usize, u32)] = &[
    (6, names::INTRODUCE),
    (2, names::RELEASE),
    (2, names::RESUME),
    (2, names::SET_TARGET),
    (3, names::IS_DOMAIN_INTRODUCED),
    (2, names::CONTROL),
];

/// Types that are no request, not in this version, or unknown.
const NO_REQUESTS: &[u32] = &[15, 16, 20, 23, 24, 25, 26, 27, 127, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// A generator of one sequence.
pub struct Generator {
    random: Random,
    payloads: Payloads,
    /// Steps that come first.
    planned: VecDeque<Step>,
}

impl Generator {
    pub fn new(seed: u64, model: &Model) -> Self {
        let mut generator =
            Self { random: Random::new(seed), payloads: Payloads::new(model), planned: VecDeque::new() };
        generator.plan_start(model);
        generator
    }

    /// Returns the next step.
    pub fn next(&mut self, model: &Model) -> Step {
        if let Some(step) = self.planned.pop_front() {
            return step;
        }
        match self.random.below(1000) {
            0..12 => self.domain_step(model).unwrap_or_else(|| self.request(model)),
            12..14 => self.broken_message(model),
            14..50 => self.privileged_request(model),
            50..56 => {
                let domid = self.random.between(1, GUESTS) as u32;
                self.plan_home(domid);
                self.plan_shared();
                self.request(model)
            }
            _ => self.request(model),
        }
    }

    /// Returns the first steps of a host: domains with a directory each, a node that all may use, and a large
    /// directory.
    fn plan_start(&mut self, model: &Model) {
        for domid in 1..=GUESTS as u32 {
            self.planned.push_back(Step::Create(domid));
            self.plan(names::INTRODUCE, format!("{domid}\0{}\0{}\0", 1, 1));
            self.plan_home(domid);
        }
        self.planned.push_back(Step::Create(BYSTANDER));
        self.plan_shared();
        if model.quotas.path_bytes >= 300 && self.random.chance(30) {
            for child in 0..24 {
                self.plan(names::MKDIR, format!("/shared/wide/{}{child}\0", "w".repeat(190)));
            }
            self.plan(names::DIRECTORY, "/shared/wide\0".into());
            self.plan(names::DIRECTORY_PART, "/shared/wide\x000\0".into());
            self.plan(names::DIRECTORY_PART, "/shared/wide\x004000\0".into());
        }
    }

    fn plan_home(&mut self, domid: u32) {
        self.plan(names::WRITE, format!("/local/domain/{domid}\0"));
        self.plan(names::SET_PERMS, format!("/local/domain/{domid}\0n{domid}\0"));
    }

    fn plan_shared(&mut self) {
        self.plan(names::WRITE, "/shared\0".into());
        self.plan(names::SET_PERMS, "/shared\0b0\0".into());
    }

    fn plan(&mut self, kind: u32, payload: String) {
        let payload = payload.into_bytes();
        self.planned.push_back(Step::Request(Request { connection: 0, kind, tx: Tx::None, payload }));
    }

    /// Returns a change of a domain's state.
    fn domain_step(&mut self, model: &Model) -> Option<Step> {
        let domid = self.random.between(1, GUESTS + 1) as u32;
        let domain = model.domain(domid);
        Some(match domain.state {
            State::Absent => Step::Create(domid),
            _ if !model.is_nobodys_target(domid) => return None,
            State::Dying => Step::Destroy(domid),
            State::Running | State::Shutdown => match self.random.below(6) {
                0..2 => Step::ShutDown(domid),
                2 => Step::Die(domid),
                3..5 => Step::Destroy(domid),
                _ => return None,
            },
        })
    }

    fn broken_message(&mut self, model: &Model) -> Step {
        let connection = match self.usable_connection(model) {
            // No step brings dom0's ring back.
            DOM0_RING => 0,
            connection => connection,
        };
        let payload_bytes = self.random.pick(&[4097, 4098, 8192, 0x4000_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
        Step::BreakProtocol { connection, payload_bytes }
    }

    fn usable_connection(&mut self, model: &Model) -> usize {
        loop {
            let connection = self.random.below(CONNECTIONS);
            if model.is_usable(connection) {
                return connection;
            }
        }
    }

    /// Returns a request that only dom0 may make. Sometimes another domain tries.
    fn privileged_request(&mut self, model: &Model) -> Step {
        let kind = self.random.weighted(PRIVILEGED);
        let connection =
            if self.random.chance(90) { self.random.below(DOM0_CLIENTS) } else { self.usable_connection(model) };
        let domid = self.random.between(1, GUESTS) as u32;
        let domain = model.domain(domid);
        let is_granted = connection < DOM0_CLIENTS;
        let payload = match kind {
            names::CONTROL => self.payloads.control(&mut self.random),
            names::IS_DOMAIN_INTRODUCED => self.payloads.any_domid(&mut self.random),
            _ if self.random.chance(15) => self.payloads.bad_domain_request(kind, &mut self.random),
            names::INTRODUCE => {
                if is_granted && domain.faulted {
                    // A shut connection stays shut in the C server until the domain is released.
                    return self.request(model);
                }
                if is_granted && domain.state != State::Absent && !domain.introduced {
                    self.plan_arrival(connection, domid);
                    return Step::Run(domid);
                }
                format!("{domid}\0{}\0{}\0", self.random.below(9), self.random.between(1, 9)).into_bytes()
            }
            names::RELEASE => {
                if is_granted && !model.is_nobodys_target(domid) {
                    return self.request(model);
                }
                format!("{domid}\0").into_bytes()
            }
            names::RESUME => {
                if is_granted && domain.introduced && domain.state == State::Shutdown {
                    let payload = format!("{domid}\0").into_bytes();
                    self.planned.push_back(Step::Request(Request { connection, kind, tx: Tx::None, payload }));
                    return Step::Run(domid);
                }
                format!("{domid}\0").into_bytes()
            }
            _ => {
                // One direction only: two domains that act for each other could never be released.
                let target = self.random.below(domid as usize);
                format!("{domid}\0{target}\0").into_bytes()
            }
        };
        let tx = self.transaction(model, connection, kind);
        Step::Request(Request { connection, kind, tx, payload })
    }

    /// Introduces a domain, with the nodes that a new domain needs.
    fn plan_arrival(&mut self, connection: usize, domid: u32) {
        let payload = format!("{domid}\0{}\0{}\0", 1, 1).into_bytes();
        self.planned.push_back(Step::Request(Request { connection, kind: names::INTRODUCE, tx: Tx::None, payload }));
        if self.random.chance(80) {
            self.plan_home(domid);
        }
        if self.random.chance(50) {
            self.plan_shared();
        }
    }

    /// Returns a request that all domains may make.
    fn request(&mut self, model: &Model) -> Step {
        let connection = self.usable_connection(model);
        let mut kind = self.random.weighted(COMMON);
        let open = model.connections[connection].open.len();
        if kind == names::TRANSACTION_START && open >= 3 && self.random.chance(70) {
            kind = names::TRANSACTION_END;
        }
        if self.random.chance(1) {
            kind = self.random.pick(NO_REQUESTS);
        }
        let payload =
            if kind == names::UNWATCH && self.random.chance(70) && !model.connections[connection].watches.is_empty() {
                let watches = &model.connections[connection].watches;
                watches[self.random.below(watches.len())].clone()
            } else {
                self.payloads.of(kind, guest_of(connection), &mut self.random)
            };
        let mut tx = self.transaction(model, connection, kind);
        let is_of_special = matches!(kind, names::GET_PERMS | names::SET_PERMS) && payload.starts_with(b"@");
        if is_of_special && !model.scope.has_special_nodes_in_transactions {
            tx = Tx::None;
        }
        Step::Request(Request { connection, kind, tx, payload })
    }

    fn transaction(&mut self, model: &Model, connection: usize, kind: u32) -> Tx {
        let connection = &model.connections[connection];
        let (of_open, wrong) = match kind {
            names::TRANSACTION_START => (4, 2),
            names::TRANSACTION_END => (95, 2),
            names::RESET_WATCHES => (0, 5),
            _ => (60, 1),
        };
        if !connection.open.is_empty() && self.random.chance(of_open) {
            Tx::Of(connection.open[self.random.below(connection.open.len())])
        } else if self.random.chance(wrong) {
            Tx::Wrong(self.random.pick(&[0x4000_0000, 0x7fff_ffff, 0xffff_ffff]))
        } else if !connection.closed.is_empty() && self.random.chance(wrong) {
            Tx::Of(connection.closed[self.random.below(connection.closed.len())])
        } else {
            Tx::None
        }
    }
}

/// Returns whether a request may cause events.
pub fn may_cause_events(kind: u32) -> bool {
    matches!(
        kind,
        names::WRITE
            | names::MKDIR
            | names::RM
            | names::SET_PERMS
            | names::WATCH
            | names::TRANSACTION_END
            | names::INTRODUCE
            | names::RELEASE
    )
}
