//! The domain builder's information for the kernel, in a form of the kernel's own.

use core::ffi::CStr;
use core::ops::Range;

use xen_sys::start_info;
use zerocopy::IntoBytes as _;

use crate::xen::shared_page::PAGE_BYTES;

/// A page shared with another domain and the port that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Machine frame of the page, which is one of this domain's pages.
    pub(crate) frame: u64,
    /// The local port.
    pub(crate) port: u32,
}

/// The information that the kernel gets at boot.
#[derive(Clone, Debug)]
pub(crate) struct BootInfo {
    /// Pages of the domain.
    pub(crate) pages: usize,
    /// The command line, without its NUL.
    pub(crate) command_line: &'static [u8],
    /// Machine frame of the shared-info page.
    pub(crate) shared_info_frame: u64,
    /// The console, if there is one.
    pub(crate) console: Option<Channel>,
    /// This domain's own Xenstore channel: only an ordinary guest has one.
    pub(crate) store: Option<Channel>,
    /// The boot module, as virtual addresses.
    pub(crate) module: Option<Range<usize>>,
    /// Virtual address of the root page table.
    pub(crate) page_table: usize,
    /// Virtual address of the p2m list: machine frames by page.
    pub(crate) frame_list: usize,
    /// The first virtual address after everything that the builder put into memory, except for a module at the very
    /// end.
    pub(crate) first_free: usize,
    /// Address of a module that lies at the very end of memory.
    pub(crate) last_module: Option<usize>,
}

impl BootInfo {
    /// Reads `start_info` (`xen/include/public/xen.h`).
    ///
    /// # Safety
    /// `info` must be the pointer that the builder left in `rsi`, and `stack_end` the `rsp` that it left. Nothing may
    /// have changed since.
    pub(crate) unsafe fn from_start_info(info: *const start_info, stack_end: usize) -> Self {
        // SAFETY: the builder's structure stays where it is and is never written.
        let info: &'static start_info = unsafe { &*info };
        // SAFETY: both variants of the union are integers. For a domain that is not dom0, the builder filled in this
        // one.
        let console = unsafe { info.console.domU };
        let text = info.cmd_line.as_bytes();
        let module = (info.mod_len != 0 && info.flags & xen_sys::SIF_MOD_START_PFN == 0).then(|| {
            let start = info.mod_start as usize;
            start..start.saturating_add(info.mod_len as usize)
        });
        let tables_end = (info.pt_base + info.nr_pt_frames * PAGE_BYTES as u64) as usize;
        let behind_tables = stack_end.max(tables_end);
        let last_module = module.as_ref().map(|module| module.start).filter(|start| *start >= behind_tables);
        let module_end = module.as_ref().filter(|_| last_module.is_none()).map_or(0, |module| module.end);
        Self {
            pages: info.nr_pages as usize,
            command_line: CStr::from_bytes_until_nul(text).map_or(text, CStr::to_bytes),
            shared_info_frame: info.shared_info >> 12,
            console: channel(console.mfn, console.evtchn),
            store: channel(info.store_mfn, info.store_evtchn),
            module,
            page_table: info.pt_base as usize,
            frame_list: info.mfn_list as usize,
            first_free: behind_tables.max(module_end),
            last_module,
        }
    }
}

/// Returns the channel, if the builder made one.
fn channel(frame: u64, port: u32) -> Option<Channel> {
    (frame != 0 && port != 0).then_some(Channel { frame, port })
}
