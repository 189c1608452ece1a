//! The replacement of the server by another one with its state: a live update, or a warm restart after a crash.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use xenstore::engine::report::crash::Crash;
use xenstore::engine::requests::in_flight::InFlight;
use xenstore::engine::snapshot::SaveOptions;
use xenstore::server::Server;
use xenstore::server::reattach::Reattachment;
use xenstore::server::stream::load;
use xenstore::store::domain::DomId;
use xenstore::stream::record::Version;
use xenstore::wire::header::MessageType as T;

use crate::runner::{Runner, config};
use crate::script::{Meanwhile, Which, trapped_request};
use crate::trace::{self, OnPurpose};

/// The node that describes a crash.
const CRASH_NODE: &str = "/tool/xenstored/crash";

impl Runner {
    /// Saves the server, and continues with another one.
    pub fn update(&mut self, newest: bool, clock: u64, meanwhile: Meanwhile) -> Result<(), String> {
        let needs_newest = self.server.engine().requires_version_2();
        let version = if newest || needs_newest { Version::Two } else { Version::One };
        self.counts.add(if version == Version::One { "updates, version 1" } else { "updates, version 2" }, 1);
        self.count_connections();
        let mut stream = Vec::new();
        let options = SaveOptions { now_ms: self.now_ms, reply: None };
        self.server.save_to(&mut stream, version, &options).map_err(|error| format!("not saved: {error:?}"))?;
        let closed = self.meanwhile(meanwhile);
        // The successor has another clock.
        self.now_ms += clock;
        self.model.shift_clock(clock);
        self.replace(&stream, closed)?;
        self.run()
    }

    fn meanwhile(&mut self, meanwhile: Meanwhile) -> Option<u16> {
        match meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Dies(domid) => {
                self.counts.add("deaths in an update", 1);
                self.end_domain(domid);
            }
            Meanwhile::GrantEnds(domid) => {
                self.counts.add("grants taken back in an update", 1);
                self.machine.pages.remove(&DomId(domid));
            }
            Meanwhile::PortCloses(domid) => {
                let bound = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid));
                if let Some(port) = bound.map(|(port, _)| *port) {
                    self.counts.add("ports closed in an update", 1);
                    self.machine.bound.remove(&port);
                    self.machine.remote.remove(&port);
                    return Some(domid);
                }
            }
        }
        None
    }

    /// Restores a server from a saved state.
    fn replace(&mut self, stream: &[u8], closed: Option<u16>) -> Result<(), String> {
        self.machine.mapped.clear();
        let engine = load(stream, &config(), self.now_ms).map_err(|error| format!("not restored: {error:?}"))?;
        self.server = Server::restored(engine);
        let taken = self.server.reattach(&mut self.machine, self.now_ms, Reattachment::Live);
        self.counts.add("connections lost in an update", taken.lost as u64);
        if !taken.has_control {
            return Err("G1: dom0 is not served any more".into());
        }
        self.model.reattached(&self.machine, closed);
        self.is_told = true;
        Ok(())
    }

    fn count_connections(&mut self) {
        for connection in self.model.connections.values() {
            self.counts.add("half requests in an update", u64::from(!connection.input.is_empty()));
            self.counts.add("half replies in an update", u64::from(connection.queue.has_half_message()));
            self.counts.add("unread messages in an update", connection.queue.len() as u64);
            self.counts.add("open transactions in an update", connection.transactions.len() as u64);
            self.counts.add("shut connections in an update", u64::from(connection.error.is_some()));
        }
    }

    /// Makes the server panic during a request of a domain, and continues with another one.
    pub fn crash(&mut self, domid: u16, which: Which, is_repeated: bool) -> Result<(), String> {
        let (kind, payload) = trapped_request(domid);
        let transaction = self.transaction(domid, which);
        let Some(client) = self.clients.get_mut(&domid) else { return Ok(()) };
        client.ask(transaction, kind.to_wire(), &payload);
        client.put(usize::MAX);
        client.is_unheard = false;
        let port = self.machine.bound.iter().find(|(_, owner)| **owner == DomId(domid)).map(|(port, _)| *port);
        port.into_iter().for_each(|port| self.server.handle_event(port));
        self.begin_turns();
        trace::set_trap(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| self.turn()));
        trace::set_trap(false);
        match outcome {
            Ok(_) => self.follow(),
            Err(panic) if panic.is::<OnPurpose>() => self.restart(is_repeated),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Makes a warm restart, after the server panicked with a request in flight.
    fn restart(&mut self, is_repeated: bool) -> Result<(), String> {
        self.follow()?;
        let connections: Vec<u16> = self.model.connections.keys().copied().collect();
        let in_flight = connections.into_iter().find_map(|domid| Some((domid, self.model.request(domid)?)));
        let (domid, (header, payload)) = in_flight.ok_or("no request was in flight")?;
        self.counts.add(if domid == 0 { "crashes by dom0" } else { "crashes by guests" }, 1);
        self.model.look_at_named(
            domid,
            T::from_wire(header.kind).expect("the request has a handler"),
            &payload,
            &self.machine,
        );
        let connection = self.server.engine().state().domains.connection(DomId(domid)).ok_or("it is connected")?;
        let request = InFlight { connection, header, payload: 0 };
        let mut stream = Vec::new();
        let saved = self.server.save_after_crash(&request, &mut stream, self.now_ms);
        saved.map_err(|error| format!("not saved: {error:?}"))?;
        self.machine.free_memory = None;
        self.model.is_scarce = false;
        self.model.crashed(domid, header);
        self.replace(&stream, None)?;
        let report = "it broke";
        let crash = Crash { domid: DomId(domid), is_repeated, report, node: CRASH_NODE };
        self.server.handle_crash(&crash, &mut self.machine, self.now_ms);
        self.model.told_of_crash(domid, is_repeated, CRASH_NODE, report, &self.machine);
        self.run()
    }
}
