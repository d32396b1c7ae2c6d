//! The choice of a session: which conversation a run resumes. A session is resumed only if the last task
//! that used it ended in success.

use crate::agent::{SessionPlan, SessionRequest};
use crate::task::resume::SessionUse;
use crate::task::{SessionId, TaskId};

/// What the choice depends on.
pub struct Known<'a> {
    pub asked: &'a SessionRequest,
    /// The user wants a fresh conversation (`--fresh`).
    pub fresh: bool,
    /// An id for a new conversation; `None`: the agent does not accept one.
    pub new_id: Option<SessionId>,
    /// The session linked to the key.
    pub linked: Option<&'a SessionUse>,
    /// The agent of that session, if it is another one than the run's.
    pub other_agent: Option<&'a str>,
    /// Why the fleet does not let the session of the key be resumed.
    pub stale: Option<&'a StaleLink>,
    pub transcript: Transcript,
    /// The session that the agent's own arguments resume, `--continue` resolved.
    pub users: Option<&'a SessionUse>,
    /// `--allow-unsafe-resume`.
    pub allow_unsafe: bool,
    /// A person at the terminal is warned instead of refused.
    pub attended: bool,
}

/// Why the session that this ledger links to the key is older than what the fleet knows of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleLink {
    /// Of its invalidation.
    pub reason: &'static str,
    pub why: String,
}

/// The agent's own record of the session linked to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transcript {
    /// It exists, or nothing says that it should.
    Usable,
    /// It existed and is missing: resuming could only fail.
    Gone,
    /// The agent runs as another user or on another machine, where bookend cannot see it.
    Unseen,
}

