//! The guest revokes the grant of its ring, and closes its port.

use alloc::boxed::Box;
use alloc::string::String;
use core::ptr;

use xenstore::wire::header::MessageType;

use crate::xen::{event_channel, hypercall};

use super::Attack;

/// `GNTTAB_RESERVED_XENSTORE` (`xen/include/public/grant_table.h`): the entry for the ring.
const XENSTORE_ENTRY: usize = 1;
/// Bytes of an entry of version 1.
const ENTRY_BYTES: usize = 8;
/// `DOMID_SELF`.
const SELF: u16 = 0x7ff0;
/// `GNTTABOP_setup_table`.
const SETUP_TABLE: usize = 2;

/// `struct gnttab_setup_table`.
#[repr(C)]
struct SetupTable {
    domain: u16,
    padding: u16,
    frame_count: u32,
    status: i16,
    padding_2: [u16; 3],
    frames: usize,
}

/// A page of memory.
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "only its address is used")] [u8; 4096]);

pub(super) fn run(attack: &mut Attack<'_>) -> String {
    let mut frame = 0_u64;
    let mut setup = SetupTable {
        domain: SELF,
        padding: 0,
        frame_count: 1,
        status: 0,
        padding_2: [0; 3],
        frames: ptr::from_mut(&mut frame).expose_provenance(),
    };
    let argument = ptr::from_mut(&mut setup).expose_provenance();
    // SAFETY: the structure is the operation's, with room for one frame's number.
    unsafe { hypercall::checked(xen_sys::__HYPERVISOR_grant_table_op, [SETUP_TABLE, argument, 1, 0, 0]) }
        .expect("a guest may have its grant table");
    assert_eq!(setup.status, 0, "the grant table");
    let table = ptr::from_mut(Box::leak(Box::new(Page([0; 4096])))).expose_provenance();
    // SAFETY: only this function uses the page.
    unsafe { attack.memory.replace_page(table, frame) }.expect("the table can be mapped");
    let entry = ptr::with_exposed_provenance_mut::<u64>(table + XENSTORE_ENTRY * ENTRY_BYTES);
    // SAFETY: an entry of the table that was just mapped.
    let before = unsafe { entry.read_volatile() };
    // SAFETY: the same.
    unsafe { entry.write_volatile(0) };
    let answered = attack.client.ask(MessageType::Read, 0, b"domid\0").is_some();
    let closed = event_channel::close(attack.client.port()).is_ok();
    // These signals reach no domain.
    let request = attack.client.request(MessageType::Read.to_wire(), 0, b"domid\0");
    attack.client.put(&request);
    attack.client.signal();
    alloc::format!("granted={} answered={answered} closed={closed}", before & 1)
}
