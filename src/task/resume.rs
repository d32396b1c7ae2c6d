//! The one rule that decides whether a session may be resumed. `run`, `recover`, `audit` and `session` use
//! it.

use super::ending::Status;
use super::ids::{SessionId, TaskId};
use super::record::Task;

/// What the ledger knows about the use of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionUse {
    pub session: SessionId,
    /// The last task that used it: a running one, else the newest. `None`: no such task is known.
    pub last: Option<LastTask>,
    /// An operator has restored it since, or a task that started later succeeded with it.
    pub restored: bool,
    /// It was invalidated, and since then neither restored nor used by a successful task.
    pub veto: Option<SessionVeto>,
}

/// The last task that used a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastTask {
    pub id: TaskId,
    pub status: Status,
    /// The `--keep-session` value that kept the session when the task ended.
    pub kept: Option<String>,
    /// Whether the agent's transcript was found when the task ended; `None`: bookend did not look.
    pub transcript_seen: Option<bool>,
    /// The agent that bookend ran; `None`: another program inserted the row.
    pub agent_type: Option<String>,
}

/// An invalidation that still applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionVeto {
    pub task_id: Option<TaskId>,
    pub reason: String,
}

impl From<Task> for LastTask {
    fn from(task: Task) -> LastTask {
        let Task { id, status, session_kept, transcript_seen, agent_type, run_options, .. } = task;
        let agent_type = agent_type.filter(|_| run_options.is_some());
        LastTask { id, status, kept: session_kept, transcript_seen, agent_type }
    }
}

impl SessionUse {
    /// The rule. A task that did not succeed may have left a dangling tool call in the conversation, which
    /// then fails at once or goes wrong.
    pub fn may_be_resumed(&self) -> bool {
        match &self.last {
            Some(LastTask { status: Status::Running, .. }) => false,
            _ if self.veto.is_some() => false,
            Some(LastTask { status: Status::Success, .. }) => true,
            Some(last) => last.kept.is_some() || self.restored,
            None => self.restored,
        }
    }

    /// The running task that uses it.
    pub fn running(&self) -> Option<&TaskId> {
        self.last.as_ref().filter(|last| last.status == Status::Running).map(|last| &last.id)
    }

    /// Why it may not be resumed: `its last task, 019…, ended as failure`.
    pub fn why_not(&self) -> String {
        match (&self.last, &self.veto) {
            (Some(last), _) if last.status != Status::Success => {
                format!("its last task, {}, ended as {}", last.id, last.status)
            }
            (_, Some(SessionVeto { task_id: Some(task), reason })) => {
                format!("it was invalidated by task {task} ({reason})")
            }
            (_, Some(SessionVeto { task_id: None, reason })) => format!("it was invalidated ({reason})"),
            _ => "no task is known to have used it".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(status: Option<Status>, kept: bool, restored: bool, vetoed: bool) -> SessionUse {
        let last = |status| LastTask {
            id: TaskId::recorded("t"),
            status,
            kept: kept.then(|| "limit".to_owned()),
            transcript_seen: None,
            agent_type: None,
        };
        SessionUse {
            session: SessionId::recorded("s"),
            last: status.map(last),
            restored,
            veto: vetoed.then(|| SessionVeto { task_id: None, reason: "operator".to_owned() }),
        }
    }

    #[test]
    fn only_a_success_a_kept_or_a_restored_session_may_be_resumed() {
        for status in Status::ALL.into_iter().map(Some).chain([None]) {
            for (kept, restored) in [(false, false), (false, true), (true, false)] {
                let expected = match status {
                    Some(Status::Success) => true,
                    Some(Status::Running) => false,
                    Some(_) => kept || restored,
                    None => restored,
                };
                let session = used(status, kept, restored, false);
                assert_eq!(session.may_be_resumed(), expected, "{session:?}");
                assert!(!used(status, kept, restored, true).may_be_resumed(), "{status:?} with a veto");
            }
        }
    }

    #[test]
    fn the_reason_names_the_task_and_its_status() {
        let failed = used(Some(Status::Failure), false, false, true).why_not();
        assert_eq!(failed, "its last task, t, ended as failure");
        assert_eq!(used(None, false, false, false).why_not(), "no task is known to have used it");
        let mut vetoed = used(Some(Status::Success), false, false, true);
        assert_eq!(vetoed.why_not(), "it was invalidated (operator)");
        vetoed.veto = Some(SessionVeto { task_id: Some(TaskId::recorded("u")), reason: "exit".to_owned() });
        assert_eq!(vetoed.why_not(), "it was invalidated by task u (exit)");
    }
}
