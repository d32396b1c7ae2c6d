//! The properties of parsers of untrusted input: one function for each target, which panics on a violation.
//! `cargo test` calls them with the corpus and mutations of it, libFuzzer with generated input.

pub mod argv;
pub mod json;
pub mod readers;
#[cfg(test)]
mod short;
pub mod stat;

/// `bytes`, split in several ways: whole, into single bytes, and at positions derived from the bytes.
pub fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut ways = vec![vec![bytes], bytes.chunks(1).collect()];
    let mut chance = Chance::of(bytes);
    for longest in [5, 100, 5000] {
        let mut rest = bytes;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(chance.below(longest).min(rest.len()));
            parts.push(part);
            rest = tail;
        }
        ways.push(parts);
    }
    ways
}

/// Pseudo-random numbers (xorshift) seeded by the bytes.
pub struct Chance(u64);

impl Chance {
    pub fn of(bytes: &[u8]) -> Chance {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Chance(hash | 1)
    }

    /// A number from 0 to `most`.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (most as u64 + 1)) as usize
    }
}
