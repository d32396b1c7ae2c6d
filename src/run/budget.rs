//! The budget of a key (`--budget`): a run is refused once the key's runs have cost as much.

use crate::error::{Error, Kind};
use crate::ledger::{Claim, KeySpending};
use crate::run::command::RunContext;
use crate::task::{Key, TaskId};
use crate::view;

/// Checks the budget in the transaction of `claim`. Returns which runs it does not count, for a warning.
///
/// # Errors
/// When the ledger cannot be read, or the budget is spent (77).
pub(super) fn check(claim: &Claim<'_>, context: &RunContext<'_>) -> Result<Option<String>, Error> {
    let (Some(budget), Some(key)) = (&context.options.budget, &context.command.key) else { return Ok(None) };
    let spent = claim.spending(key, budget.since())?;
    let uncounted = uncounted(&spent);
    if spent.cost_usd < budget.usd {
        return Ok(uncounted.map(|runs| format!("the budget of key {key} does not count {runs}")));
    }
    let and = uncounted.map(|runs| format!("; not counted: {runs}")).unwrap_or_default();
    let message = format!(
        "the runs under key {key} have cost {}, and its budget is {budget}{and}",
        view::money(spent.cost_usd)
    );
    Err(Error::new(Kind::OverBudget, message).hint(format!(
        "`{}` shows them; nothing was executed",
        view::suggestion(context.location.option(), &listing(key, &budget.period()))
    )))
}

/// The command that lists the runs of a key.
fn listing(key: &Key, period: &str) -> String {
    format!("list --key {} --since {period}", view::quoted(key.as_str()))
}

/// `2 runs whose cost is unknown (01a22a77-878a, 01a22a77-8bc5)`.
fn uncounted(spent: &KeySpending) -> Option<String> {
    let runs = match spent.uncounted {
        0 => return None,
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    };
    let ids: Vec<&str> = spent.newest_uncounted.iter().map(TaskId::as_str).collect();
    let more = spent.uncounted.saturating_sub(ids.len() as u32);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{runs} whose cost is unknown ({}{more})", view::short_ids(&ids).join(", ")))
}
