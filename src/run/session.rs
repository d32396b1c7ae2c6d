//! The choice of a session: which conversation a run resumes. A session is resumed only if the last task
//! that used it ended in success.

use crate::agent::{AskedSession, Plan};
use crate::task::resume::SessionUse;
use crate::task::{SessionId, TaskId};

/// All that the choice depends on.
pub struct Known<'a> {
    pub asked: &'a AskedSession,
    /// The user wants a fresh conversation (`--fresh`).
    pub fresh: bool,
    /// The agent can be told the id of a new conversation.
    pub new_id: Option<SessionId>,
    /// The session linked to the key.
    pub linked: Option<&'a SessionUse>,
    pub transcript: Transcript,
    /// The session that the user's own argv resumes, `--continue` resolved.
    pub users: Option<&'a SessionUse>,
    /// `--allow-unsafe-resume`.
    pub allow_unsafe: bool,
    /// A person sits at the terminal and is warned rather than refused.
    pub attended: bool,
}

/// The agent's own record of the session linked to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transcript {
    /// It is there, or nothing says that it should be.
    Usable,
    /// It was where bookend looks and is gone: resuming could only fail.
    Gone,
    /// The agent runs as another user or on another machine, and bookend does not see it.
    Unseen,
}

impl Transcript {
    /// `is_there`: whether it is found now; `None`: the agent keeps it where bookend does not look. `seen`:
    /// whether it was found when the session's last task ended.
    pub fn judge(is_there: Option<bool>, seen: Option<bool>, elsewhere: bool) -> Transcript {
        match (is_there, seen) {
            (Some(true), Some(true)) => Transcript::Usable,
            _ if elsewhere => Transcript::Unseen,
            // A wrapper may give the agent another home.
            (Some(false), Some(false)) | (Some(true) | None, _) => Transcript::Usable,
            (Some(false), _) => Transcript::Gone,
        }
    }

    fn why(self) -> Option<&'static str> {
        match self {
            Transcript::Usable => None,
            Transcript::Gone => Some("the agent has no transcript of it"),
            Transcript::Unseen => Some("the agent runs elsewhere, where bookend does not see its transcript"),
        }
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub plan: Plan,
    /// The id known before the agent says a word.
    pub session: Option<SessionId>,
    pub resumed_from: Option<SessionId>,
    /// The linked session is not to be used any more.
    pub invalidate: Option<Withdrawal>,
    pub warning: Option<String>,
}

impl Choice {
    /// The id that the agent must name if it goes on with what it was told to; `None`: there is none, or the
    /// user named it by something else than its id.
    pub fn resumed_id(&self) -> Option<SessionId> {
        let is_id = |s: &SessionId| uuid::Uuid::parse_str(s.as_str()).is_ok();
        match &self.plan {
            Plan::Resume(id) => Some(id.clone()),
            // A fork has another id by intention.
            _ if self.session == self.resumed_from => self.resumed_from.clone().filter(is_id),
            _ => None,
        }
    }
}

/// A session that is taken from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    pub reason: &'static str,
    /// Nothing was wrong with it: it comes back if the agent never executes.
    pub was_safe: bool,
}

/// Why there is no run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The session is in use by this task.
    InUse {
        session: SessionId,
        task: TaskId,
    },
    Unsafe {
        session: SessionId,
        why: String,
    },
}

