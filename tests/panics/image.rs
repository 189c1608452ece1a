//! The parts of the image that this test reads: a static ELF file for x86-64 with symbols. Its code contains addresses
//! of constants as four bytes (`relocation-model=static`).

use std::collections::BTreeSet;

/// Bytes of a `core::panic::Location`: the file's name (address and length), line, column.
const LOCATION_BYTES: usize = 24;
/// A symbol's type: a function.
const FUNCTION: u8 = 2;

/// A place in a source that the image can name when it panics.
pub struct Site {
    /// The file as the compiler was given it.
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// The place's address in the image.
    address: u64,
}

struct Section {
    address: u64,
    bytes: Vec<u8>,
}

pub struct Image {
    code: Section,
    constants: Section,
    data: Section,
    /// Functions by their addresses.
    functions: Vec<(u64, String)>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(word)
}

/// Returns a string that ends in NUL.
fn string(bytes: &[u8], at: usize) -> String {
    let end = bytes[at..].iter().position(|byte| *byte == 0).expect("a NUL");
    String::from_utf8_lossy(&bytes[at..at + end]).into_owned()
}

impl Image {
    pub fn new(file: Vec<u8>) -> Self {
        assert!(file.starts_with(b"\x7fELF\x02\x01"), "the image is a 64-bit ELF file");
        let (table, count) = (number::<8>(&file, 40) as usize, number::<2>(&file, 60) as usize);
        let header = |index: usize| &file[table + index * 64..][..64];
        let content = |header: &[u8]| {
            let (at, bytes) = (number::<8>(header, 24) as usize, number::<8>(header, 32) as usize);
            file[at..at + bytes].to_vec()
        };
        let names = content(header(number::<2>(&file, 62) as usize));
        let section = |name: &str| {
            let found = (0..count).map(header).find(|header| string(&names, number::<4>(header, 0) as usize) == name);
            let header = found.unwrap_or_else(|| panic!("the image has no section {name}"));
            Section { address: number::<8>(header, 16), bytes: content(header) }
        };
        let functions = functions(&section(".symtab").bytes, &section(".strtab").bytes);
        Self { code: section(".text"), constants: section(".rodata"), data: section(".data"), functions }
    }

    /// Returns all places: all constants in the form of a location whose file is a Rust source.
    pub fn sites(&self) -> Vec<Site> {
        [&self.constants, &self.data].into_iter().flat_map(|section| self.sites_in(section)).collect()
    }

    fn sites_in(&self, section: &Section) -> Vec<Site> {
        let last = section.bytes.len().saturating_sub(LOCATION_BYTES);
        (0..=last).step_by(8).filter_map(|at| self.site(section, at)).collect()
    }

    fn site(&self, section: &Section, at: usize) -> Option<Site> {
        let words = section.bytes.get(at..at + LOCATION_BYTES)?;
        let start = usize::try_from(number::<8>(words, 0).checked_sub(self.constants.address)?).ok()?;
        let end = start.checked_add(usize::try_from(number::<8>(words, 8)).ok()?)?;
        let file = std::str::from_utf8(self.constants.bytes.get(start..end)?).ok()?;
        let (line, column) = (number::<4>(words, 16) as u32, number::<4>(words, 20) as u32);
        let is_location = file.ends_with(".rs") && line > 0 && column > 0;
        is_location.then(|| Site { file: file.to_owned(), line, column, address: section.address + at as u64 })
    }

    /// Returns the functions whose code contains a place's address.
    pub fn users(&self, site: &Site) -> BTreeSet<String> {
        let address = u32::try_from(site.address).expect("the image lies below 4 GiB").to_le_bytes();
        let found = self.code.bytes.windows(4).enumerate().filter(|(_, bytes)| *bytes == address);
        found.map(|(at, _)| self.function_at(self.code.address + at as u64)).collect()
    }

    fn function_at(&self, address: u64) -> String {
        let behind = self.functions.partition_point(|(start, _)| *start <= address);
        behind.checked_sub(1).map_or_else(|| "no function".to_owned(), |at| self.functions[at].1.clone())
    }
}

fn functions(symbols: &[u8], names: &[u8]) -> Vec<(u64, String)> {
    let symbols = symbols.chunks_exact(24).filter(|symbol| symbol[4] & 15 == FUNCTION);
    let mut functions: Vec<_> = symbols
        .map(|symbol| (number::<8>(symbol, 8), readable(&string(names, number::<4>(symbol, 0) as usize))))
        .collect();
    functions.sort();
    functions
}

/// Returns a function's path from its symbol: `_ZN` and the names with their lengths. Other symbols are returned
/// unchanged.
fn readable(symbol: &str) -> String {
    let Some(mut rest) = symbol.strip_prefix("_ZN") else { return symbol.to_owned() };
    let mut names = Vec::new();
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0) {
        let Some(name) = rest[..digits].parse().ok().and_then(|length: usize| rest.get(digits..digits + length)) else {
            return symbol.to_owned();
        };
        rest = &rest[digits + name.len()..];
        names.push(name);
    }
    // The last name is a hash.
    names.pop();
    let path = names.join("::").replace("$LT$", "<").replace("$GT$", ">").replace("$u20$", " ").replace("$C$", ",");
    path.replace("$RF$", "&").replace("$u7b$", "{").replace("$u7d$", "}").replace("..", "::")
}
