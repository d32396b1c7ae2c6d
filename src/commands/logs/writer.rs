//! Selects the entries of a transcript and prints them, as text or as they are.

use std::io::IsTerminal;

use crate::agent::{TranscriptEntry, TranscriptPart, TranscriptReader};
use crate::error::Error;
use crate::sys::stdout::print_bytes;
use crate::task::Time;
use crate::view::{self, LogBlock, Screen};

/// The bytes that are collected before they are printed.
const MUCH: usize = 64 << 10;
/// The most calls of tools whose results are still to come.
const OPEN_CALLS: usize = 256;

/// The form in which entries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogForm {
    Text,
    Raw,
}

/// The part of a conversation that is printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) from: Time,
    pub(super) until: Option<Time>,
    /// Entries without a time at the beginning belong to it.
    pub(super) begins: bool,
}

pub(super) struct Writer {
    form: LogForm,
    reader: TranscriptReader,
    screen: Screen,
    is_terminal: bool,
    part: Part,
    /// Whether the last entry with a time was printed: entries without one follow it.
    is_inside: bool,
    /// The time of the last entry that was printed.
    last: Option<Time>,
    /// Entries up to this time were printed from a file that was replaced.
    printed_until: Option<Time>,
    /// The calls without a result, by their ids, with the names of their tools.
    calls: Vec<(String, String)>,
    /// The call at the end of what was printed.
    call: Option<String>,
    text: Vec<u8>,
    pub(super) entries: u64,
    pub(super) printed: u64,
    pub(super) unreadable: u64,
}

impl Writer {
    pub(super) fn new(form: LogForm, reader: TranscriptReader) -> Writer {
        Writer {
            form,
            reader,
            screen: Screen::of(&std::io::stdout()),
            is_terminal: std::io::stdout().is_terminal(),
            part: Part { from: Time::UNIX_EPOCH, until: None, begins: true },
            is_inside: true,
            last: None,
            printed_until: None,
            calls: Vec::new(),
            call: None,
            text: Vec::new(),
            entries: 0,
            printed: 0,
            unreadable: 0,
        }
    }

    pub(super) fn select(&mut self, part: Part) {
        if self.entries == 0 {
            self.is_inside = part.begins;
        }
        self.part = part;
    }

    /// The transcript is read from its beginning: what was printed is not repeated.
    pub(super) fn begin_again(&mut self) {
        self.printed_until = self.last;
        self.is_inside = self.part.begins && self.last.is_none();
        self.calls.clear();
    }

    /// Takes one line of the transcript.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), Error> {
        let Some(entry) = (self.reader)(line) else {
            self.unreadable += 1;
            return Ok(());
        };
        self.entries += 1;
        if let Some(at) = entry.at {
            self.is_inside = self.part.from <= at
                && self.part.until.is_none_or(|until| at <= until)
                && self.printed_until.is_none_or(|printed| printed < at);
        }
        if !self.is_inside {
            return Ok(());
        }
        self.last = self.last.max(entry.at);
        match self.form {
            LogForm::Raw => self.raw(line),
            LogForm::Text => self.entry(&entry),
        }
        if self.text.len() >= MUCH { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() { Ok(()) } else { print_bytes(&text) }
    }

    /// A terminal gets control characters escaped, which means the same in JSON.
    fn raw(&mut self, line: &[u8]) {
        match self.is_terminal {
            true => self.text.extend(view::harmless_json(String::from_utf8_lossy(line).into_owned()).bytes()),
            false => self.text.extend_from_slice(line),
        }
        self.text.push(b'\n');
        self.printed += 1;
    }

    fn entry(&mut self, entry: &TranscriptEntry) {
        for part in &entry.parts {
            let block = self.block(entry.at, part);
            let first = self.printed == 0;
            self.text.extend(if first { block.trim_start_matches('\n') } else { &block }.bytes());
            self.printed += 1;
        }
    }

    fn block(&mut self, at: Option<Time>, part: &TranscriptPart) -> String {
        let result;
        let block = match part {
            TranscriptPart::Prompt(text) => LogBlock::Said { by: "prompt", text },
            TranscriptPart::Notice(text) => LogBlock::Brief { of: Some("notice"), text, failed: false },
            TranscriptPart::Answer(text) => LogBlock::Said { by: "answer", text },
            TranscriptPart::ToolCall { name, about, .. } => LogBlock::Call { tool: name, about },
            TranscriptPart::ToolResult { id, text, is_error } => {
                let name = self.take_call(id);
                // Below its call it needs no heading.
                let follows = self.call.as_deref() == Some(id.as_str());
                result = format!("{} result", name.as_deref().unwrap_or("tool"));
                LogBlock::Brief { of: (!follows).then_some(result.as_str()), text, failed: *is_error }
            }
        };
        let text = view::log_block(at, &block, self.screen);
        self.call = match part {
            TranscriptPart::ToolCall { id, name, .. } => {
                self.calls.truncate(OPEN_CALLS);
                self.calls.insert(0, (id.clone(), name.clone()));
                Some(id.clone())
            }
            _ => None,
        };
        text
    }

    fn take_call(&mut self, id: &str) -> Option<String> {
        let at = self.calls.iter().position(|(call, _)| call == id)?;
        Some(self.calls.remove(at).1)
    }
}
