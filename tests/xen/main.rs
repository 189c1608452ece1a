//! Tests on real Xen: hypervisor, dom0 and Debian's tools in QEMU, with this kernel as the Xenstore.
//!
//! `make test-xen` runs them. A boot takes half a minute, so each host is booted once, does all its work in one job, and
//! the tests look at what came back. What a job does is in `jobs/`; how a host is booted is in `boot.sh`.

mod alone;
mod cold;
mod commands;
mod crash;
mod guests;
mod harness;
mod hostile;
mod protocol;
mod shapes;
mod update;
