//! Shortens the names, ids and errors of an agent's output for memory and the ledger.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The longest name of a model or tool that is kept, in characters: every progress update writes it again.
pub const NAME: usize = 200;

/// The longest error text that is kept, in characters.
const ERROR_TEXT: usize = 8 << 10;

/// The beginning of a name, at most [`NAME`] characters.
pub fn brief(name: &str) -> &str {
    beginning(name, NAME)
}

/// The beginning of an error's text.
pub fn error_text(text: &str) -> &str {
    beginning(text, ERROR_TEXT)
}

fn beginning(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// The hash that is kept instead of the id of a call or a message, which may be as long as a line.
pub fn hash(id: &str) -> u64 {
    // A fixed key is enough: an agent that makes ids collide only makes its own counts wrong.
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_ids_have_different_hashes() {
        let ids = (0..100_000).map(|n| format!("msg_{n:06}_0123456789"));
        let odd = ["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "1234567812345678"];
        let all: Vec<u64> = ids.map(|id| hash(&id)).chain(odd.map(hash)).collect();
        let different: std::collections::HashSet<&u64> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
