//! The pure parts of the kernel, on the host: the same source files, compiled into this test.
//!
//! The kernel's crate cannot be linked here: its modules are named by path. The modules find each other under the same
//! names.
#![allow(dead_code, missing_docs)]

extern crate alloc;

#[path = "../src/xen"]
mod xen {
    pub(crate) mod abi;
    pub(crate) mod domain_state;
    pub(crate) mod page_table;
    pub(crate) mod shared_page;
    pub(crate) mod time_scale;
    #[path = "event_channel/two_level.rs"]
    pub(crate) mod two_level;
}
#[path = "../src/kernel"]
mod kernel {
    pub(crate) mod intrinsics;
    pub(crate) mod line_buffer;
    pub(crate) mod slots;
}

/// Returns a page that stands for a shared one. It is never freed.
fn new_page() -> xen::shared_page::SharedPage {
    #[repr(align(4096))]
    struct Aligned([u64; 512]);
    let base = std::ptr::NonNull::from(Box::leak(Box::new(Aligned([0; 512])))).cast();
    // SAFETY: a leaked page, which remains mapped; no reference into it remains.
    unsafe { xen::shared_page::SharedPage::new(base) }
}

mod events {
    use super::xen::shared_page::SharedPage;
    use super::xen::two_level::{PORTS, mask_all_but, offset, take_fired, unmask_all};

    /// Acts as Xen does when a port fires (`evtchn_2l_set_pending`).
    fn fire(page: &SharedPage, port: u32) {
        let word = offset::PENDING + port as usize / 64 * 8;
        page.store64(word, page.load64(word) | 1 << (port % 64));
        page.store64(offset::PENDING_SELECTOR, page.load64(offset::PENDING_SELECTOR) | 1 << (port / 64));
        page.store8(offset::UPCALL_PENDING, 1);
    }

    fn fired(page: &SharedPage) -> Vec<u32> {
        let mut ports = Vec::new();
        take_fired(page, |port| ports.push(port));
        ports
    }

    #[test]
    fn every_port_is_reported_once() {
        let page = super::new_page();
        unmask_all(&page);
        for port in 1..PORTS {
            fire(&page, port);
            fire(&page, port);
            assert_eq!(fired(&page), [port]);
            assert_eq!(fired(&page), []);
        }
        println!("{} ports, one by one", PORTS - 1);
    }

    #[test]
    fn all_ports_at_once_are_reported() {
        let page = super::new_page();
        for port in 1..PORTS {
            fire(&page, port);
        }
        assert_eq!(fired(&page), (1..PORTS).collect::<Vec<_>>());
        assert_eq!(page.load8(offset::UPCALL_PENDING), 0);
    }

    #[test]
    fn a_port_that_fires_during_the_scan_leaves_the_flag_set_or_is_reported() {
        for late in [2, 70, 4095] {
            let page = super::new_page();
            fire(&page, 70);
            let mut ports = Vec::new();
            take_fired(&page, |port| {
                ports.push(port);
                if ports.len() == 1 {
                    fire(&page, late);
                }
            });
            assert!(ports.contains(&late) || page.load8(offset::UPCALL_PENDING) == 1, "port {late} was lost");
            ports.extend(fired(&page));
            assert!(ports.contains(&late));
        }
    }

    #[test]
    fn unmasking_clears_every_mask_and_pending_bit_and_nothing_else() {
        let page = super::new_page();
        for at in (0..4096).step_by(8) {
            page.store64(at, u64::MAX);
        }
        unmask_all(&page);
        for at in (0..4096).step_by(8) {
            let cleared = (offset::PENDING..offset::PENDING + 512).contains(&at)
                || (offset::MASK..offset::MASK + 512).contains(&at);
            assert_eq!(page.load64(at), if cleared { 0 } else { u64::MAX }, "offset {at}");
        }
    }

