//! Chance from a printed seed.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// A small generator (SplitMix64): the same seed gives the same faults in the same order.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in `MILLRACE_SEED` (or `MILLRACE_FAULT_SEED`), else a random one. Print it.
    pub fn fresh_seed() -> u64 {
        let given = ["MILLRACE_SEED", "MILLRACE_FAULT_SEED"]
            .iter()
            .find_map(|name| std::env::var(name).ok()?.trim().parse().ok());
        // Short enough to be typed again.
        given.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) % 1_000_000_000)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in the range; the range is not empty.
    pub const fn between(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// One of the items; there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        let at = self.next() % items.len() as u64;
        &items[usize::try_from(at).expect("below the number of items")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..20).map(|_| rng.between(3..9)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|n| (3..9).contains(n)));
    }
}
