//! Domains that come and go, connections that begin and end, and the events about them.

use xenstore::engine::hypervisor::DomainState;
use xenstore::store::domain::DomId;
use xenstore::wire::header::{Header, MessageType as T};

use crate::model::{Beside, Connection, Flaw, Known, Model, SPECIALS};
use crate::nodes::{Told, View, child, name, parent, without};
use crate::queue::Payload;
use crate::rules;
use crate::support::machine::Machine;

const INTRODUCED: usize = 0;
const RELEASED: usize = 1;

impl Model {
    /// Makes a domain known, unless it is.
    pub fn learn(&mut self, domid: u16, machine: &Machine) {
        if self.known.contains_key(&domid) {
            return;
        }
        self.serials += 1;
        let known = Known {
            serial: self.serials,
            unique_id: unique_id(domid, machine),
            is_shut_down: false,
            target: None,
            features: 15,
            quotas: self.defaults,
            own_quotas: [false; 10],
        };
        self.known.insert(domid, known);
    }

    pub fn introduce(&mut self, domid: u16, machine: &Machine) {
        self.learn(domid, machine);
        let known = self.known.get_mut(&domid).expect("the domain was learned");
        known.is_shut_down = false;
        known.unique_id = known.unique_id.or(unique_id(domid, machine));
        self.connections.insert(domid, Connection { is_mapped: true, has_port: true, ..Connection::default() });
        self.begin(domid);
        self.tell_special(INTRODUCED);
        self.tell_special_domain(INTRODUCED, domid);
    }

    /// Introduces a domain again: another port, and a reset connection.
    pub fn introduce_again(&mut self, domid: u16, can_be_mapped: bool, can_be_bound: bool) {
        self.restart(domid, None);
        self.begin(domid);
        let connection = self.connection(domid);
        connection.is_shut_out = false;
        connection.is_mapped |= can_be_mapped;
        connection.has_port = connection.is_mapped && can_be_bound;
        if !connection.has_port {
            self.set_error(domid, 1);
        }
    }

    /// Drops a connection with its session. It is open or shut then.
    pub fn restart(&mut self, domid: u16, error: Option<u32>) {
        let Some(connection) = self.connections.get_mut(&domid) else { return };
        let Connection { is_mapped, has_port, is_shut_out, .. } = *connection;
        *connection = Connection { is_mapped, has_port, is_shut_out, error, ..Connection::default() };
        if error.is_none() {
            self.tally.restarted.push(domid);
        }
    }

    pub fn set_error(&mut self, domid: u16, error: u32) {
        self.restart(domid, Some(error));
    }

    /// Forgets a domain, its nodes and its rights.
    pub fn release(&mut self, domid: u16) {
        let was_introduced = self.connections.remove(&domid).is_some();
        self.tally.deaths += 1;
        for path in self.naming("/", domid) {
            let Some(node) = self.store.get(&path).cloned() else { continue };
            if node.owner() != domid {
                self.store.set_quietly(&path, without(&node.permissions, domid));
            } else if path == "/" {
                let mut permissions = without(&node.permissions, domid);
                permissions[0].domid = 0;
                self.store.set(&path, Some(crate::nodes::Node { permissions, ..(*node).clone() }));
            } else if self.flaw != Flaw::DeadKeepNodes {
                self.remove(&path);
            }
        }
        for connection in self.connections.values_mut() {
            connection.transactions.values_mut().for_each(|transaction| transaction.forget_domain(domid));
        }
        for name in SPECIALS {
            let mut permissions = without(self.store.special(name), domid);
            if permissions[0].domid == domid {
                permissions[0].domid = 0;
                let node = (**self.store.get(name).expect("special nodes always exist")).clone();
                self.store.set(name, Some(crate::nodes::Node { permissions, ..node }));
            } else {
                self.store.set_quietly(name, permissions);
            }
        }
        self.known.remove(&domid);
        if was_introduced {
            self.tell_special(RELEASED);
            self.tell_special_domain(RELEASED, domid);
        }
    }

    /// Returns the nodes that name a domain, parents first. Nodes below a node that it owns are removed with that one.
    fn naming(&self, top: &str, domid: u16) -> Vec<String> {
        let Some(node) = self.store.get(top) else { return Vec::new() };
        let mut found = Vec::new();
        if node.permissions.iter().any(|entry| entry.domid == domid) {
            found.push(top.to_owned());
        }
        if node.owner() != domid || top == "/" {
            for name in &node.children {
                found.extend(self.naming(&child(top, name), domid));
            }
        }
        found
    }

