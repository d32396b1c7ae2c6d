//! The sessions of keys: the table of `session list` and the page of `session show`.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{ago, one_line, when};
use crate::task::{Key, Provider, Session, SessionInvalidation, Time};

/// Whether a session may be resumed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    Resumable,
    InUse,
    Unsafe,
}

impl SessionState {
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Resumable => "resumable",
            SessionState::InUse => "in use",
            SessionState::Unsafe => "unsafe",
        }
    }

    fn style(self) -> Style {
        match self {
            SessionState::Resumable => AnsiColor::Green.on_default(),
            SessionState::InUse => AnsiColor::Cyan.on_default(),
            SessionState::Unsafe => AnsiColor::Red.on_default(),
        }
    }
}

const COLUMNS: [Column; 6] = [
    Column { title: "KEY", right: false, shrinks: Shrinks::AtStart(10), matters: 9 },
    Column { title: "STATE", right: false, shrinks: Shrinks::Never, matters: 8 },
    Column { title: "SESSION", right: false, shrinks: Shrinks::AtEnd(8), matters: 7 },
    Column { title: "PROVIDER", right: false, shrinks: Shrinks::AtEnd(6), matters: 3 },
    Column { title: "LAST USED", right: true, shrinks: Shrinks::Never, matters: 5 },
    Column { title: "WHY", right: false, shrinks: Shrinks::AtEnd(10), matters: 4 },
];

/// A session, whether it may be resumed, and why.
pub type JudgedSession<'a> = (&'a Session, SessionState, &'a str);

pub fn sessions(sessions: &[JudgedSession<'_>], now: Time, screen: Screen) -> String {
    let rows: Vec<Vec<Cell>> = sessions.iter().map(|s| row(s, now)).collect();
    table(&COLUMNS, &rows, screen)
}

fn row((session, state, why): &JudgedSession<'_>, now: Time) -> Vec<Cell> {
    let known = |text: Option<&str>| Cell::from(one_line(text.unwrap_or_default()).into_owned());
    vec![
        known(Some(session.key.as_str())),
        Cell { text: state.as_str().to_owned(), style: state.style() },
        known(Some(session.session_id.as_str())),
        known(session.provider.as_ref().map(Provider::as_str)),
        Cell::from(session.last_used_at.as_ref().map_or_else(String::new, |t| ago(t, now))),
        known(Some(why)),
    ]
}

/// The session that a key resumes, and the sessions that were invalidated.
pub fn session(
    key: &Key,
    session: Option<JudgedSession<'_>>,
    invalidations: &[SessionInvalidation],
) -> String {
    let mut page = format!("key         {}\n", one_line(key.as_str()));
    match session {
        Some((session, state, why)) => {
            page.push_str(&format!("session     {}\n", one_line(session.session_id.as_str())));
            page.push_str(&format!("state       {}: {}\n", state.as_str(), one_line(why)));
            if let Some(at) = &session.last_used_at {
                page.push_str(&format!("last used   {}\n", when(at)));
            }
        }
        None => page.push_str("session     none\n"),
    }
    for i in invalidations {
        let restored = if i.restored_at.is_some() { ", restored since" } else { "" };
        page.push_str(&format!(
            "invalidated {} at {}: {}{restored}\n",
            one_line(i.session_id.as_str()),
            when(&i.at),
            one_line(&i.reason)
        ));
    }
    page
}
