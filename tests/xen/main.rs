//! Tests on real Xen: hypervisor, dom0 and Debian's tools in QEMU, with this kernel as the Xenstore.
//!
//! `make test-xen` runs them. A boot takes half a minute: each host is booted once, does all its work in one job, and
//! the tests check its results. The jobs are in `jobs/`; `boot.sh` boots a host.

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
