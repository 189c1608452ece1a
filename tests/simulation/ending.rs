//! Reads of the whole state, and the end of a history.

use xenstore::wire::header::MessageType as T;

use crate::counts::Counts;
use crate::runner::Runner;
use crate::script::{GUESTS, Which};

impl Runner {
    /// Lets dom0 read everything, node by node. The model knows the replies.
    pub fn walk(&mut self) -> Result<(), String> {
        self.finish(0)?;
        self.ask_now(T::Control, "check\0")?;
        let paths: Vec<String> = self.model.store.ordinary().map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.counts.add("nodes read in walks", 1);
            for kind in [T::Directory, T::Read, T::GetPerms] {
                self.ask_now(kind, &format!("{path}\0"))?;
            }
        }
        Ok(())
    }

    /// Sends a request of dom0 that is answered at once.
    fn ask_now(&mut self, kind: T, payload: &str) -> Result<(), String> {
        self.ask(0, Which::None, kind.to_wire(), payload.as_bytes(), usize::MAX, true)?;
        self.take(0, usize::MAX)
    }

    /// Lets a domain send and read everything that it can.
    fn finish(&mut self, domid: u16) -> Result<(), String> {
        for _ in 0..100 {
            self.send(domid, usize::MAX, true)?;
            self.take(domid, usize::MAX)?;
            if self.clients.get(&domid).is_none_or(|client| client.unsent() == 0) {
                break;
            }
        }
        Ok(())
    }

    /// Lets all domains read and get their replies. Then all guests end, and nothing of them remains.
    pub fn end(&mut self) -> Result<(), String> {
        self.machine.free_memory = None;
        self.model.is_scarce = false;
        self.clients.values().for_each(|client| client.page.scribble(None));
        // The server is notified of every death in the end.
        self.tell()?;
        for round in 0..60 {
            for domid in [0].into_iter().chain(GUESTS) {
                self.finish(domid)?;
            }
            if round > 2 && self.unanswered().is_none() {
                break;
            }
            self.now_ms += 1000;
            self.run()?;
        }
        if let Some(domid) = self.unanswered() {
            return Err(format!("G2: domain {domid} waits for a reply"));
        }
        self.check()?;
        self.walk()?;
        GUESTS.into_iter().for_each(|domid| self.end_domain(domid));
        self.tell()?;
        self.check()?;
        self.walk()?;
        self.check_nothing_is_left()
    }

    /// Counts the events of the history.
    pub fn counted(&self) -> Counts {
        let mut counts = self.counts.clone();
        let tally = &self.model.tally;
        counts.add("requests", tally.requests as u64);
        for (outcome, count) in &tally.outcomes {
            counts.add(format!("answered {outcome}"), *count as u64);
        }
        counts.add("events", tally.events as u64);
        counts.add("events about domains", tally.special_events as u64);
        counts.add("events that their watch may not know", tally.withheld as u64);
        counts.add("expired events", tally.expired as u64);
        counts.add("commits", tally.commits as u64);
        counts.add("commits by a replay", tally.replays as u64);
        counts.add("releases", tally.deaths as u64);
        counts.add("refused for memory", tally.refused_for_memory as u64);
        counts.add("introductions that fail", tally.introductions_failed);
        counts
    }

    /// Returns a domain that keeps to the rules and has pending requests, replies or events.
    fn unanswered(&self) -> Option<u16> {
        self.clients.iter().find_map(|(domid, client)| {
            let connection = self.model.connections.get(domid).filter(|of| of.error.is_none() && of.is_mapped)?;
            let waits = client.unsent() > 0 || client.unread() > 0 || !connection.queue.is_empty();
            (waits && !client.is_wild).then_some(*domid)
        })
    }
}
