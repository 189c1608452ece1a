//! A hostile guest, for tests on real Xen: an ordinary PV guest that attacks its Xenstore in every way it can. It
//! exists only in images with the feature `hostile-guest`, and uses the project's own entry, memory and hypercalls.
//!
//! The command line names the mode: `--hostile=<mode> --seconds=<n>`. At the end the guest logs its counts on its
//! console, and waits to be destroyed. `--hostile=serve` is the opposite: see [`honest`].

mod client;
mod honest;
mod modes;
mod pipeline;
mod processor;
mod random;
mod revoke;
mod shapes;
mod waits;

use core::ptr::{self, NonNull};

use crate::kernel::boot_info::BootInfo;
use crate::xen::event_channel::two_level;
use crate::xen::memory::Memory;
use crate::xen::sched::{self, Reason};
use crate::xen::shared_page::SharedPage;
use crate::xen::{shared_info, time};

use client::Client;
use pipeline::Pipeline;
use random::Random;

/// The resources of every mode.
pub(crate) struct Attack<'a> {
    memory: &'a Memory,
    client: Client,
    random: Random,
    /// The end of the attack, in milliseconds of system time.
    end_ms: u64,
}

impl Attack<'_> {
    /// Returns whether there is time left.
    fn goes_on(&self) -> bool {
        time::now_ms() < self.end_ms
    }

    /// Returns a pipeline of the client's requests until the attack's end.
    fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(&mut self.client, self.end_ms)
    }
}

/// Returns the value of a word `name=value` of the command line.
fn word<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Runs the mode of the command line, and never returns.
pub(crate) fn run(boot: &BootInfo, memory: &Memory) -> ! {
    two_level::unmask_all(shared_info::page().expect("mapped before"));
    time::stop_periodic_timer();
    let line = core::str::from_utf8(boot.command_line).unwrap_or_default();
    let mode = word(line, "--hostile").expect("the command line names a mode");
    let channel = boot.store.expect("an ordinary guest has a Xenstore");
    let address = memory.address_of_frame(channel.frame).expect("the ring is one of the guest's pages");
    let page = NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("page 0 is not at address 0");
    // SAFETY: the builder made the page for the ring. It remains mapped, and only this mapping accesses it.
    let page = unsafe { SharedPage::new(page) };
    let client = Client::new(page, channel.port);
    if mode == "serve" {
        honest::serve(client)
    }
    let seconds: u64 =
        word(line, "--seconds").and_then(|text| text.parse().ok()).expect("the command line has a duration");
    let mut attack =
        Attack { memory, client, random: Random::new(time::now_ns()), end_ms: time::now_ms() + seconds * 1000 };
    log::info!("hostile: {mode} begins");
    let counted = match mode {
        "spin" => modes::spin(&mut attack),
        "indices" => modes::indices(&mut attack),
        "flood" => modes::flood(&mut attack),
        "garbage" => modes::garbage(&mut attack),
        "fill" => modes::fill(&mut attack),
        "walk" => modes::walk(&mut attack),
        "revoke" => revoke::run(&mut attack),
        "busy" => shapes::busy(&mut attack),
        "collide" => shapes::collide(&mut attack),
        "sleep" => shapes::sleep(&mut attack),
        "repeat" => shapes::repeat(&mut attack),
        "expire" => shapes::expire(&mut attack),
        "blame" => shapes::blame(&mut attack),
        "missing" => shapes::missing(&mut attack),
        "burst" => shapes::burst(&mut attack),
        "exit" => shapes::exit(&mut attack),
        "die" => {
            modes::half_a_request(&mut attack);
            sched::shutdown(Reason::Crash)
        }
        _ => panic!("mode {mode:?} is unknown"),
    };
    log::info!("hostile: {mode} is done: {counted}");
    loop {
        sched::sleep(time::now_ns() + 1_000_000_000);
    }
}
