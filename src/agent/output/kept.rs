//! What is kept of the names and ids in an agent's output.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Characters of a name (a model, a tool) that are kept: it is written again with every progress.
pub const NAME: usize = 200;

/// What is kept of a name that an agent's output gives.
pub fn brief(name: &str) -> &str {
    if name.len() <= NAME {
        return name;
    }
    name.char_indices().nth(NAME).map_or(name, |(end, _)| &name[..end])
}

/// What is kept of the id of a call or a message: it may be as long as a line.
pub fn hash(id: &str) -> u64 {
    // Nobody gains by making two ids alike but the agent whose own counts would be wrong.
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_differ_are_kept_apart() {
        let ids = (0..100_000).map(|n| format!("msg_{n:06}_0123456789"));
        let odd = ["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "1234567812345678"];
        let all: Vec<u64> = ids.map(|id| hash(&id)).chain(odd.map(hash)).collect();
        let different: std::collections::HashSet<&u64> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
