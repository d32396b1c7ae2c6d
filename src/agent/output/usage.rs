//! The token counts of one event, and their sums.

use crate::task::UsageCounts;

/// The token counts of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub input: Option<i64>,
    pub output: Option<i64>,
    pub cache_read: Option<i64>,
    pub cache_creation: Option<i64>,
}

impl TokenUsage {
    pub fn plus(self, other: TokenUsage) -> TokenUsage {
        self.with(other, i64::saturating_add)
    }

    /// The larger of each count: those of one message only grow while it streams.
    pub fn most(self, other: TokenUsage) -> TokenUsage {
        self.with(other, i64::max)
    }

    /// These counts, with those that `newer` has instead of the earlier ones.
    pub fn replaced_by(self, newer: TokenUsage) -> TokenUsage {
        self.with(newer, |_, newer| newer)
    }

    /// Writes the counts into those of a run.
    pub fn count_in(self, counts: &mut UsageCounts) {
        counts.input_tokens = self.input;
        counts.output_tokens = self.output;
        counts.cache_read_tokens = self.cache_read;
        counts.cache_creation_tokens = self.cache_creation;
    }

    #[inline(always)]
    fn with(self, other: TokenUsage, join: impl Fn(i64, i64) -> i64) -> TokenUsage {
        let one = |a: Option<i64>, b: Option<i64>| match (a, b) {
            (Some(a), Some(b)) => Some(join(a, b)),
            (a, b) => a.or(b),
        };
        TokenUsage {
            input: one(self.input, other.input),
            output: one(self.output, other.output),
            cache_read: one(self.cache_read, other.cache_read),
            cache_creation: one(self.cache_creation, other.cache_creation),
        }
    }
}
