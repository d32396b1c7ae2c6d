//! Reads an agent's arguments by its declaration, and adds the words of a session to them.

use std::ffi::{OsStr, OsString};

use super::schema::{Declaration, SessionWords, WordPlace};
use crate::agent::adapter::{OutputMode, SessionRequest};
use crate::agent::argv::{OptionTable, ParsedArg, ParsedArgs};
use crate::task::SessionId;

/// The arguments of one agent.
pub struct DeclaredArguments<'a> {
    declaration: &'a Declaration,
    /// Without the optional word.
    args: &'a [OsString],
    parsed: ParsedArgs,
    /// How many optional words come first.
    start: usize,
}

impl<'a> DeclaredArguments<'a> {
    pub fn read(
        declaration: &'a Declaration,
        table: &OptionTable,
        args: &'a [OsString],
    ) -> DeclaredArguments<'a> {
        let is_optional = |word: &OsString| has(&declaration.optional_words, word);
        let start = usize::from(args.first().is_some_and(is_optional));
        let args = &args[start..];
        DeclaredArguments { declaration, args, parsed: table.read(args), start }
    }

    /// Whether one of these options is given.
    pub fn has_any(&self, options: &[String]) -> bool {
        self.values(options).next().is_some()
    }

    /// The values of these options, in the order of the command line; `None`: an option without a value.
    pub fn values<'s>(&'s self, options: &'s [String]) -> impl Iterator<Item = Option<&'s OsStr>> {
        self.parsed.words.iter().filter_map(move |word| match word {
            ParsedArg::Option { name, value, .. } if options.contains(name) => Some(value.as_deref()),
            ParsedArg::Option { .. } | ParsedArg::Operand { .. } => None,
        })
    }

    /// The value of the last of these options, unless it is empty. In `-r=ID` it follows the `=`.
    pub fn text(&self, options: &[String]) -> Option<String> {
        let value = self.values(options).last()??.to_string_lossy().into_owned();
        let value = value.strip_prefix('=').map(str::to_owned).unwrap_or(value);
        (!value.is_empty()).then_some(value)
    }

    /// The operands with their indexes.
    fn operands(&self) -> impl Iterator<Item = (usize, &OsStr)> {
        self.parsed.words.iter().filter_map(|word| match word {
            ParsedArg::Operand { at, word } => Some((*at, word.as_os_str())),
            ParsedArg::Option { .. } => None,
        })
    }

    /// The first operand, unless it follows `--`.
    fn first_word(&self) -> Option<(usize, &OsStr)> {
        self.operands().next().filter(|(at, _)| *at < self.parsed.end)
    }

    /// The index of the word that selects print mode.
    fn print_word(&self) -> Option<usize> {
        self.first_word().filter(|(_, word)| has(&self.declaration.print.words, word)).map(|(at, _)| at)
    }

    /// The word that may mean a session, and the operand that follows it.
    fn session_word(&self) -> Option<(&OsStr, Option<&OsStr>)> {
        let mut operands = self.operands().skip(usize::from(self.print_word().is_some()));
        let (at, word) = operands.next()?;
        (at < self.parsed.end).then(|| (word, operands.next().map(|(_, next)| next)))
    }

    /// What the arguments ask for.
    pub fn session(&self) -> SessionRequest {
        let Declaration { no_conversation, session: rules, .. } = self.declaration;
        if self.first_word().is_some_and(|(_, word)| has(&no_conversation.words, word)) {
            return SessionRequest::NoConversation;
        }
        let Some(rules) = rules else { return SessionRequest::NoConversation };
        let given = &rules.given;
        if let Some(asked) = self.by_word() {
            return asked;
        }
        let fork = self.has_any(&given.fork);
        let new = self.text(&given.assign).map(SessionId::recorded);
        if self.has_any(&given.resume) {
            return match (self.text(&given.resume), fork) {
                (Some(latest), false) if given.continue_values.contains(&latest) => SessionRequest::Continue,
                (Some(latest), true) if given.continue_values.contains(&latest) => {
                    SessionRequest::Fork(None, new)
                }
                (from, true) => SessionRequest::Fork(from.map(SessionId::recorded), new),
                (Some(from), false) => SessionRequest::Resume(SessionId::recorded(from)),
                (None, false) => SessionRequest::ResumePicker,
            };
        }
        if self.has_any(&given.continues) {
            return if fork { SessionRequest::Fork(None, new) } else { SessionRequest::Continue };
        }
        if self.has_any(&no_conversation.options) {
            return SessionRequest::NoConversation;
        }
        if self.has_any(&given.other) {
            return SessionRequest::ResumePicker;
        }
        if self.has_any(&given.not_kept) {
            return SessionRequest::NotKept;
        }
        let can_add = rules.resume.place == WordPlace::Front || self.print_word().is_some();
        match self.has_any(&given.assign) || !can_add {
            true => SessionRequest::Assign(new),
            false => SessionRequest::Unspecified,
        }
    }

    /// What a word such as `resume` asks for.
    fn by_word(&self) -> Option<SessionRequest> {
        let given = &self.declaration.session.as_ref()?.given;
        let (word, next) = self.session_word()?;
        if has(&given.continue_words, word) {
            return Some(SessionRequest::Continue);
        }
        if has(&given.other_words, word) {
            return Some(SessionRequest::ResumePicker);
        }
        let is_copy = has(&given.fork_words, word);
        if !is_copy && !has(&given.resume_words, word) {
            return None;
        }
        let is_latest = self.has_any(&given.continues);
        let from = next.filter(|_| !is_latest).map(|id| SessionId::recorded(id.to_string_lossy()));
        Some(match from {
            from if is_copy => SessionRequest::Fork(from, None),
            Some(from) => SessionRequest::Resume(from),
            None if is_latest => SessionRequest::Continue,
            None => SessionRequest::ResumePicker,
        })
    }

    /// The output mode. `terminal`: stdout is a terminal.
    pub fn mode(&self, terminal: bool) -> OutputMode {
        let Declaration { print, output, no_conversation, .. } = self.declaration;
        let is_print = self.print_word().is_some()
            || self.has_any(&print.options)
            || (print.operand.is_some() && self.operands().next().is_some())
            || (print.piped.is_some() && !terminal);
        let holds_none = self.first_word().is_some_and(|(_, word)| has(&no_conversation.words, word))
            || self.session() == SessionRequest::NoConversation && self.declaration.session.is_some()
            || self.has_any(&no_conversation.options);
        if !is_print || holds_none || self.has_any(&print.interactive) {
            return OutputMode::Interactive;
        }
        match self.text(&output.options) {
            Some(value) if output.json.contains(&value) => OutputMode::Json,
            Some(value) if output.stream.contains(&value) => OutputMode::StreamJson,
            _ if self.has_any(&output.stream_options) => OutputMode::StreamJson,
            _ => OutputMode::Text,
        }
    }

    /// The arguments with the session `id` added by `words`; without a place for it, as they are.
    pub fn with(&self, words: &SessionWords, id: &SessionId, args: &[OsString]) -> Vec<OsString> {
        let Some(added) = words.of(id) else { return args.to_vec() };
        let print_word = self.print_word();
        let (at, moved) = match (words.place, print_word) {
            (WordPlace::Front, _) => (0, Vec::new()),
            (WordPlace::AfterWord, Some(word)) => (word + 1, Vec::new()),
            (WordPlace::BeforeOperands, Some(word)) => self.before_operands(word),
            (WordPlace::AfterWord | WordPlace::BeforeOperands, None) => return args.to_vec(),
        };
        let all = |indexes: &mut dyn Iterator<Item = usize>| -> Vec<OsString> {
            indexes.map(|index| self.args[index].clone()).collect()
        };
        let mut argv = args[..self.start].to_vec();
        argv.extend(all(&mut (0..at)));
        argv.extend(all(&mut moved.iter().copied()));
        argv.extend(added);
        argv.extend(all(&mut (at..self.args.len()).filter(|index| !moved.contains(index))));
        argv
    }

    /// The index before the first operand behind the print word, and the indexes of the options that follow
    /// it: a subcommand may refuse them.
    fn before_operands(&self, print_word: usize) -> (usize, Vec<usize>) {
        let end = self.parsed.end;
        let operands: Vec<usize> =
            self.operands().map(|(at, _)| at).filter(|at| (print_word + 1..end).contains(at)).collect();
        let first = operands.first().copied().unwrap_or(end);
        let open = self.option_at(first.saturating_sub(1)).filter(|at| *at > print_word && self.is_open(*at));
        let stays = |index: &usize| {
            operands.contains(index) || self.option_at(*index).is_none_or(|at| self.is_open(at))
        };
        (open.unwrap_or(first), (first..end).filter(|index| !stays(index)).collect())
    }

    /// The index of the option to which the word at `index` belongs, itself or as a value.
    fn option_at(&self, index: usize) -> Option<usize> {
        let starts = self.parsed.words.iter().filter_map(|word| match word {
            ParsedArg::Option { at, .. } => Some(*at),
            ParsedArg::Operand { .. } => None,
        });
        starts.take_while(|at| *at <= index).last()
    }

    /// Whether the option at `index` takes all words up to the next option.
    fn is_open(&self, index: usize) -> bool {
        has(&self.declaration.options.many, &self.args[index])
    }
}

impl SessionWords {
    /// The words with this id; `None`: it would be read as an option.
    pub fn of(&self, id: &SessionId) -> Option<Vec<OsString>> {
        let (is_option, looks_like_option) = (self.word.starts_with('-'), id.as_str().starts_with('-'));
        if self.joined.is_some() || (is_option && looks_like_option) {
            return Some(vec![format!("{}={id}", self.word).into()]);
        }
        (!looks_like_option).then(|| vec![self.word.clone().into(), id.as_str().into()])
    }
}

fn has(list: &[String], word: &OsStr) -> bool {
    list.iter().any(|listed| word == listed.as_str())
}