/// Decides which session a run starts with.
///
/// # Errors
/// When the session that would be resumed is in use, or is unsafe and nobody allowed that.
pub fn choose(known: &Known<'_>) -> Result<Choice, Refusal> {
    if *known.asked != AskedSession::Unsaid {
        return as_asked(known);
    }
    let fresh = |invalidate, warning| Choice {
        plan: known.new_id.clone().map_or(Plan::AsGiven, Plan::Assign),
        session: known.new_id.clone(),
        resumed_from: None,
        invalidate,
        warning,
    };
    let Some(linked) = known.linked else { return Ok(fresh(None, None)) };
    if known.fresh {
        return Ok(fresh(Some(Withdrawal { reason: "fresh", was_safe: linked.may_be_resumed() }), None));
    }
    let session = linked.session.clone();
    if let Some(task) = linked.running() {
        return Err(Refusal::InUse { session, task: task.to_owned() });
    }
    if !linked.may_be_resumed() {
        let warning = format!("session {session} is not resumed: {}; starting fresh", linked.why_not());
        return Ok(fresh(Some(Withdrawal { reason: "unsafe_session", was_safe: false }), Some(warning)));
    }
    if let Some(why) = known.transcript.why() {
        let warning = format!("session {session} is not resumed: {why}; starting fresh");
        return Ok(fresh(Some(Withdrawal { reason: "no_transcript", was_safe: true }), Some(warning)));
    }
    Ok(Choice {
        plan: Plan::Resume(session.clone()),
        session: Some(session.clone()),
        resumed_from: Some(session),
        invalidate: None,
        warning: None,
    })
}

