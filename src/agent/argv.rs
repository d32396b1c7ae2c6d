//! Parses an agent's arguments as the agent does (Claude Code and Cursor use commander.js), so that a
//! prompt or an option's value is never taken for an option.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The options of a program, in lists separated by white space. An option in no list takes no value.
#[derive(Debug)]
pub struct OptionTable {
    /// Options that always take the next word as their value.
    pub one: Cow<'static, str>,
    /// Options that take the next word unless it looks like an option.
    pub maybe: Cow<'static, str>,
    /// Options that take all words up to the next option.
    pub many: Cow<'static, str>,
    /// The first word after an option in `many` is its value, whatever it looks like.
    pub many_needs_one: bool,
    /// Other names of options, with the name used here.
    pub alias: &'static [(&'static str, &'static str)],
}

/// An option with its value, or an operand. `at` is the index of its word, for a value that of its option.
#[derive(Debug, PartialEq, Eq)]
pub enum ParsedArg {
    Option {
        at: usize,
        name: String,
        value: Option<OsString>,
    },
    /// A word that no option takes: a prompt, a subcommand.
    Operand {
        at: usize,
        word: OsString,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    One,
    Maybe,
    Many,
}

impl OptionTable {
    pub fn read(&self, args: &[OsString]) -> ParsedArgs {
        let mut words = Vec::new();
        let mut taking: Option<(usize, String)> = None;
        let mut rest: Vec<OsString> = args.iter().rev().cloned().collect();
        let mut end = args.len();
        while let Some(arg) = rest.pop() {
            let at = args.len() - rest.len() - 1;
            if arg == "--" {
                end = at;
                let operands = rest.drain(..).rev().zip(at + 1..);
                words.extend(operands.map(|(word, at)| ParsedArg::Operand { at, word }));
                break;
            }
            if !looks_like_option(&arg) {
                words.push(match &taking {
                    Some((at, name)) => option(*at, name, Some(arg)),
                    None => ParsedArg::Operand { at, word: arg },
                });
                continue;
            }
            taking = None;
            let bytes = arg.as_bytes();
            if !bytes.starts_with(b"--") && bytes.len() > 2 {
                self.short_cluster(at, bytes, &mut rest, &mut words);
                continue;
            }
            let (name, attached) = match bytes.iter().position(|b| *b == b'=') {
                Some(i) => (&bytes[..i], Some(OsStr::from_bytes(&bytes[i + 1..]).to_owned())),
                None => (bytes, None),
            };
            let name = self.long_name(&String::from_utf8_lossy(name));
            if attached.is_some() {
                words.push(option(at, &name, attached));
                continue;
            }
            let takes = self.takes(&name);
            let value = match takes {
                Takes::One => rest.pop(),
                Takes::Many if self.many_needs_one => rest.pop(),
                Takes::Maybe | Takes::Many => rest.pop_if(|next| !looks_like_option(next)),
                Takes::Nothing => None,
            };
            words.push(option(at, &name, value));
            taking = (takes == Takes::Many).then_some((at, name));
        }
        ParsedArgs { words, end }
    }

    /// `-pc` is `-p -c`, and `-rID` is `-r ID`.
    fn short_cluster(&self, at: usize, bytes: &[u8], rest: &mut Vec<OsString>, words: &mut Vec<ParsedArg>) {
        let name = self.long_name(&String::from_utf8_lossy(&bytes[..2]));
        let tail = &bytes[2..];
        if self.takes(&name) == Takes::Nothing {
            words.push(option(at, &name, None));
            rest.push(OsString::from_vec([b"-", tail].concat()));
        } else {
            words.push(option(at, &name, Some(OsStr::from_bytes(tail).to_owned())));
        }
    }

    fn long_name(&self, name: &str) -> String {
        let alias = self.alias.iter().find(|(other, _)| *other == name);
        alias.map_or(name, |(_, long)| long).to_owned()
    }

    fn takes(&self, name: &str) -> Takes {
        let listed = |list: &str| list.split_whitespace().any(|o| o == name);
        if listed(&self.one) {
            Takes::One
        } else if listed(&self.maybe) {
            Takes::Maybe
        } else if listed(&self.many) {
            Takes::Many
        } else {
            Takes::Nothing
        }
    }
}

fn option(at: usize, name: &str, value: Option<OsString>) -> ParsedArg {
    ParsedArg::Option { at, name: name.to_owned(), value }
}

fn looks_like_option(arg: &OsStr) -> bool {
    arg.len() > 1 && arg.as_bytes()[0] == b'-'
}

/// The parsed arguments.
#[derive(Debug)]
pub struct ParsedArgs {
    pub words: Vec<ParsedArg>,
    /// The index of `--`, or the number of arguments: no option follows.
    pub end: usize,
}

impl ParsedArgs {
    pub fn has(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// The value of the last occurrence of an option, which is the one that counts.
    pub fn last(&self, name: &str) -> Option<Option<&OsStr>> {
        self.all(name).last()
    }

    /// The value of the last occurrence, unless it is empty.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.last(name)??.to_string_lossy().into_owned();
        (!value.is_empty()).then_some(value)
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = Option<&'a OsStr>> {
        self.words.iter().filter_map(move |w| match w {
            ParsedArg::Option { name: n, value, .. } if n == name => Some(value.as_deref()),
            ParsedArg::Option { .. } | ParsedArg::Operand { .. } => None,
        })
    }

    pub fn first_operand(&self) -> Option<&OsStr> {
        self.words.iter().find_map(|w| match w {
            ParsedArg::Operand { word, .. } => Some(word.as_os_str()),
            ParsedArg::Option { .. } => None,
        })
    }
}

/// `args` with an option and its value inserted at `at`, joined with `=` if the value looks like an option.
pub fn injected(args: &[OsString], at: usize, option: &str, value: &str) -> Vec<OsString> {
    let mut argv = args[..at].to_vec();
    if value.starts_with('-') {
        argv.push(format!("{option}={value}").into());
    } else {
        argv.extend([option.into(), value.into()]);
    }
    argv.extend_from_slice(&args[at..]);
    argv
}