impl Transcript {
    /// `is_there`: whether it exists now; `None`: the agent stores it where bookend does not look. `seen`:
    /// whether it existed when the session's last task ended.
    pub fn judge(is_there: Option<bool>, seen: Option<bool>, elsewhere: bool) -> Transcript {
        match (is_there, seen) {
            (Some(true), Some(true)) => Transcript::Usable,
            _ if elsewhere => Transcript::Unseen,
            // A wrapper may set another HOME for the agent.
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

/// The chosen session, and how the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub plan: SessionPlan,
    /// The id known before the agent reports one.
    pub session: Option<SessionId>,
    pub resumed_from: Option<SessionId>,
    /// The linked session is invalidated.
    pub invalidate: Option<StartInvalidation>,
    pub warning: Option<String>,
}

impl Choice {
    /// The id that the agent must report if it resumes what it was told to; `None`: there is none, or the
    /// user named the session by something other than its id.
    pub fn resumed_id(&self) -> Option<SessionId> {
        let is_id = |s: &SessionId| uuid::Uuid::parse_str(s.as_str()).is_ok();
        match &self.plan {
            SessionPlan::Resume(id) => Some(id.clone()),
            // A fork has a new id.
            _ if self.session == self.resumed_from => self.resumed_from.clone().filter(is_id),
            _ => None,
        }
    }
}

/// The invalidation of the session that is linked to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartInvalidation {
    pub reason: &'static str,
    /// It was safe: the link is restored if the agent is never executed.
    pub was_safe: bool,
}

/// Why the run is refused.
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
/// When the session to resume is in use, or unsafe and not allowed.
pub fn choose(known: &Known<'_>) -> Result<Choice, Refusal> {
    if *known.asked != SessionRequest::Unspecified {
        return as_asked(known);
    }
    let fresh = |invalidate, warning| Choice {
        plan: known.new_id.clone().map_or(SessionPlan::AsGiven, SessionPlan::Assign),
        session: known.new_id.clone(),
        resumed_from: None,
        invalidate,
        warning,
    };
    let stale = known.stale.filter(|_| !known.fresh).map(|StaleLink { reason, why }| {
        (*reason, format!("the session of the key is not resumed: {why}; starting fresh"))
    });
    let Some(linked) = known.linked else { return Ok(fresh(None, stale.map(|(_, warning)| warning))) };
    if known.fresh {
        return Ok(fresh(
            Some(StartInvalidation { reason: "fresh", was_safe: linked.may_be_resumed() }),
            None,
        ));
    }
    let session = linked.session.clone();
    if let Some(task) = linked.running() {
        return Err(Refusal::InUse { session, task: task.to_owned() });
    }
    if let Some((reason, warning)) = stale {
        let invalidation = StartInvalidation { reason, was_safe: linked.may_be_resumed() };
        return Ok(fresh(Some(invalidation), Some(warning)));
    }
    if let Some(other) = known.other_agent {
        let warning = format!("session {session} is not resumed: it is a session of {other}; starting fresh");
        let was_safe = linked.may_be_resumed();
        return Ok(fresh(Some(StartInvalidation { reason: "other_agent", was_safe }), Some(warning)));
    }
    if !linked.may_be_resumed() {
        let warning = format!("session {session} is not resumed: {}; starting fresh", linked.why_not());
        return Ok(fresh(
            Some(StartInvalidation { reason: "unsafe_session", was_safe: false }),
            Some(warning),
        ));
    }
    if let Some(why) = known.transcript.why() {
        let warning = format!("session {session} is not resumed: {why}; starting fresh");
        return Ok(fresh(Some(StartInvalidation { reason: "no_transcript", was_safe: true }), Some(warning)));
    }
    Ok(Choice {
        plan: SessionPlan::Resume(session.clone()),
        session: Some(session.clone()),
        resumed_from: Some(session),
        invalidate: None,
        warning: None,
    })
}

/// The agent's own arguments contain session options: they are recorded and never changed, and refused if the
/// session is unsafe.
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
        SessionRequest::Assign(new) | SessionRequest::Fork(_, new) => new.clone(),
        SessionRequest::Resume(_) | SessionRequest::Continue => users.clone(),
        _ => None,
    };
    // The agent works on it after this run, so no other run may resume it.
    let in_background = matches!(known.asked, SessionRequest::Background(_));
    let taken = known.linked.filter(|linked| in_background && Some(&linked.session) == users.as_ref());
    let invalidate = taken.map(|_| StartInvalidation { reason: "backgrounded", was_safe: true });
    Ok(Choice { plan: SessionPlan::AsGiven, session, resumed_from: users, invalidate, warning })
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
            agent_type: None,
        });
        SessionUse { session: SessionId::recorded(LINKED), last, restored: false, veto: None }
    }

    fn known<'a>(asked: &'a SessionRequest, linked: Option<&'a SessionUse>) -> Known<'a> {
        Known {
            asked,
            fresh: false,
            new_id: Some(SessionId::recorded(NEW)),
            linked,
            other_agent: None,
            stale: None,
            transcript: Transcript::Usable,
            users: None,
            allow_unsafe: false,
            attended: false,
        }
    }

    fn fresh(invalidate: Option<StartInvalidation>, warning: Option<String>) -> Choice {
        Choice {
            plan: SessionPlan::Assign(SessionId::recorded(NEW)),
            session: Some(SessionId::recorded(NEW)),
            resumed_from: None,
            invalidate,
            warning,
        }
    }

    fn invalidation(reason: &'static str, was_safe: bool) -> Option<StartInvalidation> {
        Some(StartInvalidation { reason, was_safe })
    }

    #[test]
    fn the_agent_must_report_the_id_that_it_was_told_to_resume() {
        const ID: &str = "0199aaaa-0000-7000-8000-000000000001";
        const OTHER: &str = "0199aaaa-0000-7000-8000-000000000002";
        let text = |s: &str| Some(SessionId::recorded(s));
        let held_to = |plan, session: Option<&str>, resumed_from: Option<&str>| {
            let (session, resumed_from) = (session.and_then(text), resumed_from.and_then(text));
            Choice { plan, session, resumed_from, invalidate: None, warning: None }.resumed_id()
        };
        // An id that bookend passes counts as an id whatever its form.
        assert_eq!(
            held_to(SessionPlan::Resume(SessionId::recorded(LINKED)), Some(LINKED), Some(LINKED)),
            text(LINKED)
        );
        assert_eq!(held_to(SessionPlan::AsGiven, Some(ID), Some(ID)), text(ID));
        assert_eq!(
            held_to(SessionPlan::AsGiven, Some("by name"), Some("by name")),
            None,
            "a name is not an id"
        );
        assert_eq!(held_to(SessionPlan::AsGiven, Some(OTHER), Some(ID)), None, "a fork has a new id");
        assert_eq!(held_to(SessionPlan::AsGiven, None, Some(ID)), None, "its id is not known yet");
        assert_eq!(
            held_to(SessionPlan::Assign(SessionId::recorded(NEW)), Some(NEW), None),
            None,
            "it resumes nothing"
        );
        assert_eq!(held_to(SessionPlan::AsGiven, None, None), None);
    }

    /// Every status but success, and none at all; and not running, which is refused.
    fn unsafe_ends() -> impl Iterator<Item = Option<Status>> {
        let ends = Status::ALL.into_iter().filter(|s| !matches!(s, Status::Running | Status::Success));
        ends.map(Some).chain([None])
    }

    #[test]
    fn a_key_without_a_session_starts_fresh_with_an_assigned_id() {
        assert_eq!(choose(&known(&SessionRequest::Unspecified, None)), Ok(fresh(None, None)));
    }

    #[test]
    fn an_agent_that_accepts_no_id_starts_as_given() {
        let known = Known { new_id: None, ..known(&SessionRequest::Unspecified, None) };
        let choice = choose(&known).expect("a choice");
        assert_eq!((choice.plan, choice.session), (SessionPlan::AsGiven, None));
    }

    #[test]
    fn a_session_whose_last_task_ended_in_success_is_resumed() {
        let linked = last(Some(Status::Success));
        let choice = choose(&known(&SessionRequest::Unspecified, Some(&linked)));
        let expected = Choice {
            plan: SessionPlan::Resume(SessionId::recorded(LINKED)),
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
            let choice = choose(&known(&SessionRequest::Unspecified, Some(&linked))).expect("a choice");
            let warning = choice.warning.clone().expect("a warning");
            assert_eq!(choice, fresh(invalidation("unsafe_session", false), Some(warning.clone())));
            assert!(warning.contains(LINKED), "the session is named: {warning}");
            if let Some(status) = status {
                assert!(warning.contains("t1") && warning.contains(status.as_str()), "{warning}");
            }
        }
    }

    #[test]
    fn the_session_of_a_running_task_is_in_use_unless_fresh_is_requested() {
        let linked = last(Some(Status::Running));
        let mut known = known(&SessionRequest::Unspecified, Some(&linked));
        let in_use = Refusal::InUse { session: SessionId::recorded(LINKED), task: TaskId::recorded("t1") };
        assert_eq!(choose(&known), Err(in_use));
        known.fresh = true;
        assert_eq!(choose(&known), Ok(fresh(invalidation("fresh", false), None)));
    }

    #[test]
    fn fresh_starts_without_a_warning() {
        for status in [Some(Status::Success), Some(Status::Failure), None] {
            let linked = last(status);
            let known = Known { fresh: true, ..known(&SessionRequest::Unspecified, Some(&linked)) };
            let was_safe = status == Some(Status::Success);
            assert_eq!(choose(&known), Ok(fresh(invalidation("fresh", was_safe), None)));
        }
    }

    #[test]
    fn a_good_session_without_a_transcript_is_not_resumed() {
        let linked = last(Some(Status::Success));
        let known =
            Known { transcript: Transcript::Gone, ..known(&SessionRequest::Unspecified, Some(&linked)) };
        let choice = choose(&known).expect("a choice");
        let warning = choice.warning.clone().expect("a warning");
        assert_eq!(choice, fresh(invalidation("no_transcript", true), Some(warning.clone())));
        assert!(warning.contains(LINKED) && warning.contains("transcript"), "{warning}");
    }

    #[test]
    fn a_session_of_another_agent_is_not_resumed() {
        for (status, was_safe) in [(Status::Success, true), (Status::Failure, false)] {
            let linked = last(Some(status));
            let known =
                Known { other_agent: Some("codex"), ..known(&SessionRequest::Unspecified, Some(&linked)) };
            let choice = choose(&known).expect("a choice");
            let warning = choice.warning.clone().expect("a warning");
            assert_eq!(choice, fresh(invalidation("other_agent", was_safe), Some(warning.clone())));
            assert!(warning.contains(LINKED) && warning.contains("codex"), "{warning}");
        }
    }

    /// What the agent's arguments ask for, whether they name a session to resume, and what is recorded.
    fn asked_sessions() -> [(SessionRequest, bool, Option<&'static str>); 9] {
        let id = || SessionId::recorded(LINKED);
        [
            (SessionRequest::Resume(id()), true, Some(LINKED)),
            (SessionRequest::Continue, true, Some(LINKED)),
            (SessionRequest::Fork(Some(id()), None), true, None),
            (SessionRequest::Fork(None, Some(SessionId::recorded("c5"))), true, Some("c5")),
            (SessionRequest::Assign(Some(SessionId::recorded("d6"))), false, Some("d6")),
            (SessionRequest::Assign(None), false, None),
            (SessionRequest::ResumePicker, false, None),
            (SessionRequest::NotKept, false, None),
            (SessionRequest::NoConversation, false, None),
        ]
    }

    #[test]
    fn session_options_of_the_agent_are_recorded_and_never_changed() {
        let linked = last(Some(Status::Success));
        for (asked, resumes, session) in asked_sessions() {
            let users = resumes.then(|| last(Some(Status::Success)));
            for status in [None, Some(&linked)] {
                let known = Known { users: users.as_ref(), ..known(&asked, status) };
                let expected = Choice {
                    plan: SessionPlan::AsGiven,
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
    fn resuming_an_unsafe_session_is_refused_unless_allowed_or_attended() {
        for (asked, _, _) in asked_sessions().into_iter().filter(|(_, resumes, _)| *resumes) {
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
                assert_eq!(attended.plan, SessionPlan::AsGiven);
                assert!(attended.warning.is_some_and(|w| w.contains(LINKED)), "and is warned");
            }
        }
    }

    #[test]
    fn a_session_that_no_task_has_used_may_be_resumed() {
        let asked = SessionRequest::Resume(SessionId::recorded(LINKED));
        let users = last(None);
        let choice = choose(&Known { users: Some(&users), ..known(&asked, None) }).expect("a choice");
        assert_eq!((choice.session, choice.warning), (Some(LINKED.into()), None));
    }

    #[test]
    fn a_session_in_use_is_refused_whatever_is_allowed() {
        for (asked, _, _) in asked_sessions().into_iter().filter(|(_, resumes, _)| *resumes) {
            let users = last(Some(Status::Running));
            let known =
                Known { users: Some(&users), allow_unsafe: true, attended: true, ..known(&asked, None) };
            let in_use =
                Refusal::InUse { session: SessionId::recorded(LINKED), task: TaskId::recorded("t1") };
            assert_eq!(choose(&known), Err(in_use), "{asked:?}");
        }
    }
}
