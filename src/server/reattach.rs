//! Reattaches a restored server to the rings and ports of its clients.
//!
//! In a live update the ports are still bound: they belong to the domain, not to the kernel in it. After a cold start
//! they are gone, and the server binds the ports that the ring pages name. A ring that cannot be mapped costs only its
//! own connection.

use alloc::vec::Vec;

use crate::engine::Engine;
use crate::engine::domains::reattach::Restored;
use crate::engine::turn::Turn;
use crate::limits;
use crate::server::{Platform, Server};
use crate::wire::errno::Errno;
use crate::wire::ring::{Field, RingPage};

/// The source of the restored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reattachment {
    /// A predecessor in this domain, whose ports are still bound.
    Live,
    /// A stream that was saved earlier, in another domain.
    Cold {
        /// The control domain's port, if the host knows it; otherwise the ring page names it.
        control_port: Option<u32>,
    },
}

/// The outcome of [`Server::reattach`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reattached {
    /// Number of reattached connections.
    pub connections: usize,
    /// Number of lost connections.
    pub lost: usize,
    /// Whether the control domain's connection is reattached.
    pub has_control: bool,
}

impl Server {
    /// Creates a server with a restored engine. To be followed by [`Server::reattach`].
    #[must_use]
    pub fn restored(engine: Engine) -> Self {
        Self::with_engine(engine)
    }

    /// Maps the rings and binds the ports of all restored connections, and then serves all of them. Domains that no
    /// longer exist are released; in a live update this happens at the next [`Server::poll`].
    pub fn reattach<P: Platform>(&mut self, platform: &mut P, now_ms: u64, mode: Reattachment) -> Reattached {
        let all = self.engine.restored_connections();
        let privileged = self.engine.privileged();
        let mut outcome = Reattached::default();
        let mut waiting = Vec::new();
        if mode != Reattachment::Live {
            all.iter().for_each(|restored| self.engine.handle_port_adopted(restored.id, None));
        }
        for restored in all {
            let reattached = match mode {
                Reattachment::Live => self.reattach_live(restored, platform),
                Reattachment::Cold { control_port } => {
                    let known_port = control_port.filter(|_| restored.domid == privileged);
                    self.reattach_cold(restored, known_port, platform)
                }
            };
            match reattached {
                Ok(()) => {
                    outcome.connections = outcome.connections.saturating_add(1);
                    outcome.has_control |= restored.domid == privileged;
                }
                Err(errno) => {
                    log::warn!("domain {}: its connection can't be taken over: {}", restored.domid, errno.name());
                    outcome.lost = outcome.lost.saturating_add(1);
                    waiting.push(restored.id);
                }
            }
        }
        if mode == Reattachment::Live {
            waiting.into_iter().for_each(|id| self.engine.handle_not_reattached(id, &mut self.work));
            self.handle_domain_exception();
        } else {
            // Domains that no longer exist are released completely. The others may be introduced again.
            let mut turn = Turn::new(platform, now_ms, &mut self.work);
            self.engine.handle_domain_exception(&mut turn);
            waiting.into_iter().for_each(|id| self.engine.handle_left_waiting(id, &mut turn));
        }
        self.engine.wake_all();
        outcome
    }

    fn reattach_live<P: Platform>(&mut self, restored: Restored, platform: &mut P) -> Result<(), Errno> {
        let Restored { id, domid, port } = restored;
        // This also applies to a domain that no longer exists: its release closes the port.
        let port = port.map(|port| platform.adopt_port(domid, port.0)).transpose();
        self.engine.handle_port_adopted(id, port.ok().flatten());
        self.map_ring(restored, platform)?;
        port.map(|_| ())
    }

    fn reattach_cold<P: Platform>(
        &mut self,
        restored: Restored,
        known_port: Option<u32>,
        platform: &mut P,
    ) -> Result<(), Errno> {
        let Restored { id, domid, .. } = restored;
        self.map_ring(restored, platform)?;
        let in_ring = || platform.page(domid).map_or(0, |page| page.load(Field::EventPort));
        let remote_port =
            Some(known_port.unwrap_or_else(in_ring)).filter(|port| (1..=limits::REMOTE_PORT_MAX).contains(port));
        let port = remote_port.ok_or(Errno::NoEnt).and_then(|remote_port| platform.bind_port(domid, remote_port));
        match port {
            Ok(port) => {
                self.engine.handle_port_adopted(id, Some(port));
                Ok(())
            }
            Err(errno) => {
                self.engine.handle_ring_mapped(id, false);
                platform.unmap_ring(domid);
                Err(errno)
            }
        }
    }

    /// Maps a domain's ring if the domain still exists: another domain may have its number.
    fn map_ring<P: Platform>(&mut self, restored: Restored, platform: &mut P) -> Result<(), Errno> {
        if !self.engine.is_still_there(restored.domid, platform) {
            return Err(Errno::NoEnt);
        }
        platform.map_ring(restored.domid)?;
        self.engine.handle_ring_mapped(restored.id, true);
        Ok(())
    }
}
