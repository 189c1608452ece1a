//! A Xen made of files in a folder, like that of `tests/peers/fakexen.c` for other servers:
//!
//! - `server`: datagram socket of the server's event channels; a sender names a port in four bytes
//! - `dom.N`: datagram socket of domain N's event channel
//! - `ring.N`: domain N's ring page
//! - `state.N`: exists while domain N does; its first byte is `r` running, `s` shut down, `d` dying
//!
//! The server's port of domain N is 1000 + N. Port 1 reports that a domain shut down or died.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use xenstore::engine::hypervisor::{DomainInfo, DomainState, Hypervisor, Port};
use xenstore::server::Platform;
use xenstore::store::domain::DomId;
use xenstore::wire::errno::Errno;
use xenstore::wire::ring::{Field, RingPage};

use crate::page::MappedPage;

/// The port of the domain exception.
pub(crate) const EXCEPTION_PORT: Port = Port(1);
/// The file of the server's event channels.
const CHANNEL_FILE: &str = "server";
/// The server's port of domain 0.
const FIRST_PORT: u32 = 1000;

/// The folder that represents Xen. Dropping this removes the file of the server's event channels.
pub(crate) struct FolderPlatform {
    folder: PathBuf,
    channel: UnixDatagram,
    rings: BTreeMap<DomId, MappedPage>,
}

impl FolderPlatform {
    /// Opens the server's end of the event channels.
    pub(crate) fn new(folder: PathBuf) -> io::Result<Self> {
        let path = folder.join(CHANNEL_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let channel = UnixDatagram::bind(path)?;
        channel.set_nonblocking(true)?;
        Ok(Self { folder, channel, rings: BTreeMap::new() })
    }

    /// Returns the socket that is readable when a port fired.
    pub(crate) const fn channel(&self) -> &UnixDatagram {
        &self.channel
    }

    /// Returns the next port that fired.
    pub(crate) fn next_port(&self) -> Option<Port> {
        let mut bytes = [0; 4];
        loop {
            match self.channel.recv(&mut bytes) {
                Ok(4) => return Some(Port(u32::from_ne_bytes(bytes))),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn file(&self, name: &str, domid: DomId) -> PathBuf {
        self.folder.join(format!("{name}.{domid}"))
    }
}

impl Drop for FolderPlatform {
    fn drop(&mut self) {
        // If the file cannot be removed, the next server replaces it.
        let _ = fs::remove_file(self.folder.join(CHANNEL_FILE));
    }
}

impl Hypervisor for FolderPlatform {
    fn map_ring(&mut self, domid: DomId) -> Result<(), Errno> {
        match MappedPage::open(&self.file("ring", domid)) {
            Ok(page) => {
                self.rings.insert(domid, page);
                Ok(())
            }
            Err(error) => {
                log::warn!("domain {domid}: the ring page cannot be mapped: {error}");
                Err(if error.kind() == io::ErrorKind::NotFound { Errno::NoEnt } else { Errno::Io })
            }
        }
    }

    fn unmap_ring(&mut self, domid: DomId) {
        self.rings.remove(&domid);
    }

    fn bind_port(&mut self, domid: DomId, _remote_port: u32) -> Result<Port, Errno> {
        Ok(Port(FIRST_PORT + u32::from(domid.0)))
    }

    fn adopt_port(&mut self, domid: DomId, _port: u32) -> Result<Port, Errno> {
        // Ports are only names here, and a domain's port is always the same.
        Ok(Port(FIRST_PORT + u32::from(domid.0)))
    }

    fn port_in_ring(&self, domid: DomId) -> u32 {
        self.page(domid).map_or(0, |page| page.load(Field::EventPort))
    }

    fn close_port(&mut self, _port: Port) {}

    fn next_domain(&mut self, from: DomId) -> Option<DomId> {
        let files = fs::read_dir(&self.folder).ok()?;
        let domids = files.filter_map(|file| {
            let name = file.ok()?.file_name();
            name.to_str()?.strip_prefix("ring.")?.parse().ok().map(DomId)
        });
        domids.filter(|domid| *domid >= from).min()
    }

    fn domain_info(&mut self, domid: DomId) -> DomainInfo {
        let state = if domid == DomId::DOM0 {
            DomainState::Running
        } else {
            match fs::read(self.file("state", domid)).map(|state| state.first().copied()) {
                Err(_) => DomainState::Absent,
                Ok(Some(b's')) => DomainState::Shutdown,
                Ok(Some(b'd')) => DomainState::Dying,
                Ok(_) => DomainState::Running,
            }
        };
        DomainInfo { state, unique_id: None }
    }
}

impl Platform for FolderPlatform {
    type Page = MappedPage;

    fn page(&self, domid: DomId) -> Option<&MappedPage> {
        self.rings.get(&domid)
    }

    fn notify(&mut self, port: Port) {
        let domid = DomId(u16::try_from(port.0 - FIRST_PORT).expect("a port that `bind_port` made"));
        // An event is a level and not a queue: a full or missing receiver loses nothing.
        let _ = self.channel.send_to(&port.0.to_ne_bytes(), self.file("dom", domid));
    }
}
