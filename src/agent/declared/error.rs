//! Why a declaration is refused.

use std::io;
use std::path::PathBuf;

/// A declaration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeclarationError {
    #[error("reading {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Others can write to it, or decide what it says.
    #[error("{why}, so that they decide how an agent is run")]
    NotTrusted { why: String, fix: String },
    /// `file` is the file as the user knows it.
    #[error("{file}:{line}: {problem}")]
    Invalid { file: String, line: usize, problem: String },
}

impl DeclarationError {
    /// What the user can do.
    pub fn advice(&self) -> String {
        match self {
            DeclarationError::Unreadable { .. } => "make it readable, or remove it".to_owned(),
            DeclarationError::NotTrusted { fix, .. } => format!("run `{fix}`"),
            DeclarationError::Invalid { .. } => {
                "correct the line, or remove the file; without it bookend uses what is built in".to_owned()
            }
        }
    }
}
