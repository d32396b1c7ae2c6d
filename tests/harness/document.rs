//! The project's documents, read as blocks of commands and output.

use std::fs;
use std::path::{Path, PathBuf};

/// One fenced block of a document.
#[derive(Debug, Clone)]
pub struct DocumentBlock {
    /// The document's path below the project, such as `contrib/doc/guide.md`.
    pub document: String,
    /// The line of the opening fence, from 1.
    pub line: usize,
    /// The heading above the block, without its `#`.
    pub section: String,
    /// What follows the opening fence: `sh`, `console`, `bash`, `json`, or nothing.
    pub language: String,
    pub text: String,
}

impl DocumentBlock {
    /// `contrib/doc/guide.md:12`, for messages.
    pub fn place(&self) -> String {
        format!("{}:{}", self.document, self.line)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a document, by its path below the project.
pub fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Every document that gives commands, by path below the project.
pub fn documents() -> Vec<String> {
    let mut names = vec!["README.md".to_owned()];
    for (folder, documents) in [("src", vec![root().join("src/ARCHITECTURE.md")]), ("contrib/doc", guides())]
    {
        let name = |path: &PathBuf| path.file_name().map(|n| format!("{folder}/{}", n.to_string_lossy()));
        names.extend(documents.iter().filter(|path| path.exists()).filter_map(name));
    }
    names
}

fn guides() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("contrib/doc")).expect("contrib/doc");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "md"));
    paths.sort();
    paths
}

/// The fenced blocks of a document, in order.
pub fn blocks(name: &str) -> Vec<DocumentBlock> {
    let text = document(name);
    let mut section = String::new();
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((line, content)) = lines.next() {
        if let Some(language) = content.strip_prefix("```") {
            let inside = lines.by_ref().map(|(_, l)| l).take_while(|l| *l != "```");
            let text = inside.fold(String::new(), |text, line| text + line + "\n");
            let (document, section) = (name.to_owned(), section.clone());
            blocks.push(DocumentBlock { document, line, section, language: language.to_owned(), text });
        } else if content.starts_with('#') {
            section = content.trim_start_matches('#').trim().to_owned();
        }
    }
    blocks
}

/// The text outside the fenced blocks.
pub fn prose(name: &str) -> String {
    document(name).split("```").step_by(2).collect::<Vec<_>>().join("\n")
}
