//! Moves bytes between rings and the engine. This is the body of the main loop, shared by the kernel, the hosted server
//! and the simulator.
//!
//! The host calls [`Server::handle_event`] for each port that fired. It calls [`Server::handle_domain_exception`] when
//! the hypervisor reports that a domain shut down or died. It then calls [`Server::poll`] until the server is no longer
//! busy. Each call of `poll` does a bounded amount of work. Each connection's turn in it is bounded too
//! ([`crate::limits::REQUESTS_PER_TURN`], [`crate::limits::TURN_STEPS`]). One domain's flood therefore does not delay
//! another.

mod auto_introduce;
pub mod reattach;
mod restart;
mod ring_turns;
mod sockets;
pub mod stream;
pub mod update;
mod update_report;

use alloc::collections::VecDeque;

pub use crate::engine::Engine;
use crate::engine::hypervisor::{Hypervisor, Port};
use crate::engine::turn::Turn;
use crate::engine::work::Work;
use crate::engine::{self, config::Config};
#[cfg(doc)]
use crate::limits;
use crate::server::update::Updates;
pub use crate::store::connection_id::ConnectionId;
use crate::store::domain::DomId;
use crate::wire::errno::Errno;
use crate::wire::ring::RingPage;

/// The host's services for the server, in addition to [`Hypervisor`]: the mapped pages, and notifications.
pub trait Platform: Hypervisor {
    /// A mapped ring page.
    type Page: RingPage;

    /// Returns the ring page that [`Hypervisor::map_ring`] mapped for `domid`; `None` if it is not mapped.
    fn page(&self, domid: DomId) -> Option<&Self::Page>;

    /// Estimates what a live update with a stream of `_stream_bytes` bytes needs. Returns `None` on a host without live
    /// update.
    fn update_figures(&self, _stream_bytes: usize) -> Option<UpdateFigures> {
        None
    }

    /// Signals the other end of `port`.
    fn notify(&mut self, port: Port);
}

/// The estimated needs of a live update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateFigures {
    /// Bytes of memory needed in addition to what is in use.
    pub needed_bytes: usize,
    /// Bytes of free memory.
    pub free_bytes: usize,
    /// Estimated pause in milliseconds, in which no domain is served.
    pub pause_ms: u64,
}

/// The outcome of [`Server::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Whether work is left: call again before sleeping.
    pub busy: bool,
    /// Time of the next call if nothing happens before, in milliseconds of the same clock.
    pub deadline_ms: Option<u64>,
}

/// A request of the server to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Log the memory in use, and the numbers of rings and ports, as CONTROL `check` requires.
    ReportMemory,
    /// Start the successor that [`Server::take_successor`] hands out.
    StartUpdate,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    engine: Engine,
    /// The work meter of all turns.
    work: Work,
    updates: Updates,
    actions: VecDeque<Action>,
    /// Whether the hypervisor has reported that a domain shut down or died, since the last turn.
    has_exception: bool,
    /// Clients of the hosted server that may have work.
    sockets: VecDeque<ConnectionId>,
    /// Number of requests executed.
    requests: u64,
}

impl Server {
    /// Creates a server with a new store.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_engine(Engine::new(config))
    }

    fn with_engine(engine: Engine) -> Self {
        Self {
            engine,
            work: Work::default(),
            updates: Updates::default(),
            actions: VecDeque::new(),
            has_exception: false,
            sockets: VecDeque::new(),
            requests: 0,
        }
    }

    /// Returns the engine, read-only.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the number of requests executed. A successor and a warm restart start at zero.
    #[must_use]
    pub const fn requests_handled(&self) -> u64 {
        self.requests
    }

    /// Returns the elementary steps of work since the start ([`crate::engine::work`]).
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.work.steps()
    }

    /// Connects a domain that exists before the server, as [`Engine::handle_boot_domain`].
    ///
    /// # Errors
    /// Fails with the hypervisor's error if the ring cannot be mapped or the port cannot be bound.
    pub fn handle_boot_domain<P: Platform>(
        &mut self,
        domid: DomId,
        remote_port: u32,
        platform: &mut P,
    ) -> Result<(), Errno> {
        self.engine.handle_boot_domain(domid, remote_port, platform)
    }

    /// Notes that one of the server's ports fired.
    pub fn handle_event(&mut self, port: Port) {
        self.engine.handle_port(port);
    }

    /// Notes that the hypervisor has reported the shutdown or death of a domain.
    pub fn handle_domain_exception(&mut self) {
        self.has_exception = true;
    }

    /// Treats all connections and domains as if they had signalled. For use after a time in which signals were lost.
    pub fn wake_all(&mut self) {
        self.engine.wake_all();
        self.has_exception = true;
    }

    /// Returns the next action for the host.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns whether work is pending.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.engine.has_ready() || self.engine.has_postponed()
    }

    /// Executes the engine's actions: handles updates itself and queues the rest for the host.
    fn act<P: Platform>(&mut self, platform: &P, now_ms: u64) {
        self.updates.drop_abandoned(now_ms);
        while let Some(action) = self.engine.poll_action() {
            match action {
                engine::Action::ReportMemory => self.actions.push_back(Action::ReportMemory),
                engine::Action::Update { asked, command } => self.handle_update(asked, command, platform, now_ms),
            }
        }
        self.continue_update(now_ms);
    }

    /// Does a turn of work: serves each ring with pending work once.
    ///
    /// The cost is bounded in steps of the meter ([`crate::engine::work`]). A ring with pending work costs at most
    /// [`limits::TURN_STEPS`] and the excess of its last request ([`limits::REQUEST_STEPS_MOST`]). Each of the three
    /// kinds of postponed work costs at most [`limits::POSTPONED_STEPS`] and the excess of its last piece. A ring
    /// without work costs nothing.
    pub fn poll<P: Platform>(&mut self, platform: &mut P, now_ms: u64) -> Poll {
        if core::mem::take(&mut self.has_exception) {
            self.engine.handle_domain_exception(&mut Turn::new(platform, now_ms, &mut self.work));
        }
        self.engine.handle_timeout(&mut Turn::new(platform, now_ms, &mut self.work));
        for _ in 0..self.engine.ready_len() {
            let Some(id) = self.engine.poll_ready() else { break };
            self.serve(id, platform, now_ms);
        }
        self.engine.handle_postponed(&mut Turn::new(platform, now_ms, &mut self.work));
        self.act(platform, now_ms);
        let deadlines = [self.engine.poll_timeout(), self.updates.deadline_ms()];
        Poll { busy: self.is_busy(), deadline_ms: deadlines.into_iter().flatten().min() }
    }
}