    fn remove(&mut self, top: &str) {
        let gone = self.store.below(top);
        for path in &gone {
            self.store.tell_removal(path, path == top);
        }
        self.tell_all();
        for path in &gone {
            self.store.set(path, None);
        }
        let mut above = (**self.store.get(parent(top)).expect("the node has a parent")).clone();
        above.children.retain(|have| have != name(top));
        self.store.set(parent(top), Some(above));
    }

    /// Checks all known domains, as the server does.
    pub fn look_at_all(&mut self, machine: &mut Machine) {
        let known: Vec<u16> = self.known.keys().copied().collect();
        let mut has_shut_down = false;
        for domid in known {
            let Some(known) = self.known.get(&domid) else { continue };
            let was_shut_down = known.is_shut_down;
            let is_introduced = self.connections.contains_key(&domid);
            match self.state_of_known(domid, machine) {
                DomainState::Running => {}
                _ if domid == 0 => {}
                DomainState::Shutdown if is_introduced && !was_shut_down => {
                    has_shut_down = true;
                    self.known.get_mut(&domid).expect("the domain is known").is_shut_down = true;
                    self.tell_special_domain(RELEASED, domid);
                }
                DomainState::Shutdown => {}
                DomainState::Dying if !is_introduced => {}
                DomainState::Dying | DomainState::Absent => {
                    self.release(domid);
                    has_shut_down &= !is_introduced;
                }
            }
        }
        if has_shut_down {
            self.tell_special(RELEASED);
        }
    }

    /// Returns the state of a known domain. Another domain with its number means that it is gone.
    fn state_of_known(&mut self, domid: u16, machine: &Machine) -> DomainState {
        let state = machine.domains.get(&DomId(domid)).copied().unwrap_or(DomainState::Absent);
        let found = unique_id(domid, machine).filter(|_| state != DomainState::Absent);
        let Some(known) = self.known.get_mut(&domid) else { return state };
        if known.unique_id.is_some() && found.is_some() && known.unique_id != found {
            return DomainState::Absent;
        }
        known.unique_id = known.unique_id.or(found);
        state
    }

    /// Checks the domains that a request introduces or gives rights to, as the server does before the request.
    pub fn look_at_named(&mut self, domid: u16, kind: T, payload: &[u8], machine: &Machine) {
        let (skipped, most, letters) = match kind {
            T::Introduce => (0, 1, 0),
            T::SetPerms => (1, 16, 1),
            _ => return,
        };
        let strings = payload.split(|byte| *byte == 0).skip(skipped).take(most);
        let named: Vec<u16> = strings.filter_map(|string| rules::domid(string.get(letters..)?).ok()).collect();
        for named in named.into_iter().filter(|named| *named != 0 && *named != domid) {
            let is_known_by_id = self.known.get(&named).is_some_and(|known| known.unique_id.is_some());
            let is_there = unique_id(named, machine).is_some() && machine.domains.contains_key(&DomId(named));
            if is_known_by_id && is_there && self.state_of_known(named, machine) == DomainState::Absent {
                self.release(named);
            }
        }
    }

    /// Continues with another server. `closed` is a domain whose port is gone.
    pub fn reattached(&mut self, machine: &Machine, closed: Option<u16>) {
        let all: Vec<u16> = self.connections.keys().copied().collect();
        for domid in all {
            let state = self.state_of_known(domid, machine);
            let is_there = domid == 0 || matches!(state, DomainState::Running | DomainState::Shutdown);
            let can_be_mapped = is_there && machine.pages.contains_key(&DomId(domid));
            let is_scarce = self.is_scarce;
            let connection = self.connection(domid);
            let lost_port = connection.has_port && closed == Some(domid);
            connection.has_port &= !lost_port;
            connection.is_mapped = can_be_mapped;
            // The successor receives the bytes of a partial request again.
            connection.may_be_skipped |= is_scarce;
            connection.may_be_lost |= connection.may_be_skipped && !connection.input.is_empty();
            if (lost_port || !can_be_mapped) && connection.error.is_none() {
                self.set_error(domid, 1);
            }
        }
    }

    /// Acts on a crash in this request, after which the server saved its state.
    pub fn crashed(&mut self, domid: u16, header: Header) {
        if domid == 0 {
            let connection = self.connection(0);
            connection.transactions.remove(&header.transaction_id);
            let header = Header { kind: T::Error.to_wire(), payload_bytes: 4, ..header };
            connection.queue.push_reply(header, Payload::Exactly(b"EIO\0".to_vec()));
        }
    }

