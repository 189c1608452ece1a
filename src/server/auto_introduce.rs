//! Auto-introduction of domains that exist before the server. The domain's builder wrote the port of the connection
//! into the ring page (`xen/include/public/io/xs_wire.h`, `evtchn_port`). Xen itself does not write it in any release
//! up to 4.22. A domain whose page names port 0 stays unconnected until INTRODUCE.

use crate::engine::hypervisor::DomainState;
use crate::limits;
use crate::server::{Platform, Server};
use crate::store::domain::DomId;
use crate::wire::errno::Errno;

impl Server {
    /// Connects each existing domain whose ring page names a port, the control domain first. Returns the number of
    /// connected domains.
    ///
    /// The server skips a domain whose ring cannot be mapped, whose ring page names no port, or whose port cannot be
    /// bound. INTRODUCE can still connect that domain. Requests that wait in a ring are kept, unless the domain has
    /// requested a reconnection. The ring is then reset, and its connection word reports the connection.
    pub fn auto_introduce_domains<P: Platform>(&mut self, platform: &mut P) -> usize {
        let privileged = self.engine.privileged();
        let mut connected = usize::from(self.auto_introduce(privileged, platform));
        let mut from = DomId(0);
        while let Some(domid) = platform.next_domain(from).filter(|domid| !domid.is_reserved()) {
            if domid != privileged && self.auto_introduce(domid, platform) {
                connected = connected.saturating_add(1);
            }
            from = DomId(domid.0.saturating_add(1));
        }
        connected
    }

    /// Connects one domain, if it exists and its ring page names a port. Returns whether the domain was connected.
    fn auto_introduce<P: Platform>(&mut self, domid: DomId, platform: &mut P) -> bool {
        let is_alive = matches!(platform.domain_state(domid), DomainState::Running | DomainState::Shutdown);
        if !is_alive || self.engine.state().domains.is_introduced(domid) {
            return false;
        }
        let outcome = port_in_ring(domid, platform)
            .and_then(|port| port.map(|port| self.handle_boot_domain(domid, port, platform)).transpose());
        match outcome {
            Ok(Some(())) => log::info!("domain {domid} was there before: connected"),
            Ok(None) => log::debug!("domain {domid} was there before: no port in its ring"),
            Err(errno) => log::warn!("domain {domid} was there before and can't be connected: {}", errno.name()),
        }
        matches!(outcome, Ok(Some(())))
    }
}

/// Returns the port that a domain's ring page names. The page is read only once, because the domain could change it
/// between two reads.
fn port_in_ring<P: Platform>(domid: DomId, platform: &mut P) -> Result<Option<u32>, Errno> {
    platform.map_ring(domid)?;
    let port = platform.port_in_ring(domid);
    platform.unmap_ring(domid);
    Ok((1..=limits::REMOTE_PORT_MAX).contains(&port).then_some(port))
}