/// The user's argv speaks of sessions: it is never overridden, only recorded, and refused if unsafe.
fn as_asked(known: &Known<'_>) -> Result<Choice, Refusal> {
    let mut warning = None;
    if let Some(last) = known.users {
        let session = last.session.clone();
        if let Some(task) = last.running() {
            return Err(Refusal::InUse { session, task: task.to_owned() });
        }
        if (last.last.is_some() || last.veto.is_some()) && !last.may_be_resumed() && !known.allow_unsafe {
            if !known.attended {
                return Err(Refusal::Unsafe { session, why: last.why_not() });
            }
            warning = Some(format!("session {session} may be in a bad state: {}", last.why_not()));
        }
    }
    let users = known.users.map(|u| u.session.clone());
    let session = match known.asked {
        AskedSession::Assign(id) => Some(id.clone()).filter(|id| !id.as_str().is_empty()),
        AskedSession::Fork(_, new) => new.clone(),
        AskedSession::Resume(_) | AskedSession::Continue => users.clone(),
        _ => None,
    };
    // It works on after this run, so that no other run may go on with it.
    let in_background = matches!(known.asked, AskedSession::Background(_));
    let taken = known.linked.filter(|linked| in_background && Some(&linked.session) == users.as_ref());
    let invalidate = taken.map(|_| Withdrawal { reason: "backgrounded", was_safe: true });
    Ok(Choice { plan: Plan::AsGiven, session, resumed_from: users, invalidate, warning })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Status;
    use crate::task::resume::LastTask;

    const LINKED: &str = "a3";
    const NEW: &str = "b4";

    fn last(status: Option<Status>) -> SessionUse {
        let last = status.map(|status| LastTask {
            id: TaskId::recorded("t1"),
            status,
            kept: None,
            transcript_seen: None,
        });
        SessionUse { session: SessionId::recorded(LINKED), last, restored: false, veto: None }
    }

    fn known<'a>(asked: &'a AskedSession, linked: Option<&'a SessionUse>) -> Known<'a> {
        Known {
            asked,
            fresh: false,
            new_id: Some(SessionId::recorded(NEW)),
            linked,
            transcript: Transcript::Usable,
            users: None,
            allow_unsafe: false,
            attended: false,
        }
    }

    fn fresh(invalidate: Option<Withdrawal>, warning: Option<String>) -> Choice {
        Choice {
            plan: Plan::Assign(SessionId::recorded(NEW)),
            session: Some(SessionId::recorded(NEW)),
            resumed_from: None,
            invalidate,
            warning,
        }
    }

    fn withdrawn(reason: &'static str, was_safe: bool) -> Option<Withdrawal> {
        Some(Withdrawal { reason, was_safe })
    }

    #[test]
    fn the_id_that_the_agent_is_held_to_is_that_of_what_it_goes_on_with() {
        const ID: &str = "0199aaaa-0000-7000-8000-000000000001";
        const OTHER: &str = "0199aaaa-0000-7000-8000-000000000002";
        let text = |s: &str| Some(SessionId::recorded(s));
        let held_to = |plan, session: Option<&str>, resumed_from: Option<&str>| {
            let (session, resumed_from) = (session.and_then(text), resumed_from.and_then(text));
            Choice { plan, session, resumed_from, invalidate: None, warning: None }.resumed_id()
        };
        // What bookend puts in is an id, whatever it looks like.
        assert_eq!(
            held_to(Plan::Resume(SessionId::recorded(LINKED)), Some(LINKED), Some(LINKED)),
            text(LINKED)
        );
        assert_eq!(held_to(Plan::AsGiven, Some(ID), Some(ID)), text(ID));
        assert_eq!(held_to(Plan::AsGiven, Some("by name"), Some("by name")), None, "a name is no id");
        assert_eq!(held_to(Plan::AsGiven, Some(OTHER), Some(ID)), None, "a fork has an id of its own");
        assert_eq!(held_to(Plan::AsGiven, None, Some(ID)), None, "its id is not known yet");
        assert_eq!(
            held_to(Plan::Assign(SessionId::recorded(NEW)), Some(NEW), None),
            None,
            "it goes on with nothing"
        );
        assert_eq!(held_to(Plan::AsGiven, None, None), None);
    }

    /// Every status but success, and none at all; and not running, which is refused.
    fn unsafe_ends() -> impl Iterator<Item = Option<Status>> {
        let ends = Status::ALL.into_iter().filter(|s| !matches!(s, Status::Running | Status::Success));
        ends.map(Some).chain([None])
    }

    #[test]
    fn a_key_without_a_session_starts_fresh_under_an_id_that_is_known_before() {
        assert_eq!(choose(&known(&AskedSession::Unsaid, None)), Ok(fresh(None, None)));
    }

    #[test]
    fn an_agent_that_cannot_be_told_an_id_starts_as_given_and_its_id_is_not_known_yet() {
        let known = Known { new_id: None, ..known(&AskedSession::Unsaid, None) };
        let choice = choose(&known).expect("a choice");
        assert_eq!((choice.plan, choice.session), (Plan::AsGiven, None));
    }

    #[test]
    fn a_session_whose_last_task_ended_in_success_is_resumed() {
        let linked = last(Some(Status::Success));
        let choice = choose(&known(&AskedSession::Unsaid, Some(&linked)));
        let expected = Choice {
            plan: Plan::Resume(SessionId::recorded(LINKED)),
            session: Some(SessionId::recorded(LINKED)),
            resumed_from: Some(SessionId::recorded(LINKED)),
            invalidate: None,
            warning: None,
        };
        assert_eq!(choice, Ok(expected));
    }

    #[test]
    fn a_session_whose_last_task_is_missing_or_ended_otherwise_is_invalidated_with_a_warning() {
        for status in unsafe_ends() {
            let linked = last(status);
            let choice = choose(&known(&AskedSession::Unsaid, Some(&linked))).expect("a choice");
            let warning = choice.warning.clone().expect("a warning");
            assert_eq!(choice, fresh(withdrawn("unsafe_session", false), Some(warning.clone())));
            assert!(warning.contains(LINKED), "the session is named: {warning}");
            if let Some(status) = status {
                assert!(warning.contains("t1") && warning.contains(status.as_str()), "{warning}");
            }
        }
    }

    #[test]
    fn a_session_whose_task_still_runs_is_in_use_unless_a_fresh_one_is_wanted() {
        let linked = last(Some(Status::Running));
        let mut known = known(&AskedSession::Unsaid, Some(&linked));
        let in_use = Refusal::InUse { session: SessionId::recorded(LINKED), task: TaskId::recorded("t1") };
        assert_eq!(choose(&known), Err(in_use));
        known.fresh = true;
        assert_eq!(choose(&known), Ok(fresh(withdrawn("fresh", false), None)));
    }

    #[test]
    fn a_fresh_one_that_is_wanted_is_fresh_without_a_warning() {
        for status in [Some(Status::Success), Some(Status::Failure), None] {
            let linked = last(status);
            let known = Known { fresh: true, ..known(&AskedSession::Unsaid, Some(&linked)) };
            let was_safe = status == Some(Status::Success);
            assert_eq!(choose(&known), Ok(fresh(withdrawn("fresh", was_safe), None)));
        }
    }

    #[test]
    fn a_good_session_without_a_transcript_is_not_resumed() {
        let linked = last(Some(Status::Success));
        let known = Known { transcript: Transcript::Gone, ..known(&AskedSession::Unsaid, Some(&linked)) };
        let choice = choose(&known).expect("a choice");
        let warning = choice.warning.clone().expect("a warning");
        assert_eq!(choice, fresh(withdrawn("no_transcript", true), Some(warning.clone())));
        assert!(warning.contains(LINKED) && warning.contains("transcript"), "{warning}");
    }

    /// What the user's argv says, with the session that it names for resuming; what is recorded.
    fn said() -> [(AskedSession, bool, Option<&'static str>); 9] {
        let id = || SessionId::recorded(LINKED);
        [
            (AskedSession::Resume(id()), true, Some(LINKED)),
            (AskedSession::Continue, true, Some(LINKED)),
            (AskedSession::Fork(Some(id()), None), true, None),
            (AskedSession::Fork(None, Some(SessionId::recorded("c5"))), true, Some("c5")),
            (AskedSession::Assign(SessionId::recorded("d6")), false, Some("d6")),
            (AskedSession::Assign("".into()), false, None),
            (AskedSession::ResumePicker, false, None),
            (AskedSession::NotKept, false, None),
            (AskedSession::NoConversation, false, None),
        ]
    }

    #[test]
    fn an_argv_that_speaks_of_sessions_is_never_overridden_only_recorded() {
        let linked = last(Some(Status::Success));
        for (asked, resumes, session) in said() {
            let users = resumes.then(|| last(Some(Status::Success)));
            for status in [None, Some(&linked)] {
                let known = Known { users: users.as_ref(), ..known(&asked, status) };
                let expected = Choice {
                    plan: Plan::AsGiven,
                    session: session.map(SessionId::recorded),
                    resumed_from: resumes.then(|| LINKED.into()),
                    invalidate: None,
                    warning: None,
                };
                assert_eq!(choose(&known), Ok(expected), "{asked:?}");
            }
        }
    }

    #[test]
    fn an_unsafe_session_that_the_argv_resumes_is_refused_unless_allowed_or_attended() {
        for (asked, _, _) in said().into_iter().filter(|(_, resumes, _)| *resumes) {
            for status in unsafe_ends().flatten() {
                let users = last(Some(status));
                let bare = || Known { users: Some(&users), ..known(&asked, None) };
                let Err(Refusal::Unsafe { session, why }) = choose(&bare()) else {
                    panic!("{asked:?} {status} is not refused")
                };
                assert_eq!(session, LINKED);
                assert!(why.contains("t1") && why.contains(status.as_str()), "{why}");

                let allowed = choose(&Known { allow_unsafe: true, ..bare() }).expect("allowed");
                assert_eq!(allowed.resumed_from, Some(LINKED.into()));
                assert_eq!(allowed.warning, None);

                let attended = choose(&Known { attended: true, ..bare() }).expect("a person decides");
                assert_eq!(attended.plan, Plan::AsGiven);
                assert!(attended.warning.is_some_and(|w| w.contains(LINKED)), "and is warned");
            }
        }
    }

    #[test]
    fn a_session_that_no_task_is_known_to_have_used_is_the_users_own_affair() {
        let asked = AskedSession::Resume(SessionId::recorded(LINKED));
        let users = last(None);
        let choice = choose(&Known { users: Some(&users), ..known(&asked, None) }).expect("a choice");
        assert_eq!((choice.session, choice.warning), (Some(LINKED.into()), None));
    }

    #[test]
    fn a_session_in_use_is_refused_whatever_is_allowed() {
        for (asked, _, _) in said().into_iter().filter(|(_, resumes, _)| *resumes) {
            let users = last(Some(Status::Running));
            let known =
                Known { users: Some(&users), allow_unsafe: true, attended: true, ..known(&asked, None) };
            let in_use =
                Refusal::InUse { session: SessionId::recorded(LINKED), task: TaskId::recorded("t1") };
            assert_eq!(choose(&known), Err(in_use), "{asked:?}");
        }
    }
}
