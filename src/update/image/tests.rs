//! Images made in memory, one byte or field wrong at a time.

use super::*;
use std::string::{String, ToString};
use std::vec;

const BASE: u64 = 0x4000_0000;
const TEXT: u64 = BASE + 0x1000;
const NOTES_AT: usize = 0x200;
const TEXT_AT: usize = 0x1000;
const DATA_AT: usize = 0x2800;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn program_header(kind: u32, flags: u32, at: usize, address: u64, file: u64, memory: u64) -> Vec<u8> {
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for word in [at as u64, address, address, file, memory, 0x1000] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header
}

fn note(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut note = [4, value.len() as u32, kind].map(u32::to_le_bytes).concat();
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(value);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// The offset of a program header in [`kernel`].
const fn header_at(number: usize) -> usize {
    HEADER_BYTES + number * PROGRAM_HEADER_BYTES
}

/// A small kernel: a page of stubs, a page of code, and data with zeros after it.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; DATA_AT + 0x300];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[2, 0, 62, 0, 1]);
    put(&mut file, 32, &(HEADER_BYTES as u64).to_le_bytes());
    put(&mut file, 54, &[PROGRAM_HEADER_BYTES as u8, 0, 3, 0]);
    let notes = [
        note(1, &(TEXT + 0x1010).to_le_bytes()),
        note(2, &TEXT.to_le_bytes()),
        note(3, &BASE.to_le_bytes()),
        note(4, &BASE.to_le_bytes()),
        note(5, b"xen-3.0\0"),
    ]
    .concat();
    put(&mut file, NOTES_AT, &notes);
    let headers = [
        program_header(PT_NOTE, 4, NOTES_AT, 0, notes.len() as u64, notes.len() as u64),
        program_header(PT_LOAD, 5, TEXT_AT, TEXT, 0x1800, 0x1800),
        program_header(PT_LOAD, 6, DATA_AT, BASE + 0x3000, 0x300, 0x2345),
    ];
    put(&mut file, HEADER_BYTES, &headers.concat());
    file[TEXT_AT..].fill(0xcc);
    file
}

fn check(file: &[u8]) -> Result<Image, NotStartable> {
    let mut upload = Upload::new();
    upload.push(file).unwrap();
    Image::check(&upload)
}

/// The kernel with bytes changed.
fn with(at: usize, bytes: &[u8]) -> Result<Image, NotStartable> {
    let mut file = kernel();
    put(&mut file, at, bytes);
    check(&file)
}

#[test]
fn a_kernel_is_put_where_its_segments_say() {
    let file = kernel();
    let mut upload = Upload::new();
    upload.push(&file).unwrap();
    let image = Image::check(&upload).unwrap();
    assert_eq!((image.entry(), image.base(), image.hypercall_page()), (TEXT + 0x1010, BASE, TEXT));
    assert_eq!(image.memory_bytes(), 0x6000, "whole pages, with the zeros");
    let mut memory = vec![0; 0x6000];
    image.for_each_part(&upload, |at, part| put(&mut memory, at as usize, part));
    assert!(memory[..0x1000].iter().all(|byte| *byte == 0));
    assert_eq!(memory[0x1000..0x2800], file[TEXT_AT..TEXT_AT + 0x1800]);
    assert_eq!(memory[0x3000..0x3300], file[DATA_AT..]);
    assert!(memory[0x3300..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_wrong_is_named() {
    let cases: Vec<(Result<Image, NotStartable>, &str)> = vec![
        (check(b""), "it is not an ELF file (first bytes 00 00 00 00)"),
        (check(b"#!/bin/sh"), "it is not an ELF file (first bytes 23 21 2f 62)"),
        (check(b"\x1f\x8b\x08\0"), "it is not an ELF file (first bytes 1f 8b 08 00; is it compressed?)"),
        (check(&kernel()[..HEADER_BYTES - 1]), "it is not an ELF file (first bytes 7f 45 4c 46)"),
        (with(4, &[1]), "it is an ELF file, but not for x86-64"),
        (with(18, &[0xb7]), "it is an ELF file, but not for x86-64"),
        (with(16, &[3]), "it is an ELF file, but not a static program"),
        (with(54, &[32]), "it is an ELF file, but with program headers of another size"),
        (with(56, &[0]), "it has 0 segments, and not 1 to 16"),
        (with(56, &[0xff, 0xff]), "it has 65535 segments, and not 1 to 16"),
        (with(32, &[0xff; 8]), "its segment 0 is described after the end of the file"),
        (with(header_at(0), &[0]), "it has no notes of a Xen PV kernel"),
        (with(header_at(0) + 32, &[0xff; 8]), "its segment 0 is not in the file"),
        (with(NOTES_AT + 12, b"GNU"), "its note ENTRY is missing or wrong"),
        (with(NOTES_AT + 4, &[9]), "its note VIRT_BASE is missing or wrong"),
        (with(NOTES_AT + 8, &[18]), "it is a PVH kernel, and this domain is PV"),
        (with(NOTES_AT + 16, &[0; 8]), "the address of its entry is invalid"),
        (with(NOTES_AT + 16, &(BASE + 0x3000).to_le_bytes()), "the address of its entry is invalid"),
        (with(NOTES_AT + 24 + 16, &[1]), "the address of its hypercall page is invalid"),
        (with(NOTES_AT + 24 + 16, &(TEXT + 0x1000).to_le_bytes()), "the address of its hypercall page is invalid"),
        (with(NOTES_AT + 48 + 16, &[1]), "its note VIRT_BASE is missing or wrong"),
        (with(header_at(1) + 8, &[0xff; 8]), "its segment 1 is not in the file"),
        (with(header_at(1) + 24, &[0; 8]), "its segment 1 lies below the base"),
        (with(header_at(1) + 40, &[0; 8]), "its segment 1 is longer in the file than in memory"),
        (with(header_at(2) + 40, &[0xff; 8]), "its segment 2 lies too high"),
        (with(header_at(2) + 40, &[0, 0, 0, 0, 1]), "its segment 2 needs too much memory"),
        (with(header_at(2) + 24, &TEXT.to_le_bytes()), "its segment 2 overlaps the one before"),
    ];
    for (outcome, expected) in cases {
        assert_eq!(outcome.map_err(|error| error.to_string()), Err(String::from(expected)));
    }
}

#[test]
fn no_file_makes_the_check_fail_badly_and_what_passes_stays_in_its_memory() {
    let whole = kernel();
    let mut passed = 0;
    for cut in 0..whole.len() {
        assert!(check(&whole[..cut]).is_err(), "cut to {cut} bytes");
    }
    let mut seed = 1_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for _ in 0..50_000 {
        let mut file = whole.clone();
        for _ in 0..1 + random() % 4 {
            let (at, byte) = (random() % (NOTES_AT + 120), random() as u8);
            file[at] = byte;
        }
        let mut upload = Upload::new();
        upload.push(&file).unwrap();
        let Ok(image) = Image::check(&upload) else { continue };
        passed += 1;
        assert!(image.memory_bytes() <= limits::IMAGE_MEMORY_BYTES + PAGE_BYTES);
        assert!(image.hypercall_page() - image.base() <= image.memory_bytes() - PAGE_BYTES);
        image.for_each_part(&upload, |at, part| assert!(at + part.len() as u64 <= image.memory_bytes()));
    }
    std::println!("50000 files, {passed} passed");
    assert!(passed > 1000);
}
