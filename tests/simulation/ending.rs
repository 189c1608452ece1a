//! Looks at everything, and the end of a history.

use xenstore::wire::header::MessageType as T;

use crate::counts::Counts;
use crate::runner::Runner;
use crate::script::{GUESTS, Which};

impl Runner {
    /// Dom0 reads everything, node by node; the model knows what it has to find.
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

    /// A request of dom0 that is answered at once.
    fn ask_now(&mut self, kind: T, payload: &str) -> Result<(), String> {
        self.ask(0, Which::None, kind.to_wire(), payload.as_bytes(), usize::MAX, true)?;
        self.take(0, usize::MAX)
    }

    /// A domain sends and reads everything that it can.
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

    /// Everybody reads and is answered; then all guests go, and nothing of them is left.
    pub fn end(&mut self) -> Result<(), String> {
        self.machine.free_memory = None;
        self.model.is_scarce = false;
        self.clients.values().for_each(|client| client.page.scribble(None));
        // Sooner or later it is told of every death.
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

    /// What happened.
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
        counts.add("events that nobody read in time", tally.expired as u64);
        counts.add("commits", tally.commits as u64);
        counts.add("commits by a replay", tally.replays as u64);
        counts.add("releases", tally.deaths as u64);
        counts.add("refused for memory", tally.refused_for_memory as u64);
        counts.add("introductions that fail", tally.introductions_failed);
        counts
    }

    /// A domain that keeps to the rules and has something to send or to be sent.
    fn unanswered(&self) -> Option<u16> {
        self.clients.iter().find_map(|(domid, client)| {
            let connection = self.model.connections.get(domid).filter(|of| of.error.is_none() && of.is_mapped)?;
            let waits = client.unsent() > 0 || client.unread() > 0 || !connection.queue.is_empty();
            (waits && !client.is_wild).then_some(*domid)
        })
    }
}
