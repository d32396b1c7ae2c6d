//! Newtypes for ids and names, so that one cannot be passed as another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Declares a name type. A recorded name can be any text, as another program may have written it.
macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a name unchecked, as a ledger, a record, the environment or an agent's command line
            /// has it. [`str::parse`] checks it.
            pub fn recorded(text: impl Into<String>) -> $name {
                $name(text.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        #[cfg(test)]
        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name(text.to_owned())
            }
        }

        #[cfg(test)]
        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

text_name! {
    /// The id of a task.
    TaskId
}

text_name! {
    /// The agent's id of a conversation, or another name under which the agent resumes it.
    SessionId
}

text_name! {
    /// The `--key` of a run: one run at a time has it, and the next one resumes its conversation.
    Key
}

text_name! {
    /// The service that runs the model: `anthropic`, `cursor`, …
    Provider
}

/// The longest task id, in bytes. The spool escapes each `.`, `:` and `/` in file names to three bytes.
const LONGEST_ID: usize = 200;

/// Why a text cannot be the id of a new task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskId {
    #[error("an id is made of letters, digits and - _ . : /, and does not begin with -")]
    Characters,
    #[error("an id is at most {LONGEST_ID} bytes long, where each of . : / counts as three")]
    TooLong,
}

impl TaskId {
    /// A random UUIDv7, so that ids sort by start time.
    pub fn random() -> TaskId {
        TaskId(uuid::Uuid::now_v7().to_string())
    }
}

/// The id becomes part of file names, environment variables and commands to paste.
impl FromStr for TaskId {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<TaskId, InvalidTaskId> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/".contains(c);
        if text.is_empty() || text.starts_with('-') || !text.chars().all(is_plain) {
            return Err(InvalidTaskId::Characters);
        }
        let length: usize = text.bytes().map(|b| if b".:/".contains(&b) { 3 } else { 1 }).sum();
        if length > LONGEST_ID {
            return Err(InvalidTaskId::TooLong);
        }
        Ok(TaskId(text.to_owned()))
    }
}

/// A text cannot be the id of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session id is made of 1 to 128 letters, digits and - _ ., and does not begin with - or .")]
pub struct InvalidSessionId;

/// The id comes from the agent's output and files, and becomes part of a command line and of a path.
impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<SessionId, InvalidSessionId> {
        is_session_id(text).then(|| SessionId(text.to_owned())).ok_or(InvalidSessionId)
    }
}

fn is_session_id(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=128).contains(&text.len()) && !text.starts_with(['-', '.']) && text.bytes().all(is_plain)
}

impl SessionId {
    /// A random UUIDv4.
    pub fn random() -> SessionId {
        SessionId(uuid::Uuid::new_v4().to_string())
    }

    /// Whether [`str::parse`] accepts it: a recorded id can be any text.
    pub fn is_valid(&self) -> bool {
        is_session_id(&self.0)
    }
}

/// A name must not be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name is empty")]
pub struct EmptyName;

fn not_empty(text: &str) -> Result<String, EmptyName> {
    if text.is_empty() { Err(EmptyName) } else { Ok(text.to_owned()) }
}

impl FromStr for Key {
    type Err = EmptyName;

    fn from_str(text: &str) -> Result<Key, EmptyName> {
        not_empty(text).map(Key)
    }
}

impl FromStr for Provider {
    type Err = EmptyName;

    fn from_str(text: &str) -> Result<Provider, EmptyName> {
        not_empty(text).map(Provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_needs_no_quoting() {
        for id in ["a", "charles/claude-hooks:1104", "0199aaaa-0000-7000-8000-000000000001", "A_b.C"] {
            assert_eq!(id.parse(), Ok(TaskId::recorded(id)));
        }
        for id in ["", "-a", "a b", "a\n", "a'b", "é", "a\\b", "$a"] {
            assert_eq!(id.parse::<TaskId>(), Err(InvalidTaskId::Characters), "{id:?}");
        }
    }

    #[test]
    fn a_task_id_fits_into_a_file_name() {
        assert!("a".repeat(200).parse::<TaskId>().is_ok());
        assert_eq!("a".repeat(201).parse::<TaskId>(), Err(InvalidTaskId::TooLong));
        assert!("/".repeat(66).parse::<TaskId>().is_ok());
        assert_eq!("/".repeat(67).parse::<TaskId>(), Err(InvalidTaskId::TooLong));
    }

    #[test]
    fn a_random_task_id_is_valid() {
        let id = TaskId::random();
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn a_session_id_is_safe_in_a_command_line_and_in_a_path() {
        for id in ["a", "0199aaaa-0000-7000-8000-000000000001", "a.b_c", &"x".repeat(128)] {
            assert_eq!(id.parse(), Ok(SessionId::recorded(id)));
            assert!(SessionId::recorded(id).is_valid());
        }
        for id in ["", "-a", ".a", "..", "a/b", "a b", "a:b", "é", "a\0", &"x".repeat(129)] {
            assert_eq!(id.parse::<SessionId>(), Err(InvalidSessionId), "{id:?}");
            assert!(!SessionId::recorded(id).is_valid(), "{id:?}");
        }
    }

    #[test]
    fn a_key_and_a_provider_are_not_empty() {
        assert_eq!("".parse::<Key>(), Err(EmptyName));
        assert_eq!("a b".parse(), Ok(Key::recorded("a b")));
        assert_eq!("".parse::<Provider>(), Err(EmptyName));
        assert_eq!("anthropic".parse(), Ok(Provider::recorded("anthropic")));
    }

    #[test]
    fn a_name_is_a_string_in_json() {
        let id = TaskId::recorded("a \"b\"");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#""a \"b\"""#);
        assert_eq!(serde_json::from_str::<TaskId>(&json).unwrap(), id);
    }
}
