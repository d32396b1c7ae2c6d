//! The names of a task and of what it belongs to, each a type of its own: one cannot be passed as another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Declares a name that is any text once it is in a ledger: another program may have written it there.
macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A name that was accepted before: it stands in a ledger, a record or an environment. What a
            /// user gives is parsed instead.
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

/// The longest id in bytes as a file name in the spool, where each of `.`, `:` and `/` takes three.
const LONGEST_ID: usize = 200;

/// Why a text is not the id of a new task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTaskId {
    #[error("an id is made of letters, digits and - _ . : /, and does not begin with -")]
    Characters,
    #[error("an id is at most {LONGEST_ID} bytes long, where each of . : / counts as three")]
    TooLong,
}

impl TaskId {
    /// A new one: a UUIDv7, so that ids sort by the time of their start.
    pub fn random() -> TaskId {
        TaskId(uuid::Uuid::now_v7().to_string())
    }
}

/// The id becomes part of file names, of the environment and of commands that the operator pastes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_goes_into_file_names_and_commands_as_it_is() {
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
    fn a_name_is_plain_text_in_json() {
        let id = TaskId::recorded("a \"b\"");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#""a \"b\"""#);
        assert_eq!(serde_json::from_str::<TaskId>(&json).unwrap(), id);
    }
}
