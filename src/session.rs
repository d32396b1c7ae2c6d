//! The session policy: which conversation a run goes on with. A session is resumed only if the last task
//! that used it ended in success.

use crate::agent::{AskedSession, Plan};
use crate::task::Status;

/// The last task that used a session, as the ledger tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastUse {
    pub session: String,
    /// `None`: no task is known to have used it.
    pub task: Option<(String, Status)>,
    /// An operator has restored it since.
    pub restored: bool,
}

impl LastUse {
    pub fn is_safe(&self) -> bool {
        match self.task {
            Some((_, Status::Success)) => true,
            Some((_, Status::Running)) => false,
            _ => self.restored,
        }
    }

    /// The task that uses it right now.
    pub fn running(&self) -> Option<&str> {
        match &self.task {
            Some((id, Status::Running)) => Some(id),
            _ => None,
        }
    }

    /// Says why it is not safe.
    pub fn why(&self) -> String {
        match &self.task {
            Some((id, status)) => format!("the last task that used it, {id}, ended as {status}"),
            None => "no task is known that used it to a good end".to_owned(),
        }
    }
}

/// All that the choice depends on.
pub struct Known<'a> {
    pub asked: &'a AskedSession,
    /// The user wants a fresh conversation (`--fresh`).
    pub fresh: bool,
    /// The agent can be told the id of a new conversation.
    pub new_id: Option<String>,
    /// The session linked to the key.
    pub linked: Option<&'a LastUse>,
    /// The agent's own record of that conversation is gone: resuming could only fail.
    pub transcript_gone: bool,
    /// The session that the user's own argv resumes, `--continue` resolved.
    pub users: Option<&'a LastUse>,
    /// `--allow-unsafe-resume`.
    pub allow_unsafe: bool,
    /// A person sits at the terminal and is warned rather than refused.
    pub attended: bool,
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub plan: Plan,
    /// The id known before the agent says a word.
    pub session: Option<String>,
    pub resumed_from: Option<String>,
    /// The linked session is to be invalidated, for this reason.
    pub invalidate: Option<&'static str>,
    pub warning: Option<String>,
}

impl Choice {
    /// The id that the agent must name if it goes on with what it was told to; `None`: there is none, or the
    /// user named it by something else than its id.
    pub fn resumed_id(&self) -> Option<String> {
        let is_id = |s: &String| uuid::Uuid::parse_str(s).is_ok();
        match &self.plan {
            Plan::Resume(id) => Some(id.clone()),
            // A fork has another id by intention.
            _ if self.session == self.resumed_from => self.resumed_from.clone().filter(is_id),
            _ => None,
        }
    }
}

/// Why there is no run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The session is in use by this task.
    InUse {
        session: String,
        task: String,
    },
    Unsafe {
        session: String,
        why: String,
    },
}

/// DESIGN section 7, the rows at the start of a task.
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
        return Ok(fresh(Some("fresh"), None));
    }
    let session = linked.session.clone();
    if let Some(task) = linked.running() {
        return Err(Refusal::InUse { session, task: task.to_owned() });
    }
    if !linked.is_safe() {
        let warning = format!("session {session} is not resumed: {}; starting fresh", linked.why());
        return Ok(fresh(Some("unsafe_session"), Some(warning)));
    }
    if known.transcript_gone {
        let warning =
            format!("session {session} is not resumed: the agent has no transcript of it; starting fresh");
        return Ok(fresh(Some("no_transcript"), Some(warning)));
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
        if last.task.is_some() && !last.is_safe() && !known.allow_unsafe {
            if !known.attended {
                return Err(Refusal::Unsafe { session, why: last.why() });
            }
            warning = Some(format!("session {session} may be in a bad state: {}", last.why()));
        }
    }
    let users = known.users.map(|u| u.session.clone());
    let session = match known.asked {
        AskedSession::Assign(id) => Some(id.clone()),
        AskedSession::Fork(_, new) => new.clone(),
        AskedSession::Resume(_) | AskedSession::Continue => users.clone(),
        _ => None,
    };
    Ok(Choice { plan: Plan::AsGiven, session, resumed_from: users, invalidate: None, warning })
}
