//! Any file as an uploaded kernel. The check refuses the file with an error, or all parts that the start uses are
//! inside the file and inside the reserved memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xenstore::limits;
use xenstore::update::image::Image;
use xenstore::update::upload::Upload;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut file = Upload::new();
    // In parts, as from the tool.
    for part in bytes.chunks(2048) {
        file.push(part).expect("there is memory");
    }
    assert_eq!(file.len(), bytes.len());
    let image = match Image::check(&file) {
        Ok(image) => image,
        Err(why) => {
            assert!(!why.to_string().is_empty());
            return;
        }
    };
    let memory = image.memory_bytes();
    assert!(memory > 0 && memory <= limits::IMAGE_MEMORY_BYTES && memory.is_multiple_of(PAGE_BYTES));
    assert!(image.base().is_multiple_of(PAGE_BYTES));
    let end = image.base().checked_add(memory).expect("it ends below the end of all addresses");
    assert!((image.base()..end).contains(&image.entry()));
    assert!((image.base()..=end - PAGE_BYTES).contains(&image.hypercall_page()));
    let mut used = 0_u64;
    image.for_each_part(&file, |offset, part| {
        assert!(offset >= used, "no part is put over another");
        used = offset.checked_add(part.len() as u64).expect("small numbers");
        assert!(used <= memory, "inside the memory");
    });
});
