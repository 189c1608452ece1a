//! Random numbers that guests cannot guess.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hash::Hasher;

use siphasher::sip::SipHasher24;
use xenstore::engine::connection::output::HashKey;

/// CPUID leaf 1, register ECX: the processor has RDRAND.
const HAS_RDRAND: u32 = 1 << 30;
/// Maximum number of RDRAND tries, because it may briefly have no number. After the last try, the key does without one.
const TRIES: usize = 16;
/// Number of time-stamp counter reads that are mixed into the key. Their low bits depend on the processor's work in
/// between.
const READS: usize = 64;

/// Makes a key for the engine's hashes, from the time-stamp counter and, where available, the processor's random
/// numbers.
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

/// Returns a number from the processor's random number generator; 0 if it gives none.
fn processor_random() -> u64 {
    if __cpuid(1).ecx & HAS_RDRAND == 0 {
        return 0;
    }
    (0..TRIES).find_map(|_| rdrand()).unwrap_or(0)
}

fn rdrand() -> Option<u64> {
    let (number, has_one): (u64, u8);
    // SAFETY: CPUID reports this instruction. It writes one register and the flags.
    unsafe {
        core::arch::asm!("rdrand {}", "setc {}", out(reg) number, out(reg_byte) has_one, options(nomem, nostack));
    }
    (has_one != 0).then_some(number)
}