    #[test]
    fn after_masking_all_ports_but_one_only_that_one_is_reported() {
        let page = super::new_page();
        for port in [1, 64, 4095] {
            fire(&page, 70);
            mask_all_but(&page, port);
            assert_eq!((fired(&page), page.load8(offset::UPCALL_PENDING)), (Vec::new(), 0), "port {port}");
            let unmasked =
                (0..PORTS).filter(|port| page.load64(offset::MASK + *port as usize / 64 * 8) & 1 << (port % 64) == 0);
            assert_eq!(unmasked.collect::<Vec<_>>(), [port]);
        }
    }
}

mod page {
    #[test]
    fn copies_stay_in_the_page() {
        let page = super::new_page();
        page.copy_in(4090, b"abcdef");
        let mut out = [0; 6];
        page.copy_out(4090, &mut out);
        assert_eq!(&out, b"abcdef");
        assert_eq!(page.load32(4088), u32::from_le_bytes(*b"\0\0ab"));
    }

    #[test]
    #[should_panic(expected = "not in the page")]
    fn a_copy_beyond_the_page_panics() {
        let page = super::new_page();
        page.copy_in(4091, b"abcdef");
    }

    #[test]
    #[should_panic(expected = "not in the page")]
    fn an_unaligned_word_panics() {
        let page = super::new_page();
        page.load32(2);
    }
}

mod tables {
    use super::xen::page_table::{Entry, Level};

    #[test]
    fn an_address_is_the_sum_of_its_entries_parts() {
        for address in [0, 0x4000_0000, 0x2000_0000, 0x4012_3000, 0x7f_ffff_f000, 0x7fff_ffff_f000] {
            let levels = [Level::One, Level::Two, Level::Three, Level::Four];
            let sum: usize = levels.iter().map(|level| level.index(address) * level.entry_span()).sum();
            assert_eq!(sum, address, "{address:#x}");
        }
    }

    #[test]
    fn an_entry_keeps_frame_and_flags_apart() {
        let entry = Entry::new(0xff_ffff_ffff, Entry::READ_WRITE | Entry::NO_EXECUTE);
        assert_eq!(entry.frame(), 0xff_ffff_ffff);
        assert!(entry.is_present());
        let code = entry.with_rights(false, true);
        assert_eq!(code.frame(), entry.frame());
        assert_eq!(code.0 & (Entry::WRITABLE | Entry::NO_EXECUTE), 0);
        assert_eq!(code.with_rights(true, false), entry);
        assert!(!Entry::ABSENT.is_present());
    }
}

mod time {
    use super::xen::time_scale::Calibration;

    const ONE_GHZ: Calibration = Calibration { timestamp: 5000, system_time_ns: 1_000_000, factor: 1 << 31, shift: 1 };

    #[test]
    fn ticks_are_scaled_to_nanoseconds() {
        assert_eq!(ONE_GHZ.time_ns(5000), 1_000_000);
        assert_eq!(ONE_GHZ.time_ns(6000), 1_001_000);
        let two_ghz = Calibration { shift: 0, ..ONE_GHZ };
        assert_eq!(two_ghz.time_ns(7000), 1_001_000);
        // Measured values of a processor of 3.1 GHz.
        let seen = Calibration { timestamp: 0, system_time_ns: 0, factor: 0xb749_6467, shift: -1 };
        assert_eq!(seen.time_ns(2_793_733_000) / 1_000_000, 1_000);
    }

    #[test]
    fn a_calibration_before_the_counters_zero_counts() {
        let before = Calibration { timestamp: 1000_u64.wrapping_neg(), ..ONE_GHZ };
        assert_eq!(before.time_ns(1000), 1_002_000);
    }

    #[test]
    fn a_counter_that_lags_gives_the_time_of_the_calibration() {
        assert_eq!(ONE_GHZ.time_ns(4000), 1_000_000);
    }

    #[test]
    fn no_calibration_overflows() {
        for shift in [i8::MIN, -64, -1, 0, 1, 63, 64, i8::MAX] {
            for counter in [0, 1, u64::MAX / 2, u64::MAX] {
                let wild = Calibration { timestamp: 0, system_time_ns: u64::MAX - 1, factor: u32::MAX, shift };
                assert!(wild.time_ns(counter) >= u64::MAX - 1);
            }
        }
    }
}

