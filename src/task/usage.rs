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
    pub tokens: Option<SessionTokens>,
}

/// The tokens of a session. The names are those of the ledger's columns for a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTokens {
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub cache_creation_tokens: Option<i64>,
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
        let counts = UsageCounts { cost_usd, ..reported };
        match (self.tokens, before.tokens) {
            (Some(now), Some(before)) => {
                now.since(before).map_or(counts, |tokens| tokens.in_place_of(counts))
            }
            _ => counts,
        }
    }
}

impl SessionTokens {
    pub fn of(counts: &UsageCounts) -> SessionTokens {
        SessionTokens {
            input_tokens: counts.input_tokens,
            output_tokens: counts.output_tokens,
            cache_read_tokens: counts.cache_read_tokens,
            cache_creation_tokens: counts.cache_creation_tokens,
        }
    }

    fn in_place_of(self, counts: UsageCounts) -> UsageCounts {
        UsageCounts {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_read_tokens: self.cache_read_tokens,
            cache_creation_tokens: self.cache_creation_tokens,
            ..counts
        }
    }

    /// The tokens that were used since `before`. `None`: a count is below the one before.
    fn since(self, before: SessionTokens) -> Option<SessionTokens> {
        let one = |now: Option<i64>, before: Option<i64>| match (now, before) {
            (Some(now), Some(before)) => now.checked_sub(before).filter(|used| *used >= 0).map(Some),
            (now, _) => Some(now),
        };
        Some(SessionTokens {
            input_tokens: one(self.input_tokens, before.input_tokens)?,
            output_tokens: one(self.output_tokens, before.output_tokens)?,
            cache_read_tokens: one(self.cache_read_tokens, before.cache_read_tokens)?,
            cache_creation_tokens: one(self.cache_creation_tokens, before.cache_creation_tokens)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: i64, output: i64) -> SessionTokens {
        SessionTokens { input_tokens: Some(input), output_tokens: Some(output), ..SessionTokens::default() }
    }

    fn of_tokens(tokens: SessionTokens) -> SessionTotals {
        SessionTotals { tokens: Some(tokens), cost_usd: None }
    }

    /// Input and output tokens of the run that raised the totals of a session from `before` to `now`.
    fn used(before: Option<SessionTokens>, now: SessionTokens) -> (Option<i64>, Option<i64>) {
        let before = SessionTotals { tokens: before, cost_usd: Some(1.0) };
        let counts = of_tokens(now).last_run(&before, now.in_place_of(UsageCounts::default()));
        (counts.input_tokens, counts.output_tokens)
    }

    #[test]
    fn a_run_is_charged_what_the_totals_have_grown() {
        assert_eq!(used(None, tokens(100, 20)), (Some(100), Some(20)));
        assert_eq!(used(Some(tokens(100, 20)), tokens(250, 20)), (Some(150), Some(0)));
        let without_output = SessionTokens { output_tokens: None, ..tokens(100, 0) };
        assert_eq!(used(Some(without_output), tokens(250, 20)), (Some(150), Some(20)));
        assert_eq!(
            used(Some(tokens(100, 20)), SessionTokens { output_tokens: None, ..tokens(250, 0) }),
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
        assert_eq!(serde_json::from_str::<SessionTokens>(json).unwrap(), tokens(1, 2));
    }
}
