//! A transcript as a person reads it: the entries of a conversation that an agent has stored.

use crate::task::Time;

/// One line of a transcript.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TranscriptEntry {
    pub at: Option<Time>,
    /// What a person reads of it; often nothing.
    pub parts: Vec<TranscriptPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TranscriptPart {
    /// What the user asked for.
    Prompt(String),
    /// A message to the model that no person wrote: the end of a background task, a summary.
    Notice(String),
    Answer(String),
    /// `about`: the argument that says most about it.
    ToolCall {
        id: String,
        name: String,
        about: String,
    },
    ToolResult {
        id: String,
        text: String,
        is_error: bool,
    },
}

/// Reads one line of a transcript; `None`: it is not one.
pub type TranscriptReader = fn(&[u8]) -> Option<TranscriptEntry>;