    /// Reports a crash as the next server does, and shuts the domain's connection.
    pub fn told_of_crash(&mut self, domid: u16, is_repeated: bool, node: &str, report: &str, machine: &Machine) {
        if domid != 0 && self.connections.contains_key(&domid) {
            self.set_error(domid, 1);
            self.connection(domid).is_shut_out = is_repeated;
        }
        let payload = [node.as_bytes(), b"\0", report.as_bytes()].concat();
        let requester = self.requester(0);
        let beside = Beside { known: &self.known, machine };
        let answer = rules::answer(&mut self.store, &requester, &beside, T::Write, &payload);
        assert!(answer.is_ok(), "dom0 may write");
        self.tell_all();
    }

    /// Queues the events of all changes for clients with the right to know of them.
    pub fn tell_all(&mut self) {
        for told in std::mem::take(&mut self.store.told) {
            let domids: Vec<u16> = self.connections.keys().copied().collect();
            for domid in domids {
                let requester = self.requester(domid);
                let may_know = told.readable.iter().any(|permissions| requester.may_read(permissions));
                if may_know || self.flaw == Flaw::EventsForAll {
                    self.tell(domid, &told.path, |watch| concerns(&told, &watch.path, watch.depth));
                } else {
                    let watches = &self.connections[&domid].watches;
                    self.tally.withheld +=
                        watches.iter().filter(|watch| concerns(&told, &watch.path, watch.depth)).count();
                }
            }
        }
    }

    /// Queues the events of a domain's watches for which `concerned` returns true.
    fn tell(&mut self, domid: u16, path: &str, concerned: impl Fn(&crate::model::Watch) -> bool) {
        let is_optional = self.may_be_refused_memory(domid);
        let guest_now_ms = (domid != 0).then_some(self.now_ms);
        let connection = self.connection(domid);
        for watch in connection.watches.iter().filter(|watch| concerned(watch)) {
            let reported = path.get(watch.relative..).unwrap_or_default();
            connection.queue.push_event(reported, &watch.token, guest_now_ms, is_optional);
        }
    }

    /// Queues the first event of a watch, at once and with any permissions.
    pub fn tell_new_watch(&mut self, domid: u16) {
        let watch = self.connection(domid).watches.last().expect("it was just set").clone();
        self.tell(domid, &watch.path, |other| other.path == watch.path && other.token == watch.token);
    }

    fn tell_special(&mut self, which: usize) {
        let domids: Vec<u16> = self.connections.keys().copied().collect();
        for domid in domids {
            if self.requester(domid).may_read(self.store.special(SPECIALS[which])) {
                self.tell(domid, SPECIALS[which], |watch| watch.path == SPECIALS[which] && watch.depth.is_none());
            }
        }
    }

    /// Queues the events for watches that request the domain's number.
    fn tell_special_domain(&mut self, which: usize, about: u16) {
        let domids: Vec<u16> = self.connections.keys().copied().collect();
        let name = format!("{}/{about}", SPECIALS[which]);
        for domid in domids {
            if self.requester(domid).may_read(self.store.special(SPECIALS[which])) && self.features(domid) & 4 != 0 {
                self.tell(domid, &name, |watch| {
                    watch.path == name || watch.path == SPECIALS[which] && watch.depth.is_some_and(|depth| depth > 0)
                });
            }
        }
    }

    /// Sets whether the server has little memory.
    pub fn set_scarce(&mut self, is_scarce: bool) {
        self.is_scarce = is_scarce;
        for connection in self.connections.values_mut() {
            connection.may_be_skipped |= is_scarce;
        }
    }

    /// Sets the time, and drops expired events.
    pub fn expire(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for connection in self.connections.values_mut() {
            self.tally.expired += connection.queue.expire(now_ms);
        }
    }

    pub fn shift_clock(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.connections.values_mut().for_each(|connection| connection.queue.shift_clock(by_ms));
    }

    /// Returns the counts since the last call.
    pub fn take_restarted(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.tally.restarted)
    }
}

/// Returns whether a change concerns a watch.
fn concerns(told: &Told, watched: &str, depth: Option<u32>) -> bool {
    if told.path == watched {
        return true;
    }
    let below = told.path.strip_prefix(watched.trim_end_matches('/')).filter(|rest| rest.starts_with('/'));
    let Some(below) = below.filter(|_| told.above && !watched.starts_with('@')) else { return false };
    let levels = below.matches('/').count() as u32;
    depth.is_none_or(|depth| levels <= depth)
}

fn unique_id(domid: u16, machine: &Machine) -> Option<u64> {
    let is_there = machine.domains.contains_key(&DomId(domid));
    machine.unique_ids.get(&DomId(domid)).copied().filter(|_| is_there)
}
