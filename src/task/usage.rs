//! What a run has used, and what is known of it if the agent reports the totals of the session.

use serde::{Deserialize, Serialize};

/// What a run has used so far. `None` means "not known", which differs from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UsageCounts {
    /// US dollars of this run alone.
    pub cost_usd: Option<f64>,
    pub turns: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub cache_creation_tokens: Option<i64>,
}

/// What all runs of a session have used so far, as far as its agent reports that.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SessionTotals {
    /// US dollars.
    pub cost_usd: Option<f64>,
    pub tokens: Option<TokenUsage>,
}

/// Token counts. In JSON they have the names of the ledger's columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    #[serde(rename = "input_tokens")]
    pub input: Option<i64>,
    #[serde(rename = "output_tokens")]
    pub output: Option<i64>,
    #[serde(rename = "cache_read_tokens")]
    pub cache_read: Option<i64>,
    #[serde(rename = "cache_creation_tokens")]
    pub cache_creation: Option<i64>,
}

impl SessionTotals {
    /// The counts of the last run, of which `reported` has the figures of the agent, totals among them, and
    /// `before` the totals before that run. A total below the one before means that the agent lost it and
    /// counts anew.
    pub fn last_run(self, before: &SessionTotals, reported: UsageCounts) -> UsageCounts {
        let cost_usd = match (self.cost_usd, before.cost_usd) {
            (Some(now), Some(before)) if now >= before => Some(((now - before) * 1e9).round() / 1e9),
            _ => reported.cost_usd,
        };
        let mut counts = UsageCounts { cost_usd, ..reported };
        let used = self.tokens.zip(before.tokens).and_then(|(now, before)| now.since(before));
        if let Some(used) = used {
            used.count_in(&mut counts);
        }
        counts
    }
}

impl TokenUsage {
    /// The tokens of a run.
    pub fn of(counts: &UsageCounts) -> TokenUsage {
        TokenUsage {
            input: counts.input_tokens,
            output: counts.output_tokens,
            cache_read: counts.cache_read_tokens,
            cache_creation: counts.cache_creation_tokens,
        }
    }

    /// Writes the counts into those of a run.
    pub fn count_in(self, counts: &mut UsageCounts) {
        counts.input_tokens = self.input;
        counts.output_tokens = self.output;
        counts.cache_read_tokens = self.cache_read;
        counts.cache_creation_tokens = self.cache_creation;
    }

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

    /// The tokens that were used since `before`. `None`: a count is below the one before.
    fn since(self, before: TokenUsage) -> Option<TokenUsage> {
        let one = |now: Option<i64>, before: Option<i64>| match now {
            Some(now) => now.checked_sub(before.unwrap_or(0)).filter(|used| *used >= 0).map(Some),
            None => Some(None),
        };
        Some(TokenUsage {
            input: one(self.input, before.input)?,
            output: one(self.output, before.output)?,
            cache_read: one(self.cache_read, before.cache_read)?,
            cache_creation: one(self.cache_creation, before.cache_creation)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: i64, output: i64) -> TokenUsage {
        TokenUsage { input: Some(input), output: Some(output), ..TokenUsage::default() }
    }

    /// Input and output tokens of the run that raised the totals of a session from `before` to `now`.
    fn used(before: Option<TokenUsage>, now: TokenUsage) -> (Option<i64>, Option<i64>) {
        let before = SessionTotals { tokens: before, cost_usd: Some(1.0) };
        let mut reported = UsageCounts::default();
        now.count_in(&mut reported);
        let counts = SessionTotals { tokens: Some(now), cost_usd: None }.last_run(&before, reported);
        (counts.input_tokens, counts.output_tokens)
    }

    #[test]
    fn a_run_is_charged_what_the_totals_have_grown() {
        assert_eq!(used(None, tokens(100, 20)), (Some(100), Some(20)));
        assert_eq!(used(Some(tokens(100, 20)), tokens(250, 20)), (Some(150), Some(0)));
        let without_output = TokenUsage { output: None, ..tokens(100, 0) };
        assert_eq!(used(Some(without_output), tokens(250, 20)), (Some(150), Some(20)));
        assert_eq!(
            used(Some(tokens(100, 20)), TokenUsage { output: None, ..tokens(250, 0) }),
            (Some(150), None)
        );
    }

    #[test]
    fn a_total_below_the_one_before_counts_anew() {
        assert_eq!(used(Some(tokens(100, 20)), tokens(120, 10)), (Some(120), Some(10)));
        assert_eq!(used(Some(tokens(i64::MIN, -1)), tokens(i64::MAX, 10)), (Some(i64::MAX), Some(10)));
    }

    #[test]
    fn counts_of_the_run_alone_stay() {
        let reported = UsageCounts {
            cost_usd: Some(0.5),
            turns: Some(2),
            input_tokens: Some(7),
            ..UsageCounts::default()
        };
        let before = SessionTotals { cost_usd: Some(0.2), tokens: Some(tokens(5, 5)) };
        assert_eq!(SessionTotals::default().last_run(&before, reported), reported);
        let cost_only = SessionTotals { cost_usd: Some(0.5), tokens: None };
        assert_eq!(cost_only.last_run(&before, reported), UsageCounts { cost_usd: Some(0.3), ..reported });
    }

    #[test]
    fn the_ledger_has_the_tokens_of_a_session_under_the_names_of_a_runs() {
        let json =
            r#"{"input_tokens":1,"output_tokens":2,"cache_read_tokens":null,"cache_creation_tokens":null}"#;
        assert_eq!(serde_json::to_string(&tokens(1, 2)).unwrap(), json);
        assert_eq!(serde_json::from_str::<TokenUsage>(json).unwrap(), tokens(1, 2));
    }
}
