//! What is reported of an interrupted task: its worktree, its session, and how to dispatch it again.

use std::path::Path;

use crate::error::Error;
use crate::git::{Git, Survey, Uncommitted};
use crate::helper::Attendant;
use crate::ledger::Ledger;
use crate::process::spawn::caller::Caller;
use crate::process::spawn::environment::{self, OPTION_VARIABLES};
use crate::run::options::{self, Lacks};
use crate::task::Task;
use crate::view::{self, Hint};

/// Git, for the reports of one round.
pub fn survey(caller: &Caller) -> Survey<'_> {
    Survey::new(Git::new(environment::inherited(&OPTION_VARIABLES, &[]), caller))
}

/// The uncommitted files where a task ran.
///
/// # Errors
/// As [`Attendant::wait`].
pub fn uncommitted(
    task: &Task,
    survey: &mut Survey<'_>,
    attendant: &mut dyn Attendant,
) -> Result<Uncommitted, Error> {
    // Git is not run in a directory that others may have chosen.
    if attendant.ledger().distrust().is_some() {
        return Ok(Uncommitted::NoWorktree);
    }
    match &task.cwd {
        Some(cwd) => survey.uncommitted(Path::new(cwd), attendant),
        None => Ok(Uncommitted::NoWorktree),
    }
}

/// The report of an interrupted task.
///
/// # Errors
/// When the ledger cannot be read.
pub fn post_mortem(ledger: &Ledger, task: Task, uncommitted: Uncommitted) -> Result<Hint, Error> {
    let invalidated_session = ledger
        .invalidations_of_task(&task.id)?
        .into_iter()
        .rfind(|i| i.restored_at.is_none() && Some(&i.session_id) == task.session_id.as_ref())
        .map(|i| i.session_id);
    let lacks = options::lacks(&task);
    let is_shared = ledger.distrust().is_some();
    let command = |what: String| Some(view::suggestion(ledger.option(), &what));
    let id = view::operand(task.id.as_str());
    let (redispatch, redispatch_needs) = match lacks {
        _ if is_shared => (None, Some("others may write to the ledger")),
        None => (command(format!("redispatch {id}")), None),
        Some(Lacks::Stdin) => {
            (command(format!("redispatch --stdin {id} <PROMPT")), Some("its stdin was not recorded"))
        }
        Some(Lacks::Command) => (None, Some("the row does not hold its command line")),
        Some(Lacks::Rest) => (None, Some("the row holds only the beginning of its command line")),
        Some(Lacks::Bytes) => (None, Some("its command line is not UTF-8")),
    };
    let (in_worktree, uncommitted) = match uncommitted {
        Uncommitted::NoWorktree => (false, None),
        Uncommitted::Unknown => (true, None),
        Uncommitted::Files(count) => (true, Some(count)),
    };
    Ok(Hint { task, invalidated_session, in_worktree, uncommitted, redispatch, redispatch_needs })
}