mod domains {
    use super::xen::abi::DOMCTL_PAYLOAD_BYTES;
    use super::xen::domain_state::{State, from_stable, from_versioned};

    fn info(domain: u16, flags: u32) -> [u8; DOMCTL_PAYLOAD_BYTES] {
        let mut payload = [0; DOMCTL_PAYLOAD_BYTES];
        payload[..2].copy_from_slice(&domain.to_le_bytes());
        payload[4..8].copy_from_slice(&flags.to_le_bytes());
        payload
    }

    #[test]
    fn an_answer_about_a_later_domain_means_that_the_domain_does_not_exist() {
        assert_eq!(from_versioned(3, &info(4, 0)).state, State::Absent);
        assert_eq!(from_versioned(3, &info(3, 0)).state, State::Running);
    }

    #[test]
    fn flags_are_read_and_dying_outweighs_shutdown() {
        assert_eq!(from_versioned(3, &info(3, 1 << 2)).state, State::Shutdown);
        assert_eq!(from_versioned(3, &info(3, 1 << 2 | 1)).state, State::Dying);
        assert_eq!(from_versioned(3, &info(3, 1 << 1 | 1 << 4 | 0xff << 16)).state, State::Running);
    }

    #[test]
    fn the_stable_answer_is_read() {
        let state = |bits: u16| {
            let mut payload = [0; DOMCTL_PAYLOAD_BYTES];
            payload[..2].copy_from_slice(&bits.to_le_bytes());
            from_stable(&payload).state
        };
        assert_eq!(state(0), State::Absent);
        assert_eq!(state(1), State::Running);
        assert_eq!(state(1 | 2), State::Shutdown);
        assert_eq!(state(1 | 2 | 4), State::Shutdown);
        assert_eq!(state(1 | 2 | 4 | 8), State::Dying);
    }

    #[test]
    fn only_the_stable_answer_identifies_the_domain() {
        let mut payload = [0; DOMCTL_PAYLOAD_BYTES];
        payload[0] = 1;
        payload[8..16].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(from_stable(&payload).unique_id, Some(0x1122_3344_5566_7788));
        payload[8..16].fill(0);
        assert_eq!(from_stable(&payload).unique_id, None);
        assert_eq!(from_versioned(3, &info(3, 0)).unique_id, None);
    }

    #[test]
    fn a_store_domain_is_distinguished_from_one_that_also_controls_the_host() {
        let is_store = |capabilities: u8| {
            let mut payload = [0; DOMCTL_PAYLOAD_BYTES];
            (payload[0], payload[2]) = (1, capabilities);
            from_stable(&payload).is_store
        };
        assert_eq!([1, 2, 4, 5].map(is_store), [false, false, true, false]);
        assert!(from_versioned(3, &info(3, 1 << 7)).is_store);
        assert!(!from_versioned(3, &info(3, 0)).is_store);
    }
}

mod lines {
    use super::kernel::line_buffer::LineBuffer;

