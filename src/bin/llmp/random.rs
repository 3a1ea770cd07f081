//! A small random generator: a seed gives the same numbers on every machine.

/// Marsaglia's xorshift64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Makes a generator. All seeds are good, also 0 and neighbours.
    pub fn new(seed: u64) -> Self {
        // The finalizer of SplitMix64. The state of the generator must not be zero.
        let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((word ^ (word >> 31)).max(1))
    }

    /// Returns the next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number below `end`, or 0 if that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The upper bits are better than the lower ones.
        (self.next() >> 16).checked_rem(end).unwrap_or(0)
    }

    /// Returns a size up to `largest`. All orders of magnitude from 4 bytes to a mebibyte are equally
    /// likely.
    pub fn size(&mut self, largest: usize) -> usize {
        let magnitude = 1usize << (2 + self.below(18));
        (magnitude + self.below(magnitude as u64) as usize).min(largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_seeds_differ_and_one_seed_repeats_itself() {
        let first = |seed| Random::new(seed).next();
        assert_eq!(first(7), first(7));
        let mut all: Vec<u64> = (0..1000).map(first).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn sizes_have_every_magnitude_up_to_the_largest() {
        let mut random = Random::new(1);
        let sizes: Vec<_> = (0..10_000).map(|_| random.size(1 << 20)).collect();
        for magnitude in 2..20 {
            assert!(sizes.iter().any(|size| size.ilog2() == magnitude), "2^{magnitude}");
        }
        assert!(sizes.iter().all(|&size| size <= 1 << 20));
        assert_eq!(random.below(0), 0);
    }
}
