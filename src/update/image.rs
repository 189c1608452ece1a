//! TEMPORARY.
use alloc::vec::Vec;

/// An image.
pub struct Image<'a> {
    bytes: &'a [u8],
    entry: usize,
    base: usize,
    end: usize,
    stubs: usize,
    loads: Vec<(usize, usize, usize)>,
}

impl<'a> Image<'a> {
    /// Reads it.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let u64at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?) as usize);
        let u32at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
        let u16at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?) as usize);
        let mut image = Self { bytes, entry: u64at(24)?, base: 0, end: 0, stubs: 0, loads: Vec::new() };
        let (phoff, phnum) = (u64at(32)?, u16at(56)?);
        for n in 0..phnum {
            let at = phoff.checked_add(n.checked_mul(56)?)?;
            let (kind, offset, vaddr, file, mem) = (
                u32at(at)?,
                u64at(at.checked_add(8)?)?,
                u64at(at.checked_add(16)?)?,
                u64at(at.checked_add(32)?)?,
                u64at(at.checked_add(40)?)?,
            );
            if kind == 1 {
                image.loads.push((vaddr, offset, file));
                image.end = image.end.max(vaddr.checked_add(mem)?);
            }
            if kind == 4 {
                let mut p = offset;
                while p < offset.checked_add(file)? {
                    let (n, d, t) = (u32at(p)?, u32at(p.checked_add(4)?)?, u32at(p.checked_add(8)?)?);
                    let v = p.checked_add(12)?.checked_add(n.checked_next_multiple_of(4)?)?;
                    match t {
                        2 => image.stubs = u64at(v)?,
                        3 => image.base = u64at(v)?,
                        _ => {}
                    }
                    p = v.checked_add(d.checked_next_multiple_of(4)?)?;
                }
            }
        }
        Some(image)
    }
    /// x
    pub fn memory_end(&self) -> usize {
        self.end
    }
    /// x
    pub fn virt_base(&self) -> usize {
        self.base
    }
    /// x
    pub fn entry(&self) -> usize {
        self.entry
    }
    /// x
    pub fn hypercall_page(&self) -> usize {
        self.stubs
    }
    /// x
    pub fn for_each_part(&self, mut put: impl FnMut(usize, &[u8])) {
        for (address, offset, bytes) in &self.loads {
            if let Some(part) = self.bytes.get(*offset..offset.saturating_add(*bytes)) {
                put(*address, part);
            }
        }
    }
}
