//! Resuming in place: after a panic in a request, this kernel continues without that request if there is no memory for
//! a warm restart.
//!
//! A handler changes nothing, so the state is that of before the request (`docs/warm-restart.md`). The handler's
//! allocations are lost, and so is the transaction that the request named. The loss is at most the request's budget and
//! its domain's memory quota, which is not little. It is rare: a domain that causes two crashes within a minute is shut
//! out.

use xenstore::engine::requests::in_flight::InFlight;

use super::restart::{self, Serving};
use crate::kernel::{in_flight, main_loop};
use crate::xen::entry;
use crate::xen::trampoline::CrashNote;

/// Everything that is needed to resume in place.
pub(crate) struct Rest {
    pub(super) serving: Serving,
    pub(super) request: InFlight,
    pub(super) crash: CrashNote,
}

impl Rest {
    /// Resumes the main loop. Calls `done` when nothing is left that can fail.
    pub(crate) fn resume(self, done: impl FnOnce()) -> ! {
        let Self { serving, request, crash } = self;
        // SAFETY: neither the handler nor its callers run again.
        let (server, platform, home) = unsafe { serving.everything() };
        log::warn!("resumed in place, without the request");
        in_flight::end();
        server.abandon_request(&request);
        restart::report(&crash, home.crash_node, server, platform);
        restart::serve_again(serving);
        done();
        // SAFETY: the main loop's function has not returned. Everything that it called is given up. From here on, only
        // the values that it holds, and statics, are used.
        unsafe { entry::unwind_to(serving.stack_pointer(), serve) }
    }
}

/// Enters the main loop again, on the stack of the first one.
extern "C" fn serve() -> ! {
    let serving = restart::serving().expect("it was just set");
    // SAFETY: there is no other user of these values: the previous one was given up.
    let (server, platform, home) = unsafe { serving.everything() };
    main_loop::serve(server, platform, home)
}
