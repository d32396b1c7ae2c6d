//! The argv that is executed: the user's own words, in order, and at most one flag more, which the agent's
//! own way of reading takes for what was meant.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::agent::{Adapter, Asked, AskedSession, Plan, adapter};
use crate::session::{Known, LastUse, choose};
use crate::task::Status;

/// The words are parted by NUL bytes, as in `/proc/PID/cmdline`.
pub fn argv(line: &[u8]) {
    let args: Vec<OsString> = match line.is_empty() {
        true => Vec::new(),
        false => line.split(|b| *b == 0).map(|w| OsString::from_vec(w.to_vec())).collect(),
    };
    for (program, agent_type) in [
        ("claude", None),
        ("npx", Some("claude")),
        ("cursor-agent", None),
        ("npx", Some("cursor")),
        ("make", None),
    ] {
        let adapter = adapter(OsStr::new(program), agent_type).expect("an adapter");
        let asked = adapter.asked(&args, false);
        assert_eq!(adapter.asked(&args, true).session, asked.session);
        nothing_is_invented(&asked, &args);
        for linked in [None, Some("0197a6a0-0000-4000-8000-00000000abcd"), Some("-x")] {
            one_flag_at_most(adapter, &args, &asked, linked);
        }
    }
}

/// The id of a new session.
const NEW: &str = "0197a6a0-0000-4000-8000-000000000123";

/// What the run would do with these words: `linked` is the session that the key names.
fn chosen(adapter: &dyn Adapter, asked: &Asked, linked: Option<&str>) -> Plan {
    let last = linked.map(|id| LastUse {
        session: id.to_owned(),
        task: Some(("t".to_owned(), Status::Success)),
        restored: false,
        veto: None,
    });
    let known = Known {
        asked: &asked.session,
        fresh: false,
        new_id: adapter.can_assign().then(|| NEW.to_owned()),
        linked: last.as_ref(),
        transcript_gone: false,
        users: None,
        allow_unsafe: false,
        attended: false,
    };
    choose(&known).expect("a choice").plan
}

fn one_flag_at_most(adapter: &dyn Adapter, args: &[OsString], asked: &Asked, linked: Option<&str>) {
    let plan = chosen(adapter, asked, linked);
    let argv = adapter.argv(args, &plan);
    if asked.session != AskedSession::Unsaid {
        assert_eq!((&plan, argv.as_slice()), (&Plan::AsGiven, args), "the user's own word counts");
    }
    let (flag, id) = match &plan {
        Plan::AsGiven => return assert_eq!(argv, args),
        Plan::Assign(id) => ("--session-id", id),
        Plan::Resume(id) => ("--resume", id),
    };
    let put_in: Vec<OsString> = match id.starts_with('-') {
        true => vec![format!("{flag}={id}").into()],
        false => vec![flag.into(), id.into()],
    };
    let at = (0..=args.len())
        .find(|at| argv[*at..].starts_with(&put_in) && argv[..*at] == args[..*at])
        .expect("the flag, among the user's words");
    assert_eq!(argv[at + put_in.len()..], args[at..], "and all of them");
    let own = args[..at].iter().rposition(|w| names_the_agent(w)).map_or(0, |i| i + 1);
    assert_eq!(own, at, "{argv:?}: it comes first of the agent's own words, so before `--`");

    // It is read back as it was meant, and nothing else is read otherwise.
    let again = adapter.asked(&argv, false);
    let meant = match (&plan, &again.session) {
        (Plan::Assign(id), read) => *read == AskedSession::Assign(id.clone()),
        // With `--fork-session`, which says nothing as long as nothing is resumed.
        (_, AskedSession::Fork(from, None)) => from.as_ref() == Some(id),
        (_, read) => *read == AskedSession::Resume(id.clone()),
    };
    assert!(meant, "{argv:?} is read as {:?}", again.session);
    assert_eq!(Asked { session: asked.session.clone(), ..again.clone() }, *asked);
    let next = chosen(adapter, &again, Some("another"));
    assert_eq!((&next, adapter.argv(&argv, &next)), (&Plan::AsGiven, argv), "once is enough");
}

/// Behind such a word another program's arguments end and the agent's begin.
fn names_the_agent(word: &OsStr) -> bool {
    let base = Path::new(word).file_name().unwrap_or_default().as_bytes();
    let name = base.split(|b| *b == b'@').next().unwrap_or_default();
    [&b"claude"[..], b"claude-code", b"cli.js", b"cli-wrapper.cjs", b"cursor-agent", b"agent"].contains(&name)
}

/// What is read from the words stands in them.
fn nothing_is_invented(asked: &Asked, args: &[OsString]) {
    let stands = |text: &str| args.iter().any(|a| a.to_string_lossy().ends_with(text));
    let named = match &asked.session {
        AskedSession::Resume(id) | AskedSession::Assign(id) => vec![id],
        AskedSession::Fork(from, id) => from.iter().chain(id).collect(),
        _ => Vec::new(),
    };
    assert!(named.into_iter().chain(&asked.model).all(|text| stands(text)));
    for dir in &asked.extra_dirs {
        assert!(args.iter().any(|a| a.as_bytes().ends_with(dir.as_os_str().as_bytes())));
    }
}
