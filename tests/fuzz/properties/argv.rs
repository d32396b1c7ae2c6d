//! The executed argv: the user's words in order and at most one session option, which the agent's parser
//! reads as intended.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::agent::{Adapter, AgentArgs, SessionPlace, SessionPlan, SessionRequest, recognise};
use crate::run::session::{Known, Transcript, choose};
use crate::task::resume::{LastTask, SessionUse};
use crate::task::{SessionId, Status, TaskId};

/// The words are separated by NUL bytes, as in `/proc/PID/cmdline`.
pub fn argv(line: &[u8]) {
    let args: Vec<OsString> = match line.is_empty() {
        true => Vec::new(),
        false => line.split(|b| *b == 0).map(|w| OsString::from_vec(w.to_vec())).collect(),
    };
    for (program, agent_type) in [
        ("claude", None),
        ("npx", Some("claude")),
        ("wrapper", Some("claude")),
        ("cursor-agent", None),
        ("npx", Some("cursor")),
        ("gemini", None),
        ("qwen", None),
        ("make", None),
    ] {
        let words: Vec<OsString> =
            [OsString::from(program)].into_iter().chain(args.iter().cloned()).collect();
        let recognised = recognise(&words, agent_type).expect("an adapter");
        let own = &words[recognised.args_start..];
        if matches!(recognised.place, SessionPlace::Untracked(_)) {
            continue;
        }
        let adapter = recognised.adapter;
        let parsed = adapter.parse(own, false);
        assert_eq!(adapter.parse(own, true).session, parsed.session);
        every_value_is_given(&parsed, own);
        for linked in [None, Some("0197a6a0-0000-4000-8000-00000000abcd"), Some("-x")] {
            at_most_one_option(adapter, own, &parsed, linked);
        }
    }
}

/// The id of a new session.
const NEW: &str = "0197a6a0-0000-4000-8000-000000000123";

/// The plan of a run with these arguments; `linked` is the session of the key.
fn chosen(adapter: &dyn Adapter, parsed: &AgentArgs, linked: Option<&str>) -> SessionPlan {
    let last = linked.map(|id| SessionUse {
        session: SessionId::recorded(id),
        last: Some(LastTask {
            id: TaskId::recorded("t"),
            status: Status::Success,
            kept: None,
            transcript_seen: None,
            agent_type: None,
        }),
        restored: false,
        veto: None,
    });
    let known = Known {
        asked: &parsed.session,
        fresh: false,
        new_id: adapter.can_assign().then(|| SessionId::recorded(NEW)),
        linked: last.as_ref(),
        other_agent: None,
        stale: None,
        transcript: Transcript::Usable,
        users: None,
        allow_unsafe: false,
        attended: false,
    };
    choose(&known).expect("a choice").plan
}

fn at_most_one_option(adapter: &dyn Adapter, args: &[OsString], parsed: &AgentArgs, linked: Option<&str>) {
    let plan = chosen(adapter, parsed, linked);
    let argv = adapter.argv(args, &plan);
    if parsed.session != SessionRequest::Unspecified {
        assert_eq!(
            (&plan, argv.as_slice()),
            (&SessionPlan::AsGiven, args),
            "the user's session options decide"
        );
    }
    let (flag, id) = match &plan {
        SessionPlan::AsGiven => return assert_eq!(argv, args),
        SessionPlan::Assign(id) => ("--session-id", id),
        SessionPlan::Resume(id) => ("--resume", id),
    };
    let put_in: Vec<OsString> = match id.as_str().starts_with('-') {
        true => vec![format!("{flag}={id}").into()],
        false => vec![flag.into(), id.as_str().into()],
    };
    let at = (0..=args.len())
        .find(|at| argv[*at..].starts_with(&put_in) && argv[..*at] == args[..*at])
        .expect("the option, among the user's words");
    assert_eq!(argv[at + put_in.len()..], args[at..], "the other words are unchanged");
    let lead = usize::from(at > 0 && args[0] == *"agent");
    assert_eq!(lead, at, "{argv:?}: it comes first of the agent's own arguments, so before `--`");

    // The option is parsed as intended, and the other arguments as before.
    let again = adapter.parse(&argv, false);
    let meant = match (&plan, &again.session) {
        (SessionPlan::Assign(id), read) => *read == SessionRequest::Assign(Some(id.clone())),
        // With `--fork-session`, which has no effect unless a session is resumed.
        (_, SessionRequest::Fork(from, None)) => from.as_ref() == Some(id),
        (_, read) => *read == SessionRequest::Resume(id.clone()),
    };
    assert!(meant, "{argv:?} is read as {:?}", again.session);
    assert_eq!(AgentArgs { session: parsed.session.clone(), ..again.clone() }, *parsed);
    let next = chosen(adapter, &again, Some("another"));
    assert_eq!(
        (&next, adapter.argv(&argv, &next)),
        (&SessionPlan::AsGiven, argv),
        "a second time changes nothing"
    );
}

/// Every parsed value occurs in the arguments.
fn every_value_is_given(parsed: &AgentArgs, args: &[OsString]) {
    let occurs = |text: &str| args.iter().any(|a| a.to_string_lossy().ends_with(text));
    let named = match &parsed.session {
        SessionRequest::Resume(id) | SessionRequest::Assign(Some(id)) => vec![id],
        SessionRequest::Fork(from, id) => from.iter().chain(id).collect(),
        _ => Vec::new(),
    };
    assert!(named.into_iter().map(SessionId::as_str).chain(parsed.model.as_deref()).all(occurs));
    for dir in &parsed.extra_dirs {
        assert!(args.iter().any(|a| a.as_bytes().ends_with(dir.as_os_str().as_bytes())));
    }
}
