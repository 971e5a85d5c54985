//! One stable, version-independent hash. Placement and ids depend on it, so it must never change:
//! a golden test holds its values.

/// FNV-1a, 64 bit, with a final avalanche (the finaliser of SplitMix64) so that `hash % P` is even for
/// small `P`.
#[derive(Clone, Copy, Debug)]
pub struct StableHash(u64);

impl Default for StableHash {
    fn default() -> Self {
        Self::new()
    }
}

impl StableHash {
    /// An empty hash.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes. Callers separate variable-length parts themselves, or use [`Self::part`].
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    /// Adds one text and a separator that cannot occur in names.
    #[must_use]
    pub fn part(self, text: &str) -> Self {
        self.bytes(text.as_bytes()).bytes(&[0])
    }

    /// Adds a number, little endian.
    #[must_use]
    pub fn number(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    /// The value.
    pub const fn finish(self) -> u64 {
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_never_change() {
        assert_eq!(StableHash::new().finish(), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(
            StableHash::new().part("default").part("a").finish(),
            StableHash::new().bytes(b"default\0a\0").finish()
        );
    }

    #[test]
    fn spreads_over_small_moduli() {
        let mut seen = [0usize; 2];
        for n in 0..1000 {
            seen[(StableHash::new().part(&format!("run-{n}")).finish() % 2) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (400..600).contains(n)), "{seen:?}");
    }
}
