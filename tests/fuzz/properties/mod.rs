//! What must hold of every byte that comes from outside: one function for each target, which panics where it
//! does not. `cargo test` calls them with the corpus and its mutations, libFuzzer with whatever it makes up.

pub mod argv;
pub mod json;
pub mod readers;
#[cfg(test)]
mod short;
pub mod stat;

/// `bytes`, cut in several ways: not at all, into single bytes, and as the bytes themselves say.
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

/// Numbers by chance that are the same for the same bytes (xorshift).
pub struct Chance(u64);

impl Chance {
    pub fn of(bytes: &[u8]) -> Chance {
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Chance(hash | 1)
    }

    /// One of 0 to `most`.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % (most as u64 + 1)) as usize
    }
}