    fn drain<const N: usize>(buffer: &mut LineBuffer<N>, step: usize) -> String {
        let mut text = Vec::new();
        while !buffer.is_empty() {
            let part = buffer.peek();
            let count = part.len().min(step);
            text.extend_from_slice(&part[..count]);
            buffer.consume(count);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_come_out_as_they_went_in_across_the_wrap() {
        for step in [1, 7, 64] {
            let mut buffer = LineBuffer::<64>::new();
            for round in 0..100 {
                assert!(buffer.push_line(format_args!("line {round}")));
                assert!(buffer.push_line(format_args!("and {round}")));
                assert_eq!(drain(&mut buffer, step), format!("line {round}\r\nand {round}\r\n"));
            }
        }
    }

    #[test]
    fn a_line_that_does_not_fit_is_dropped_whole_and_counted() {
        let mut buffer = LineBuffer::<64>::new();
        assert!(buffer.push_line(format_args!("{:50}", "first")));
        assert!(!buffer.push_line(format_args!("second, longer {}", 2)));
        assert!(!buffer.push_line(format_args!("{:13}", "third")));
        assert_eq!(drain(&mut buffer, 64), format!("{:50}\r\n", "first"));
        assert!(buffer.push_line(format_args!("fourth")));
        assert_eq!(drain(&mut buffer, 64), "(2 lines dropped: the console was full)\r\nfourth\r\n");
        assert!(buffer.push_line(format_args!("fifth")));
        assert_eq!(drain(&mut buffer, 64), "fifth\r\n");
    }

    #[test]
    fn a_buffer_can_be_filled_to_the_last_byte() {
        let mut buffer = LineBuffer::<64>::new();
        assert!(buffer.push_line(format_args!("{:62}", "x")));
        assert!(!buffer.push_line(format_args!("")));
        assert_eq!(drain(&mut buffer, 5).len(), 64);
    }
}

mod window {
    use super::kernel::slots::Slots;

    #[test]
    fn a_freed_slot_is_used_before_a_fresh_one() {
        let mut slots = Slots::new(3);
        assert_eq!([slots.take(), slots.take()], [Some(0), Some(1)]);
        slots.give_back(0);
        assert_eq!([slots.take(), slots.take(), slots.take()], [Some(0), Some(2), None]);
    }
}

mod memory_functions {
    use super::kernel::intrinsics::{memcmp, memcpy, memmove, memset, strlen};

    #[test]
    fn blocks_of_any_length_and_overlap_are_moved() {
        let mut count = 0;
        for length in (0..=80).chain([255, 256, 257]) {
            for distance in 0..=70 {
                for (from, to) in [(0, distance), (distance, 0)] {
                    let mut bytes: Vec<u8> = (0..400).map(|i| (i % 251) as u8).collect();
                    let mut expected = bytes.clone();
                    expected.copy_within(from..from + length, to);
                    // SAFETY: both blocks lie in the vector.
                    unsafe { memmove(bytes.as_mut_ptr().add(to), bytes.as_ptr().add(from), length) };
                    assert_eq!(bytes, expected, "{length} bytes from {from} to {to}");
                    count += 1;
                }
            }
        }
        println!("{count} moves");
    }

    #[test]
    fn copying_and_filling_touch_only_their_range() {
        for length in 0..=100 {
            let source: Vec<u8> = (0..length).map(|i| i as u8 + 1).collect();
            let mut target = vec![0_u8; length + 2];
            // SAFETY: the target has room for the bytes, with one more at each side.
            unsafe { memcpy(target.as_mut_ptr().add(1), source.as_ptr(), length) };
            assert_eq!(&target[1..=length], source);
            assert_eq!((target[0], target[length + 1]), (0, 0));
            // SAFETY: the same bytes.
            unsafe { memset(target.as_mut_ptr().add(1), 0x1ff, length) };
            assert!(target[1..=length].iter().all(|byte| *byte == 0xff));
            assert_eq!((target[0], target[length + 1]), (0, 0));
        }
    }

    #[test]
    fn comparing_agrees_with_slices() {
        for length in 0..=40 {
            for at in 0..length {
                let a = vec![0x80_u8; length];
                for other in [0, 0x7f, 0x81, 0xff] {
                    let mut b = a.clone();
                    b[at] = other;
                    // SAFETY: both have that length.
                    let order = unsafe { memcmp(a.as_ptr(), b.as_ptr(), length) };
                    assert_eq!(order.cmp(&0), a.cmp(&b));
                }
                // SAFETY: both have that length.
                assert_eq!(unsafe { memcmp(a.as_ptr(), a.as_ptr(), length) }, 0);
            }
        }
    }

    #[test]
    fn a_text_ends_at_its_first_zero() {
        // SAFETY: both are terminated.
        unsafe {
            assert_eq!(strlen(c"".as_ptr().cast()), 0);
            assert_eq!(strlen(c"twelve bytes".as_ptr().cast()), 12);
        }
    }
}
