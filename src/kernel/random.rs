//! Numbers that guests can't guess.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hash::Hasher;

use siphasher::sip::SipHasher24;
use xenstore::engine::output::HashKey;

/// CPUID leaf 1, register ECX: the processor has RDRAND.
const HAS_RDRAND: u32 = 1 << 30;
/// How often RDRAND is asked before it is done without: it may have nothing for a moment.
const TRIES: usize = 16;
/// Reads of the counter that are mixed in: their low bits differ by what the processor did in between.
const READS: usize = 64;

/// A key for the engine's hashes: of the processor's random numbers where it has them, and of its counter.
pub(crate) fn hash_key() -> HashKey {
    let mut hasher = SipHasher24::new_with_keys(processor_random(), processor_random());
    for _ in 0..READS {
        // SAFETY: reading the counter has no side effect; every processor that Xen runs on has it.
        hasher.write_u64(unsafe { _rdtsc() });
    }
    let first = hasher.finish();
    hasher.write_u64(processor_random());
    HashKey(first, hasher.finish())
}

/// A number of the processor's own generator; 0 without one.
fn processor_random() -> u64 {
    if __cpuid(1).ecx & HAS_RDRAND == 0 {
        return 0;
    }
    (0..TRIES).find_map(|_| rdrand()).unwrap_or(0)
}

fn rdrand() -> Option<u64> {
    let (number, has_one): (u64, u8);
    // SAFETY: CPUID says that the processor has this instruction, which writes a register and the flags.
    unsafe {
        core::arch::asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) has_one, options(nomem, nostack));
    }
    (has_one != 0).then_some(number)
}
