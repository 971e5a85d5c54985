//! Random numbers for jitter, nonces and names of processes; never for anything secret or decided by state.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number seeded by the operating system, new at every call.
pub fn number() -> u64 {
    // RandomState takes its keys from the system once per thread and counts on from there; the finaliser of
    // the hash spreads them.
    RandomState::new().build_hasher().finish()
}

/// Eight hexadecimal digits: enough to tell processes apart.
pub fn nonce() -> String {
    format!("{:08x}", number() >> 32)
}
