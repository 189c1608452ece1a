//! The way on after a panic in a request where there is no memory to start this program anew: this same kernel goes on, without
//! that request.
//!
//! A handler changes nothing, so the state is that of before the request (`docs/warm-restart.md`). What the handler had
//! allocated is lost, and with it the transaction that the request named: no more than the request's budget and its domain's
//! quota of memory allow, which is not little. But it happens seldom: a domain that does it twice within a minute is shut out.

use xenstore::engine::requests::in_hand::InHand;

use super::restart::{self, Serving};
use crate::kernel::main_loop;
use crate::xen::bridge::CrashNote;
use crate::xen::entry;

/// What it takes to go on.
pub(crate) struct Rest {
    pub(super) serving: Serving,
    pub(super) request: InHand,
    pub(super) crash: CrashNote,
}

impl Rest {
    /// Goes on with the main loop. `done` is called when nothing is left that could go wrong.
    pub(crate) fn go_on(self, done: impl FnOnce()) -> ! {
        let Self { serving, request, crash } = self;
        // SAFETY: the handler never runs again, nor does what called it.
        let (server, platform, home) = unsafe { serving.everything() };
        log::warn!("going on where it is, without the request");
        server.abandon_request(&request);
        restart::tell(&crash, home.crash_node, server, platform);
        restart::serve_again(serving);
        done();
        // SAFETY: the main loop's function has not returned. What it called is given up; what is used from here on are the
        // values that it holds, and statics.
        unsafe { entry::unwind_to(serving.stack_pointer(), serve) }
    }
}

/// The main loop once more, on the stack of the first one.
extern "C" fn serve() -> ! {
    let serving = restart::serving().expect("it was just set");
    // SAFETY: nobody else uses them: whoever did was given up.
    let (server, platform, home) = unsafe { serving.everything() };
    main_loop::serve(server, platform, home)
}
